"""The machine learning of immich, a photo album: CLIP's vectors of its photos and of what its users search for."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import PlainTextResponse

from anykey.encoder.images import image_size
from anykey.encoder.item import Item
from anykey.encoder.protocol import Role
from anykey.service.access.guard import GuardedRoute
from anykey.service.answers.written import write_json
from anykey.service.compat.embedding import Asked, Embedding, answer_embeddings_of
from anykey.service.compat.fields import Served, served_of
from anykey.service.compat.openapi import EMBED_ERRORS, dialect_errors
from anykey.service.errors import InvalidRequestError, ItemTooLargeError
from anykey.service.lifecycle import index_of
from anykey.service.queries.query import ItemPart
from anykey.service.queries.strict_json import parse_json
from anykey.service.queries.wrong_values import shown
from anykey.service.requests.body import form_parser
from anykey.service.requests.multipart import Part, text_of
from anykey.service.schemas import Limits

router = APIRouter(route_class=GuardedRoute, tags=["compat"])

FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "title": "PredictForm",
                    "type": "object",
                    "required": ["entries"],
                    "properties": {
                        "entries": {
                            "type": "string",
                            "description": "JSON: what to make, `clip`, of what, and the name of the model.",
                            "examples": ['{"clip": {"textual": {"modelName": "anykey"}}}'],
                        },
                        "text": {"type": "string", "description": "With `textual`."},
                        "image": {"type": "string", "format": "binary", "description": "With `visual`."},
                    },
                }
            }
        },
    }
}
ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The vector, as a string that is a JSON list; of an image also its size.",
        "content": {
            "application/json": {
                "schema": {
                    "title": "PredictResponse",
                    "type": "object",
                    "required": ["clip"],
                    "properties": {
                        "clip": {"type": "string"},
                        "imageHeight": {"type": "integer"},
                        "imageWidth": {"type": "integer"},
                    },
                }
            }
        },
    }
}
TASK = "clip"
TEXTUAL, VISUAL = "textual", "visual"
EXPECTED = 'entries: expected {"clip": {"textual": {"modelName": ...}}} or "visual" in its place'


@router.post(
    "/predict", responses={**ANSWER, **dialect_errors(*EMBED_ERRORS)}, response_class=Response, openapi_extra=FORM
)
async def predict(request: Request) -> Response:
    """Embeds one text or one image for immich."""
    served = served_of(request)
    return await answer_embeddings_of(request, form_parser(request.headers, served.limits, partial(_asked, served)))


@router.get("/ping", response_class=PlainTextResponse, responses=dialect_errors("not_found"))
async def ping(request: Request) -> PlainTextResponse:
    """Answers `pong`, by which immich knows that this is a machine learning server."""
    index_of(request)  # which there has to be, if the address names one
    return PlainTextResponse("pong")


def _asked(served: Served, form: Sequence[Part]) -> Asked:
    """What a form asks for, and how its answer is written."""
    fields = {part.name: part for part in form}
    if len(fields) < len(form):
        raise InvalidRequestError("a field of the form is given more than once")
    kind, model = _entry(fields)
    served.model_of(model)
    part = fields.get("text" if kind == TEXTUAL else "image")
    if part is None:
        raise InvalidRequestError(
            f"expected a field {'text' if kind == TEXTUAL else 'image'} with {kind}; it is absent"
        )
    if (other := "image" if kind == TEXTUAL else "text") in fields:
        raise InvalidRequestError(f"{other}: expected nothing to embed beside what {kind} asks for")
    item = _text(part, served.limits) if kind == TEXTUAL else _image(part, served.limits)

    def write(_request_id: str, made: Sequence[Embedding]) -> bytes:
        answer: dict[str, Any] = {TASK: json.dumps(made[0].vector_D.tolist())}
        for image in item.item.images:
            assert isinstance(image, bytes)
            answer["imageWidth"], answer["imageHeight"] = image_size(image) or (0, 0)
        return write_json(answer)

    role = Role.QUERY if kind == TEXTUAL else Role.KEY
    return Asked((item,), role, served.encoder.width, True, write)


def _entry(fields: dict[str, Part]) -> tuple[str, str | None]:
    """What is to be made, `textual` or `visual`, and the model's name."""
    if "entries" not in fields:
        raise InvalidRequestError(f"{EXPECTED}; it is absent")
    entries = parse_json(fields["entries"].data, "entries")
    if not isinstance(entries, dict) or len(entries) != 1 or TASK not in entries:
        came = shown(", ".join(map(str, entries))) if isinstance(entries, dict) else shown(entries)
        raise InvalidRequestError(f"{EXPECTED}, got {came}; faces and letters are not recognised here")
    kinds = entries[TASK]
    if not isinstance(kinds, dict) or len(kinds) != 1 or next(iter(kinds)) not in (TEXTUAL, VISUAL):
        raise InvalidRequestError(f"{EXPECTED}, got {shown(kinds)}")
    ((kind, options),) = kinds.items()
    name = options.get("modelName") if isinstance(options, dict) else None
    if name is not None and not isinstance(name, str):
        raise InvalidRequestError(f"entries.clip.{kind}.modelName: expected a string, got {shown(name)}")
    return kind, name


def _text(part: Part, limits: Limits) -> ItemPart:
    text = text_of(part, part.charset or "utf-8")
    if len(text) > limits.max_text_chars:
        raise ItemTooLargeError(f"text has {len(text)} characters, at most {limits.max_text_chars} are accepted")
    if not text.strip():
        raise InvalidRequestError("text: expected a text, got an empty one")
    return ItemPart(Item(text=text), where="text")


def _image(part: Part, limits: Limits) -> ItemPart:
    if not part.data:
        raise InvalidRequestError("image: expected a file, got an empty one")
    if len(part.data) > limits.max_image_bytes:
        raise ItemTooLargeError(f"image has {len(part.data)} bytes, at most {limits.max_image_bytes} are accepted")
    return ItemPart(Item(images=(bytes(part.data),)), where="image")
