"""Cohere's embed, version 2."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from anykey.service.access.guard import GuardedRoute
from anykey.service.answers.written import write_json
from anykey.service.compat.content import item_part
from anykey.service.compat.embedding import Asked, Embedding, answer_embeddings
from anykey.service.compat.fields import (
    Served,
    check_most_tokens,
    check_number,
    may_cut,
    read_fields,
    role_of,
    served_of,
)
from anykey.service.compat.numbers import Numbers, numbers_of, written
from anykey.service.compat.openapi import EMBED_ERRORS, body_of, dialect_errors
from anykey.service.embedding.vectors import width_of
from anykey.service.errors import InvalidRequestError
from anykey.service.queries.query import ItemPart
from anykey.service.schemas import Limits

BASE64 = "base64"

router = APIRouter(route_class=GuardedRoute, tags=["compat"])


class CohereEmbedRequest(BaseModel):
    """What to embed: one of `texts`, `images` and `inputs`. Unknown fields are ignored, and null counts as absent."""

    model_config = ConfigDict(
        title="CohereEmbedRequest",
        json_schema_extra={"examples": [{"model": "anykey", "input_type": "search_query", "texts": ["a red mug"]}]},
    )

    model: StrictStr | None = Field(None, description="A name of the served model, see GET /v1/models.")
    input_type: StrictStr | None = Field(
        None, description="`search_query` for queries; `search_document` and the others for keys."
    )
    texts: list[StrictStr] | None = Field(None, description="Texts, an item each.")
    images: list[StrictStr] | None = Field(None, description="Images as data URIs, an item each.")
    inputs: list[Any] | None = Field(
        None, description="Objects with a list of `content` parts, an item each; text and image in one are fused."
    )
    embedding_types: list[StrictStr] | None = Field(
        None, description="Any of `float`, `base64`, `binary` and `ubinary`. Absent: float."
    )
    output_dimension: StrictInt | None = Field(
        None, description="How many numbers of a vector; only those that the model was trained to be cut to."
    )
    max_tokens: StrictInt | None = Field(None, description="Not less than the model's context, where texts are cut.")
    truncate: StrictStr | None = Field(
        None, description="`END` cuts a text beyond the model's context, `NONE` makes it an error. Absent: END."
    )


class ApiVersion(BaseModel):
    """Which version of Cohere's interface this is."""

    version: str


class BilledUnits(BaseModel):
    """What was computed."""

    input_tokens: int | None = Field(None, description="Image and text tokens of all items.")
    search_units: int | None = None


class CohereMeta(BaseModel):
    """What Cohere's clients want to know beside an answer."""

    api_version: ApiVersion
    billed_units: BilledUnits


class CohereEmbedResponse(BaseModel):
    """The vectors by kind, in the order of the items."""

    id: str
    embeddings: dict[str, list[Any]]
    texts: list[str]
    response_type: str = Field(description="`embeddings_by_type`.")
    meta: CohereMeta


@router.post(
    "/v2/embed",
    response_model=CohereEmbedResponse,
    responses=dialect_errors(*EMBED_ERRORS),
    openapi_extra=body_of(CohereEmbedRequest),
)
async def embed(request: Request) -> Response:
    """Embeds items for clients of Cohere."""
    return await answer_embeddings(request, partial(_asked, served_of(request)))


def _asked(served: Served, body: bytearray) -> Asked:
    """What a body asks for, and how its answer is written."""
    fields = read_fields(body, CohereEmbedRequest)
    served.model_of(fields.model)
    check_most_tokens(fields.max_tokens, served.encoder.context_length, "max_tokens")
    width = width_of(fields.output_dimension, "output_dimension", served.encoder)
    kinds = list(dict.fromkeys(fields.embedding_types or [Numbers.FLOAT.value]))
    numbers = {kind: numbers_of("float" if kind == BASE64 else kind, "embedding_types") for kind in kinds}
    items = _items_of(fields, served.limits)

    def write(request_id: str, made: Sequence[Embedding]) -> bytes:
        embeddings = {kind: [written(one.vector_D, numbers[kind], kind == BASE64) for one in made] for kind in kinds}
        answer = {"id": request_id, "embeddings": embeddings, "texts": fields.texts or []}
        meta = meta_of(input_tokens=sum(one.num_tokens for one in made))
        return write_json({**answer, "response_type": "embeddings_by_type", "meta": meta})

    return Asked(items, role_of(input_type=fields.input_type), width, may_cut(fields.truncate, "truncate"), write)


def meta_of(**billed: int) -> dict[str, Any]:
    """What Cohere's clients want to know beside an answer."""
    return {"api_version": {"version": "2"}, "billed_units": billed}


def _items_of(fields: CohereEmbedRequest, limits: Limits) -> tuple[ItemPart, ...]:
    given = {
        name: values
        for name, values in (("texts", fields.texts), ("images", fields.images), ("inputs", fields.inputs))
        if values is not None
    }
    if len(given) != 1:
        came = ", ".join(given) or "none of them"
        raise InvalidRequestError(f"expected one of texts, images and inputs, got {came}")
    ((name, values),) = given.items()
    check_number(len(values), limits.max_embed_items, name)
    kind = {"texts": "text", "images": "image"}.get(name)
    return tuple(item_part(value, f"{name}[{number}]", limits, kind) for number, value in enumerate(values))
