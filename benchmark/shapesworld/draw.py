"""Draws scenes: PIL polygons on a three times larger canvas, reduced to the wanted size.

A `Picture` is a scene and a style: the style decides what has no meaning (shade, small shifts, turns, noise),
so two pictures of one scene differ in style only. The same picture always gives the same bytes.
"""

import io
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from anykey.benchmark.shapesworld.scene import GRID, Figure, Scene

SUPERSAMPLING = 3
JPEG_QUALITY = 90
RADIUS = {"small": 0.102, "large": 0.150}  # of the image's side

Rgb: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]

PAINT: dict[str, Rgb] = {
    "red": (220, 30, 35),
    "orange": (255, 135, 10),
    "yellow": (250, 220, 30),
    "green": (30, 150, 50),
    "blue": (35, 75, 225),
    "purple": (135, 40, 175),
    "pink": (255, 130, 190),
    "brown": (145, 85, 40),
    "cyan": (40, 200, 215),
}
DARK_PATTERN = {"yellow", "cyan", "pink", "orange"}  # white would not show on these
BACKDROPS: dict[str, tuple[Rgb, Rgb]] = {  # top and bottom
    "white": ((248, 248, 248), (248, 248, 248)),
    "grey": ((145, 145, 145), (145, 145, 145)),
    "black": ((18, 18, 18), (18, 18, 18)),
    "sand": ((226, 205, 160), (226, 205, 160)),
    "sky": ((130, 185, 245), (225, 240, 255)),
    "dusk": ((25, 25, 85), (130, 70, 110)),
}


def _arc(start: float, stop: float, points: int, radius: float = 1.0, centre: Point = (0.0, 0.0)) -> list[Point]:
    """Points on a circle's arc, angles in degrees, y downwards."""
    angles = [math.radians(start + (stop - start) * i / (points - 1)) for i in range(points)]
    return [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles]


def _star() -> list[Point]:
    angles = [math.radians(-90 + 36 * i) for i in range(10)]
    radii = [1.08 if i % 2 == 0 else 0.46 for i in range(10)]
    return [(r * math.cos(a), r * math.sin(a) + 0.06) for r, a in zip(radii, angles, strict=True)]


def _heart() -> list[Point]:
    angles = [2 * math.pi * i / 40 for i in range(40)]
    wave = [13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a) for a in angles]
    return [(1.02 * math.sin(a) ** 3, -w / 15.5 - 0.1) for a, w in zip(angles, wave, strict=True)]


def _cross(arm: float = 0.36) -> list[Point]:
    quarter = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
    turns = [(1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0)]
    return [(a * x + b * y, c * x + d * y) for a, b, c, d in turns for x, y in quarter]


OUTLINES: dict[str, list[Point]] = {  # within about one unit of the origin, y downwards
    "circle": _arc(0, 351, 40, 0.97),
    "square": [(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)],
    "triangle": [(0.0, -0.98), (1.0, 0.8), (-1.0, 0.8)],
    "diamond": [(0.0, -1.1), (0.72, 0.0), (0.0, 1.1), (-0.72, 0.0)],
    "star": _star(),
    "heart": _heart(),
    "cross": _cross(),
    "arrow": [(-1.0, -0.34), (0.1, -0.34), (0.1, -0.9), (1.05, 0.0), (0.1, 0.9), (0.1, 0.34), (-1.0, 0.34)],
    "crescent": _arc(50, 310, 30, 1.0, (0.2, 0.0)) + _arc(292, 68, 24, 0.74, (0.66, 0.0)),
}


@dataclass(frozen=True)
class Variation:
    """How far styles may differ; sizes, colours and places stay further apart than any style moves them.

    Attributes:
        jitter: Shift of a figure, each way, as a share of the image's side.
        turn_degrees: Turn of a figure, each way.
        noise: Grain's standard deviation, of 255, at most.
        scale: Bounds of a figure's size.
        paint: Bounds of a figure's lightness.
        backdrop: Bounds of the background's lightness.
    """

    jitter: float
    turn_degrees: float
    noise: float
    scale: tuple[float, float]
    paint: tuple[float, float]
    backdrop: tuple[float, float]


MILD = Variation(0.016, 9.0, 5.0, scale=(0.94, 1.04), paint=(0.94, 1.06), backdrop=(0.90, 1.06))
STRONG = Variation(0.040, 18.0, 16.0, scale=(0.84, 1.00), paint=(0.82, 1.12), backdrop=(0.80, 1.10))


@dataclass(frozen=True)
class Picture:
    """A scene, the seed of its style, and how far that style may go."""

    scene: Scene
    style: str
    variation: Variation = MILD


def draw(picture: Picture, image_size_px: int) -> Image.Image:
    """The picture as a square RGB image with a side of `image_size_px`."""
    rng = random.Random(picture.style)
    shade = rng.uniform(*picture.variation.backdrop)
    canvas = _backdrop(picture.scene.background, image_size_px * SUPERSAMPLING, shade)
    for figure in picture.scene.figures:
        _paint_figure(canvas, figure, picture.variation, rng)
    return _with_noise(canvas.reduce(SUPERSAMPLING), picture.variation.noise, rng)


def encode_jpeg(image: Image.Image) -> bytes:
    """JPEG bytes, full colour resolution: at 64 px the usual halving would blur neighbouring colours."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def draw_jpegs(image_size_px: int, pictures: Sequence[Picture]) -> list[bytes]:
    """JPEG bytes of several pictures; lives here so that a drawing process imports little else."""
    return [encode_jpeg(draw(picture, image_size_px)) for picture in pictures]


def _backdrop(name: str, side_px: int, shade: float) -> Image.Image:
    """A plain or graded canvas, made darker (`shade` below 1) or lighter."""
    rows = 16
    column = Image.new("RGB", (1, rows))
    top, bottom = BACKDROPS[name]
    for row in range(rows):
        share = row / (rows - 1)
        mixed = [round(shade * (t * (1 - share) + b * share)) for t, b in zip(top, bottom, strict=True)]
        column.putpixel((0, row), (min(mixed[0], 255), min(mixed[1], 255), min(mixed[2], 255)))
    return column.resize((side_px, side_px), Image.Resampling.BILINEAR)


def _paint_figure(canvas: Image.Image, figure: Figure, variation: Variation, rng: random.Random) -> None:
    """Draws one figure into its cell of the canvas."""
    side = canvas.width
    radius = RADIUS[figure.size] * side * rng.uniform(*variation.scale)
    cell = side / GRID
    x = (figure.column + 0.5) * cell + rng.uniform(-1, 1) * variation.jitter * side
    y = (figure.row + 0.5) * cell + rng.uniform(-1, 1) * variation.jitter * side
    half = math.ceil(1.15 * radius)
    outline = _turned(OUTLINES[figure.shape], radius, half, math.radians(rng.uniform(-1, 1) * variation.turn_degrees))
    colour = _shaded(PAINT[figure.colour], rng.uniform(*variation.paint))
    tile = _tile(figure, colour, 2 * half, side / 64, rng)
    mask = Image.new("L", tile.size, 0)
    width = max(1, round(0.034 * side)) if figure.texture == "hollow" else max(1, round(0.012 * side))
    if figure.texture == "hollow":
        ImageDraw.Draw(mask).line([*outline, *outline[:2]], fill=255, width=width, joint="curve")
    else:
        ImageDraw.Draw(mask).polygon(outline, fill=255)
        edge = _shaded(colour, 0.55)
        ImageDraw.Draw(tile).line([*outline, *outline[:2]], fill=edge, width=width, joint="curve")
    canvas.paste(tile, (round(x) - half, round(y) - half), mask)


def _turned(outline: list[Point], radius: float, centre: float, angle: float) -> list[Point]:
    """The outline scaled, turned by `angle` radians and moved to (centre, centre)."""
    cos, sin = radius * math.cos(angle), radius * math.sin(angle)
    return [(centre + x * cos - y * sin, centre + x * sin + y * cos) for x, y in outline]


def _shaded(colour: Rgb, factor: float) -> Rgb:
    """The colour made darker (below 1) or lighter (above 1)."""
    red, green, blue = (min(255, round(channel * factor)) for channel in colour)
    return red, green, blue


def _tile(figure: Figure, colour: Rgb, side_px: int, px: float, rng: random.Random) -> Image.Image:
    """A square of the figure's paint with its pattern; `px` is one pixel of a 64 px image."""
    tile = Image.new("RGB", (side_px, side_px), colour)
    pattern = _shaded(colour, 0.30) if figure.colour in DARK_PATTERN else (255, 255, 255)
    pen = ImageDraw.Draw(tile)
    if figure.texture == "striped":
        period = 4.4 * px
        offset = rng.uniform(0, period)
        for i in range(-1, math.ceil(2 * side_px / period) + 1):
            start = i * period + offset - side_px
            pen.line([(start, side_px), (start + side_px, 0)], fill=pattern, width=round(1.55 * px))
    elif figure.texture == "dotted":
        pitch, dot = 4.3 * px, 1.35 * px
        offset_x, offset_y = rng.uniform(0, pitch), rng.uniform(0, pitch)
        for i in range(-1, math.ceil(side_px / pitch) + 1):
            for j in range(-1, math.ceil(side_px / pitch) + 1):
                x, y = j * pitch + offset_x + (i % 2) * pitch / 2, i * pitch + offset_y
                pen.ellipse([x - dot, y - dot, x + dot, y + dot], fill=pattern)
    return tile


def _with_noise(image: Image.Image, max_level: float, rng: random.Random) -> Image.Image:
    """The image with a little grain, the same for the same style."""
    level = rng.uniform(0.0, max_level)
    generator = np.random.default_rng(rng.getrandbits(64))
    pixels = np.asarray(image, dtype=np.float32)
    grain = generator.standard_normal(pixels.shape, dtype=np.float32) * level
    return Image.fromarray(np.clip(pixels + grain + 0.5, 0, 255).astype(np.uint8))
