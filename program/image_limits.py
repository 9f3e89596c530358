"""How large an image may be, with the settings of every command that reads images; and how a damaged one is told."""

import struct

from pydantic import BaseModel, Field

MAX_IMAGE_BYTES = 20 * 1024**2
MAX_IMAGE_PIXELS = 64_000_000
MAX_IMAGE_ASPECT = 200.0
# What Pillow's decoders raise on damaged bytes, found by fuzzing them.
DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    AttributeError,
    RuntimeError,  # of libavif
    AssertionError,  # of Pillow, for a palette that is not there
    MemoryError,
    struct.error,
)


class ImageLimitSettings(BaseModel):
    """How large an image may be; what is larger is refused before it is decoded."""

    max_image_bytes: int = Field(MAX_IMAGE_BYTES, ge=1, description="largest encoded image, in bytes")
    max_image_pixels: int = Field(
        MAX_IMAGE_PIXELS, ge=1024, le=178_000_000, description="most pixels in an image, read from its header"
    )
    max_image_aspect: float = Field(
        MAX_IMAGE_ASPECT,
        ge=1,
        le=100_000,
        description="how many times longer than its shorter side an image's longer one may be",
    )
