"""Builds the eight test tasks: queries, their keys, and keys that almost match.

What counts as a match is decided from facts, never from wording. `matches_query` is that rule, and it is
applied to every query and every key of *all* tasks, since the global pool holds them together: a bundle of new
queries and keys that would make one more key match some query is thrown away and drawn again. So every key a
query matches is among its positives.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from anykey.benchmark.shapesworld.captions import (
    PRECISE,
    Caption,
    Question,
    ask,
    describe,
    edit_text,
    page_text,
    phrase,
    questions,
    removal_text,
    statement,
)
from anykey.benchmark.shapesworld.draw import MILD, STRONG, Picture, Variation
from anykey.benchmark.shapesworld.scene import (
    ATTRIBUTES,
    Facts,
    Scene,
    near_miss,
    other_value,
    sample_scene,
    with_change,
    without_figure,
)

TASKS = (0, 1, 2, 3, 4, 6, 7, 8)  # M-BEIR's numbering in code and file names; 5 is unused there
POSITIVE_CAPTIONS = 2  # text keys per query where one picture or text has several descriptions
MAX_ATTEMPTS = 200


@dataclass(frozen=True, eq=False)
class Key:
    """One key of a pool, before it has an id.

    Attributes:
        scene: What the key is about.
        picture: The image, for image and fused keys.
        caption: The text, for text and fused keys.
    """

    scene: Scene
    picture: Picture | None = None
    caption: Caption | None = None


@dataclass(frozen=True, eq=False)
class Query:
    """One query, before it has an id.

    Attributes:
        target: The scene that is looked for.
        picture: The image, for image and fused queries.
        text: The text, for text and fused queries.
        facts: What the text claims of the target; absent for questions and edits, which describe no scene.
    """

    target: Scene
    picture: Picture | None = None
    text: str | None = None
    facts: Facts | None = None


@dataclass(frozen=True)
class Bundle:
    """What comes into a pool together.

    Attributes:
        query: The query, or none for unrelated keys.
        positives: Keys that match the query.
        rivals: Keys that do not, by one detail.
        decoys: Keys that are true of the query's picture and yet no answer to its question.
    """

    query: Query | None
    positives: tuple[Key, ...] = ()
    rivals: tuple[Key, ...] = ()
    decoys: tuple[Key, ...] = ()

    @property
    def keys(self) -> tuple[Key, ...]:
        """All keys of the bundle."""
        return self.positives + self.rivals + self.decoys


@dataclass(frozen=True)
class Task:
    """One finished task: queries with their positives, and the local pool in its final order."""

    number: int
    queries: tuple[tuple[Query, tuple[Key, ...]], ...]
    pool: tuple[Key, ...]


@dataclass
class Draw:
    """A source of scenes and pictures that no other part of the dataset has.

    Attributes:
        rng: Source of randomness; advanced by every draw.
        num_rivals: Near misses wanted per query.
    """

    rng: random.Random
    num_rivals: int

    def scene(self, min_figures: int = 1) -> Scene:
        """A random scene."""
        return sample_scene(self.rng, min_figures)

    def picture(self, scene: Scene, variation: Variation = MILD) -> Picture:
        """The scene in a style of its own."""
        return Picture(scene, f"{self.rng.getrandbits(64):016x}", variation)

    def asked_scene(self, min_questions: int = 1) -> tuple[Scene, list[Question]]:
        """A scene with three or four figures and its questions, in random order."""
        while True:
            scene = self.scene(min_figures=3)
            found = questions(scene)
            if len(found) >= min_questions:
                self.rng.shuffle(found)
                return scene, found

    def rivals(self, query: Query, change: Callable[[], Scene], key: Callable[[Scene], Key]) -> tuple[Key, ...]:
        """Near-miss keys that do not match the query; fewer than wanted where none can be found."""
        found: dict[str, Key] = {}
        for _ in range(MAX_ATTEMPTS):
            if len(found) == self.num_rivals:
                break
            scene = change()
            if scene.code in found or len(set(_looks(scene))) < len(scene.figures):
                continue
            candidate = key(scene)
            if not matches_query(query, candidate):
                found[scene.code] = candidate
        return tuple(found.values())


@dataclass
class World:
    """Everything accepted so far, over all tasks and splits.

    Attributes:
        codes: Codes of all scenes in use.
        queries: Accepted queries.
        keys: Accepted keys.
    """

    codes: set[str] = field(default_factory=set)
    queries: list[Query] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)

    def accept(self, bundle: Bundle) -> bool:
        """Takes the bundle in, unless one of its scenes is in use or a match would go unlisted."""
        codes = {key.scene.code for key in bundle.keys}
        if bundle.query:
            codes.add(bundle.query.target.code)
        if codes & self.codes or any(matches_query(q, key) for key in bundle.keys for q in self.queries):
            return False
        if bundle.query:
            strangers = [*bundle.rivals, *self.keys]
            if any(matches_query(bundle.query, key) for key in strangers):
                return False
            self.queries.append(bundle.query)
        self.keys.extend(bundle.keys)
        self.codes |= codes
        return True


def matches_query(query: Query, key: Key) -> bool:
    """Whether a fair judge could call the key a match.

    True when the key's text is true of the scene that is looked for, when the query's text is true of the key's
    scene, or when the key shows exactly the scene that is looked for.
    """
    if key.caption is not None and key.caption.facts.is_true_of(query.target):
        return True
    if query.facts is not None and query.facts.is_true_of(key.scene):
        return True
    return key.picture is not None and key.scene.code == query.target.code


def build_task(world: World, number: int, seed: int, num_queries: int, num_rivals: int, num_distractors: int) -> Task:
    """Builds one task into the world.

    Args:
        world: What is taken already; changed.
        number: Task number, one of `TASKS`.
        seed: Dataset seed; the same seed after the same world gives the same task.
        num_queries: Queries wanted.
        num_rivals: Near-miss keys wanted per query.
        num_distractors: Unrelated keys wanted.

    Returns:
        The task; its pool is shuffled, so that a key's place says nothing.
    """
    rng = random.Random(f"shapesworld {seed} task {number}")
    draw = Draw(rng, num_rivals)
    bundles: list[Bundle] = []
    while len(bundles) < num_queries:
        bundle = BUNDLES[number](draw)
        if len(bundle.rivals) == num_rivals and world.accept(bundle):
            bundles.append(bundle)
    strangers: list[Key] = []
    while len(strangers) < num_distractors:
        # an unrelated key looks like the task's own keys: it is another bundle's positive, without its query
        stranger = BUNDLES[number](Draw(rng, 0)).positives[0]
        if world.accept(Bundle(None, rivals=(stranger,))):
            strangers.append(stranger)
    pool = [key for bundle in bundles for key in bundle.keys] + strangers
    rng.shuffle(pool)
    queries = tuple((bundle.query, bundle.positives) for bundle in bundles if bundle.query)
    return Task(number, queries, tuple(pool))


def _text_to_image(draw: Draw) -> Bundle:
    """A caption finds its picture."""
    scene = draw.scene()
    caption = describe(scene, draw.rng, PRECISE)
    query = Query(scene, text=caption.text, facts=caption.facts)

    def image_key(scene: Scene) -> Key:
        return Key(scene, picture=draw.picture(scene))

    rivals = draw.rivals(query, lambda: near_miss(scene, draw.rng), image_key)
    return Bundle(query, (image_key(scene),), rivals)


def _text_to_text(draw: Draw) -> Bundle:
    """A caption finds the other captions of its scene."""
    scene = draw.scene()
    captions = _different_captions(scene, 1 + POSITIVE_CAPTIONS, draw.rng)
    query = Query(scene, text=captions[0].text, facts=captions[0].facts)
    rivals = draw.rivals(query, lambda: near_miss(scene, draw.rng), lambda s: _text_key(s, draw))
    return Bundle(query, tuple(Key(scene, caption=caption) for caption in captions[1:]), rivals)


def _text_to_page(draw: Draw) -> Bundle:
    """A question finds the page, a picture with a text, that shows what is asked for."""
    scene = draw.scene(min_figures=2)
    caption = describe(scene, draw.rng, PRECISE)
    wording = draw.rng.choice(("Which page shows this: {}", "Where do we see this? {}", "{}"))
    query = Query(scene, text=wording.format(caption.text), facts=caption.facts)

    def page(scene: Scene) -> Key:
        return Key(scene, draw.picture(scene), page_text(scene, draw.rng))

    positive = page(scene)
    while positive.caption is not None and positive.caption.text == query.text:
        positive = page(scene)
    return Bundle(query, (positive,), draw.rivals(query, lambda: near_miss(scene, draw.rng), page))


def _image_to_text(draw: Draw) -> Bundle:
    """A picture finds its captions."""
    scene = draw.scene()
    query = Query(scene, picture=draw.picture(scene))
    positives = tuple(Key(scene, caption=c) for c in _different_captions(scene, POSITIVE_CAPTIONS, draw.rng))
    rivals = draw.rivals(query, lambda: near_miss(scene, draw.rng), lambda s: _text_key(s, draw))
    return Bundle(query, positives, rivals)


def _image_to_image(draw: Draw) -> Bundle:
    """A picture finds the same scene in another style."""
    scene = draw.scene()
    query = Query(scene, picture=draw.picture(scene, STRONG))

    def image_key(scene: Scene) -> Key:
        return Key(scene, picture=draw.picture(scene, STRONG))

    rivals = draw.rivals(query, lambda: near_miss(scene, draw.rng), image_key)
    return Bundle(query, (image_key(scene),), rivals)


def _page_to_text(draw: Draw) -> Bundle:
    """A picture and a question about it find the answer, beside a true answer to another question."""
    while True:
        scene, found = draw.asked_scene(min_questions=2)
        asked = found[0]
        pair = {asked.anchor, asked.answer}
        others = [question for question in found[1:] if {question.anchor, question.answer} != pair]
        if others:
            break
    query = Query(scene, picture=draw.picture(scene), text=ask(scene, asked, draw.rng))

    def answer(scene: Scene) -> Key:
        return Key(scene, caption=statement(scene, asked, draw.rng))

    rivals = draw.rivals(query, lambda: near_miss(scene, draw.rng), answer)
    decoy = Key(scene, caption=statement(scene, others[0], draw.rng))
    return Bundle(query, (answer(scene),), rivals, (decoy,))


def _page_to_image(draw: Draw) -> Bundle:
    """A picture and an edit find the edited scene; the picture itself is in the pool too."""
    reference = draw.scene(min_figures=2)
    position = draw.rng.randrange(len(reference.figures))
    attribute = draw.rng.choices((*ATTRIBUTES, "removal"), weights=(10, 15, 35, 30, 10))[0]
    picture = draw.picture(reference)
    if attribute == "removal":
        target = without_figure(reference, position)
        text = removal_text(reference, position, draw.rng)
    else:
        value = other_value(attribute, getattr(reference.figures[position], attribute), draw.rng)
        target = with_change(reference, position, attribute, value)
        text = edit_text(reference, position, attribute, value, draw.rng)
    query = Query(target, picture=picture, text=text)

    def image_key(scene: Scene) -> Key:
        return Key(scene, picture=draw.picture(scene))

    def wrong_edit() -> Scene:
        """The reference or the target with one wrong change; never the reference itself, which is in the pool."""
        changed = near_miss(draw.rng.choice((reference, target)), draw.rng)
        return target if changed == reference else changed

    if len(set(_looks(target))) < len(target.figures):
        return Bundle(query, (image_key(target),))
    rivals = draw.rivals(query, wrong_edit, image_key)
    return Bundle(query, (image_key(target),), rivals, (Key(reference, picture=picture),))


def _page_to_page(draw: Draw) -> Bundle:
    """A picture and a question about it find the page with the same scene, in another style, and the answer."""
    scene, found = draw.asked_scene()
    query = Query(scene, picture=draw.picture(scene), text=ask(scene, found[0], draw.rng))

    def page(scene: Scene) -> Key:
        answer = statement(scene, found[0], draw.rng)
        rest = draw.rng.choice(scene.figures).description
        facts = Facts(answer.facts.descriptions, answer.facts.relations, scene.background)
        text = f"{answer.text} The page shows {phrase(rest, draw.rng)} on {scene.background}."
        return Key(scene, draw.picture(scene), Caption(text, facts))

    return Bundle(query, (page(scene),), draw.rivals(query, lambda: near_miss(scene, draw.rng), page))


BUNDLES: dict[int, Callable[[Draw], Bundle]] = {
    0: _text_to_image,
    1: _text_to_text,
    2: _text_to_page,
    3: _image_to_text,
    4: _image_to_image,
    6: _page_to_text,
    7: _page_to_image,
    8: _page_to_page,
}


def _text_key(scene: Scene, draw: Draw) -> Key:
    """A precise caption as a key."""
    return Key(scene, caption=describe(scene, draw.rng, PRECISE))


def _different_captions(scene: Scene, count: int, rng: random.Random) -> list[Caption]:
    """Precise captions of the scene with different texts."""
    found: dict[str, Caption] = {}
    while len(found) < count:
        caption = describe(scene, rng, PRECISE)
        found.setdefault(caption.text, caption)
    return list(found.values())


def _looks(scene: Scene) -> list[tuple[str | None, ...]]:
    """Descriptions of the scene's figures."""
    return [figure.description for figure in scene.figures]
