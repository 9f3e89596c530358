"""Encoded bytes to an upright RGB picture, with limits checked before anything is decoded."""

import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from anykey.encoder import tiff
from anykey.encoder.containers import FORMATS, MEDIA_TYPES, bare_picture, format_of, webp_canvas
from anykey.encoder.errors import InvalidItemError, ItemTooLargeError, UndecodableImageError
from anykey.program.image_limits import (
    DECODER_ERRORS,
    MAX_IMAGE_ASPECT,
    MAX_IMAGE_BYTES,
    MAX_IMAGE_PIXELS,
    ImageLimitSettings,
)

MAX_RESIZED_PIXELS = 64_000_000  # of a long image whose shorter side is resized to the model's input
_MOST_PIXELS = 178_000_000  # that Pillow opens
_ONE_AVIF = threading.Lock()
_BAND_PIXELS = 1_000_000  # converted at a time, so that odd colours cost no more memory than plain ones
# What makes a picture upright, by EXIF's numbers.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF


@dataclass(frozen=True)
class ImageLimits:
    """How large an image may be.

    Attributes:
        max_bytes: Encoded size.
        max_pixels: Width times height, read from the header; Pillow itself opens none above 178 million.
        max_aspect: The longer side over the shorter. A model resizes the shorter side to its own size, so the longer
            one grows with it.
    """

    max_bytes: int = MAX_IMAGE_BYTES
    max_pixels: int = MAX_IMAGE_PIXELS
    max_aspect: float = MAX_IMAGE_ASPECT

    @classmethod
    def of(cls, settings: ImageLimitSettings) -> "ImageLimits":
        """Those that a command's settings say."""
        return cls(settings.max_image_bytes, settings.max_image_pixels, settings.max_image_aspect)

    def for_input(self, side_px: int, resize_mode: str) -> "ImageLimits":
        """These limits for a model whose input has this side: no image grows out of memory or shrinks to nothing.

        Args:
            side_px: The input's side, or its longer one.
            resize_mode: open_clip's `shortest`, `longest` or `squash`.
        """
        largest = float(side_px) if resize_mode == "longest" else max(1.0, MAX_RESIZED_PIXELS / side_px**2)
        return replace(self, max_aspect=min(self.max_aspect, largest))


def decode_image(
    source: bytes | str | Path | Image.Image,
    limits: ImageLimits | None = None,
    target_px: int | None = None,
) -> Image.Image:
    """Decodes one image to upright 8-bit RGB.

    Applies the EXIF orientation; lays transparency on white; scales 16-bit down to 8; takes the
    first frame of an animation. What else hangs on an image is not read, and may be broken.

    Args:
        source: Encoded bytes, a path, or an image already decoded.
        limits: Largest image accepted; the defaults of `ImageLimits` when absent.
        target_px: Side length the caller will resize to. A JPEG more than twice as large is decoded at
            1/2, 1/4 or 1/8 scale, never below twice this length, which is several times faster.

    Returns:
        An RGB image.

    Raises:
        ItemTooLargeError: over a limit; nothing was decoded.
        UndecodableImageError: not an image of a known format, truncated, or no such file; or its numbers do not
            say what is black and what is white.
    """
    limits = limits or ImageLimits()
    if isinstance(source, Image.Image):
        return _decoded(lambda: _open_image(source, limits), f"a {source.mode} image", limits)
    data = source if isinstance(source, bytes) else read_image_file(Path(source), limits)
    if len(data) > limits.max_bytes:
        raise ItemTooLargeError(f"image has {len(data)} bytes, at most {limits.max_bytes} are accepted")
    name = f"{len(data)} bytes" if isinstance(source, bytes) else f"{str(source)!r} ({len(data)} bytes)"
    return _decoded(lambda: _open_bytes(data, limits, target_px), name, limits)


def decode_images(
    sources: Sequence[bytes | str | Path | Image.Image],
    limits: ImageLimits | None = None,
    target_px: int | None = None,
) -> Iterator[Image.Image]:
    """Decodes an item's images one after the other, as `decode_image` does each.

    Raises:
        InvalidItemError: as `decode_image`; of several images it names the one, counted from 0.
    """
    for position, source in enumerate(sources):
        yield _decoded_at(f"image[{position}]: " if len(sources) > 1 else "", source, limits, target_px)  # keeps none


def _decoded_at(
    place: str, source: bytes | str | Path | Image.Image, limits: ImageLimits | None, target_px: int | None
) -> Image.Image:
    try:
        return decode_image(source, limits, target_px)
    except InvalidItemError as error:
        raise type(error)(place + error.reason, error.position) from error


def image_type(data: bytes) -> str | None:
    """The media type of a picture, such as `image/jpeg`, by the header that its decoder reads; decodes nothing.

    Returns:
        `None` for what has no such header: it cannot be decoded, whatever its first bytes say.

    >>> image_type(b"BM, and what else a text may begin with") is None
    True
    """
    return MEDIA_TYPES[str(format_of(data))] if image_size(data) is not None else None


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a picture in pixels, as they lie in the file, by its header; decodes nothing.

    Returns:
        `None` for what has no header that its decoder reads.
    """
    image_format = format_of(data)
    if image_format is None:
        return None
    if image_format == "WEBP":  # its decoder allocates all pixels with the header
        return webp_canvas(data)
    try:
        bare = bare_picture(data, image_format, _MOST_PIXELS)
        with Image.open(BytesIO(bare.data), formats=(image_format,)) as image:
            return image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, InvalidItemError, *DECODER_ERRORS):
        return None


def read_image_file(path: Path, limits: ImageLimits) -> bytes:
    """An image file's bytes.

    Raises:
        ItemTooLargeError: it is larger than accepted; nothing was read.
        UndecodableImageError: there is no such file, it is no regular one, or it cannot be read.
    """
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


def _decoded(opened: Callable[[], Image.Image], name: str, limits: ImageLimits) -> Image.Image:
    """What decoding gives, or one of this package's errors."""
    try:
        return opened()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ItemTooLargeError(f"image has more than {limits.max_pixels} pixels") from error
    except InvalidItemError:
        raise
    except DECODER_ERRORS as error:
        raise UndecodableImageError(f"cannot decode {name} as an image ({', '.join(FORMATS)} are read)") from error


def _open_image(image: Image.Image, limits: ImageLimits) -> Image.Image:
    _check_size(image.size, limits)
    try:
        up = image.getexif().get(tiff.ORIENTATION, 1)
    except DECODER_ERRORS:  # the pixels may be sound all the same
        up = 1
    return _upright(_as_rgb(image), up)


def _open_bytes(data: bytes, limits: ImageLimits, target_px: int | None) -> Image.Image:
    image_format = format_of(data)
    if image_format is None:
        raise ValueError("no format that is read begins like this")
    if image_format == "WEBP" and (canvas := webp_canvas(data)) is not None:
        _check_size(canvas, limits)
    bare = bare_picture(data, image_format, limits.max_pixels)
    # What an AVIF's frames take is not in its header; one is decoded at a time, by all cores.
    alone = _ONE_AVIF if image_format == "AVIF" else nullcontext()
    with alone, Image.open(BytesIO(bare.data), formats=(image_format,)) as image:
        _check_size(image.size, limits)
        if target_px is not None:
            image.draft("RGB", (2 * target_px, 2 * target_px))
        _mend(image, data)
        up = bare.orientation or tiff.orientation(image.info.get("exif") or b"")
        return _upright(_as_rgb(image), up)


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise ItemTooLargeError(
            f"image is {width} x {height} = {width * height} pixels, at most {limits.max_pixels} are accepted"
        )
    if max(size) > limits.max_aspect * min(size):
        raise ItemTooLargeError(
            f"image is {width} x {height} pixels; "
            f"the longer side may be at most {limits.max_aspect:g} times the shorter"
        )


def _mend(image: Image.Image, data: bytes) -> None:
    """Corrects what Pillow takes a file's numbers for."""
    if image.format == "PNG" and "transparency" in image.info and image.mode != "P":
        image.info["transparency"] = _transparent_colour(image.info["transparency"], data[24])


def _transparent_colour(colour: int | tuple[int, ...], bits: int) -> int | tuple[int, ...]:
    """A PNG's transparent colour as its decoded pixels have it: in 8 bits, but for 16-bit grey."""
    if isinstance(colour, tuple):
        return tuple(value >> 8 if bits == 16 else value & 0xFF for value in colour)
    return colour if bits == 16 else (colour & (2**bits - 1)) * 255 // (2**bits - 1)


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def _as_rgb(image: Image.Image) -> Image.Image:
    """The picture as a person sees it on white paper; converted band by band."""
    image.load()
    if image.mode in ("I", "F"):
        raise UndecodableImageError(
            f"the image has numbers of 32 bits (Pillow's mode {image.mode}) that do not say what is black and what is "
            "white; save it with 8 or 16 bits a channel"
        )
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    convert = _conversion(image)
    picture = Image.new("RGB", image.size)
    rows = max(1, _BAND_PIXELS // max(1, image.width))
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        picture.paste(convert(band), (0, top))
    return picture


def _conversion(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """How one band of this image becomes RGB."""
    if image.mode.startswith("I;16"):
        table = _grey_table(image)
        return lambda band: Image.fromarray(table[np.asarray(band)]).convert("RGB")
    if image.has_transparency_data and not _is_opaque_after_all(image):
        return _on_white
    return lambda band: band.convert("RGB")


def _on_white(band: Image.Image) -> Image.Image:
    layer = (band.convert("LA") if band.mode == "La" else band).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _is_opaque_after_all(image: Image.Image) -> bool:
    """Whether this is a BMP whose alpha is 0 everywhere: an unused byte, as browsers take it."""
    return image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)


def _grey_table(image: Image.Image) -> NDArray[np.uint8]:
    """What each 16-bit value is in 8 bits; Pillow's own conversion clips them at 255 instead."""
    white, is_inverted = 2**16 - 1, False
    if isinstance(image, TiffImageFile):
        white = 2 ** image.tag_v2.get(_BITS, (16,))[0] - 1
        is_inverted = image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    values = np.minimum(np.arange(2**16) / white, 1.0)
    table = ((1.0 - values if is_inverted else values) * 255.0).round().astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        table[transparent] = 255
    return table
