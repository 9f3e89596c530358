"""Whatever bytes come, decoding gives a picture or one clear error, in bounded memory.

Files of every format are changed where it hurts: headers field by field, lengths, tags, and anywhere at random.
"""

import resource
import struct
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anykey.encoder.errors import InvalidItemError
from anykey.encoder.images import ImageLimits, decode_image
from tests.pictures import encoded, photo, plain, png_chunk, png_row, tiff_row

MAX_PIXELS = 1_000_000
SMALL = photo(24, 16)
EXIF = b"Exif\0\0II*\0\x08\0\0\0\2\0\x0f\1\2\0\4\0\0\0abc\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
SAMPLES = {
    "JPEG": encoded(SMALL, "JPEG"),
    "progressive JPEG": encoded(SMALL, "JPEG", progressive=True, exif=EXIF),
    "CMYK JPEG": encoded(SMALL.convert("CMYK"), "JPEG"),
    "PNG": encoded(SMALL, "PNG"),
    "palette PNG": encoded(SMALL.convert("P"), "PNG", transparency=b"\0\x80\xff"),
    "16-bit PNG": png_row(4, 16, 0, struct.pack(">4H", 0, 9, 999, 65535), (b"tRNS", b"\0\x09")),
    "animated PNG": encoded(SMALL, "PNG", save_all=True, append_images=[plain(9, "RGB", (24, 16))]),
    "GIF": encoded(SMALL, "GIF", comment=b"hello", transparency=3),
    "animated GIF": encoded(SMALL, "GIF", save_all=True, append_images=[plain(9, "RGB", (24, 16))], loop=0),
    "WEBP": encoded(SMALL, "WEBP"),
    "lossless WEBP": encoded(SMALL.convert("RGBA"), "WEBP", lossless=True, exif=b"Exif\0\0II*\0"),
    "animated WEBP": encoded(SMALL, "WEBP", save_all=True, append_images=[plain(9, "RGB", (24, 16))]),
    "BMP": encoded(SMALL, "BMP"),
    "palette BMP": encoded(SMALL.convert("P"), "BMP"),
    "TIFF": encoded(SMALL, "TIFF"),
    "LZW TIFF": encoded(SMALL, "TIFF", compression="tiff_lzw"),
    "deflated TIFF": encoded(SMALL.convert("L"), "TIFF", compression="tiff_adobe_deflate"),
    "JPEG TIFF": encoded(SMALL, "TIFF", compression="jpeg"),
    "BigTIFF": encoded(SMALL, "TIFF", big_tiff=True),
    "Motorola TIFF": tiff_row(4, struct.pack(">4H", 0, 9, 999, 65535), ">", t258=[16], t262=[1]),
    "AVIF": encoded(SMALL, "AVIF", exif=EXIF),
}
FORMATS = {image_format: data for image_format, data in SAMPLES.items() if " " not in image_format}
STARTS = [data[:n] for data in FORMATS.values() for n in (4, 12, 30)]
NUMBERS = [0, 1, 2, 3, 7, 8, 9, 15, 16, 63, 127, 128, 255]
quick = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)


@pytest.fixture(scope="module", autouse=True)
def flat_memory() -> Iterator[None]:
    """No file of a few kilobytes makes the process grow by more than a few of the largest pictures accepted."""
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 300_000


changes = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.one_of(st.sampled_from(NUMBERS), st.integers(0, 255))), max_size=8
)
names = st.sampled_from(sorted(SAMPLES))
TIFF_TAGS = st.tuples(
    st.integers(250, 345), st.integers(0, 18), st.integers(0, 2**32 - 1), st.binary(min_size=4, max_size=4)
)
PNG_NAMES = [b"tRNS", b"PLTE", b"IHDR", b"eXIf", b"iCCP", b"acTL", b"fcTL", b"zzZz"]
PNG_CHUNKS = st.tuples(st.sampled_from(PNG_NAMES), st.binary(max_size=40))


def decodes_or_says_why(data: bytes, target_px: int | None = 16) -> None:
    """Decodes to a small RGB image, or raises the one error a caller handles, in little memory."""
    try:
        image = decode_image(data, ImageLimits(max_pixels=MAX_PIXELS), target_px)
    except InvalidItemError:
        return
    assert image.mode == "RGB"
    assert 0 < image.width * image.height <= MAX_PIXELS
    assert max(image.size) <= 200 * min(image.size)


def changed(data: bytes, places: list[tuple[float, int]], within: float = 1.0, kept: float = 1.0) -> bytes:
    """The bytes with some of the first share `within` of them replaced, and cut."""
    mutable = bytearray(data)
    for place, value in places:
        mutable[int(place * within * len(data))] = value
    return bytes(mutable[: int(kept * len(data))])


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow remarks on what it skips
class TestQuick:
    """A few thousand cases in a few seconds."""

    @settings(quick, max_examples=300)
    @given(names, changes, st.one_of(st.just(1.0), st.floats(0, 1)))
    def test_files_changed_anywhere_and_cut(self, name: str, places: list[tuple[float, int]], kept: float) -> None:
        decodes_or_says_why(changed(SAMPLES[name], places, kept=kept))

    @settings(quick, max_examples=400)
    @given(names, changes, st.floats(0.01, 0.3))
    def test_files_changed_in_their_headers(self, name: str, places: list[tuple[float, int]], within: float) -> None:
        decodes_or_says_why(changed(SAMPLES[name], places, within))

    @settings(quick, max_examples=300)
    @given(st.sampled_from(STARTS), st.binary(max_size=400))
    def test_random_bytes_behind_a_sound_start(self, start: bytes, data: bytes) -> None:
        decodes_or_says_why(start + data)

    @settings(quick, max_examples=500)
    @given(
        st.lists(TIFF_TAGS, max_size=12),
        st.sampled_from("<>"),
        st.binary(max_size=200),
    )
    def test_tiffs_of_any_tags(self, tags: list[tuple[int, int, int, bytes]], order: str, data: bytes) -> None:
        header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", 8)
        rows = b"".join(struct.pack(f"{order}HHL", *tag[:3]) + tag[3] for tag in sorted(tags))
        decodes_or_says_why(header + struct.pack(f"{order}H", len(tags)) + rows + bytes(4) + data)

    @settings(quick, max_examples=500)
    @given(
        st.tuples(st.integers(0, 70_000), st.integers(0, 70_000)),
        st.sampled_from([0, 1, 2, 4, 8, 16, 32]),
        st.integers(0, 7),
        st.sampled_from([0, 1]),
        st.lists(PNG_CHUNKS, max_size=3),
        st.binary(max_size=60),
    )
    def test_pngs_of_any_header(
        self,
        size: tuple[int, int],
        bits: int,
        colours: int,
        interlace: int,
        more: list[tuple[bytes, bytes]],
        row: bytes,
    ) -> None:
        header = struct.pack(">IIBBBBB", *size, bits, colours, 0, 0, interlace)
        chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(row)), (b"IEND", b"")]
        decodes_or_says_why(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
class TestThorough:
    """Many more, and not the same ones each time."""

    @settings(deadline=None, max_examples=30_000, suppress_health_check=list(HealthCheck), database=None)
    @given(names, changes, st.floats(0.01, 1), st.one_of(st.just(1.0), st.floats(0, 1)), st.sampled_from([None, 16]))
    def test_files_changed_anywhere(
        self, name: str, places: list[tuple[float, int]], within: float, kept: float, target_px: int | None
    ) -> None:
        decodes_or_says_why(changed(SAMPLES[name], places, within, kept), target_px)
