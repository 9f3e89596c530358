"""Encoded bytes to an upright RGB picture, with limits checked before anything is decoded."""

import stat
import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from encoder.errors import InvalidItemError, ItemTooLargeError, UndecodableImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# What Pillow's decoders raise on damaged bytes, found by fuzzing them.
_DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    AttributeError,
    NotImplementedError,
    struct.error,
)


@dataclass(frozen=True)
class ImageLimits:
    """How large an image may be.

    Attributes:
        max_bytes: Encoded size.
        max_pixels: Width times height, read from the header; Pillow itself opens none above 178 million.
    """

    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 64_000_000


def decode_image(
    source: bytes | str | Path | Image.Image,
    limits: ImageLimits | None = None,
    target_px: int | None = None,
) -> Image.Image:
    """Decodes one image to upright 8-bit RGB.

    Applies the EXIF orientation; lays transparency on white; scales 16-bit down to 8; takes the
    first frame of an animation.

    Args:
        source: Encoded bytes, a path, or an image already decoded.
        limits: Largest image accepted; the defaults of `ImageLimits` when absent.
        target_px: Side length the caller will resize to. A JPEG more than twice as large is decoded at
            1/2, 1/4 or 1/8 scale, never below twice this length, which is several times faster.

    Returns:
        An RGB image.

    Raises:
        ItemTooLargeError: over a limit; nothing was decoded.
        UndecodableImageError: not an image of a known format, truncated, or no such file.
    """
    limits = limits or ImageLimits()
    if isinstance(source, Image.Image):
        return _decode(source, f"a {source.mode} image", limits, None)
    data = source if isinstance(source, bytes) else _read(Path(source), limits)
    if len(data) > limits.max_bytes:
        raise ItemTooLargeError(f"image has {len(data)} bytes, at most {limits.max_bytes} are accepted")
    name = f"{len(data)} bytes" if isinstance(source, bytes) else f"{str(source)!r} ({len(data)} bytes)"
    return _decode(data, name, limits, target_px)


def _decode(source: bytes | Image.Image, name: str, limits: ImageLimits, target_px: int | None) -> Image.Image:
    try:
        if isinstance(source, Image.Image):
            _check_pixels(source, limits)
            return _as_rgb(source)
        with Image.open(BytesIO(source), formats=FORMATS) as image:
            _check_pixels(image, limits)
            if target_px is not None:
                image.draft("RGB", (2 * target_px, 2 * target_px))
            return _as_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ItemTooLargeError(f"image has more than {limits.max_pixels} pixels") from error
    except InvalidItemError:
        raise
    except _DECODER_ERRORS as error:
        raise UndecodableImageError(f"cannot decode {name} as an image ({', '.join(FORMATS)} are read)") from error


def _read(path: Path, limits: ImageLimits) -> bytes:
    name = repr(str(path))  # quoted, so that a stray byte in a name cannot break the message
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might never end
            raise UndecodableImageError(f"cannot read {name}: not a regular file")
        if status.st_size > limits.max_bytes:
            raise ItemTooLargeError(f"{name} has {status.st_size} bytes, at most {limits.max_bytes} are accepted")
        return path.read_bytes()
    except InvalidItemError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UndecodableImageError(f"cannot read {name}: {reason}") from error


def _check_pixels(image: Image.Image, limits: ImageLimits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise ItemTooLargeError(
            f"image is {width} x {height} = {width * height} pixels, at most {limits.max_pixels} are accepted"
        )


def _as_rgb(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16") or upright.mode in ("I", "F"):
        upright = _to_8_bit(upright)
    if upright.has_transparency_data:  # an alpha channel, or a colour declared transparent
        layer = upright.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    if upright.mode != "RGB":
        return upright.convert("RGB")
    upright.load()
    return upright


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Grey values of 16 or 32 bits to 8; Pillow's own conversion clips them at 255 instead."""
    values_HW = np.asarray(image, dtype=np.float64)
    full_scale = 65535.0 if values_HW.max(initial=0.0) > 255 else 255.0
    if image.mode.startswith("I;16"):
        full_scale = 65535.0
    scaled_HW = np.clip(np.nan_to_num(values_HW) / full_scale, 0.0, 1.0) * 255.0
    return Image.fromarray(scaled_HW.round().astype(np.uint8))
