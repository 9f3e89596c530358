"""Pictures are reproducible, and every attribute can be seen in them."""

import io
import itertools
import random

import numpy as np
import pytest
from PIL import Image

from anykey.benchmark.shapesworld.draw import MILD, PAINT, RADIUS, STRONG, Picture, Variation, draw, encode_jpeg
from anykey.benchmark.shapesworld.scene import (
    BACKGROUNDS,
    COLOURS,
    GRID,
    SHAPES,
    SIZES,
    TEXTURES,
    Figure,
    Scene,
    sample_scene,
)

PLAIN = Figure(4, "circle", "blue", "large", "solid")


def pixels(scene: Scene, style: str = "s", variation: Variation = MILD) -> np.ndarray:
    """RGB values of the decoded JPEG, height x width x 3."""
    data = encode_jpeg(draw(Picture(scene, style, variation), 64))
    return np.asarray(Image.open(io.BytesIO(data)), dtype=float)


def test_the_same_picture_gives_the_same_bytes() -> None:
    scene = sample_scene(random.Random(3))
    assert encode_jpeg(draw(Picture(scene, "a"), 64)) == encode_jpeg(draw(Picture(scene, "a"), 64))
    assert encode_jpeg(draw(Picture(scene, "a"), 64)) != encode_jpeg(draw(Picture(scene, "b"), 64))


@pytest.mark.parametrize("size_px", [32, 64, 100])
def test_pictures_are_square_rgb_jpegs_of_the_wanted_size(size_px: int) -> None:
    image = Image.open(io.BytesIO(encode_jpeg(draw(Picture(Scene("sky", (PLAIN,)), "s"), size_px))))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (size_px, size_px))


@pytest.mark.parametrize("variation", [MILD, STRONG], ids=["mild", "strong"])
@pytest.mark.parametrize("colour", COLOURS)
def test_a_solid_figure_shows_its_colour_and_no_other_colour_is_nearer(colour: str, variation: Variation) -> None:
    scene = Scene("grey", (Figure(4, "square", colour, "large", "solid"),))
    seen = pixels(scene, variation=variation)[28:36, 28:36].mean(axis=(0, 1))
    distances = {name: np.linalg.norm(seen - np.array(paint)) for name, paint in PAINT.items()}
    assert min(distances, key=lambda name: distances[name]) == colour


@pytest.mark.parametrize(("variation", "share"), [(MILD, 0.9), (STRONG, 0.5)], ids=["mild", "strong"])
@pytest.mark.parametrize(
    "looks",
    [
        [Figure(4, shape, "blue", "large", "solid") for shape in SHAPES],
        [Figure(4, "circle", colour, "large", "solid") for colour in COLOURS],
        [Figure(4, "circle", "blue", size, "solid") for size in SIZES],
        [Figure(4, "circle", "blue", "small", texture) for texture in TEXTURES],
        [Figure(cell, "circle", "blue", "large", "solid") for cell in range(9)],
    ],
    ids=["shape", "colour", "size", "texture", "cell"],
)
def test_changing_an_attribute_shows_more_than_changing_the_style(
    looks: list[Figure], variation: Variation, share: float
) -> None:
    """Style may move a figure by a few pixels; meaning must change more than that. Compared without fine grain.

    The comparison knows no turns, which strong styles have: there it must only be far better than chance (1 in 9).
    """

    def blurred(figure: Figure, style: str) -> np.ndarray:
        values = pixels(Scene("grey", (figure,)), style, variation)
        values = values - np.median(values, axis=(0, 1))  # the backdrop's shade
        return values.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))

    styles = [str(i) for i in range(12)]
    drawn = {figure: [blurred(figure, style) for style in styles] for figure in looks}
    centres = {figure: np.mean(images, axis=0) for figure, images in drawn.items()}
    right = 0
    for figure, images in drawn.items():
        for image in images:
            nearest = min(centres, key=lambda other: float(np.abs(image - centres[other]).sum()))
            right += nearest == figure
    assert right >= share * len(looks) * len(styles)


def test_backgrounds_are_told_apart_by_their_corners() -> None:
    means = {name: pixels(Scene(name, (PLAIN,)))[:4].mean(axis=(0, 1)) for name in BACKGROUNDS}
    bottoms = {name: pixels(Scene(name, (PLAIN,)))[-4:].mean(axis=(0, 1)) for name in BACKGROUNDS}
    for a, b in itertools.combinations(BACKGROUNDS, 2):
        assert max(np.abs(means[a] - means[b]).max(), np.abs(bottoms[a] - bottoms[b]).max()) > 15


@pytest.mark.parametrize("variation", [MILD, STRONG], ids=["mild", "strong"])
def test_no_style_makes_a_large_figure_small_or_moves_it_out_of_its_cell(variation: Variation) -> None:
    assert RADIUS["large"] * variation.scale[0] > 1.2 * RADIUS["small"] * variation.scale[1]
    assert variation.jitter < 1 / GRID / 4
