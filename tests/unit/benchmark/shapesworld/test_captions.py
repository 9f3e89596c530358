"""Texts are true, readable, varied, and ask what they seem to ask."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anykey.benchmark.shapesworld.captions import (
    PRECISE,
    Detail,
    ask,
    describe,
    dialogue,
    edit_text,
    minimal_description,
    page_text,
    phrase,
    questions,
    removal_text,
    statement,
    training_captions,
)
from anykey.benchmark.shapesworld.scene import Facts, Figure, Scene, matches, near_miss, sample_scene
from anykey.sources.mbeir import format_string

SEEDS = st.integers(0, 10**9)
# T . .   T: triangle
# H . D   H: heart, D: diamond
SCENE = Scene(
    "sky",
    (
        Figure(0, "triangle", "red", "large", "solid"),
        Figure(3, "heart", "pink", "small", "dotted"),
        Figure(5, "diamond", "blue", "small", "hollow"),
    ),
)


@given(SEEDS)
def test_every_text_is_true_of_its_scene_and_in_normal_form(seed: int) -> None:
    rng = random.Random(seed)
    scene = sample_scene(rng)
    captions = [describe(scene, rng, Detail()), describe(scene, rng, PRECISE), page_text(scene, rng)]
    for question in questions(scene):
        captions += [statement(scene, question, rng), dialogue(scene, question, rng)]
    for caption in captions:
        assert caption.facts.is_true_of(scene)
        assert format_string(caption.text) == caption.text
        assert caption.text.isascii()
        assert "  " not in caption.text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|None", caption.text)


@given(SEEDS)
def test_facts_hold_no_more_and_no_less_than_the_text_says(seed: int) -> None:
    rng = random.Random(seed)
    scene = sample_scene(rng)
    caption = describe(scene, rng, Detail())
    said = caption.text.lower()
    colours = [colour for _, _, colour, _ in caption.facts.descriptions if colour]
    assert sorted(colours) == sorted(re.findall(r"red|orange|yellow|green|blue|purple|pink|brown|cyan", said))
    if caption.facts.background:
        assert re.search(rf"(on|against) (an? )?{caption.facts.background}\b", said)
    else:
        assert not re.search(r"background|backdrop", said)
    assert bool(caption.facts.relations) == bool(re.search(r"\b(left|right|above|over|below|under)\b", said))
    assert bool(caption.facts.count) == bool(re.search(r"\b(one|two|three|four)\b", said))


def test_captions_of_one_scene_vary() -> None:
    rng = random.Random(0)
    assert len({describe(SCENE, rng, Detail()).text for _ in range(200)}) > 150


def test_questions_have_exactly_one_answer_each() -> None:
    found = {(question.anchor, question.direction, question.answer) for question in questions(SCENE)}
    # right of triangle lies only the diamond; below the triangle lie two; left of the diamond lie two
    assert (0, "right", 2) in found
    assert not {key[:2] for key in found} & {(0, "below"), (2, "left"), (0, "left"), (0, "above")}
    assert (1, "above", 0) in found
    assert (1, "right", 2) in found


def test_a_question_names_its_anchor_so_that_no_other_figure_can_be_meant() -> None:
    twins = Scene("sky", (Figure(0, "star", "red", "small", "solid"), Figure(1, "star", "blue", "small", "solid")))
    rng = random.Random(1)
    for position, colour in ((0, "red"), (1, "blue")):
        described = minimal_description(twins, position, rng)
        assert described == (None, None, colour, "star")
        assert [matches(described, figure) for figure in twins.figures].count(True) == 1
    (question, *_) = questions(twins)
    assert re.search("red|blue", ask(twins, question, rng))


def test_figures_that_are_alike_cannot_be_told_apart() -> None:
    alike = Scene("sky", (Figure(0, "star", "red", "small", "solid"), Figure(1, "star", "red", "small", "solid")))
    with pytest.raises(ValueError, match="alike"):
        minimal_description(alike, 0, random.Random(0))


@given(SEEDS)
def test_an_answer_is_false_once_its_figure_has_another_colour(seed: int) -> None:
    rng = random.Random(seed)
    (question, *_) = questions(SCENE)
    answer = statement(SCENE, question, rng)
    figures = list(SCENE.figures)
    figures[question.answer] = Figure(figures[question.answer].cell, "cross", "green", "large", "striped")
    assert not answer.facts.is_true_of(Scene(SCENE.background, tuple(figures)))


def test_edits_name_figure_and_new_value() -> None:
    rng = random.Random(0)
    for _ in range(40):
        assert re.search(r"heart is yellow\.$", edit_text(SCENE, 1, "colour", "yellow", rng))
        assert re.search(
            r"an arrow instead of the heart\.$|heart is an arrow\.$", edit_text(SCENE, 1, "shape", "arrow", rng)
        )
        assert re.search(r"heart is (large|big)\.$", edit_text(SCENE, 1, "size", "large", rng))
        assert removal_text(SCENE, 2, rng).endswith(("without the diamond.", "without the rhombus."))


def test_training_captions_are_two_to_four_and_different() -> None:
    rng = random.Random(0)
    counts = set()
    for _ in range(200):
        captions = training_captions(near_miss(SCENE, rng), rng)
        assert len(set(captions)) == len(captions)
        counts.add(len(captions))
    assert counts == {2, 3, 4}


def test_phrases_say_what_is_described_and_nothing_else() -> None:
    rng = random.Random(0)
    assert phrase((None, None, "orange", "star"), rng) in ("an orange star", "a star that is orange")
    assert phrase((None, None, None, "heart"), rng, "the") == "the heart"
    assert phrase((None, None, "red", None), rng) in ("a red shape", "a red figure", "a figure that is red")
    assert Facts(((None, None, None, "heart"),)).is_true_of(SCENE)
