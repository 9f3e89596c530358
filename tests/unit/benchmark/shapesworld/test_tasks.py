"""No key matches a query unless it is listed, whatever the pool; every query has rivals that almost match."""

import pytest

from anykey.benchmark.shapesworld.captions import Caption
from anykey.benchmark.shapesworld.draw import MILD, STRONG, Picture
from anykey.benchmark.shapesworld.scene import Facts, Figure, Scene
from anykey.benchmark.shapesworld.tasks import (
    TASKS,
    Bundle,
    Key,
    Query,
    Task,
    World,
    build_task,
    matches_query,
)

SCENE = Scene("sky", (Figure(0, "star", "red", "small", "solid"),))
OTHER = Scene("sky", (Figure(0, "star", "blue", "small", "solid"),))
RED_STAR = Facts(((None, None, "red", "star"),))
STAR = Facts(((None, None, None, "star"),))


@pytest.fixture(scope="module")
def built() -> tuple[World, list[Task]]:
    world = World()
    return world, [build_task(world, number, 5, 15, 2, 10) for number in TASKS]


def test_every_match_in_the_global_pool_is_listed_or_a_decoy(built: tuple[World, list[Task]]) -> None:
    """Brute force over all queries and all keys of all tasks."""
    _, tasks = built
    everything = [key for task in tasks for key in task.pool]
    decoys = 0
    for task in tasks:
        for query, positives in task.queries:
            for key in everything:
                if key in positives or not matches_query(query, key):
                    continue
                # true of the query's picture, but about another pair of figures than the question
                assert task.number == 6
                assert key in task.pool
                assert key.scene == query.target
                decoys += 1
    assert decoys == 15


def test_every_positive_matches_its_query_and_is_in_the_local_pool(built: tuple[World, list[Task]]) -> None:
    for task in built[1]:
        for query, positives in task.queries:
            assert positives
            assert all(matches_query(query, key) and key in task.pool for key in positives)


def test_no_scene_belongs_to_two_queries_or_to_an_unrelated_key(built: tuple[World, list[Task]]) -> None:
    targets = [query.target.code for task in built[1] for query, _ in task.queries]
    assert len(set(targets)) == len(targets)


def test_pools_hold_positives_near_misses_and_strangers(built: tuple[World, list[Task]]) -> None:
    extra = {1: 1, 3: 1, 6: 1, 7: 1}  # second caption, second caption, decoy, the query's own picture
    for task in built[1]:
        assert len(task.queries) == 15
        assert len(task.pool) == 15 * (1 + 2 + extra.get(task.number, 0)) + 10


def test_modalities_follow_the_task_number(built: tuple[World, list[Task]]) -> None:
    has = {"text": (True, False), "image": (False, True), "fused": (True, True)}
    expected = {
        0: ("text", "image"),
        1: ("text", "text"),
        2: ("text", "fused"),
        3: ("image", "text"),
        4: ("image", "image"),
        6: ("fused", "text"),
        7: ("fused", "image"),
        8: ("fused", "fused"),
    }
    for task in built[1]:
        query_has, key_has = (has[word] for word in expected[task.number])
        assert {(q.text is not None, q.picture is not None) for q, _ in task.queries} == {query_has}
        assert {(k.caption is not None, k.picture is not None) for k in task.pool} == {key_has}


def test_no_key_holds_the_text_or_the_picture_of_a_query_but_for_edits(built: tuple[World, list[Task]]) -> None:
    texts = {key.caption.text for task in built[1] for key in task.pool if key.caption}
    pictures = {key.picture for task in built[1] for key in task.pool if key.picture}
    for task in built[1]:
        for query, _ in task.queries:
            assert query.text not in texts
            assert (query.picture in pictures) == (task.number == 7)


def test_only_pictures_of_image_to_image_differ_strongly_in_style(built: tuple[World, list[Task]]) -> None:
    for task in built[1]:
        things = [*task.pool, *(query for query, _ in task.queries)]
        found = {thing.picture.variation for thing in things if thing.picture}
        assert found <= ({STRONG} if task.number == 4 else {MILD})


def test_an_edited_scene_has_its_reference_among_the_keys(built: tuple[World, list[Task]]) -> None:
    (task,) = [task for task in built[1] if task.number == 7]
    for query, (positive,) in task.queries:
        assert query.picture is not None
        reference = [key for key in task.pool if key.picture == query.picture]
        assert len(reference) == 1
        assert reference[0].scene == query.picture.scene != positive.scene == query.target


def test_the_same_seed_builds_the_same_task_and_another_seed_another() -> None:
    def texts(seed: int) -> list[str | None]:
        return [query.text for query, _ in build_task(World(), 0, seed, 5, 2, 3).queries]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


def test_a_pool_order_does_not_tell_positives(built: tuple[World, list[Task]]) -> None:
    for task in built[1]:
        places = [task.pool.index(positives[0]) / len(task.pool) for _, positives in task.queries]
        assert 0.2 < sum(places) / len(places) < 0.8


@pytest.mark.parametrize(
    ("query", "key", "is_match"),
    [
        (Query(SCENE, text="A red star.", facts=RED_STAR), Key(SCENE, Picture(SCENE, "s")), True),
        (Query(SCENE, text="A red star.", facts=RED_STAR), Key(OTHER, Picture(OTHER, "s")), False),
        (Query(SCENE, text="A star.", facts=STAR), Key(OTHER, Picture(OTHER, "s")), True),
        (Query(SCENE, picture=Picture(SCENE, "q")), Key(OTHER, caption=Caption("A star.", STAR)), True),
        (Query(OTHER, picture=Picture(OTHER, "q")), Key(SCENE, caption=Caption("A red star.", RED_STAR)), False),
        (Query(SCENE, picture=Picture(SCENE, "q")), Key(SCENE, picture=Picture(SCENE, "k")), True),
    ],
)
def test_a_match_is_decided_from_facts(query: Query, key: Key, is_match: bool) -> None:
    assert matches_query(query, key) is is_match


def test_the_world_takes_no_bundle_that_would_make_an_unlisted_match() -> None:
    world = World()
    query = Query(SCENE, text="A star.", facts=STAR)
    assert world.accept(Bundle(query, (Key(SCENE, Picture(SCENE, "s")),)))
    assert not world.accept(Bundle(None, rivals=(Key(OTHER, Picture(OTHER, "s")),)))
    assert not world.accept(Bundle(None, rivals=(Key(SCENE, Picture(SCENE, "t")),)))
    assert len(world.keys) == len(world.queries) == 1


def test_a_later_query_may_not_match_an_earlier_key() -> None:
    world = World()
    assert world.accept(Bundle(None, rivals=(Key(OTHER, Picture(OTHER, "s")),)))
    assert not world.accept(Bundle(Query(SCENE, text="A star.", facts=STAR), (Key(SCENE, Picture(SCENE, "s")),)))
