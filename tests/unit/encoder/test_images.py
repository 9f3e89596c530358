"""Every kind of image file upright and in RGB; every kind of rubbish one clear error, before it costs anything."""

import os
import resource
import tracemalloc
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from anykey.encoder.errors import InvalidItemError, ItemTooLargeError, UndecodableImageError
from anykey.encoder.images import ImageLimits, decode_image
from tests.pictures import corners, encoded, grey_16_bit_png, huge_png, photo, plain

ORIENTATION_TAG = 0x0112
# How a camera held in each way stores the upright picture: the inverse of what a viewer must do (EXIF 2.3, 4.6.4).
STORED = {
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}
SAMPLES = {
    "JPEG": encoded(photo(), "JPEG"),
    "PNG": encoded(photo(), "PNG"),
    "GIF": encoded(photo(), "GIF"),
    "WEBP": encoded(photo(), "WEBP"),
    "BMP": encoded(photo(), "BMP"),
    "TIFF": encoded(photo(), "TIFF"),
    "palette": encoded(photo().convert("P"), "PNG", transparency=3),
}


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_every_format_gives_the_same_picture(image_format: str) -> None:
    decoded = decode_image(SAMPLES[image_format])
    assert decoded.mode == "RGB"
    difference = np.abs(np.asarray(decoded, dtype=float) - np.asarray(photo(), dtype=float))
    assert difference.mean() < 12  # a GIF has 256 colours


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_undone(orientation: int, image_format: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    options = {"quality": 100} if image_format != "PNG" else {}
    stored = STORED[orientation](corners().resize((160, 80), Image.Resampling.NEAREST))
    upright = decode_image(encoded(stored, image_format, exif=exif, **options))
    assert upright.size == (160, 80)
    expected = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    for position, colour in zip([(40, 20), (120, 20), (40, 60), (120, 60)], expected, strict=True):
        assert upright.getpixel(position) == pytest.approx(colour, abs=12)


def test_exif_orientation_of_an_image_already_open_is_undone() -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    data = encoded(STORED[6](corners()), "PNG", exif=exif)
    with Image.open(BytesIO(data)) as image:
        assert decode_image(image).tobytes() == corners().tobytes()


def test_an_unknown_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 99
    assert decode_image(encoded(corners(), "PNG", exif=exif)).size == (16, 8)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(encoded(plain((255, 0, 0, 0), "RGBA"), "PNG"), (255, 255, 255), id="fully transparent"),
        pytest.param(encoded(plain((255, 0, 0, 128), "RGBA"), "PNG"), (255, 127, 127), id="half transparent"),
        pytest.param(encoded(plain((0, 0), "LA"), "PNG"), (255, 255, 255), id="grey with alpha"),
        pytest.param(encoded(plain((10, 255), "LA"), "PNG"), (10, 10, 10), id="opaque grey with alpha"),
        pytest.param(
            encoded(plain((9, 8, 7)), "PNG", transparency=(9, 8, 7)), (255, 255, 255), id="transparent colour"
        ),
        pytest.param(encoded(plain(7, "L"), "PNG", transparency=7), (255, 255, 255), id="transparent grey"),
        pytest.param(encoded(plain(0, "P"), "PNG", transparency=0), (255, 255, 255), id="transparent palette entry"),
        pytest.param(encoded(plain(0, "P"), "GIF", transparency=0), (255, 255, 255), id="transparent GIF"),
        pytest.param(encoded(plain(1, "1"), "PNG"), (255, 255, 255), id="1 bit, white"),
        pytest.param(encoded(plain(0, "1"), "PNG"), (0, 0, 0), id="1 bit, black"),
        pytest.param(encoded(plain(77, "L"), "PNG"), (77, 77, 77), id="8-bit grey"),
        pytest.param(encoded(plain((0, 0, 0, 0), "CMYK"), "JPEG"), (255, 255, 255), id="CMYK white"),
        pytest.param(encoded(plain((0, 0, 0, 255), "CMYK"), "JPEG"), (0, 0, 0), id="CMYK black"),
        pytest.param(encoded(plain((0, 255, 255, 0), "CMYK"), "TIFF"), (255, 0, 0), id="CMYK red"),
        pytest.param(encoded(plain(0x8000, "I;16"), "TIFF"), (128, 128, 128), id="16-bit TIFF"),
    ],
)
def test_every_colour_mode_becomes_rgb_on_white(data: bytes, expected: tuple[int, int, int]) -> None:
    decoded = decode_image(data)
    assert decoded.mode == "RGB"
    assert decoded.getpixel((3, 3)) == pytest.approx(expected, abs=3)


def test_a_picture_of_palette_entries_without_a_palette_cannot_be_decoded() -> None:
    whole = encoded(plain(1, "P"), "PNG")
    start = whole.index(b"PLTE") - 4
    size = int.from_bytes(whole[start : start + 4], "big")
    with pytest.raises(UndecodableImageError):
        decode_image(whole[:start] + whole[start + 12 + size :])


def test_a_transparent_palette_entry_leaves_the_others() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    decoded = decode_image(encoded(image, "PNG", transparency=0))
    assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 100, 50)]


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    decoded = decode_image(grey_16_bit_png([0, 257, 25_700, 65_535]))
    assert [decoded.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 100, 255]


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_taken(image_format: str) -> None:
    frames = [plain((250, 0, 0)), plain((0, 250, 0)), plain((0, 0, 250))]
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = encoded(frames[0], image_format, save_all=True, append_images=frames[1:], duration=40, **options)
    assert decode_image(data).getpixel((3, 3)) == pytest.approx((250, 0, 0), abs=3)


def test_a_large_jpeg_is_decoded_at_reduced_scale() -> None:
    data = encoded(photo(1600, 1200), "JPEG", quality=95)
    reduced = decode_image(data, target_px=64)
    assert reduced.size == (200, 150)  # an eighth, and not below twice the target
    full = decode_image(data)
    assert full.size == (1600, 1200)
    sizes = [np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC), dtype=float) for image in (reduced, full)]
    assert np.abs(sizes[0] - sizes[1]).mean() < 1.5


@pytest.mark.parametrize(("width_px", "height_px"), [(127, 300), (300, 127), (129, 129), (64, 64), (1000, 100)])
def test_reduced_scale_never_falls_below_twice_the_target(width_px: int, height_px: int) -> None:
    decoded = decode_image(encoded(photo(width_px, height_px), "JPEG"), target_px=32)
    assert min(decoded.size) >= min(64, width_px, height_px)


def test_other_formats_ignore_the_target() -> None:
    assert decode_image(SAMPLES["PNG"], target_px=8).size == photo().size


def test_orientation_and_reduced_scale_go_together() -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    assert decode_image(encoded(photo(800, 400), "JPEG", exif=exif), target_px=50).size == (100, 200)


@pytest.mark.parametrize("source", [corners(), encoded(corners(), "PNG")], ids=["image", "bytes"])
def test_memory_and_bytes_give_equal_pixels(source: Image.Image | bytes) -> None:
    assert decode_image(source).tobytes() == corners().tobytes()


def test_an_image_given_is_not_changed() -> None:
    image = plain((255, 0, 0, 0), "RGBA")
    decode_image(image)
    assert image.mode == "RGBA"
    assert image.getpixel((0, 0)) == (255, 0, 0, 0)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_read(tmp_path: Path, kind: type) -> None:
    path = tmp_path / "picture with a space.png"
    path.write_bytes(SAMPLES["PNG"])
    assert decode_image(kind(path)).tobytes() == photo().tobytes()


def test_30_000_by_30_000_pixels_are_refused_before_decoding() -> None:
    data = huge_png(30_000, 30_000)
    assert len(data) < 1_000_000
    peak_before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with pytest.raises(ItemTooLargeError, match="64000000 pixels"):
            decode_image(data)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before_kib < 50_000  # decoded: 112,500 KiB


def test_pixels_just_over_the_limit_are_refused_with_both_numbers() -> None:
    limits = ImageLimits(max_pixels=100)
    with pytest.raises(ItemTooLargeError, match="11 x 10 = 110 pixels, at most 100"):
        decode_image(encoded(plain(0, "L", (11, 10)), "PNG"), limits)
    assert decode_image(encoded(plain(0, "L", (10, 10)), "PNG"), limits).size == (10, 10)


def test_the_pixel_limit_holds_for_images_already_open() -> None:
    with pytest.raises(ItemTooLargeError):
        decode_image(plain(0, "L", (11, 10)), ImageLimits(max_pixels=100))


@pytest.mark.parametrize("as_path", [False, True])
def test_bytes_over_the_limit_are_refused(tmp_path: Path, as_path: bool) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(SAMPLES["PNG"])
    size = len(SAMPLES["PNG"])
    with pytest.raises(ItemTooLargeError, match=f"{size} bytes, at most {size - 1} are accepted"):
        decode_image(path if as_path else SAMPLES["PNG"], ImageLimits(max_bytes=size - 1))
    assert decode_image(SAMPLES["PNG"], ImageLimits(max_bytes=size))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"This is a text, whatever its name says.\n", id="text"),
        pytest.param(b"\xff\xd8\xff\xe0", id="start of a JPEG"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", id="SVG"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", id="PostScript"),
        pytest.param(SAMPLES["JPEG"][: len(SAMPLES["JPEG"]) // 2], id="half a JPEG"),
        pytest.param(SAMPLES["PNG"][: len(SAMPLES["PNG"]) // 2], id="half a PNG"),
        pytest.param(SAMPLES["WEBP"][: len(SAMPLES["WEBP"]) // 2], id="half a WebP"),
        pytest.param(SAMPLES["TIFF"][: len(SAMPLES["TIFF"]) // 2], id="half a TIFF"),
    ],
)
def test_bytes_that_are_no_whole_image_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(data)
    with pytest.raises(UndecodableImageError, match=f"cannot decode {len(data)} bytes"):
        decode_image(data)
    with pytest.raises(UndecodableImageError, match=f"holiday.jpg' .{len(data)} bytes"):
        decode_image(path)


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reasons = {
        tmp_path / "absent.jpg": "absent.jpg': No such file or directory",
        tmp_path: "not a regular file",
        tmp_path / "pipe": "pipe': not a regular file",
        Path("/dev/zero"): "/dev/zero': not a regular file",
        "a\0b": "embedded null byte",
        "": "not a regular file",
        "n" * 5000: "File name too long",
    }
    for path, reason in reasons.items():
        with pytest.raises(UndecodableImageError, match=reason):
            decode_image(path)


def test_a_name_that_is_no_unicode_gives_a_message_that_can_be_printed() -> None:
    with pytest.raises(UndecodableImageError) as caught:
        decode_image("photo-\ud800.jpg")
    assert str(caught.value).encode("utf-8")


def test_an_open_image_that_turns_out_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(SAMPLES["JPEG"][: len(SAMPLES["JPEG"]) // 2])
    with Image.open(path) as image, pytest.raises(UndecodableImageError):
        decode_image(image)


def decodes_or_says_why(data: bytes) -> None:
    """Decodes to a small RGB image, or raises the one error a caller handles."""
    try:
        image = decode_image(data, ImageLimits(max_pixels=1_000_000), target_px=16)
    except InvalidItemError:
        return
    assert image.mode == "RGB"
    assert ImageOps.contain(image, (4, 4)).size != (0, 0)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow remarks on damaged metadata that it skips
@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF", b"II*\0"])
)
def test_random_bytes_decode_or_raise_invalid_item(data: bytes, start: bytes) -> None:
    decodes_or_says_why(start + data)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow remarks on damaged metadata that it skips
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(SAMPLES)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_damaged_images_decode_or_raise_invalid_item(
    name: str, changes: list[tuple[float, int]], kept_share: float
) -> None:
    data = bytearray(SAMPLES[name])
    for place, value in changes:
        data[int(place * len(data))] = value
    decodes_or_says_why(bytes(data[: int(kept_share * len(data))]))
