"""Pictures made in memory, in every format the encoder reads, whole and damaged."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """The image in a file format."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def plain(colour: Any, mode: str = "RGB", size_px: tuple[int, int] = (8, 6)) -> Image.Image:
    """An image of one colour."""
    return Image.new(mode, size_px, colour)


def photo(width_px: int = 96, height_px: int = 64, seed: int = 0) -> Image.Image:
    """Smooth colour waves, as a photo has them: decoders and resizers can be compared on it."""
    generator = np.random.default_rng(seed)
    y_H1, x_1W = np.mgrid[0:height_px, 0:width_px]
    channels = []
    for _ in range(3):
        x_waves, y_waves, phase = generator.uniform(1.0, 4.0), generator.uniform(1.0, 4.0), generator.uniform(0.0, 6.0)
        channels.append(np.sin(x_waves * x_1W * 6.28 / width_px + y_waves * y_H1 * 6.28 / height_px + phase))
    pixels_HWC = (np.stack(channels, axis=-1) * 100 + 128).astype(np.uint8)
    return Image.fromarray(pixels_HWC)


def corners() -> Image.Image:
    """Red, green, blue and white quarters (top left, top right, bottom left, bottom right) of 16 x 8 pixels."""
    image = Image.new("RGB", (16, 8), (255, 255, 255))
    image.paste((255, 0, 0), (0, 0, 8, 4))
    image.paste((0, 255, 0), (8, 0, 16, 4))
    image.paste((0, 0, 255), (0, 4, 8, 8))
    return image


def huge_png(width_px: int, height_px: int) -> bytes:
    """A valid PNG of any size, all black, one bit a pixel, deflated row by row to a few kilobytes."""
    row = b"\0" * (1 + (width_px + 7) // 8)
    deflate = zlib.compressobj(9)
    data = b"".join([deflate.compress(row) for _ in range(height_px)]) + deflate.flush()
    header = struct.pack(">IIBBBBB", width_px, height_px, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def grey_16_bit_png(values: list[int]) -> bytes:
    """A PNG of one row of 16-bit grey values."""
    return png_row(len(values), 16, 0, struct.pack(f">{len(values)}H", *values))


def png_row(width_px: int, bits: int, colour_type: int, row: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of one row of packed samples, with more chunks before its pixels (PNG specification, 4.1)."""
    header = struct.pack(">IIBBBBB", width_px, 1, bits, colour_type, 0, 0, 0)
    every = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, data) for kind, data in every)


def tiff_row(width_px: int, row: bytes, order: str = "<", **tags: list[int]) -> bytes:
    """A TIFF of one uncompressed row; tags are named `t262=[1]`, each a list of shorts (TIFF 6.0, section 2)."""
    values = {256: [width_px], 257: [1], 259: [1], 273: [8], 278: [1], 279: [len(row)]}
    values |= {int(name[1:]): numbers for name, numbers in tags.items()}
    data = b"II*\0" if order == "<" else b"MM\0*"
    data += struct.pack(f"{order}L", 8 + len(row) + len(row) % 2) + row + b"\0" * (len(row) % 2)
    place = len(data) + 2 + 12 * len(values) + 4
    entries, behind = b"", b""
    for tag, numbers in sorted(values.items()):
        packed = struct.pack(f"{order}{len(numbers)}H", *numbers)
        if len(packed) > 4:
            packed, behind = struct.pack(f"{order}L", place + len(behind)), behind + packed
        entries += struct.pack(f"{order}HHL", tag, 3, len(numbers)) + packed.ljust(4, b"\0")
    return data + struct.pack(f"{order}H", len(values)) + entries + b"\0\0\0\0" + behind


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file, with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
