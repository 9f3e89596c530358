"""Pictures small enough to lie inside a page."""

import base64
import io
from collections.abc import Mapping

import PIL.Image
from PIL import ImageOps

from anykey.benchmark.dataset import Image, image_bytes
from anykey.benchmark.pairs import UNDECODABLE
from anykey.program.image_limits import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS

MAX_BYTES = 12_000  # of one picture
MAX_TOTAL_CHARS = 3_000_000  # of all pictures of a page
# From the best to the smallest: the longer side in pixels, and JPEG's quality.
_SIZES = ((144, 78), (144, 60), (112, 60), (96, 50), (72, 50), (56, 45), (48, 35))
_LIMITS = (MAX_BYTES, 8_000, 6_000, 4_000, 3_000, 2_000, 1_500, 1_000)


def thumbnail(image: Image, max_bytes: int = MAX_BYTES) -> bytes | None:
    """An image as a JPEG of at most `max_bytes`, upright, transparency on white; the smallest where none is so small.

    Returns:
        None where it cannot be had, is no image, or is one over the limits of `program.image_limits`.
    """
    try:
        data = image_bytes(image)
        with PIL.Image.open(io.BytesIO(data)) as opened:
            if len(data) > MAX_IMAGE_BYTES or opened.width * opened.height > MAX_IMAGE_PIXELS:
                return None
            return _fitted(opened, max_bytes)
    except UNDECODABLE:
        return None


def addresses(uses: Mapping[bytes, int]) -> dict[bytes, str | None]:
    """Every picture as a `data:` address; all together are no longer than `MAX_TOTAL_CHARS`.

    Where they would be, all are made smaller alike; those that even then find no place have None.

    Args:
        uses: JPEGs of `thumbnail`, and how often a page shows each.
    """
    fitting = (
        limit
        for limit in _LIMITS
        if sum(count * _num_chars(min(len(jpeg), limit)) for jpeg, count in uses.items()) <= MAX_TOTAL_CHARS
    )
    limit = next(fitting, _LIMITS[-1])
    room, found = MAX_TOTAL_CHARS, dict[bytes, str | None]()
    for jpeg, count in uses.items():
        small = jpeg if len(jpeg) <= limit else thumbnail(jpeg, limit)
        address = f"data:image/jpeg;base64,{base64.b64encode(small or b'').decode('ascii')}"
        found[jpeg] = address if count * len(address) <= room else None
        room -= count * len(address) if found[jpeg] else 0
    return found


def _fitted(image: PIL.Image.Image, max_bytes: int) -> bytes:
    image.thumbnail((2 * _SIZES[0][0],) * 2)
    upright = ImageOps.exif_transpose(image)
    rgb = _on_white(upright) if upright.has_transparency_data else upright.convert("RGB")
    for side, quality in _SIZES:
        small = rgb.copy()
        small.thumbnail((side, side))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= max_bytes:
            break
    return buffer.getvalue()


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    layer = image.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _num_chars(num_bytes: int) -> int:
    """Length of the address of so many bytes."""
    return len("data:image/jpeg;base64,") + 4 * -(-num_bytes // 3)
