"""Good and bad inputs for the service, made in memory."""

import base64
import struct
import zlib
from io import BytesIO

from PIL import Image


def png(colour: tuple[int, int, int] = (200, 30, 30), size_px: tuple[int, int] = (8, 8)) -> bytes:
    """A PNG of one colour."""
    return _encoded("PNG", colour, size_px)


def jpeg(colour: tuple[int, int, int] = (30, 30, 200), size_px: tuple[int, int] = (64, 64)) -> bytes:
    """A JPEG of one colour."""
    return _encoded("JPEG", colour, size_px)


def as_base64(data: bytes) -> str:
    """Standard base64."""
    return base64.b64encode(data).decode("ascii")


def png_header(width_px: int, height_px: int) -> bytes:
    """A small PNG that claims any size: decoding it would take `3 * width * height` bytes."""
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _encoded(kind: str, colour: tuple[int, int, int], size_px: tuple[int, int]) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size_px, colour).save(buffer, kind)
    return buffer.getvalue()
