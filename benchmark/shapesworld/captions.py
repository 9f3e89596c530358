"""Puts scenes into words, and keeps with every text what it claims.

Each function that writes a text takes the facts from the scene first and words them second, so that a text's
`Facts` are exactly what it says: the task builder decides from them which keys a query matches. All texts are
already in M-BEIR's normal form: they start with a capital or digit and end in `.` or `?`.
"""

import itertools
import random
from dataclasses import dataclass

from anykey.benchmark.shapesworld.scene import Description, Facts, Figure, Scene, holds

SIZE_WORDS = {"small": ("small", "small", "little", "tiny"), "large": ("large", "large", "big")}
TEXTURE_WORDS = {
    "solid": ("solid", "filled", "plain"),
    "striped": ("striped", "striped", "stripy"),
    "dotted": ("dotted", "dotted", "spotted"),
    "hollow": ("hollow", "hollow", "outlined"),
}
ADJECTIVES = {**SIZE_WORDS, **TEXTURE_WORDS}  # a colour has one word, its own
TEXTURE_TAILS = {"striped": "with stripes", "dotted": "with dots", "solid": "with solid fill", "hollow": "with no fill"}
SHAPE_WORDS = {
    "circle": ("circle", "circle", "disc"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "diamond": ("diamond", "diamond", "rhombus"),
    "star": ("star",),
    "heart": ("heart",),
    "cross": ("cross", "cross", "plus"),
    "arrow": ("arrow",),
    "crescent": ("crescent", "crescent", "moon"),
}
DIRECTION_WORDS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
COUNT_WORDS = {1: "One", 2: "Two", 3: "Three", 4: "Four"}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Caption:
    """A text and what it claims."""

    text: str
    facts: Facts


@dataclass(frozen=True)
class Detail:
    """How much a caption says; each number is the chance that one thing is said.

    Attributes:
        figures: A figure is mentioned (at least one always is).
        size: Of each mentioned figure.
        texture: Of each mentioned figure.
        background: Of the scene.
        relation: How two mentioned figures lie to each other.
    """

    figures: float = 0.85
    size: float = 0.55
    texture: float = 0.65
    background: float = 0.5
    relation: float = 0.55


PRECISE = Detail(figures=0.95, size=0.75, texture=0.9, background=0.7, relation=0.7)


@dataclass(frozen=True)
class Question:
    """Which figure lies in a direction of an anchor; exactly one does.

    Attributes:
        anchor: Position of the anchor in the scene's figures.
        direction: "left", "right", "above" or "below".
        answer: Position of the only figure there.
    """

    anchor: int
    direction: str
    answer: int


def describe(scene: Scene, rng: random.Random, detail: Detail) -> Caption:
    """A caption of the scene: true, and often incomplete.

    Args:
        scene: What to describe.
        rng: Source of randomness; advanced.
        detail: How much is said.

    Returns:
        The text and its claims, all of them true of the scene.
    """
    positions = [i for i in range(len(scene.figures)) if rng.random() < detail.figures]
    positions = positions or [rng.randrange(len(scene.figures))]
    rng.shuffle(positions)
    descriptions = tuple(_description(scene.figures[i], rng, detail) for i in positions)
    background = scene.background if rng.random() < detail.background else None
    phrases = [phrase(description, rng) for description in descriptions]
    relations: tuple[tuple[int, str, int], ...] = ()
    count = None
    if len(positions) > 1 and rng.random() < detail.relation:
        direction = direction_between(scene.figures[positions[0]], scene.figures[positions[1]], rng)
        relations = (_relation(0, direction, 1),)
        body = _listed([_related(phrases[0], direction, phrases[1], rng), *phrases[2:]], rng)
    else:
        body = _listed(phrases, rng)
        if len(positions) == len(scene.figures) and rng.random() < 0.3:
            count = len(positions)
    facts = Facts(descriptions, relations, background, count)
    return Caption(_sentence(body, background, count, rng), facts)


def page_text(scene: Scene, rng: random.Random) -> Caption:
    """The descriptive text of a page: a precise caption that names the background in a sentence of its own."""
    caption = describe(scene, rng, Detail(figures=1.0, size=0.8, texture=0.95, background=0.0, relation=0.9))
    facts = Facts(caption.facts.descriptions, caption.facts.relations, scene.background, caption.facts.count)
    return Caption(f"{caption.text} The background is {scene.background}.", facts)


def statement(scene: Scene, question: Question, rng: random.Random) -> Caption:
    """The answer to a question in one sentence, such as "Left of the red circle is a blue square."."""
    anchor = minimal_description(scene, question.anchor, rng)
    answer = scene.figures[question.answer].description
    facts = Facts((answer, anchor), (_relation(0, question.direction, 1),))
    there = f"{rng.choice(DIRECTION_WORDS[question.direction])} {phrase(anchor, rng, 'the')}"
    thing = phrase(answer, rng)
    text = rng.choice((f"{there} is {thing}", f"{there} there is {thing}", f"{thing} is {there}"))
    return Caption(finished(text), facts)


def dialogue(scene: Scene, question: Question, rng: random.Random) -> Caption:
    """A question and its answer as one text, such as "What is left of the red circle? A blue square."."""
    anchor = minimal_description(scene, question.anchor, rng)
    answer = scene.figures[question.answer].description
    facts = Facts((answer, anchor), (_relation(0, question.direction, 1),))
    return Caption(f"{_asked(anchor, question.direction, rng)} {finished(phrase(answer, rng))}", facts)


def training_captions(scene: Scene, rng: random.Random) -> list[str]:
    """Two to four different captions of the scene, in all the forms that texts of the test tasks take."""
    captions: list[str] = []
    wanted = rng.choice((2, 3, 3, 4))
    askable = questions(scene)
    while len(captions) < wanted:
        form = rng.random()
        if form < 0.1:
            text = page_text(scene, rng).text
        elif form < 0.3 and askable:
            text = rng.choice((statement, dialogue))(scene, rng.choice(askable), rng).text
        else:
            text = describe(scene, rng, rng.choice((Detail(), PRECISE))).text
        if text not in captions:
            captions.append(text)
    return captions


def ask(scene: Scene, question: Question, rng: random.Random) -> str:
    """The question in words; its anchor is named so that only one figure can be meant."""
    return _asked(minimal_description(scene, question.anchor, rng), question.direction, rng)


def questions(scene: Scene) -> list[Question]:
    """Every question about the scene that has exactly one answer, and a clear one."""
    found = []
    for anchor, direction in itertools.product(range(len(scene.figures)), OPPOSITE):
        there = [i for i in range(len(scene.figures)) if _lies(scene.figures[i], direction, scene.figures[anchor])]
        if len(there) == 1 and direction in _clear(scene.figures[there[0]], scene.figures[anchor]):
            found.append(Question(anchor, direction, there[0]))
    return found


def minimal_description(scene: Scene, position: int, rng: random.Random) -> Description:
    """A shortest description that fits the figure at `position` and no other of the scene; shape preferred."""
    full = scene.figures[position].description
    others = [figure.description for i, figure in enumerate(scene.figures) if i != position]
    for said in range(1, 5):
        choices = [kept for kept in itertools.combinations(range(4), said) if 3 in kept]
        rng.shuffle(choices)
        for kept in choices:
            if not any(all(other[i] == full[i] for i in kept) for other in others):
                size, texture, colour, shape = (full[i] if i in kept else None for i in range(4))
                return size, texture, colour, shape
    raise ValueError(f"two figures of scene '{scene.code}' are alike")


def edit_text(scene: Scene, position: int, attribute: str, value: str, rng: random.Random) -> str:
    """Asks for the same scene with one attribute of one figure changed."""
    thing = phrase(minimal_description(scene, position, rng), rng, "the")
    if attribute == "shape":
        word = rng.choice(SHAPE_WORDS[value])
        change = rng.choice((f"with {_article(word)} instead of {thing}", f"but {thing} is {_article(word)}"))
    else:
        change = f"but {thing} is {rng.choice(ADJECTIVES.get(value, (value,)))}"
    return finished(f"{rng.choice(('the same scene', 'same scene', 'the same picture', 'this scene'))}, {change}")


def removal_text(scene: Scene, position: int, rng: random.Random) -> str:
    """Asks for the same scene with one figure taken away."""
    thing = phrase(minimal_description(scene, position, rng), rng, "the")
    return finished(f"{rng.choice(('the same scene', 'same scene', 'this scene'))}, but without {thing}")


def phrase(description: Description, rng: random.Random, article: str = "a") -> str:
    """The description as a noun phrase.

    Args:
        description: What is said; the rest stays unsaid.
        rng: Chooses among synonyms and word orders; advanced.
        article: "a" or "the".
    """
    size, texture, colour, shape = description
    noun = rng.choice(SHAPE_WORDS[shape]) if shape else rng.choice(("shape", "figure"))
    before = [rng.choice(SIZE_WORDS[size])] if size else []
    after = ""
    if texture and texture in TEXTURE_TAILS and rng.random() < 0.2:
        after = f" {TEXTURE_TAILS[texture]}"
    elif texture:
        before.append(rng.choice(TEXTURE_WORDS[texture]))
    if colour:
        before.insert(rng.randrange(len(before) + 1) if rng.random() < 0.2 else len(before), colour)
    if not after and before and rng.random() < 0.08:
        joined = " and ".join(before[-2:])
        front = " ".join([*before[:-2], noun])
        return f"{_article(front) if article == 'a' else f'the {front}'} that is {joined}"
    words = " ".join([*before, noun])
    return f"{_article(words) if article == 'a' else f'the {words}'}{after}"


def finished(text: str) -> str:
    """The text with a capital first letter and an end mark."""
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".?!" else f"{text}."


def direction_between(first: Figure, second: Figure, rng: random.Random) -> str:
    """A clear direction in which `first` lies, seen from `second`."""
    return rng.choice(_clear(first, second))


def _clear(first: Figure, second: Figure) -> list[str]:
    """Directions nobody would dispute: the longer way, or both on a diagonal."""
    right, down = first.column - second.column, first.row - second.row
    found = []
    if abs(right) >= abs(down):
        found.append("right" if right > 0 else "left")
    if abs(down) >= abs(right):
        found.append("below" if down > 0 else "above")
    return found


def _lies(figure: Figure, direction: str, anchor: Figure) -> bool:
    """Whether the figure lies in the direction of the anchor, however far off the axis."""
    if direction in ("left", "above"):
        return holds(figure, direction, anchor)
    return holds(anchor, OPPOSITE[direction], figure)


def _relation(first: int, direction: str, second: int) -> tuple[int, str, int]:
    """The claim as `Facts` keeps it: only "left" and "above"."""
    if direction in ("left", "above"):
        return first, direction, second
    return second, OPPOSITE[direction], first


def _asked(anchor: Description, direction: str, rng: random.Random) -> str:
    """Asks what lies in `direction` of the anchor."""
    there = f"{rng.choice(DIRECTION_WORDS[direction])} {phrase(anchor, rng, 'the')}"
    return finished(rng.choice((f"what is {there}?", f"which figure is {there}?", f"what do we see {there}?")))


def _description(figure: Figure, rng: random.Random, detail: Detail) -> Description:
    """A partial description; colour or shape may be left out, never both."""
    size, texture, colour, shape = figure.description
    dropped = rng.random()
    return (
        size if rng.random() < detail.size else None,
        texture if rng.random() < detail.texture else None,
        None if dropped < 0.04 else colour,
        None if dropped > 0.97 else shape,
    )


def _related(first: str, direction: str, second: str, rng: random.Random) -> str:
    """`first` lies in `direction` of `second`, in one of several wordings."""
    there = f"{rng.choice(DIRECTION_WORDS[direction])} {second}"
    back = f"{rng.choice(DIRECTION_WORDS[OPPOSITE[direction]])} {first}"
    side = f"{second} with {first} on its {direction}" if direction in ("left", "right") else f"{second} {back}"
    return rng.choice((f"{first} {there}", f"{first} {there}", f"{second} {back}", f"{first} that is {there}", side))


def _listed(phrases: list[str], rng: random.Random) -> str:
    """The phrases as one list."""
    if len(phrases) == 1:
        return phrases[0]
    last = rng.choice((" and ", " and ", ", and ", " with "))
    return f"{', '.join(phrases[:-1])}{last}{phrases[-1]}"


def _sentence(body: str, background: str | None, count: int | None, rng: random.Random) -> str:
    """The list as a sentence, with what is claimed of background and count."""
    if count is not None:
        noun = rng.choice(("figure", "shape", "object")) + ("s" if count > 1 else "")
        body = f"{COUNT_WORDS[count].lower()} {noun}: {body}"
    elif rng.random() < 0.45:
        verb = rng.choice(("there is", "we see", "a picture of", "an image of", "a drawing of", "a scene with"))
        body = f"{verb} {body}"
    if background is None:
        return finished(body)
    place = rng.choice(
        (f"on {_article(f'{background} background')}", f"against {_article(background)} backdrop", f"on {background}")
    )
    return finished(f"{place}, {body}" if rng.random() < 0.25 else f"{body} {place}")


def _article(words: str) -> str:
    """The words behind "a" or "an"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
