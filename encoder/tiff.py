"""TIFF's directories of tags: of TIFF files, which keep what makes the picture, and of EXIF, which says what is up."""

import struct
from dataclasses import dataclass, replace

from anykey.encoder.errors import ItemTooLargeError, UndecodableImageError

SIGNATURES = (b"II\x2a\x00", b"MM\x00\x2a", b"II\x00\x2a", b"MM\x2a\x00", b"II\x2b\x00", b"MM\x00\x2b")
ORIENTATION = 274
MAX_STRIPS = 262_144  # each costs a step and memory before any is decoded
MAX_NUMBERS = 64  # of one tag that are looked at: some tags have one for each channel
# Bytes of one value, by TIFF's number of its type.
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_NUMBERS = {1: "B", 3: "H", 4: "L", 16: "Q"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _SAMPLE_FORMAT, _SUBSAMPLING = 273, 322, 323, 324, 339, 530
# What makes the picture; all else (resolution, profiles, texts, EXIF, other pages) hangs on it.
_PICTURE_TAGS = frozenset(
    {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIP_OFFSETS, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS}
    | {_SUBSAMPLING, _SAMPLE_FORMAT, 266, 277, 278, 279, 284, 292, 293, 317, 320, 325, 332, 338, 347, 529, 531, 532}
    | set(range(512, 522))  # JPEG as TIFF 6.0 had it
)
_NO_WHOLE_NUMBERS = frozenset({347, 529, 532})  # JPEG's tables, and the fractions of YCbCr
# Left out: LZMA, whose header alone claims gigabytes, and the logarithmic formats, whose white is not told.
_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32809, 32946, 50000, 50001})
_YCBCR = 6
_SIGNED_OR_NOT_WHOLE = frozenset({2, 3, 5, 6})  # sample formats: whole numbers with a sign, floating point, complex


@dataclass(frozen=True)
class Entry:
    """One tag.

    Attributes:
        tag: What it says.
        kind: TIFF's number of its type.
        count: How many values it has.
        field: The values if they fit, else where they are.
    """

    tag: int
    kind: int
    count: int
    field: bytes

    @property
    def num_bytes(self) -> int:
        """What its values take."""
        return self.count * _VALUE_BYTES.get(self.kind, 1)


@dataclass(frozen=True)
class Directory:
    """The first directory of a TIFF file, or of EXIF.

    Attributes:
        data: All of the file.
        order: `<` or `>`, as `struct` has it.
        is_big: Whether it is a BigTIFF.
        entries: By tag, the first where one comes twice.
    """

    data: bytes
    order: str
    is_big: bool
    entries: dict[int, Entry]

    def numbers(self, tag: int) -> tuple[int, ...]:
        """A tag's whole numbers, at most `MAX_NUMBERS`; none if it is absent, of another type or out of the file."""
        entry = self.entries.get(tag)
        code = _NUMBERS.get(entry.kind) if entry else None
        if entry is None or code is None:
            return ()
        num_bytes = min(entry.count, MAX_NUMBERS) * _VALUE_BYTES[entry.kind]
        start, source = 0, entry.field
        if entry.num_bytes > len(entry.field):
            (start,) = struct.unpack(f"{self.order}{'Q' if self.is_big else 'L'}", entry.field)
            source = self.data
        values = source[start : start + num_bytes] if start + entry.num_bytes <= len(source) else b""
        return struct.unpack(f"{self.order}{len(values) // _VALUE_BYTES[entry.kind]}{code}", values)

    def number(self, tag: int, absent: int) -> int:
        """A tag's first number, or `absent`."""
        return next(iter(self.numbers(tag)), absent)


def read_directory(data: bytes) -> Directory:
    """Reads the first directory; its values stay where they are until they are asked for.

    Raises:
        UndecodableImageError: there is none.
    """
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[2:4] in (b"\x2b\x00", b"\x00\x2b")
    shape, step = (f"{order}HHQ8s", 20) if is_big else (f"{order}HHL4s", 12)
    try:
        (start,) = struct.unpack_from(f"{order}{'Q' if is_big else 'L'}", data, 8 if is_big else 4)
        (count,) = struct.unpack_from(f"{order}{'Q' if is_big else 'H'}", data, start)
    except struct.error as error:
        raise UndecodableImageError("the TIFF file ends before its directory") from error
    first = start + (8 if is_big else 2)
    whole = min(count, max(0, len(data) - first) // step, 65_535)
    entries: dict[int, Entry] = {}
    for place in range(first, first + whole * step, step):
        entry = Entry(*struct.unpack_from(shape, data, place))
        entries.setdefault(entry.tag, entry)
    return Directory(data, order, is_big, entries)


def orientation(exif: bytes) -> int:
    """What EXIF says is up, 1 to 8; 1 where it says nothing or cannot be read."""
    exif = exif.removeprefix(b"Exif\0\0")
    if not exif.startswith(SIGNATURES):
        return 1
    try:
        value = read_directory(exif).number(ORIENTATION, 1)
    except (UndecodableImageError, OverflowError):
        return 1
    return value if 1 <= value <= 8 else 1


def picture_alone(data: bytes, max_pixels: int) -> tuple[bytes, int]:
    """A TIFF file with the tags that make its first picture and no others, and what it says is up.

    Raises:
        ItemTooLargeError: decoding it would cost more than its pixels do.
        UndecodableImageError: there is no directory, or its picture is one that decoders get wrong.
    """
    directory = read_directory(data)
    kept = [directory.entries[tag] for tag in sorted(directory.entries) if tag in _PICTURE_TAGS]
    _check(replace(directory, entries={entry.tag: entry for entry in kept}), max_pixels)
    up = directory.number(ORIENTATION, 1)
    return _written(directory, kept), up if 1 <= up <= 8 else 1


def _check(directory: Directory, max_pixels: int) -> None:
    """Raises where the tags ask for more than the picture, or for what decoders get wrong."""
    num_bytes = sum(entry.num_bytes for entry in directory.entries.values())
    if num_bytes > len(directory.data):
        raise UndecodableImageError(f"the tags of the TIFF file claim {num_bytes} bytes, more than the file has")
    strips = [directory.entries[tag].count for tag in (_STRIP_OFFSETS, _TILE_OFFSETS) if tag in directory.entries]
    if sum(strips) > MAX_STRIPS:
        raise ItemTooLargeError(f"the TIFF file has {sum(strips)} strips, at most {MAX_STRIPS} are accepted")
    for tag in directory.entries.keys() - _NO_WHOLE_NUMBERS:
        if not directory.numbers(tag):  # a decoder may read one all the same, past the limits below
            raise UndecodableImageError(f"expected whole numbers without a sign in tag {tag} of the TIFF file")
    tile_pixels = directory.number(_TILE_WIDTH, 0) * directory.number(_TILE_HEIGHT, 0)
    if tile_pixels > max_pixels:
        raise ItemTooLargeError(f"the TIFF file has tiles of {tile_pixels} pixels, at most {max_pixels} are accepted")
    compression = directory.number(_COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        raise UndecodableImageError(f"the TIFF file is compressed in a way that is not read (number {compression})")
    if _SIGNED_OR_NOT_WHOLE.intersection(directory.numbers(_SAMPLE_FORMAT)):
        raise UndecodableImageError(
            "the TIFF file has numbers with a sign or of floating point that do not say what is black and what is "
            "white; save it with 8 or 16 bits a channel"
        )
    is_plain_ycbcr = compression == 1 and directory.number(_PHOTOMETRIC, 0) == _YCBCR
    if is_plain_ycbcr and (directory.numbers(_SUBSAMPLING) or (2, 2)) != (1, 1):
        raise UndecodableImageError("the TIFF file holds YCbCr colours of lower resolution, uncompressed: not read")


def _written(directory: Directory, entries: list[Entry]) -> bytes:
    """The file with these entries as its only directory, behind all it held before."""
    order = directory.order
    count, shape, place = ("Q", "HHQ8s", "Q") if directory.is_big else ("H", "HHL4s", "L")
    body = directory.data + b"\0" * (len(directory.data) % 2)
    rows = [struct.pack(f"{order}{shape}", entry.tag, entry.kind, entry.count, entry.field) for entry in entries]
    table = struct.pack(f"{order}{count}", len(rows)) + b"".join(rows) + struct.pack(f"{order}{place}", 0)
    version = struct.pack(f"{order}HHH", 43, 8, 0) if directory.is_big else struct.pack(f"{order}H", 42)
    header = (b"II" if order == "<" else b"MM") + version + struct.pack(f"{order}{place}", len(body))
    return header + body[len(header) :] + table
