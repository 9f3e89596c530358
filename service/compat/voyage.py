"""Voyage's multimodal embeddings; what it asks for texts alone is OpenAI's."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from anykey.encoder.images import image_size
from anykey.encoder.item import Modality
from anykey.service.access.guard import GuardedRoute
from anykey.service.answers.written import write_json
from anykey.service.compat.content import item_part
from anykey.service.compat.embedding import Asked, Embedding, answer_embeddings
from anykey.service.compat.fields import Served, check_number, may_cut, read_fields, role_of, served_of
from anykey.service.compat.numbers import numbers_of, written
from anykey.service.compat.openai import EmbeddingData
from anykey.service.compat.openapi import EMBED_ERRORS, body_of, dialect_errors
from anykey.service.embedding.vectors import width_of
from anykey.service.errors import InvalidRequestError
from anykey.service.queries.query import ItemPart
from anykey.service.queries.wrong_values import shown

router = APIRouter(route_class=GuardedRoute, tags=["compat"])


class VoyageRequest(BaseModel):
    """What to embed. Unknown fields are ignored, and null counts as absent."""

    model_config = ConfigDict(
        title="VoyageRequest",
        json_schema_extra={
            "examples": [{"inputs": [{"content": [{"type": "text", "text": "a red mug"}]}], "model": "anykey"}]
        },
    )

    model: StrictStr | None = Field(None, description="A name of the served model, see GET /v1/models.")
    inputs: list[Any] | None = Field(
        None, description="Objects with a list of `content` parts, an item each; text and image in one are fused."
    )
    input_type: StrictStr | None = Field(
        None, description="What for: `query`, or `document`, as for a key. Absent: query."
    )
    truncation: StrictBool | None = Field(
        None, description="Whether a text beyond the model's context is cut; else it is an error. Absent: it is cut."
    )
    output_dtype: StrictStr | None = Field(None, description="`float`, `binary` or `ubinary`. Absent: float.")
    output_dimension: StrictInt | None = Field(
        None, description="How many numbers of a vector; only those that the model was trained to be cut to."
    )
    output_encoding: StrictStr | None = Field(None, description="As `encoding_format`.")
    encoding_format: StrictStr | None = Field(None, description="`base64`. Absent: a list of numbers.")


class VoyageUsage(BaseModel):
    """What was computed."""

    text_tokens: int = Field(description="Tokens of the items that are texts alone.")
    image_pixels: int
    video_pixels: int
    total_tokens: int = Field(description="Image and text tokens of all items.")


class VoyageResponse(BaseModel):
    """The vectors, in the order of the items."""

    object: str = Field(description="`list`.")
    data: list[EmbeddingData]
    model: str
    usage: VoyageUsage


@router.post(
    "/v1/multimodalembeddings",
    response_model=VoyageResponse,
    responses=dialect_errors(*EMBED_ERRORS),
    openapi_extra=body_of(VoyageRequest),
)
async def multimodal_embeddings(request: Request) -> Response:
    """Embeds items for clients of Voyage."""
    return await answer_embeddings(request, partial(_asked, served_of(request)))


def _asked(served: Served, body: bytearray) -> Asked:
    """What a body asks for, and how its answer is written."""
    fields = read_fields(body, VoyageRequest)
    model = served.model_of(fields.model)
    width = width_of(fields.output_dimension, "output_dimension", served.encoder)
    numbers = numbers_of(fields.output_dtype, "output_dtype")
    form = fields.encoding_format or fields.output_encoding
    if form not in (None, "base64"):
        raise InvalidRequestError(f"encoding_format: expected base64 or none, got {shown(form)}")
    values = fields.inputs or []
    check_number(len(values), served.limits.max_embed_items, "inputs")
    items = tuple(item_part(value, f"inputs[{number}]", served.limits) for number, value in enumerate(values))

    def write(_request_id: str, made: Sequence[Embedding]) -> bytes:
        data = [
            {
                "object": "embedding",
                "index": number,
                "embedding": written(one.vector_D, numbers, form is not None),
                "text_cut": one.is_text_cut,
            }
            for number, one in enumerate(made)
        ]
        return write_json({"object": "list", "data": data, "model": model, "usage": _usage(items, made)})

    return Asked(items, role_of(input_type=fields.input_type), width, may_cut(fields.truncation, "truncation"), write)


def _usage(items: Sequence[ItemPart], made: Sequence[Embedding]) -> dict[str, int]:
    pairs = list(zip(items, made, strict=True))
    return {
        "text_tokens": sum(one.num_tokens for part, one in pairs if part.item.modality is Modality.TEXT),
        "image_pixels": sum(_num_pixels(part) for part in items),
        "video_pixels": 0,
        "total_tokens": sum(one.num_tokens for one in made),
    }


def _num_pixels(part: ItemPart) -> int:
    sizes = [image_size(image) or (0, 0) for image in part.item.images if isinstance(image, bytes)]
    return sum(width * height for width, height in sizes)
