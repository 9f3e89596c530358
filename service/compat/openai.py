"""OpenAI's embeddings, and those who speak them with words of their own: vLLM, infinity, Jina, Voyage's for texts."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from anykey.service.access.guard import GuardedRoute
from anykey.service.answers.written import write_json
from anykey.service.compat.content import item_part
from anykey.service.compat.embedding import Asked, Embedding, answer_embeddings
from anykey.service.compat.fields import (
    STARTED_AT,
    UNDONE_OF_VLLM,
    Served,
    Undone,
    check_number,
    may_cut,
    read_fields,
    refuse_undone,
    role_of,
    served_of,
)
from anykey.service.compat.numbers import Numbers, numbers_of, written
from anykey.service.compat.openapi import EMBED_ERRORS, body_of, dialect_errors
from anykey.service.embedding.vectors import width_of
from anykey.service.errors import InvalidRequestError, NotFoundError
from anykey.service.queries.query import ItemPart
from anykey.service.queries.wrong_values import shown
from anykey.service.schemas import Limits

router = APIRouter(route_class=GuardedRoute, tags=["compat"])

_NORMALIZED = ((True,), "each vector has the length 1, true")
_INSTRUCTED = ((), "what to look for is the content of a system message, or the instruction of an object of input")
UNDONE: Undone = {
    **UNDONE_OF_VLLM,
    "late_chunking": ((False,), "each item is embedded on its own, false"),
    "truncation_side": (("right",), "texts are cut at their end, right"),
    "endianness": (("little", "native"), "expected little"),
    "embed_dtype": (("float32",), "expected float32"),
    "modality": (("text", "image"), "expected text or image"),
    "normalize": _NORMALIZED,
    "normalized": _NORMALIZED,
    "use_activation": _NORMALIZED,
    "add_special_tokens": ((True,), "the model's own tokens begin and end each text, true"),
    "add_generation_prompt": ((False,), "an item is embedded as it is, false"),
    "continue_final_message": ((False,), "an item is embedded as it is, false"),
    "chat_template": ((), "the model has its own"),
    "prompt": _INSTRUCTED,
    "prompt_name": _INSTRUCTED,
    "instruction": _INSTRUCTED,
}
ITEMS = (
    "A text, a list of texts, or a list of objects with `text`, `image` or both. A string that begins with "
    "`data:image/` is an image. Parts of one `content` list are one item, fused; elements of `input` never are."
)


class EmbeddingsRequest(BaseModel):
    """What to embed. Unknown fields are ignored, and null counts as absent."""

    model_config = ConfigDict(title="EmbeddingsRequest", json_schema_extra={"examples": [{"input": ["a red mug"]}]})

    model: StrictStr | None = Field(None, description="A name of the served model, see GET /v1/models.")
    input: Any = Field(None, description=ITEMS)
    messages: Any = Field(
        None, description="In place of `input`: a conversation, which is one item, or a list of conversations."
    )
    modality: StrictStr | None = Field(None, description="What strings are: `text` or `image`.")
    encoding_format: StrictStr | None = Field(
        None, description="`float`, or `base64` of little-endian float32. Absent: float."
    )
    encoding_type: StrictStr | None = Field(None, description="Jina's: `float`, `binary`, `ubinary` or `base64`.")
    embedding_type: StrictStr | None = Field(None, description="As `encoding_type`.")
    output_dtype: StrictStr | None = Field(None, description="Voyage's: `float`, `binary` or `ubinary`.")
    embed_dtype: StrictStr | None = Field(None, description="vLLM's: `float32`.")
    endianness: StrictStr | None = Field(None, description="vLLM's: `little` or `native`.")
    dimensions: StrictInt | None = Field(
        None, description="How many numbers of a vector; only those that the model was trained to be cut to. 0: all."
    )
    output_dimension: StrictInt | None = Field(None, description="As `dimensions`.")
    input_type: StrictStr | None = Field(
        None, description="What for: `query`, or `document`, as for a key. Absent: query."
    )
    task: StrictStr | None = Field(None, description="As `input_type`: `retrieval.query`, `retrieval.passage`, ...")
    truncate: Any = Field(None, description="Whether a text beyond the model's context is cut; else it is an error.")
    truncation: StrictBool | None = Field(None, description="As `truncate`.")
    truncate_prompt_tokens: StrictInt | None = Field(None, description="vLLM's: -1, as far as the model reads.")
    late_chunking: StrictBool | None = Field(None, description="Jina's: only false.")
    truncation_side: Any = Field(None, description="vLLM's: only `right`.")
    normalize: Any = Field(None, description="vLLM's: only true; each vector has the length 1.")
    normalized: Any = Field(None, description="Jina's: as `normalize`.")
    use_activation: Any = Field(None, description="vLLM's: as `normalize`.")
    add_special_tokens: Any = Field(None, description="vLLM's: only true.")
    add_generation_prompt: Any = Field(None, description="vLLM's: only false.")
    continue_final_message: Any = Field(None, description="vLLM's: only false.")
    chat_template: Any = Field(None, description="Refused: the model has its own.")
    mm_processor_kwargs: Any = Field(None, description="Refused: images are made ready as the model was trained.")
    prompt: Any = Field(None, description="Refused: a message of the system is the instruction.")
    prompt_name: Any = Field(None, description="As `prompt`.")
    instruction: Any = Field(None, description="As `prompt`; objects of `input` may have one.")


class EmbeddingData(BaseModel):
    """The vector of one item."""

    object: str = Field(description="`embedding`.")
    index: int = Field(description="Which item, from 0.")
    embedding: list[float] | list[int] | str
    text_cut: bool = Field(description="Whether the item's text is longer than the model's context.")


class Usage(BaseModel):
    """What was computed."""

    prompt_tokens: int = Field(description="Image and text tokens of all items.")
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """The vectors, in the order of the items."""

    object: str = Field(description="`list`.")
    data: list[EmbeddingData]
    model: str
    usage: Usage
    id: str
    created: int


class ServedModel(BaseModel):
    """A name that a request may say as its model."""

    id: str
    object: str = Field(description="`model`.")
    created: int
    owned_by: str
    root: str = Field(description="The model itself.")


class ModelsResponse(BaseModel):
    """The names of what is served."""

    object: str = Field(description="`list`.")
    data: list[ServedModel]


@router.post(
    "/v1/embeddings",
    response_model=EmbeddingsResponse,
    responses=dialect_errors(*EMBED_ERRORS),
    openapi_extra=body_of(EmbeddingsRequest),
)
async def v1_embeddings(request: Request) -> Response:
    """Embeds items for clients of OpenAI, vLLM, Jina and Voyage."""
    return await answer(request)


@router.get("/v1/models", responses=dialect_errors("not_ready", "index_unavailable"))
async def models(request: Request) -> ModelsResponse:
    """Names the served model as clients may call it, and the rerankers."""
    return ModelsResponse(object="list", data=_named(request))


@router.get("/v1/models/{model:path}", responses=dialect_errors("not_found", "not_ready", "index_unavailable"))
async def get_model(request: Request, model: str) -> ServedModel:
    """Tells one of the names."""
    for named in _named(request):
        if named.id == model:
            return named
    raise NotFoundError(f"model {shown(model)} is not served; GET /v1/models names those that are")


def _named(request: Request) -> list[ServedModel]:
    served = served_of(request)
    roots = {name: served.encoder.name for name in served.names} | {name: name for name in served.rerankers}
    return [
        ServedModel(id=name, object="model", created=STARTED_AT, owned_by="anykey", root=root)
        for name, root in roots.items()
    ]


async def answer(request: Request) -> Response:
    """Answers a request in this dialect; raises `ServiceError` for what cannot be done."""
    return await answer_embeddings(request, partial(_asked, served_of(request)))


def _asked(served: Served, body: bytearray) -> Asked:
    """What a body asks for, and how its answer is written."""
    fields = read_fields(body, EmbeddingsRequest)
    model = served.model_of(fields.model)
    refuse_undone(fields, UNDONE)
    numbers, is_base64 = _number_format(fields)
    width = _width_of(fields, served)
    items = _items_of(fields, served.limits)

    def write(request_id: str, made: Sequence[Embedding]) -> bytes:
        data = [
            {
                "object": "embedding",
                "index": number,
                "embedding": written(one.vector_D, numbers, is_base64),
                "text_cut": one.is_text_cut,
            }
            for number, one in enumerate(made)
        ]
        num_tokens = sum(one.num_tokens for one in made)
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        rest = {"model": model, "usage": usage, "id": f"embd-{request_id}", "created": STARTED_AT}
        return write_json({"object": "list", "data": data, **rest})

    role = role_of(input_type=fields.input_type, task=fields.task)
    return Asked(items, role, width, _may_cut(fields), write)


def _width_of(fields: EmbeddingsRequest, served: Served) -> int:
    asked = {
        name: width
        for name, width in (("dimensions", fields.dimensions), ("output_dimension", fields.output_dimension))
        if width  # infinity's client sends 0 for all
    }
    if len(set(asked.values())) > 1:
        raise InvalidRequestError("expected dimensions or output_dimension, got both, and they differ")
    name, width = next(iter(asked.items()), ("dimensions", None))
    return width_of(width, name, served.encoder)


def _number_format(fields: EmbeddingsRequest) -> tuple[Numbers, bool]:
    """The kind of numbers, and whether they are written as base64, of the fields that dialects have for both."""
    names = ("encoding_type", "embedding_type", "output_dtype", "encoding_format")
    said = {name: word for name in names if (word := getattr(fields, name)) is not None}
    kinds = {numbers_of(word, name) for name, word in said.items() if word != "base64"}
    if fields.output_dtype not in (None, "float"):  # the other field then only says whether it is base64
        kinds.discard(Numbers.FLOAT)
    if len(kinds) > 1:
        raise InvalidRequestError(f"{' and '.join(said)}: expected one form of vectors, got {len(kinds)}")
    return next(iter(kinds), Numbers.FLOAT), "base64" in said.values()


def _may_cut(fields: EmbeddingsRequest) -> bool:
    cutting = {may_cut(one, name) for name in ("truncate", "truncation") if (one := getattr(fields, name)) is not None}
    if len(cutting) > 1:
        raise InvalidRequestError("expected truncate or truncation, got both, and they differ")
    return all(cutting)


def _items_of(fields: EmbeddingsRequest, limits: Limits) -> tuple[ItemPart, ...]:
    """The items, each with the name that messages call it."""
    if fields.input is not None and fields.messages is not None:
        raise InvalidRequestError("expected input or messages, got both")
    if fields.messages is not None:
        if not isinstance(fields.messages, list):
            raise InvalidRequestError(f"messages: expected a list, got {shown(fields.messages)}")
        return _listed(fields.messages, "messages", limits, fields.modality)
    if fields.input is None:
        raise InvalidRequestError("input: expected a text, an image, or a list of them; it is absent")
    if not isinstance(fields.input, list):
        return (item_part(fields.input, "input", limits, fields.modality),)
    return _listed(fields.input, "input", limits, fields.modality)


def _listed(values: list[Any], where: str, limits: Limits, kind: str | None) -> tuple[ItemPart, ...]:
    """The elements of a list, or the one item that it is if they are messages of a conversation, or token ids."""
    check_number(len(values), limits.max_embed_items, where)
    is_one = isinstance(values[0], int) or (isinstance(values[0], dict) and "role" in values[0])
    if is_one:
        return (item_part(values, where, limits),)
    return tuple(item_part(value, f"{where}[{number}]", limits, kind) for number, value in enumerate(values))
