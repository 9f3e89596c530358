"""What OpenAPI cannot learn from the routes: the two bodies of POST /search and the errors with examples."""

import asyncio
import copy
import json
import threading
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount

from anykey.service.access.api_keys import AccessScope
from anykey.service.access.guard import GuardedRoute
from anykey.service.access.needs import Need
from anykey.service.embedding.schemas import EmbedRequest
from anykey.service.errors import STATUS_BY_TYPE, TYPES_WITH_RETRY_AFTER
from anykey.service.keys.schemas import DeleteRequest, KeysRequest, NewKeyFields, PatchRequest, ScopeFields, UndoRequest
from anykey.service.queries.schemas import BatchRequest, SearchRequest
from anykey.service.requests.context import COMPAT
from anykey.service.schemas import EXAMPLE_REQUEST_ID, ErrorResponse

# A red disc, 64 x 64 pixels: the examples on /docs can be sent as they stand.
EXAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQMAAACQp+OdAAAABlBMVEX////cHh7/Hx2WAAAAbUlEQVR42s3QsRGDQAxE0YdMQIQpgVJckjuA0iiFEi4k"
    "YDgH5wBmICDjR5r9UqDlebwTAt/2n+RckhcTQU1P0NARdDTlirLcUxN8iKMqVGRUJ+ruMJIv1MRGMLMeVWIhWEgEK/PuZRi2fS1P4we9mxVt0n1lfgAA"
    "AABJRU5ErkJggg=="
)
REF = "#/components/schemas/{model}"
EXAMPLE_MESSAGES = {
    "invalid_request": "k must be a whole number from 1 to 1000, got 0",
    "unauthorized": "expected an API key with scope search: Authorization: Bearer KEY, or api-key: KEY",
    "forbidden": "API key 'shop' lacks the scope write; it has search",
    "not_found": "no such key",
    "method_not_allowed": "this address takes POST, not GET",
    "snapshot_expired": "the snapshot is no longer kept: that is done for 60 s after the last answer of it, and for at "
    "most 32 at a time; search again",
    "item_too_large": "image is 30000 x 30000 = 900000000 pixels, at most 64000000 are accepted",
    "unsupported_media_type": "expected Content-Type application/json or multipart/form-data, got 'text/plain'",
    "undecodable_image": "cannot decode 19 bytes as an image (JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF are read)",
    "unsupported_modality": "model bge-base embeds no image items, but text",
    "read_only": "this service changes no keys; process 17 on search-1 (anykey-serve) does",
    "index_locked": "process 23 on search-1 (anykey-index build: build, since ...) changes the index now; retry later",
    "precondition_failed": "key 'sku-1': expected change 17, but it was stored by change 20",
    "idempotency_key_reused": "idempotency key 'a1' was used for another request; expected a new key for a new request",
    "overloaded": "256 queries are waiting, the most accepted; retry in a moment",
    "rate_limited": "at most 100 requests in 60 s are accepted of one caller; retry in 12 s",
    "internal": "something unforeseen went wrong; report the request id",
    "image_not_reached": "the key's image cannot be reached where the index says it is; retry in a moment",
    "not_ready": "starting: the encoder and the index are being loaded",
    "too_many_connections": "1024 connections are open, the most; retry in a moment",
    "index_unavailable": "the index cannot be reached; retry in a moment",
    "deadline_exceeded": "no answer within 10000 ms",
}
MEANINGS = {
    400: "The request is wrong",
    401: "An API key is missing, unknown or expired",
    403: "The API key does not allow this",
    404: "No such key or image",
    405: "The address takes another method",
    409: "This service cannot change keys now",
    410: "The snapshot is no longer kept",
    412: "The key is not as the request says it must be",
    413: "Body, image or text over a limit",
    415: "Neither JSON nor multipart, or compressed in another way",
    422: "The image or the modality cannot be used, or the idempotency key was used before",
    429: "The queue is full, or the caller asks for more than its limits",
    500: "Unforeseen failure",
    502: "The machine that holds the image cannot be reached",
    503: "Not ready, too many connections, or the index cannot be used",
    504: "Not answered in time",
}
SEARCH_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": REF.format(model="SearchRequest")},
                "examples": {
                    "text": {"value": {"text": "a small red circle", "k": 5}},
                    "image": {"value": {"image": f"data:image/png;base64,{EXAMPLE_IMAGE}", "k": 5}},
                    "fused": {"value": {"text": "the same, but blue", "image": EXAMPLE_IMAGE, "text_weight": 0.6}},
                    "weighted": {
                        "value": {
                            "parts": [{"text": "a red mug"}, {"text": "a handle", "weight": -0.4}],
                            "min_score": 0.1,
                        }
                    },
                    "counted": {
                        "value": {
                            "text": "a red mug",
                            "facets": ["brand", {"field": "price", "ranges": [{"lt": 10}, {"gte": 10, "lt": 20}]}],
                        }
                    },
                    "filtered": {
                        "value": {
                            "text": "a red mug",
                            "filter": {"and": [{"field": "price", "lt": 20}, {"not": {"field": "sold", "eq": True}}]},
                        }
                    },
                },
            },
            "multipart/form-data": {"schema": {"$ref": REF.format(model="SearchForm")}},
        },
    }
}


BATCH_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": REF.format(model="BatchRequest")}}},
    }
}
REFUSALS = {401: "unauthorized", 403: "forbidden"}
INDEX_PARAMETER = {
    "name": "index_name",
    "in": "path",
    "required": True,
    "description": "The index, as /indexes lists it.",
    "schema": {"type": "string"},
}


SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, where the service requires one."},
    "api-key": {"type": "apiKey", "in": "header", "name": "api-key", "description": "The same."},
}


def embed_body() -> dict[str, Any]:
    """The body of POST /embed, with examples."""
    image = f"data:image/png;base64,{EXAMPLE_IMAGE}"
    fused = {"text": "the same, but blue", "image": EXAMPLE_IMAGE, "text_weight": 0.6}
    examples = {
        "query": {"value": {"items": [{"text": "a small red circle"}]}},
        "keys": {"value": {"items": [{"image": image}, fused], "role": "key", "encoding": "base64"}},
    }
    content = {"schema": {"$ref": REF.format(model="EmbedRequest")}, "examples": examples}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _json_body(model: str, **others: dict[str, Any]) -> dict[str, Any]:
    """A body of JSON, described by a schema, and others by their media types."""
    content = {"application/json": {"schema": {"$ref": REF.format(model=model)}}, **others}
    return {"requestBody": {"required": True, "content": content}}


ONE_KEY_BODY = _json_body("NewKeyFields", **{"multipart/form-data": {"schema": {"$ref": REF.format(model="KeyForm")}}})
KEYS_BODY = _json_body(
    "KeysRequest",
    **{
        "multipart/form-data": {"schema": {"$ref": REF.format(model="KeyForm")}},
        "application/x-ndjson": {"schema": {"type": "string", "description": "A `KeyRequest` a line."}},
    },
)
KEYS_BODY["requestBody"]["content"]["application/json"]["schema"] = {
    "anyOf": [{"$ref": REF.format(model="KeysRequest")}, {"$ref": REF.format(model="KeyRequest")}]
}
PATCH_BODY = _json_body("PatchRequest")
UNDO_BODY = _json_body("UndoRequest")
DELETE_BODY = _json_body("DeleteRequest")
SCOPE_BODY = _json_body("ScopeFields")
BODY_MODELS = (KeysRequest, NewKeyFields, PatchRequest, UndoRequest, DeleteRequest, ScopeFields)


def error_responses(*types: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for these error types, with an example of each, by status."""
    responses: dict[int | str, dict[str, Any]] = {}
    for name in types:
        status = STATUS_BY_TYPE[name]
        response = responses.setdefault(
            status,
            {
                "model": ErrorResponse,
                "description": MEANINGS[status],
                "content": {"application/json": {"examples": {}}},
            },
        )
        if name in TYPES_WITH_RETRY_AFTER:
            response["headers"] = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
        error = {"type": name, "message": EXAMPLE_MESSAGES[name], "request_id": EXAMPLE_REQUEST_ID}
        response["content"]["application/json"]["examples"][name] = {"value": {"error": error}}
    return responses


def serve_document(app: FastAPI) -> None:
    """Has the application answer for its document from a thread, not in the event loop as the framework would."""
    assert app.openapi_url is not None
    app.router.routes[:] = [one for one in app.router.routes if getattr(one, "path", "") != app.openapi_url]
    app.add_route(app.openapi_url, _WrittenDocument(app).send, include_in_schema=False)


class _WrittenDocument:
    """The document as it is sent. To make it takes most of a second, so that a thread does, once it is asked for."""

    MAX_PREFIXES = 16

    def __init__(self, app: FastAPI) -> None:
        """Begins with nothing made; `app` has all its routes when it is asked for."""
        self._app = app
        self._lock = threading.Lock()
        self._written: dict[str, bytes] = {}

    async def send(self, request: Request) -> Response:
        """Answers a request for it."""
        prefix = request.scope.get("root_path", "")
        written = self._written.get(prefix) or await asyncio.to_thread(self._made, prefix)
        return Response(written, media_type="application/json")

    def _made(self, prefix: str) -> bytes:
        with self._lock:  # whoever asks meanwhile waits for the same
            document = self._app.openapi()
            servers = {"servers": [{"url": prefix}]} if prefix else {}
            written = json.dumps({**document, **servers}, ensure_ascii=False, separators=(",", ":")).encode()
            if len(self._written) >= self.MAX_PREFIXES:
                self._written.clear()
            self._written[prefix] = written
            return written


def describe(app: FastAPI) -> dict[str, Any]:
    """The whole OpenAPI document of the application; made once and kept."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = document["components"]["schemas"]
        request = SearchRequest.model_json_schema(ref_template=REF)
        schemas.update(request.pop("$defs", {}))
        request["properties"]["filter"] |= {"anyOf": [{"$ref": REF.format(model="Filter")}, {"type": "null"}]}
        schemas["Filter"] = _filter()
        _add_bodies_of_changes(schemas)
        schemas["SearchRequest"] = request
        schemas["SearchForm"] = _form(request)
        schemas["BatchRequest"] = _without_definitions(BatchRequest.model_json_schema(ref_template=REF))
        embed = EmbedRequest.model_json_schema(ref_template=REF)
        schemas.update(embed.pop("$defs", {}))
        schemas["EmbedRequest"] = embed
        _add_access(document["paths"], app.routes)
        document["components"] |= {"securitySchemes": SECURITY_SCHEMES, "responses": _refusals()}
        _add_paths_below_an_index(document["paths"], app)
        for operations in document["paths"].values():
            for operation in operations.values():
                _drop_framework_validation(operation["responses"])
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        app.openapi_schema = document
    return app.openapi_schema


def _without_definitions(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != "$defs"}


def _add_access(paths: dict[str, Any], routes: Sequence[BaseRoute]) -> None:
    """Describes which API key each operation asks for, and how one is refused."""
    for route in (route for route in routes if isinstance(route, GuardedRoute) and route.include_in_schema):
        for method, need in route.needs.items():
            if need is Need.NOTHING:
                continue
            operation = paths[route.path_format][method.lower()]
            roles = [need.value] if isinstance(need, AccessScope) else []
            operation["security"] = [{scheme: roles} for scheme in SECURITY_SCHEMES]
            form = "OfDialect" if COMPAT in route.tags else ""
            refusals = {
                str(status): {"$ref": f"#/components/responses/{name}{form}"} for status, name in REFUSALS.items()
            }
            operation["responses"] |= refusals
            busy = operation["responses"].setdefault("429", {"$ref": f"#/components/responses/rate_limited{form}"})
            if "content" in busy:  # the queue may be full, too
                busy["content"]["application/json"]["examples"] |= _example("rate_limited", bool(form))
            operation["responses"] = dict(sorted(operation["responses"].items()))


def _refusals() -> dict[str, Any]:
    """How callers are refused, in our own form and in that of dialects, by the names that operations refer to."""
    described = {}
    for status, name in {**REFUSALS, 429: "rate_limited"}.items():
        header = "Retry-After" if status == 429 else "WWW-Authenticate"
        for form, model in (("", "ErrorResponse"), ("OfDialect", "DialectErrorResponse")):
            schema = {"$ref": REF.format(model=model)}
            described[f"{name}{form}"] = {
                "description": MEANINGS[status],
                "headers": {header: {"schema": {"type": "string"}}},
                "content": {"application/json": {"schema": schema, "examples": _example(name, bool(form))}},
            }
    return described


def _example(name: str, is_dialect: bool) -> dict[str, Any]:
    message = EXAMPLE_MESSAGES[name]
    error = {"type": name, "message": message, "request_id": EXAMPLE_REQUEST_ID}
    more = {"detail": message, "message": message} if is_dialect else {}
    return {name: {"value": {"error": error, **more}}}


def _add_paths_below_an_index(paths: dict[str, Any], app: FastAPI) -> None:
    """Describes the routes that are mounted for each index by its name, as the same routes of the default one."""
    for mount in (route for route in app.routes if isinstance(route, Mount) and route.path.startswith("/indexes/")):
        mounted = get_openapi(title=app.title, version=app.version, routes=mount.routes)["paths"]
        _add_access(mounted, mount.routes)
        for path, operations in mounted.items():
            of_one = copy.deepcopy(operations)
            for operation in of_one.values():
                operation["operationId"] = f"{operation['operationId']}_of_index"
                operation["parameters"] = [INDEX_PARAMETER, *operation.get("parameters", [])]
                operation["responses"].setdefault("404", _no_such_index())
            paths[f"{mount.path}{path}"] = of_one


def _no_such_index() -> dict[str, Any]:
    error = {"type": "not_found", "message": "no index is called 'x'; known: a, b", "request_id": EXAMPLE_REQUEST_ID}
    content = {
        "schema": {"$ref": REF.format(model="ErrorResponse")},
        "examples": {"not_found": {"value": {"error": error}}},
    }
    return {"description": "No such index", "content": {"application/json": content}}


def _form(request: dict[str, Any]) -> dict[str, Any]:
    """The JSON body's schema as a form: images as files, and every box of /docs holds what may be sent.

    The page fills a box with what its schema gives as default, `null` included, and makes it a choice of files where
    the schema names a media type.
    """
    text, texts = {"type": "string", "default": ""}, {"type": "array", "items": {"type": "string"}, "default": []}
    image = {"type": "array", "items": {"type": "string", "format": "binary"}}
    modality = {"$ref": REF.format(model="Modality")}
    properties: dict[str, dict[str, Any]] = {
        "text": text,
        "image": image,
        "modalities": {"type": "array", "items": modality, "default": []},
        "pool": text,
        "exclude": texts,
        "filter": text,
        "within": texts,
        "instruction": text,
        "rerank": text,
        "snapshot": text,
        "key": text,
        "words": text,
        "join": text,
        "vector": text,
        "vector_modality": text,
        "parts": text,
        "facets": text,
        "min_score": text,
        "include": texts,
        "cutoff": text,
        "group_by": text,
        "offset": text,
        "group_size": text,
        "duplicate_score": text,
        "diversity": text,
    }
    descriptions = {
        "image": "Image files; several are frames of one item. A part without a file name is read as base64.",
        "filter": "A `Filter` as JSON.",
        "instruction": "What the model is told to look for, in place of its own prompt for queries. Models that follow "
        "none refuse it.",
        "rerank": "A `RerankRequest` as JSON.",
        "facets": "A list of fields and of `FacetRequest` as JSON.",
        "vector": "A list of numbers as JSON, or base64 of little-endian float32.",
        "parts": "A list of `PartRequest` as JSON; each `image` file of the form belongs to the part that has "
        '`"image": {"file": 0}`, counted from 0.',
    }
    form = {name: value for name, value in request.items() if name != "examples"}
    form["properties"] = {
        name: {**properties.get(name, field), "description": descriptions.get(name, field["description"])}
        for name, field in request["properties"].items()
    }
    form["title"] = "SearchForm"
    form["description"] = (
        "The same as a form. `modalities`, `exclude`, `within` and `include` may be repeated, and are split at commas; "
        "a key that contains a comma can be named in JSON only. Any other field may be given once. Empty fields count "
        "as absent."
    )
    return form


def _add_bodies_of_changes(schemas: dict[str, Any]) -> None:
    """What requests of changes look like, which the framework does not read itself."""
    for model in BODY_MODELS:
        described = model.model_json_schema(ref_template=REF)
        schemas.update(described.pop("$defs", {}))
        if "filter" in described["properties"]:
            described["properties"]["filter"] |= {"anyOf": [{"$ref": REF.format(model="Filter")}, {"type": "null"}]}
        schemas[model.__name__] = described
    described = schemas["KeyRequest"]
    image = {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "Image files."}
    text = {"type": "string", "default": ""}
    as_texts = {name: {**text, "description": f"`{name}` as JSON."} for name in ("metadata", "vector")}
    plain = {name: {**text, "description": described["properties"][name]["description"]} for name in ("key", "text")}
    pools = {
        "type": "array",
        "items": {"type": "string"},
        "default": [],
        "description": "May be repeated; split at commas.",
    }
    properties = {**described["properties"], **plain, **as_texts, "image": image, "pools": pools}
    schemas["KeyForm"] = {
        "type": "object",
        "title": "KeyForm",
        "description": "One key as a form; its images are files. `key` is left out where the address says it.",
        "properties": properties,
        "additionalProperties": False,
    }


def _filter() -> dict[str, Any]:
    """The language of conditions on metadata, which is read by `index.filtering`."""
    part = {"$ref": REF.format(model="Filter")}
    scalar = {"type": ["string", "number", "boolean"]}
    bound = {"type": ["string", "number"]}
    field = {
        "description": "A member of the metadata; dots go into objects. Or the names one by one.",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    comparisons = {
        "eq": scalar,
        "in": {"type": "array", "items": scalar, "minItems": 1},
        "exists": {"type": "boolean"},
    }
    bounds = {name: bound for name in ("gt", "gte", "lt", "lte")}
    parts = {"type": "array", "items": part, "minItems": 1}
    combinations = {"and": parts, "or": parts, "not": part}
    return {
        "title": "Filter",
        "description": "What must hold of a key's metadata; docs/filters.md has its meaning and its limits.",
        "anyOf": [
            *(_object({"field": field, name: value}) for name, value in comparisons.items()),
            {**_object({"field": field, **bounds}, required=["field"]), "minProperties": 2},
            *(_object({name: value}) for name, value in combinations.items()),
        ],
        "examples": [{"field": "price", "gte": 10, "lt": 20}],
    }


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    }


def _drop_framework_validation(responses: dict[str, Any]) -> None:
    """The framework documents an error shape of its own for 422, which is never sent."""
    content = responses.get("422", {}).get("content", {}).get("application/json", {})
    if "HTTPValidationError" in content.get("schema", {}).get("$ref", ""):
        del responses["422"]
