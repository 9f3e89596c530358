"""Image-caption pairs become tasks in which no query's text is in the key it looks for."""

import json
from pathlib import Path

import pytest

from benchmark.errors import PairsError
from benchmark.mbeir import Dataset, Task
from benchmark.pairs import run
from benchmark.settings import FromPairsSettings
from benchmark.shards import Member, write_shard

CAPTIONS = {
    "dogs": ["two dogs", "dogs run", "a lawn"],
    "cat": ["a cat", "an animal", "a lawn"],  # shares a caption with the dogs
    "cow": ["a cow", "a cat", "an animal"],  # one of its captions is the cat's key
}


def settings(tmp_path: Path, **changes: object) -> FromPairsSettings:
    """Writes the shard and gives the settings that read it."""
    shard = tmp_path / "test.tar"
    if not shard.exists():
        members = []
        for name, texts in CAPTIONS.items():
            members += [Member(f"{name}.jpg", name.encode())]
            members += [Member(f"{name}.json", json.dumps({"captions": texts}).encode())]
        write_shard(shard, members)
    given = {"shards": [str(shard)], "output": tmp_path / "out", "name": "farm", **changes}
    return FromPairsSettings.model_validate(given)


def judged(dataset: Dataset, task: Task) -> dict[str, set[str]]:
    """Query (its text or image) to what its relevant keys hold (text or image names joined by +)."""
    pool = {candidate.did: candidate for candidate in dataset.pool(task)}
    names = {f"{i:06d}.jpg": name for i, name in enumerate(CAPTIONS)}
    qrels = dataset.qrels(task)

    def held(text: str | None, image: Path | None) -> str:
        return "+".join(part for part in (text, names[image.name] if image else None) if part)

    return {
        held(query.text, query.image): {held(pool[did].text, pool[did].image) for did in qrels[query.qid]}
        for query in dataset.queries(task)
    }


def test_four_tasks_are_judged_as_the_captions_say(tmp_path: Path) -> None:
    assert run(settings(tmp_path)) == 0
    dataset = Dataset(tmp_path / "out")
    tasks = {task.number: task for task in dataset.tasks()}
    assert sorted(tasks) == [0, 1, 2, 3]
    assert judged(dataset, tasks[0]) == {
        "Two dogs.": {"dogs"},
        "Dogs run.": {"dogs"},
        "A lawn.": {"dogs", "cat"},
        "A cat.": {"cat", "cow"},
        "An animal.": {"cat", "cow"},
        "A cow.": {"cow"},
    }
    assert judged(dataset, tasks[1]) == {
        "Dogs run.": {"Two dogs."},
        "A lawn.": {"Two dogs.", "A cat."},
        "An animal.": {"A cat.", "A cow."},
    }
    assert judged(dataset, tasks[2]) == {
        "Dogs run.": {"Two dogs.+dogs"},
        "A lawn.": {"Two dogs.+dogs", "A cat.+cat"},
        "An animal.": {"A cat.+cat", "A cow.+cow"},
    }
    assert judged(dataset, tasks[3]) == {"dogs": {"Two dogs."}, "cat": {"A cat."}, "cow": {"A cow.", "A cat."}}


def test_all_captions_are_text_keys_when_wanted(tmp_path: Path) -> None:
    run(settings(tmp_path, text_keys="all"))
    dataset = Dataset(tmp_path / "out")
    tasks = {task.number: task for task in dataset.tasks()}
    assert judged(dataset, tasks[3])["dogs"] == {"Two dogs.", "Dogs run.", "A lawn."}
    assert len(dataset.pool(tasks[3])) == 6
    assert len(dataset.pool(tasks[1])) == 3


def test_the_global_pool_is_the_union_with_every_key_once(tmp_path: Path) -> None:
    run(settings(tmp_path))
    dataset = Dataset(tmp_path / "out")
    union = [candidate.did for candidate in dataset.global_pool()]
    local = {candidate.did for task in dataset.tasks() for candidate in dataset.pool(task)}
    assert len(union) == len(set(union)) == 9
    assert set(union) == local
    qids = [query.qid for task in dataset.tasks() for query in dataset.queries(task)]
    assert len(set(qids)) == len(qids)


def test_with_keys_once_every_image_is_one_key_of_the_global_pool(tmp_path: Path) -> None:
    run(settings(tmp_path, keys="once"))
    dataset = Dataset(tmp_path / "out")
    tasks = {task.number: task for task in dataset.tasks()}
    assert judged(dataset, tasks[0]) == {"Two dogs.": {"dogs"}, "Dogs run.": {"dogs"}, "A lawn.": {"dogs"}}
    assert judged(dataset, tasks[1]) == {"An animal.": {"A cat."}, "A lawn.": {"A cat."}}
    assert judged(dataset, tasks[2]) == {"A cat.": {"A cow.+cow"}, "An animal.": {"A cow.+cow"}}
    assert judged(dataset, tasks[3]) == {"cat": {"A cat."}}
    assert [candidate.modality for candidate in dataset.global_pool()] == ["image", "fused", "text"]


def test_images_are_copied_byte_by_byte(tmp_path: Path) -> None:
    run(settings(tmp_path))
    images = sorted((tmp_path / "out/mbeir_images/farm_images").iterdir())
    assert [image.read_bytes().decode() for image in images] == list(CAPTIONS)


def test_a_current_dataset_is_left_alone_until_the_shard_changes(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    run(chosen)
    before = (tmp_path / "out/dataset.json").stat().st_ino
    run(chosen)
    assert (tmp_path / "out/dataset.json").stat().st_ino == before
    run(settings(tmp_path, limit=2))
    assert len(list((tmp_path / "out/mbeir_images/farm_images").iterdir())) == 2


def test_pairs_with_one_caption_each_give_the_two_cross_modal_tasks(tmp_path: Path) -> None:
    shard = tmp_path / "one.tar"
    write_shard(shard, [Member("1.jpg", b"1"), Member("1.txt", b"one"), Member("2.jpg", b"2"), Member("2.txt", b"two")])
    run(settings(tmp_path, shards=[str(shard)]))
    assert [task.number for task in Dataset(tmp_path / "out").tasks()] == [0, 3]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("1.jpg", b"1"), ("1.txt", b"one")], "at least two images"),
        (
            [("1.jpg", b"1"), ("1.txt", b"one"), ("2.jpg", b""), ("2.txt", b"b"), ("1.jpg", b"1"), ("1.txt", b"one")],
            "'1' comes a second time",
        ),
        ([("1.jpg", b"1"), ("1.txt", b'""')], "'1' has no caption with a word"),
    ],
)
def test_pairs_that_make_no_dataset_are_refused(tmp_path: Path, members: list[tuple[str, bytes]], said: str) -> None:
    shard = tmp_path / "bad.tar"
    write_shard(shard, [Member(*member) for member in members])
    with pytest.raises(PairsError, match=said):
        run(settings(tmp_path, shards=[str(shard)]))
    assert not (tmp_path / "out").exists()
