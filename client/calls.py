"""Each request of the service as a value: what is sent, what may be repeated, and what the answer is read as."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from anykey.client import answers
from anykey.client.errors import BrokenAnswerError, ServiceError, error_class
from anykey.client.inputs import as_json

T = TypeVar("T")
AnswerT = TypeVar("AnswerT", bound=BaseModel)


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request.

    Attributes:
        method: HTTP's.
        path: Below the index's address, or, with `is_global`, below the service's.
        read: Makes the result of an answer that is no error.
        body: JSON, or `None`.
        parameters: Of the address.
        headers: More than every request has.
        is_global: Whether it is no matter of one index.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    body: Any = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    is_global: bool = False


def search(fields: Mapping[str, Any]) -> Call[answers.SearchAnswer]:
    """POST /search."""
    return Call("POST", "/search", _reader(answers.SearchAnswer), as_json(fields))


def search_batch(queries: Sequence[Mapping[str, Any]]) -> Call[answers.BatchAnswer]:
    """POST /search/batch."""
    return Call("POST", "/search/batch", _reader(answers.BatchAnswer), {"queries": [as_json(one) for one in queries]})


def embed(items: Sequence[Mapping[str, Any]], fields: Mapping[str, Any]) -> Call[answers.EmbedAnswer]:
    """POST /embed."""
    body = {"items": [as_json(item) for item in items], **as_json(fields)}
    return Call("POST", "/embed", _reader(answers.EmbedAnswer), body)


def get(key: str) -> Call[answers.StoredKey]:
    """GET /keys/{key}."""
    return Call("GET", _key_path(key), _reader(answers.StoredKey))


def image(key: str, position: int) -> Call[bytes]:
    """GET /keys/{key}/image."""
    return Call("GET", f"{_key_path(key)}/image", lambda reply: reply.content, parameters={"position": str(position)})


def page(fields: Mapping[str, Any]) -> Call[answers.KeysPage]:
    """GET /keys."""
    return Call("GET", "/keys", _reader(answers.KeysPage), parameters=_as_parameters(fields))


def count(scope: Mapping[str, Any]) -> Call[answers.Count]:
    """POST /keys/count."""
    return Call("POST", "/keys/count", _reader(answers.Count), as_json(scope))


def put(key: str, fields: Mapping[str, Any]) -> Call[answers.KeyOutcome]:
    """PUT /keys/{key}."""
    return Call("PUT", _key_path(key), _reader(answers.KeyOutcome), as_json(fields), headers=_once())


def put_many(keys: Sequence[Mapping[str, Any]], is_atomic: bool) -> Call[answers.ChangesAnswer]:
    """PUT /keys."""
    body = {"keys": [as_json(key) for key in keys], "atomic": is_atomic}
    return Call("PUT", "/keys", _reader(answers.ChangesAnswer), body, headers=_once())


def patch(key: str, fields: Mapping[str, Any]) -> Call[answers.KeyOutcome]:
    """PATCH /keys/{key}; `None` in metadata is JSON's null, which removes a name."""
    body = {name: value for name, value in fields.items() if value is not None}
    return Call("PATCH", _key_path(key), _reader(answers.KeyOutcome), body, headers=_once())


def delete(key: str, if_seq: int | None) -> Call[answers.KeyOutcome]:
    """DELETE /keys/{key}."""
    condition = {} if if_seq is None else {"if-match": f'"{if_seq}"'}
    return Call("DELETE", _key_path(key), _reader(answers.KeyOutcome), headers={**_once(), **condition})


def delete_many(fields: Mapping[str, Any]) -> Call[answers.Deleted]:
    """POST /keys/delete."""
    headers = {} if fields.get("dry_run") else _once()
    return Call("POST", "/keys/delete", _reader(answers.Deleted), as_json(fields), headers=headers)


def fields_of_index(fields: Mapping[str, Any]) -> Call[answers.Fields]:
    """GET /fields."""
    return Call("GET", "/fields", _reader(answers.Fields), parameters=_as_parameters(fields))


def info() -> Call[answers.Info]:
    """GET /info."""
    return Call("GET", "/info", _reader(answers.Info))


def indexes() -> Call[answers.IndexesAnswer]:
    """GET /indexes."""
    return Call("GET", "/indexes", _reader(answers.IndexesAnswer), is_global=True)


def ready() -> Call[None]:
    """GET /readyz."""
    return Call("GET", "/readyz", lambda _: None, is_global=True)


def error_of(reply: httpx.Response) -> ServiceError | BrokenAnswerError:
    """What an answer of 4xx or 5xx says."""
    try:
        detail = answers.FailedQuery.model_validate_json(reply.content).error
    except ValidationError:
        return BrokenAnswerError(
            f"{reply.request.method} {reply.url}: {reply.status_code}, which no service of ours says"
        )
    return error_class(reply.status_code)(
        detail.type, detail.message, detail.request_id, reply.status_code, retry_after_s(reply)
    )


def retry_after_s(reply: httpx.Response) -> float | None:
    """How long the service wants to be left alone; `None` if it does not say."""
    try:
        return max(0.0, float(reply.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _reader(model: type[AnswerT]) -> Callable[[httpx.Response], AnswerT]:
    def read(reply: httpx.Response) -> AnswerT:
        try:
            return model.model_validate_json(reply.content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            asked = f"{reply.request.method} {reply.url}"
            raise BrokenAnswerError(f"{asked}: expected another answer at {where!r}: {first['msg']}") from error

    return read


def _once() -> dict[str, str]:
    """What lets a change be sent again without being made twice."""
    return {"idempotency-key": uuid.uuid4().hex}


def _key_path(key: str) -> str:
    return f"/keys/{quote(key, safe='')}"


def _as_parameters(fields: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else ",".join(value) if isinstance(value, list) else json.dumps(value)
        for name, value in as_json(fields).items()
    }
