"""Statements about scenes are true exactly when the scene says so."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anykey.benchmark.shapesworld.scene import (
    BACKGROUNDS,
    COLOURS,
    MAX_FIGURES,
    SHAPES,
    Facts,
    Figure,
    Scene,
    holds,
    near_miss,
    sample_scene,
    with_swap,
)

# . . S      S: small striped red square, top right
# C . .      C: large solid blue circle, middle left
SQUARE = Figure(2, "square", "red", "small", "striped")
CIRCLE = Figure(3, "circle", "blue", "large", "solid")
SCENE = Scene("sand", (SQUARE, CIRCLE))
RED_SQUARE = (None, None, "red", "square")
BLUE = (None, None, "blue", None)


@pytest.mark.parametrize(
    ("facts", "truth"),
    [
        (Facts((RED_SQUARE,)), True),
        (Facts((RED_SQUARE, BLUE)), True),
        (Facts((("large", None, "red", "square"),)), False),
        (Facts((RED_SQUARE, RED_SQUARE)), False),
        (Facts((BLUE, RED_SQUARE), ((0, "left", 1),)), True),
        (Facts((RED_SQUARE, BLUE), ((0, "left", 1),)), False),
        (Facts((RED_SQUARE, BLUE), ((0, "above", 1),)), True),
        (Facts((RED_SQUARE,), background="sand"), True),
        (Facts((RED_SQUARE,), background="sky"), False),
        (Facts((RED_SQUARE,), count=2), True),
        (Facts((RED_SQUARE,), count=1), False),
    ],
)
def test_claims_are_checked_one_by_one(facts: Facts, truth: bool) -> None:
    assert facts.is_true_of(SCENE) is truth


def test_a_vague_claim_may_be_met_by_either_of_two_figures() -> None:
    two = Scene("sky", (Figure(0, "star", "red", "small", "solid"), Figure(8, "star", "green", "small", "solid")))
    star = (None, None, None, "star")
    assert Facts((star, star), ((0, "left", 1),)).is_true_of(two)
    assert Facts((star, (None, None, "red", None)), ((1, "above", 0),)).is_true_of(two)
    assert not Facts((star, star, star)).is_true_of(two)


def test_an_unknown_relation_is_refused() -> None:
    with pytest.raises(ValueError, match="'left' or 'above', got 'behind'"):
        holds(SQUARE, "behind", CIRCLE)


def test_a_figure_has_sixteen_descriptions() -> None:
    assert len(Scene("sky", (SQUARE,)).descriptions) == 16
    assert len(SCENE.descriptions) == 31  # the empty description fits both


@given(st.integers(0, 10**9))
def test_sampled_scenes_are_well_formed(seed: int) -> None:
    scene = sample_scene(random.Random(seed))
    cells = [figure.cell for figure in scene.figures]
    assert cells == sorted(set(cells))
    assert 1 <= len(cells) <= MAX_FIGURES
    assert scene.background in BACKGROUNDS
    assert len({(figure.shape, figure.colour) for figure in scene.figures}) == len(cells)


@given(st.integers(0, 10**9))
def test_a_near_miss_differs_in_one_thing(seed: int) -> None:
    rng = random.Random(seed)
    scene = sample_scene(rng)
    other = near_miss(scene, rng)
    assert other != scene
    assert other.code != scene.code
    pairs = list(zip(scene.figures, other.figures, strict=True))
    changed = [(a, b) for a, b in pairs if a != b]
    if other.background != scene.background:
        assert not changed
    elif len(changed) == 1:
        ((a, b),) = changed
        assert a.cell == b.cell
        assert sum(x != y for x, y in zip(a.description, b.description, strict=True)) == 1
    else:  # two figures changed places
        ((a, b), (c, d)) = changed
        assert (a.description, c.description) == (d.description, b.description)


def test_swapping_twice_gives_the_scene_back() -> None:
    assert with_swap(with_swap(SCENE, 0, 1), 0, 1) == SCENE
    assert with_swap(SCENE, 0, 1).figures[0] == Figure(2, "circle", "blue", "large", "solid")


def test_codes_are_equal_only_for_equal_scenes() -> None:
    rng = random.Random(0)
    scenes = [sample_scene(rng) for _ in range(120)]
    scenes += [near_miss(scene, rng) for scene in scenes]
    for a, b in itertools.combinations(scenes, 2):
        assert (a.code == b.code) == (a == b)


def test_there_are_at_least_eight_shapes_and_colours() -> None:
    assert len(set(SHAPES)) >= 8
    assert len(set(COLOURS)) >= 8
