"""The files that pictures come in, told by their first bytes, and freed of all that is not the picture.

A picture is its pixels: profiles, texts, thumbnails, EXIF and later frames may be broken or enormous without
anyone seeing it, but decoders read them. They are left out here, unread; of EXIF what is up is kept.
"""

import re
import struct
from dataclasses import dataclass

from anykey.encoder import tiff
from anykey.encoder.errors import ItemTooLargeError

# Pillow's names of the formats that are read, and what the web calls them.
MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
}
FORMATS = tuple(MEDIA_TYPES)
MAX_PARTS = 100_000  # chunks, segments or blocks of a file; walking them all takes tenths of a second
MAX_SCANS = 50  # of a JPEG; each costs a pass over the whole picture, however short it is, and real ones have 10 or so
MAX_RUN_PIXELS = 4_000_000  # of a run-length BMP, which Pillow decodes byte by byte
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # not a byte of the picture, padding or a restart
# The item of an AVIF file that is EXIF: its type follows its number, of 2 or 4 bytes.
_EXIF_ITEM = re.compile(rb"(infe\x02.{7}|infe\x03.{9})Exif", re.DOTALL)


@dataclass(frozen=True)
class BarePicture:
    """A file with nothing in it but the picture.

    Attributes:
        data: The file.
        orientation: What is up, by EXIF's numbers; `None` where only the decoder can tell.
    """

    data: bytes
    orientation: int | None


def format_of(data: bytes) -> str | None:
    """Pillow's name of the format that the first bytes tell; `None`: not one that is read."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(_PNG_SIGNATURE):
        return "PNG"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(tiff.SIGNATURES):
        return "TIFF"
    if data[4:8] == b"ftyp":
        return "AVIF" if _has_avif_brand(data) else None
    return "BMP" if data.startswith(b"BM") else None


def bare_picture(data: bytes, image_format: str, max_pixels: int) -> BarePicture:
    """Leaves out of a file what is not its picture, and refuses one that costs more than its pixels do.

    Args:
        data: The file.
        image_format: What `format_of` says of it.
        max_pixels: Most pixels accepted, where a header tells them before Pillow allocates any.

    Raises:
        ItemTooLargeError: decoding it would cost more than its pixels do.
        UndecodableImageError: it is damaged where its parts are listed.
    """
    if image_format == "JPEG":
        return _bare_jpeg(data)
    if image_format == "PNG":
        return _bare_png(data)
    if image_format == "GIF":
        return BarePicture(_bare_gif(data), 1)
    if image_format == "TIFF":
        return BarePicture(*tiff.picture_alone(data, max_pixels))
    if image_format == "AVIF":  # how it is turned stands elsewhere in it, and its EXIF does not count
        return BarePicture(_EXIF_ITEM.sub(rb"\1skip", data), None)
    if image_format == "BMP":
        _check_runs(data)
        return BarePicture(data, 1)
    return BarePicture(data, None)


def webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP file, whose decoder allocates them as soon as it is made; `None`: not told."""
    head = data[:30].ljust(30, b"\0")
    if head[12:16] == b"VP8X":
        return (int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1)
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return ((bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1)
    if head[12:16] == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        return (width & 0x3FFF, height & 0x3FFF)
    return None


def _has_avif_brand(data: bytes) -> bool:
    """Whether the file says among its brands that it is an AVIF; the first may be that of all such containers."""
    length = min(int.from_bytes(data[:4], "big"), 4096)
    brands = {data[place : place + 4] for place in range(8, length, 4)}
    return not brands.isdisjoint({b"avif", b"avis"})


def _bare_jpeg(data: bytes) -> BarePicture:
    """Without application segments, but for the two that tell the colours, and without comments."""
    kept, up, place = [data[:2]], 1, 2
    for _ in range(MAX_PARTS):
        marker, length = data[place : place + 2], int.from_bytes(data[place + 2 : place + 4], "big")
        if len(marker) < 2 or marker[0] != 0xFF or marker[1] in (0x00, 0xD8, 0xD9, 0xDA) or length < 2:
            break  # the picture begins, or the segments cannot be followed
        if marker[1] == 0xFF:  # padding
            place += 1
            continue
        segment = data[place : place + 2 + length]
        content = segment[4:18]
        if marker == b"\xff\xe1" and content.startswith(b"Exif\0\0") and up == 1:
            up = tiff.orientation(segment[4:])
        hangs_on = 0xE0 <= marker[1] <= 0xEF or marker[1] == 0xFE
        if not hangs_on or (marker[1] in (0xE0, 0xEE) and content.startswith((b"JFIF\0", b"Adobe"))):
            kept.append(segment)
        place += 2 + length
    else:
        raise ItemTooLargeError(f"the JPEG file has more than {MAX_PARTS} segments")
    _check_scans(data, place)
    return BarePicture(b"".join([*kept, data[place:]]), up)


def _check_scans(data: bytes, place: int) -> None:
    """Raises `ItemTooLargeError` for a JPEG that is drawn in very many passes; what follows its end does not count."""
    scans = 0
    for _ in range(MAX_PARTS):
        marker = _JPEG_MARKER.search(data, place)
        if marker is None or marker[0] == b"\xff\xd9":
            return
        scans += marker[0] == b"\xff\xda"
        if scans > MAX_SCANS:
            raise ItemTooLargeError(f"the JPEG file has more than {MAX_SCANS} scans")
        place = marker.end() + max(2, int.from_bytes(data[marker.end() : marker.end() + 2], "big"))
    raise ItemTooLargeError(f"the JPEG file has more than {MAX_PARTS} segments")


def _bare_png(data: bytes) -> BarePicture:
    """With the chunks that PNG calls critical, which hold an animation's first frame, and the one for transparency."""
    kept, exif, place = [_PNG_SIGNATURE], b"", len(_PNG_SIGNATURE)
    for _ in range(MAX_PARTS):
        header = data[place : place + 8]
        if len(header) < 8:
            break
        length, name = int.from_bytes(header[:4], "big"), header[4:]
        end = place + 12 + length
        if name == b"eXIf":
            exif = data[place + 8 : end - 4]
        if name[:1].isupper() or name == b"tRNS" or end > len(data):
            kept.append(data[place:end])
        place = end
    else:
        raise ItemTooLargeError(f"the PNG file has more than {MAX_PARTS} chunks")
    return BarePicture(b"".join(kept), tiff.orientation(exif))


def _bare_gif(data: bytes) -> bytes:
    """Without the comments and applications' blocks before the first frame."""
    flags = data[10] if len(data) > 10 else 0
    place = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    kept = [data[:place]]
    start = place
    for _ in range(MAX_PARTS):
        if place == start and data[place : place + 1] != b"!":
            return b"".join([*kept, data[place:]])
        place += 2 if place == start else 0
        size = next(iter(data[place : place + 1]), 0)
        place += 1 + size
        if size == 0:  # the end of an extension
            kept.append(data[start:place] if data[start + 1 : start + 2] == b"\xf9" else b"")
            start = place
    raise ItemTooLargeError(f"the GIF file has more than {MAX_PARTS} blocks before its first frame")


def _check_runs(data: bytes) -> None:
    """Raises `ItemTooLargeError` for a large run-length BMP."""
    head = data[:34].ljust(34, b"\0")
    header_bytes, width, height = struct.unpack_from("<Lll", head, 14)
    (compression,) = struct.unpack_from("<L", head, 30)
    if header_bytes >= 40 and compression in (1, 2) and abs(width * height) > MAX_RUN_PIXELS:
        raise ItemTooLargeError(
            f"the run-length BMP file has {abs(width * height)} pixels, at most {MAX_RUN_PIXELS} are accepted"
        )
