"""What a ShapesWorld scene is, and when a statement about it is true. No pixels, no wording.

A scene is one to four figures on a 3 x 3 grid of cells over a background. Everything here is meaning: two
scenes are the same exactly when their `code` is. How a scene is drawn (shade, jitter, noise) is `draw.py`,
how it is put into words is `captions.py`.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

SHAPES = ("circle", "square", "triangle", "diamond", "star", "heart", "cross", "arrow", "crescent")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "cyan")
SIZES = ("small", "large")
TEXTURES = ("solid", "striped", "dotted", "hollow")
BACKGROUNDS = ("white", "grey", "black", "sand", "sky", "dusk")
ATTRIBUTES = ("size", "texture", "colour", "shape")
VALUES = {"size": SIZES, "texture": TEXTURES, "colour": COLOURS, "shape": SHAPES}
GRID = 3
MAX_FIGURES = 4

# size, texture, colour, shape; None where nothing is said
Description: TypeAlias = tuple[str | None, str | None, str | None, str | None]


@dataclass(frozen=True, order=True)
class Figure:
    """One figure of a scene.

    Attributes:
        cell: Place on the grid, 0 (top left) to 8 (bottom right), row by row.
        shape: One of `SHAPES`.
        colour: One of `COLOURS`.
        size: One of `SIZES`.
        texture: One of `TEXTURES`.
    """

    cell: int
    shape: str
    colour: str
    size: str
    texture: str

    @property
    def row(self) -> int:
        """Row of the cell, 0 at the top."""
        return self.cell // GRID

    @property
    def column(self) -> int:
        """Column of the cell, 0 at the left."""
        return self.cell % GRID

    @property
    def description(self) -> Description:
        """Everything that can be said of the figure besides its place."""
        return self.size, self.texture, self.colour, self.shape


@dataclass(frozen=True)
class Scene:
    """Figures in the order of their cells, and what is behind them."""

    background: str
    figures: tuple[Figure, ...]

    @cached_property
    def code(self) -> str:
        """Canonical form: equal for equal scenes, different for different ones."""
        figures = ";".join(f"{f.cell} {f.size} {f.texture} {f.colour} {f.shape}" for f in self.figures)
        return f"{self.background};{figures}"

    @cached_property
    def descriptions(self) -> frozenset[Description]:
        """Every description, however partial, that is true of some figure of the scene."""
        return frozenset(
            (size, texture, colour, shape)
            for figure in self.figures
            for size in (None, figure.size)
            for texture in (None, figure.texture)
            for colour in (None, figure.colour)
            for shape in (None, figure.shape)
        )


@dataclass(frozen=True)
class Facts:
    """What a text claims about a scene.

    Attributes:
        descriptions: Figures that must exist, each a different one.
        relations: (i, "left" or "above", j): the figure of description i is left of or above that of j.
        background: Background claimed, if any.
        count: Number of figures claimed, if any.
    """

    descriptions: tuple[Description, ...]
    relations: tuple[tuple[int, str, int], ...] = ()
    background: str | None = None
    count: int | None = None

    def is_true_of(self, scene: Scene) -> bool:
        """Whether some choice of different figures makes every claim true."""
        if self.background not in (None, scene.background) or self.count not in (None, len(scene.figures)):
            return False
        if not scene.descriptions.issuperset(self.descriptions):
            return False
        chosen = itertools.permutations(scene.figures, len(self.descriptions))
        return any(self._fits(figures) for figures in chosen)

    def _fits(self, figures: Sequence[Figure]) -> bool:
        """Whether these figures, one per description, fulfil descriptions and relations."""
        return all(map(matches, self.descriptions, figures)) and all(
            holds(figures[i], relation, figures[j]) for i, relation, j in self.relations
        )


def matches(description: Description, figure: Figure) -> bool:
    """Whether everything the description says is true of the figure."""
    return all(said in (None, value) for said, value in zip(description, figure.description, strict=True))


def holds(first: Figure, relation: str, second: Figure) -> bool:
    """Whether `first` is `relation` ("left" or "above") of `second`: strictly, whatever the other axis."""
    if relation == "left":
        return first.column < second.column
    if relation == "above":
        return first.row < second.row
    raise ValueError(f"relation must be 'left' or 'above', got {relation!r}")


def sample_scene(rng: random.Random, min_figures: int = 1) -> Scene:
    """Draws a scene at random; two figures of one scene differ in shape or colour.

    Args:
        rng: Source of randomness; advanced.
        min_figures: Fewest figures, 1 to 4.
    """
    count = max(min_figures, rng.choices((1, 2, 3, 4), weights=(10, 30, 35, 25))[0])
    cells = sorted(rng.sample(range(GRID * GRID), count))
    while True:
        figures = tuple(
            Figure(cell, rng.choice(SHAPES), rng.choice(COLOURS), rng.choice(SIZES), rng.choice(TEXTURES))
            for cell in cells
        )
        if len({(figure.shape, figure.colour) for figure in figures}) == count:
            return Scene(rng.choice(BACKGROUNDS), figures)


def with_change(scene: Scene, position: int, attribute: str, value: str) -> Scene:
    """The same scene with one attribute of the figure at `position` set to `value`."""
    figures = list(scene.figures)
    changes: dict[str, str] = {attribute: value}
    figures[position] = replace(figures[position], **changes)  # type: ignore[arg-type]
    return Scene(scene.background, tuple(figures))


def without_figure(scene: Scene, position: int) -> Scene:
    """The same scene with the figure at `position` taken away."""
    return Scene(scene.background, scene.figures[:position] + scene.figures[position + 1 :])


def with_swap(scene: Scene, first: int, second: int) -> Scene:
    """The same scene with the places of two figures exchanged."""
    figures = list(scene.figures)
    figures[first], figures[second] = (
        replace(figures[second], cell=figures[first].cell),
        replace(figures[first], cell=figures[second].cell),
    )
    return Scene(scene.background, tuple(figures))


def other_value(attribute: str, value: str, rng: random.Random) -> str:
    """A value of the attribute that differs from `value`."""
    return rng.choice([candidate for candidate in VALUES[attribute] if candidate != value])


def near_miss(scene: Scene, rng: random.Random) -> Scene:
    """The scene with one thing changed: an attribute of one figure, two places exchanged, or the background."""
    kinds = ("colour", "shape", "texture", "size", "swap", "background")
    kind = rng.choices(kinds, weights=(30, 30, 14, 10, 10, 6))[0]
    if kind == "background":
        return Scene(rng.choice([b for b in BACKGROUNDS if b != scene.background]), scene.figures)
    if kind == "swap" and len(scene.figures) > 1:
        return with_swap(scene, *rng.sample(range(len(scene.figures)), 2))
    attribute = "colour" if kind == "swap" else kind
    position = rng.randrange(len(scene.figures))
    value = getattr(scene.figures[position], attribute)
    return with_change(scene, position, attribute, other_value(attribute, value, rng))
