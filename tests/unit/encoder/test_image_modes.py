"""Every mode, bit depth and colour space gives the picture a person sees, or is refused: never blackened.

Each file is one row of pixels, packed by hand from the format's specification; what it must look like follows
from that on paper.
"""

import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anykey.encoder.errors import UndecodableImageError
from anykey.encoder.images import decode_image
from tests.pictures import encoded, grey_16_bit_png, plain, png_row, tiff_row

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)
PALETTE = (b"PLTE", bytes([255, 0, 0, 0, 255, 0, 0, 0, 255]))


def grey(*values: int) -> list[tuple[int, int, int]]:
    return [(value, value, value) for value in values]


def transparent(*values: int) -> tuple[bytes, bytes]:
    return b"tRNS", struct.pack(f">{len(values)}H", *values)


def shorts(*values: int, order: str = "<") -> bytes:
    return struct.pack(f"{order}{len(values)}H", *values)


PNGS = {
    "grey of 1 bit": (png_row(2, 1, 0, b"\x40"), grey(0, 255)),
    "grey of 1 bit, white transparent": (png_row(2, 1, 0, b"\x40", transparent(1)), grey(0, 255)),
    "grey of 1 bit, black transparent": (png_row(2, 1, 0, b"\x40", transparent(0)), grey(255, 255)),
    "grey of 2 bits, one transparent": (png_row(4, 2, 0, b"\x1b", transparent(2)), grey(0, 85, 255, 255)),
    "grey of 4 bits, one transparent": (png_row(4, 4, 0, b"\x08\x4c", transparent(8)), grey(0, 255, 68, 204)),
    "grey of 8 bits": (png_row(3, 8, 0, b"\x00\x80\xff", transparent(0x80)), grey(0, 255, 255)),
    "grey of 16 bits": (grey_16_bit_png([0, 0x8080, 0xFFFF]), grey(0, 128, 255)),
    "dark grey of 16 bits": (grey_16_bit_png([0, 257, 514]), grey(0, 1, 2)),
    "grey of 16 bits, one transparent": (
        png_row(3, 16, 0, shorts(0, 0x100, 0x101, order=">"), transparent(0x100)),
        grey(0, 255, 1),
    ),
    "grey of 16 bits with alpha": (png_row(2, 16, 4, shorts(0, 0xFFFF, 0, 0, order=">")), grey(0, 255)),
    "colours of 16 bits": (png_row(1, 16, 2, shorts(0xFFFF, 0x8080, 0, order=">")), [(255, 128, 0)]),
    "colours of 16 bits, one transparent": (
        png_row(2, 16, 2, shorts(0xFF00, 0, 0, 0, 0xFF00, 0, order=">"), transparent(0xFF00, 0, 0)),
        [WHITE, (0, 255, 0)],
    ),
    "colours of 16 bits with alpha": (png_row(1, 16, 6, shorts(0xFFFF, 0, 0, 0x8080, order=">")), [(255, 127, 127)]),
    "palette with alpha": (
        png_row(3, 8, 3, b"\0\1\2", PALETTE, (b"tRNS", b"\x80\xff")),
        [(255, 127, 127), (0, 255, 0), (0, 0, 255)],
    ),
    "palette with one transparent": (png_row(2, 8, 3, b"\0\1", PALETTE, (b"tRNS", b"\xff\0")), [RED, WHITE]),
    "palette of 2 bits": (png_row(3, 2, 3, b"\x18", PALETTE), [RED, (0, 255, 0), (0, 0, 255)]),
}

TIFFS: dict[str, tuple[bytes, list[tuple[int, int, int]]]] = {
    "1 bit, white is zero": (tiff_row(2, b"\x40", t258=[1], t262=[0]), grey(255, 0)),
    "8 bits, white is zero": (tiff_row(2, b"\x00\xf0", t258=[8], t262=[0]), grey(255, 15)),
    "16 bits": (tiff_row(2, shorts(0x8080, 0xFFFF), t258=[16], t262=[1]), grey(128, 255)),
    "16 bits, Motorola": (tiff_row(2, shorts(0x8080, 0xFFFF, order=">"), ">", t258=[16], t262=[1]), grey(128, 255)),
    "16 bits, white is zero": (tiff_row(3, shorts(0, 0x8080, 0xFFFF), t258=[16], t262=[0]), grey(255, 127, 0)),
    "12 bits": (tiff_row(2, b"\x00\x0f\xff", t258=[12], t262=[1]), grey(0, 255)),
    "colours of 16 bits": (tiff_row(1, shorts(0xFFFF, 0x8080, 0), t258=[16] * 3, t262=[2], t277=[3]), [(255, 128, 0)]),
    "alpha apart": (
        tiff_row(1, bytes([255, 0, 0, 128]), t258=[8] * 4, t262=[2], t277=[4], t338=[2]),
        [(255, 127, 127)],
    ),
    "alpha multiplied in": (
        tiff_row(1, bytes([128, 0, 0, 128]), t258=[8] * 4, t262=[2], t277=[4], t338=[1]),
        [(255, 127, 127)],
    ),
    "grey with alpha multiplied in": (
        tiff_row(1, bytes([64, 128]), t258=[8, 8], t262=[1], t277=[2], t338=[1]),
        grey(191),
    ),
    "an unused fourth channel": (
        tiff_row(1, bytes([9, 8, 7, 0]), t258=[8] * 4, t262=[2], t277=[4], t338=[0]),
        [(9, 8, 7)],
    ),
    "CMYK": (tiff_row(1, bytes([0, 255, 255, 0]), t258=[8] * 4, t262=[5], t277=[4]), [RED]),
    "palette": (
        tiff_row(2, b"\0\1", t258=[8], t262=[3], t320=[0xFFFF] + [0] * 256 + [0xFFFF] + [0] * 510),
        [RED, (0, 255, 0)],
    ),
    "L*a*b*": (tiff_row(2, bytes([255, 0, 0, 0, 0, 0]), t258=[8] * 3, t262=[8], t277=[3]), [WHITE, BLACK]),
    "YCbCr": (tiff_row(1, bytes([76, 85, 255]), t258=[8] * 3, t262=[6], t277=[3], t530=[1, 1]), [(254, 0, 0)]),
}

IN_MEMORY: dict[str, tuple[Any, tuple[int, int, int]]] = {
    "1": (1, WHITE), "L": (7, (7, 7, 7)), "LA": ((0, 128), (127, 127, 127)), "La": ((64, 128), (191, 191, 191)),
    "P": (0, BLACK), "PA": ((0, 0), WHITE), "RGB": ((1, 2, 3), (1, 2, 3)), "RGBA": ((255, 0, 0, 128), (255, 127, 127)),
    "RGBa": ((128, 0, 0, 128), (255, 127, 127)), "RGBX": ((1, 2, 3, 4), (1, 2, 3)), "CMYK": ((0, 255, 255, 0), RED),
    "YCbCr": ((255, 128, 128), WHITE), "LAB": ((255, 128, 128), WHITE), "HSV": ((0, 255, 255), RED),
    "I;16": (0x8080, (128, 128, 128)), "I;16L": (0x8080, (128, 128, 128)), "I;16B": (0x8080, (128, 128, 128)),
    "I;16N": (0x8080, (128, 128, 128)),
}  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), [pytest.param(*case, id=name) for name, case in PNGS.items()])
def test_every_kind_of_png_is_seen_as_a_person_sees_it(data: bytes, expected: list[tuple[int, int, int]]) -> None:
    assert pixels(decode_image(data)) == expected


@pytest.mark.parametrize(("data", "expected"), [pytest.param(*case, id=name) for name, case in TIFFS.items()])
def test_every_kind_of_tiff_is_seen_as_a_person_sees_it(data: bytes, expected: list[tuple[int, int, int]]) -> None:
    assert np.asarray(pixels(decode_image(data))) == pytest.approx(np.asarray(expected), abs=1)


@pytest.mark.parametrize("mode", IN_MEMORY)
def test_every_mode_of_pillow_is_seen_as_a_person_sees_it(mode: str) -> None:
    colour, expected = IN_MEMORY[mode]
    decoded = decode_image(Image.new(mode, (3, 2), colour))
    assert decoded.mode == "RGB"
    assert decoded.getpixel((2, 1)) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(tiff_row(1, struct.pack("<f", 0.5), t258=[32], t262=[1], t339=[3]), id="floating point TIFF"),
        pytest.param(tiff_row(1, struct.pack("<l", 70_000), t258=[32], t262=[1], t339=[2]), id="32-bit TIFF"),
        pytest.param(tiff_row(1, struct.pack("<h", -3), t258=[16], t262=[1], t339=[2]), id="signed TIFF"),
        pytest.param(tiff_row(1, b"\xfd", t258=[8], t262=[1], t339=[2]), id="signed 8-bit TIFF"),
        pytest.param(tiff_row(1, bytes(3), t258=[8] * 3, t262=[2], t277=[3], t339=[1, 1, 2]), id="a signed channel"),
        pytest.param(plain(0.5, "F"), id="F"),
        pytest.param(plain(70_000, "I"), id="I"),
    ],
)
def test_numbers_that_do_not_say_what_is_white_are_refused(source: bytes | Image.Image) -> None:
    with pytest.raises(UndecodableImageError, match="do not say what is black and what is white; save it with 8 or 16"):
        decode_image(source)


def test_a_tiff_whose_colours_would_come_out_wrong_is_refused() -> None:
    halved = tiff_row(2, bytes([76, 76, 85, 255]), t258=[8] * 3, t262=[6], t277=[3])  # two pixels share their colours
    with pytest.raises(UndecodableImageError, match="YCbCr colours of lower resolution, uncompressed: not read"):
        decode_image(halved)


@pytest.mark.parametrize("with_marker", [True, False])
def test_cmyk_jpegs_are_taken_as_browsers_take_them_with_adobes_marker_or_without(with_marker: bool) -> None:
    data = encoded(plain((0, 255, 255, 0), "CMYK"), "JPEG", quality=100)
    start = data.index(b"\xff\xee")
    assert data[start + 4 : start + 9] == b"Adobe"
    if not with_marker:
        length = struct.unpack(">H", data[start + 2 : start + 4])[0]
        data = data[:start] + data[start + 2 + length :]
    assert decode_image(data).getpixel((3, 3)) == pytest.approx(RED, abs=3)


@pytest.mark.parametrize(("alpha", "expected"), [(0, (9, 8, 7)), (128, (132, 131, 131))])
def test_a_bmp_whose_alpha_is_nowhere_set_is_opaque(alpha: int, expected: tuple[int, int, int]) -> None:
    header = struct.pack("<LllHHLLllLL", 56, 2, 1, 1, 32, 3, 8, 2835, 2835, 0, 0)
    masks = struct.pack("<LLLL", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    row = bytes([7, 8, 9, alpha] * 2)
    start = 14 + len(header) + len(masks)
    data = b"BM" + struct.pack("<LHHL", start + len(row), 0, 0, start) + header + masks + row
    assert decode_image(data).getpixel((1, 0)) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA", "I;16", "CMYK"])
def test_a_large_picture_is_converted_in_bands_without_seams(mode: str) -> None:
    grey_HW = np.tile(np.arange(1100, dtype=np.uint16) % 256, (2100, 1))
    image = Image.fromarray(grey_HW * 257) if mode == "I;16" else Image.fromarray(grey_HW.astype(np.uint8))
    if mode != "I;16":
        image = image.convert("RGB").convert(mode) if mode != "P" else image.convert("P")
    decoded = np.asarray(decode_image(image))
    assert np.abs(decoded[..., 0].astype(int) - grey_HW).max() <= (3 if mode == "P" else 0)


def pixels(image: Image.Image) -> list[Any]:
    return [image.getpixel((x, 0)) for x in range(image.width)]
