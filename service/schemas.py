"""The wire format that all requests and responses have in common. Imports no torch.

What each resource has of its own is in the `schemas.py` of its folder.
"""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, FailFast, Field, StrictStr
from pydantic_core import PydanticCustomError


def _encodable(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PydanticCustomError(
            "lone_surrogate", "half a surrogate pair at character {start}", {"start": error.start}
        ) from error
    return text


class AtFirst(FailFast):
    """Tells a list's first wrong entry only: an error for each of a million takes seconds and much memory."""

    __hash__ = object.__hash__  # which a type in a union needs, and pydantic's has not


Text = Annotated[StrictStr, AfterValidator(_encodable)]
EXAMPLE_REQUEST_ID = "5e0a4c6f2b7d4d1e9a3b8c7d6e5f4a3b"
Scalar = str | int | float | bool


class Limits(BaseModel):
    """What a request may ask for."""

    max_k: int
    max_depth: int
    max_body_bytes: int
    max_image_bytes: int
    max_image_pixels: int
    max_image_aspect: float
    max_images: int
    max_parts: int
    max_text_chars: int
    max_exclude: int
    max_within: int
    max_keys: int
    max_rerank_top: int
    max_batch_queries: int
    max_embed_items: int
    request_deadline_ms: float


class ErrorDetail(BaseModel):
    """What went wrong."""

    type: str = Field(description="Stable name of the error.")
    message: str = Field(description="What was expected, what came, where.")
    request_id: str = Field(description="Also in the X-Request-ID header and in the service's log.")


class ErrorResponse(BaseModel):
    """The body of every error."""

    error: ErrorDetail
