"""A picture's cost is known before it is paid, and what hangs on it costs neither its pixels nor anything else."""

import functools
import gc
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from anykey.encoder import Encoder, Item
from anykey.encoder.errors import InvalidItemError, ItemTooLargeError, UndecodableImageError
from anykey.encoder.images import ImageLimits, decode_image
from anykey.encoder.protocol import Role
from tests.networks import small_architecture
from tests.pictures import encoded, huge_png, photo, plain, png_chunk, tiff_row

PNG, JPEG, GIF, TIFF = (encoded(photo(), image_format) for image_format in ("PNG", "JPEG", "GIF", "TIFF"))
MIB = 2**20


def exif_of(orientation: int | None = None, *entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF with an orientation and other entries (tag, type, count, field)."""
    rows = list(entries) if orientation is None else [(274, 3, 1, struct.pack("<HH", orientation, 0)), *entries]
    packed = b"".join(struct.pack("<HHL", *row[:3]) + row[3] for row in sorted(rows))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(rows)) + packed + b"\0\0\0\0"


def with_chunk(kind: bytes, content: bytes, sound: bool = True) -> bytes:
    """The PNG with one more chunk behind its header."""
    chunk = png_chunk(kind, content)
    return PNG[:33] + (chunk if sound else chunk[:-1] + bytes([chunk[-1] ^ 1])) + PNG[33:]


def with_segment(marker: int, content: bytes) -> bytes:
    """The JPEG with one more segment at its start."""
    return JPEG[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + JPEG[2:]


def with_extension(label: int, content: bytes) -> bytes:
    """The GIF with one more extension before its first frame."""
    blocks = b"".join(
        bytes([len(content[at : at + 255])]) + content[at : at + 255] for at in range(0, len(content), 255)
    )
    start = 13 + 3 * 256
    return GIF[:start] + bytes([0x21, label]) + blocks + b"\0" + GIF[start:]


BOMB = zlib.compress(bytes(100 * MIB), 9)
RUN_LENGTH_BMP = b"BM" + struct.pack("<LLLLllHHLLllLL", 90, 0, 54, 40, 4000, 2000, 1, 8, 1, 9, 0, 0, 0, 0)
TEXT_FIELD = b"\xff\xff\xff\x7f"  # of a value that would lie behind the end
BROKEN = {
    "JPEG, EXIF that is no TIFF": with_segment(0xE1, b"Exif\0\0nonsense"),
    "JPEG, EXIF cut short": with_segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12"),
    "JPEG, EXIF that points far away": with_segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "JPEG, resolution that is a text": with_segment(
        0xE1, b"Exif\0\0" + exif_of(1, (282, 2, 4, b"300\0"), (296, 3, 1, b"\2\0\0\0"))
    ),
    "JPEG, orientation that is a text": with_segment(0xE1, b"Exif\0\0" + exif_of(None, (274, 2, 4, b"six\0"))),
    "JPEG, broken list of pictures": with_segment(0xE2, b"MPF\0II*\0\xff\xff\0\0"),
    "JPEG, half a colour profile": with_segment(0xE2, b"ICC_PROFILE\0\7\t garbage"),
    "JPEG, Photoshop's block cut short": with_segment(0xED, b"Photoshop 3.0\x008BIM\4"),
    "JPEG, XMP that is no XML": with_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta"),
    "JPEG, comment": with_segment(0xFE, b"\xff\xfe\xfd"),
    "PNG, EXIF that is no TIFF": with_chunk(b"eXIf", b"Exif\0\0nonsense"),
    "PNG, EXIF that claims too much": with_chunk(b"eXIf", exif_of(1, (270, 2, 2**31, TEXT_FIELD))),
    "PNG, text with a wrong checksum": with_chunk(b"tEXt", b"Comment\0hello", sound=False),
    "PNG, text that swells to 100 MB": with_chunk(b"zTXt", b"Comment\0\0" + BOMB),
    "PNG, profile that swells to 100 MB": with_chunk(b"iCCP", b"p\0\0" + BOMB),
    "PNG, profile that is none": with_chunk(b"iCCP", b"p\0\7nonsense"),
    "PNG, animation without frames": with_chunk(b"acTL", struct.pack(">LL", 2**31 - 1, 0)),
    "PNG, short physical size": with_chunk(b"pHYs", b"\0"),
    "GIF, comment": with_extension(0xFE, b"x" * 9000),
    "GIF, application's block": with_extension(0xFF, b"NETSCAPE2.0"),
}


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in BROKEN.items()])
def test_what_hangs_on_a_picture_never_costs_its_pixels(data: bytes) -> None:
    whole = {b"\xff\xd8": JPEG, b"\x89P": PNG, b"GI": GIF}[data[:2]]
    tracemalloc.start()
    try:
        assert decode_image(data).tobytes() == decode_image(whole).tobytes()
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


def test_a_tiff_keeps_its_picture_whatever_else_its_tags_say() -> None:
    row = bytes(range(30))
    sound = tiff_row(10, row, t258=[8] * 3, t262=[2], t277=[3])
    broken = tiff_row(
        10, row, t258=[8] * 3, t262=[2], t277=[3], t282=[1], t296=[2], t34665=[9], t34675=[1, 2, 3], t700=[5], t330=[8]
    )
    assert decode_image(broken).tobytes() == decode_image(sound).tobytes()


@pytest.mark.parametrize("place", ["before", "behind"])
def test_broken_exif_beside_sound_exif_is_no_matter(place: str) -> None:
    sound, broken = b"Exif\0\0" + exif_of(6), b"Exif\0\0nonsense"
    first, second = (broken, sound) if place == "before" else (sound, broken)
    data = with_segment(0xE1, second)
    data = data[:2] + struct.pack(">BBH", 0xFF, 0xE1, len(first) + 2) + first + data[2:]
    assert decode_image(data).size == (64, 96)


def test_avif_is_turned_by_its_own_boxes_and_broken_exif_is_no_matter() -> None:
    upright = encoded(photo(), "AVIF", quality=100)
    turned = encoded(photo(), "AVIF", quality=100, exif=b"Exif\0\0" + exif_of(6, (271, 2, 4, b"abc\0")))
    assert (decode_image(upright).size, decode_image(turned).size) == ((96, 64), (64, 96))
    start = turned.index(b"II*\0" if b"II*\0" in turned else b"MM\0*")
    broken = turned[:start] + b"JUNK" + turned[start + 4 :]
    with pytest.raises(ValueError, match="Invalid Exif"), Image.open(BytesIO(broken)):
        pytest.fail("Pillow alone reads it: this test is of no use")
    assert decode_image(broken).tobytes() == decode_image(turned).tobytes()


@pytest.mark.parametrize("image_format", ["WEBP", "TIFF"])
def test_the_orientation_of_other_formats_is_undone_too(image_format: str) -> None:
    exif = Image.Exif()
    exif[274] = 6
    assert decode_image(encoded(photo(), image_format, exif=exif)).size == (64, 96)


@pytest.mark.parametrize(("width_px", "height_px"), [(80_000, 1), (1, 80_000), (64_000, 16), (201, 1)])
def test_a_thin_picture_is_refused_by_its_header(width_px: int, height_px: int) -> None:
    data = huge_png(width_px, height_px)
    refused(
        ItemTooLargeError,
        f"{width_px} x {height_px} pixels; the longer side may be at most 200 times the shorter",
        data,
    )


def test_the_longest_picture_accepted_is_embedded_in_little_memory(tiny_encoder: Encoder) -> None:
    data = huge_png(1, 200)
    prepared = tiny_encoder.prepare(Item(images=(data,)), Role.QUERY)
    assert prepared.images[0].shape[1] == prepared.images[0].shape[2]


class Watched(tuple[bytes, ...]):
    """Images of an item, which note how many pictures of their size are alive whenever the next one is taken."""

    size_px = (333, 221)
    most_alive = 0

    def __iter__(self) -> Iterator[bytes]:
        for image in super().__iter__():
            yield image
            images = (thing for thing in gc.get_objects() if issubclass(type(thing), Image.Image))
            alive = [image for image in images if image.size == self.size_px]
            self.most_alive = max(self.most_alive, len(alive))


def test_the_images_of_one_item_are_not_in_memory_together(tiny_encoder: Encoder) -> None:
    images = Watched([encoded(photo(*Watched.size_px), "PNG")] * 3)
    assert len(tiny_encoder.prepare(Item(images=images), Role.QUERY).images) == 3
    assert images.most_alive <= 1


def test_a_model_with_a_large_input_accepts_less_long_pictures() -> None:
    assert ImageLimits().for_input(224, "shortest").max_aspect == 200
    assert ImageLimits().for_input(1000, "shortest").max_aspect == 64  # 64 million pixels when it is resized
    assert ImageLimits().for_input(64, "longest").max_aspect == 64  # one pixel is left of the shorter side
    assert ImageLimits(max_aspect=3).for_input(64, "longest").max_aspect == 3


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size_px", [(1, 32), (32, 1), (1, 200), (1, 201), (6400, 32), (1, 1), (3, 2)])
def test_every_size_is_resized_or_refused(resize_mode: str, size_px: tuple[int, int]) -> None:
    encoder = small_encoder(resize_mode)
    most = 32 if resize_mode == "longest" else 200
    item = Item(images=(encoded(plain((9, 8, 7), size_px=size_px), "PNG"),))
    if max(size_px) > most * min(size_px):
        with pytest.raises(ItemTooLargeError, match="times the shorter"):
            encoder.prepare(item, Role.QUERY)
    else:
        assert encoder.prepare(item, Role.QUERY).images[0].shape == (3, 32, 32)


@functools.cache
def small_encoder(resize_mode: str) -> Encoder:
    from anykey.encoder.fusion import Fusion
    from anykey.encoder.towers.checkpoint import Checkpoint
    from anykey.encoder.towers.encoder import TowerEncoder
    from tests.networks import build_seeded

    architecture = small_architecture(preprocess={"resize_mode": resize_mode})
    return TowerEncoder(Checkpoint(architecture, build_seeded(architecture), Fusion.RAW, "sha256:0"))


def progressive(num_scans: int) -> bytes:
    """A JPEG that draws its last pass again and again."""
    data = encoded(photo(), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    first = data.count(b"\xff\xda")
    return data[:-2] + last * (num_scans - first) + data[-2:]


def test_a_jpeg_of_very_many_passes_is_refused() -> None:
    assert decode_image(progressive(50)).size == (96, 64)
    refused(ItemTooLargeError, "more than 50 scans", progressive(51))
    refused(ItemTooLargeError, "more than 50 scans", progressive(20_000))


def test_what_follows_a_jpeg_does_not_count_as_its_passes() -> None:
    film = b"\0\0\0\x18ftypmp42" + b"\xff\xda" * 500  # phones append one
    assert decode_image(JPEG + film).tobytes() == decode_image(JPEG).tobytes()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(PNG[:33] + png_chunk(b"IDAT", b"") * 100_001 + PNG[33:], "more than 100000 chunks", id="PNG"),
        pytest.param(JPEG[:2] + b"\xff\xfe\0\2" * 100_001 + JPEG[2:], "more than 100000 segments", id="JPEG"),
        pytest.param(GIF[:781] + b"!\xfe\1x\0" * 60_000 + GIF[781:], "more than 100000 blocks", id="GIF"),
        pytest.param(tiff_row(1, b"\0", t258=[8], t262=[1], t273=[8] * 262_145), "262145 strips", id="strips"),
        pytest.param(
            tiff_row(1, b"\0", t258=[8], t322=[60_000], t323=[60_000], t324=[8]), "tiles of 3600000000 ", id="tiles"
        ),
        pytest.param(RUN_LENGTH_BMP, "run-length BMP file has 8000000", id="BMP"),
    ],
)
def test_files_of_very_many_parts_are_refused_at_once(data: bytes, reason: str) -> None:
    refused(ItemTooLargeError, reason, data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(tiff_row(1, b"\0", t258=[8], t259=[34925]), "in a way that is not read .number 34925", id="LZMA"),
        pytest.param(
            b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHLL", 273, 4, 2**30, 8), "claim 4294967296 bytes", id="tags"
        ),
        pytest.param(b"II*\0\xff\0\0\0", "ends before its directory", id="no directory"),
    ],
)
def test_tiffs_that_claim_more_than_they_hold_are_refused(data: bytes, reason: str) -> None:
    refused(UndecodableImageError, reason, data)


TILED = tiff_row(1, b"\0", t258=[8], t262=[1], t322=[16], t323=[16], t324=[8])


@pytest.mark.parametrize("data", [TILED, tiff_row(1, b"\0", t258=[8], t259=[34925])], ids=["tile's width", "LZMA"])
@pytest.mark.parametrize(("kind", "count"), [(8, 1), (9, 1), (17, 1), (13, 1), (2, 1), (99, 1), (3, 0), (16, 1)])
def test_a_tiff_hides_no_number_from_the_limits_by_its_type(data: bytes, kind: int, count: int) -> None:
    tag = 322 if data is TILED else 259
    place = data.index(struct.pack("<HHL", tag, 3, 1))
    value = struct.pack("<L", 2**31 if kind == 16 else 60_000)  # eight bytes are elsewhere: here, behind the file's end
    data = data[:place] + struct.pack("<HHL", tag, kind, count) + value + data[place + 12 :]
    refused(UndecodableImageError, f"expected whole numbers without a sign in tag {tag} of the TIFF file", data)


@pytest.mark.parametrize(
    "canvas", [b"VP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0", b"VP8L\x05\0\0\0\x2f\xff\xff\xff\x0f"]
)
def test_a_webp_of_16384_by_16384_is_refused_before_its_decoder_is_made(canvas: bytes) -> None:
    refused(ItemTooLargeError, "16384 x 16384 = 268435456 pixels", b"RIFF\xff\0\0\0WEBP" + canvas.ljust(40, b"\0"))


def test_a_gif_whose_first_frame_is_larger_than_it_said_is_refused() -> None:
    frame = GIF.index(b",", 781)
    data = GIF[: frame + 5] + b"\xff\xff\xff\xff" + GIF[frame + 9 :]
    refused(ItemTooLargeError, "more than 64000000 pixels", data)


def refused(error: type[InvalidItemError], reason: str, data: bytes) -> None:
    """Refused for this reason, within seconds (of the watched memory) and a few megabytes beside the data."""
    gc.disable()  # what other tests left is none of this one's time
    tracemalloc.start()
    try:
        with pytest.raises(error, match=reason):
            timed(lambda: decode_image(data))
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB + 3 * len(data)
    finally:
        tracemalloc.stop()
        gc.enable()


def timed(work: Callable[[], object]) -> None:
    began_s = time.process_time()
    try:
        work()
    finally:
        assert time.process_time() - began_s < 10


@pytest.mark.parametrize("mode", ["RGBA", "P", "I;16", "LA", "CMYK"])
def test_odd_colours_cost_no_more_memory_than_plain_ones(mode: str) -> None:
    image = Image.new(mode, (3000, 2000))
    if mode == "P":
        image.info["transparency"] = 3
    tracemalloc.start()
    try:
        decode_image(image)
        assert tracemalloc.get_traced_memory()[1] < 12 * MIB  # numpy's arrays; as floats the whole would take 48
    finally:
        tracemalloc.stop()


def test_the_thin_picture_of_a_path_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "thin.png").write_bytes(huge_png(80_000, 1))
    with pytest.raises(ItemTooLargeError, match="80000 x 1"):
        decode_image(tmp_path / "thin.png")
    with pytest.raises(ItemTooLargeError, match="80000 x 1"):
        decode_image(Image.new("L", (80_000, 1)))


def test_an_open_image_with_broken_exif_is_taken_as_it_is() -> None:
    image = photo()
    image.info["exif"] = b"Exif\0\0nonsense"
    assert decode_image(image).tobytes() == photo().tobytes()
    assert ImageOps.contain(decode_image(image), (4, 4)).size == (4, 3)
