"""Each request of the service as a value: what is sent, what may be repeated, and what the answer is read as."""

import json
import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from anykey.client import answers
from anykey.client.errors import BUSY_STATUSES, AnyKeyError, BrokenAnswerError, BusyError, ServiceError, error_class
from anykey.client.inputs import as_json

NDJSON = "application/x-ndjson"
MAX_BLOCK_BYTES = 16 * 2**20  # of keys in one request of many: what is held of them at a time

T = TypeVar("T")
AnswerT = TypeVar("AnswerT", bound=BaseModel)


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request.

    Attributes:
        method: HTTP's.
        path: Below the index's address, or, with `is_global`, below the service's.
        read: Makes the result of an answer that is no error.
        body: JSON, bytes of `NDJSON`, or `None`.
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


def get(key: str, with_vector: bool) -> Call[answers.StoredKey]:
    """GET /keys/{key}."""
    parameters = {"include": "vector"} if with_vector else {}
    return Call("GET", _key_path(key), _reader(answers.StoredKey), parameters=parameters)


def image(key: str, position: int) -> Call[bytes]:
    """GET /keys/{key}/image."""
    return Call("GET", f"{_key_path(key)}/image", lambda reply: reply.content, parameters={"position": str(position)})


def page(fields: Mapping[str, Any]) -> Call[answers.KeysPage]:
    """GET /keys."""
    return Call("GET", "/keys", _reader(answers.KeysPage), parameters=_as_parameters(fields))


def fields(fields: Mapping[str, Any]) -> Call[answers.FieldsPage]:
    """GET /fields."""
    return Call("GET", "/fields", _reader(answers.FieldsPage), parameters=_as_parameters(fields))


def count(scope: Mapping[str, Any]) -> Call[answers.Count]:
    """POST /keys/count."""
    return Call("POST", "/keys/count", _reader(answers.Count), as_json(scope))


def put(key: str, fields: Mapping[str, Any], undo: bool) -> Call[answers.KeyOutcome]:
    """PUT /keys/{key}."""
    parameters = _undo(undo)
    return Call("PUT", _key_path(key), _reader(answers.KeyOutcome), as_json(fields), parameters, headers=_once())


def put_many(keys: Sequence[Mapping[str, Any]], is_atomic: bool) -> Call[answers.ChangesAnswer]:
    """PUT /keys."""
    body = {"keys": [as_json(key) for key in keys], "atomic": is_atomic}
    return Call("PUT", "/keys", _reader(answers.ChangesAnswer), body, headers=_once())


@dataclass(frozen=True)
class Streamed:
    """What became of the keys of a stream, and why it ended before they were all stored."""

    outcomes: list[answers.KeyOutcome]
    error: AnyKeyError | None


def put_stream(lines: bytes) -> Call[Streamed]:
    """PUT /keys with a key a line; sending it again stores the same keys once more."""
    return Call("PUT", "/keys", _read_stream, lines, headers={"content-type": NDJSON})


def blocks(keys: Iterable[Mapping[str, Any]], at_once: int) -> Iterator[bytes]:
    """Lines of keys for `put_stream`, at most `at_once` and about `MAX_BLOCK_BYTES` at a time."""
    block, num_lines = bytearray(), 0
    for key in keys:
        block += json.dumps(as_json(key), ensure_ascii=False, allow_nan=False).encode() + b"\n"
        num_lines += 1
        if num_lines >= at_once or len(block) >= MAX_BLOCK_BYTES:
            yield bytes(block)
            block, num_lines = bytearray(), 0
    if block:
        yield bytes(block)


def patch(key: str, fields: Mapping[str, Any], undo: bool) -> Call[answers.KeyOutcome]:
    """PATCH /keys/{key}; `None` in metadata is JSON's null, which removes a name."""
    body = {name: value for name, value in fields.items() if value is not None}
    return Call("PATCH", _key_path(key), _reader(answers.KeyOutcome), body, _undo(undo), headers=_once())


def delete(key: str, if_seq: int | None, undo: bool) -> Call[answers.KeyOutcome]:
    """DELETE /keys/{key}."""
    condition = {} if if_seq is None else {"if-match": f'"{if_seq}"'}
    headers = {**_once(), **condition}
    return Call("DELETE", _key_path(key), _reader(answers.KeyOutcome), parameters=_undo(undo), headers=headers)


def undo(seq: int) -> Call[answers.KeyOutcome]:
    """POST /keys/undo."""
    return Call("POST", "/keys/undo", _reader(answers.KeyOutcome), {"seq": seq}, headers=_once())


def delete_many(fields: Mapping[str, Any]) -> Call[answers.Deleted]:
    """POST /keys/delete."""
    body = {name: value for name, value in as_json(fields).items() if value is not False}
    headers = {} if fields.get("dry_run") else _once()
    return Call("POST", "/keys/delete", _reader(answers.Deleted), body, headers=headers)


def judge(query_id: str, key: str, good: bool) -> Call[None]:
    """POST /feedback."""
    body = {"query_id": query_id, "key": key, "judgement": "good" if good else "bad"}
    return Call("POST", "/feedback", lambda reply: None, body, is_global=True)


def info() -> Call[answers.Info]:
    """GET /info."""
    return Call("GET", "/info", _reader(answers.Info))


def indexes() -> Call[answers.IndexesAnswer]:
    """GET /indexes."""
    return Call("GET", "/indexes", _reader(answers.IndexesAnswer), is_global=True)


def access() -> Call[answers.AccessAnswer]:
    """GET /access."""
    return Call("GET", "/access", _reader(answers.AccessAnswer), is_global=True)


def ready() -> Call[None]:
    """GET /readyz."""
    return Call("GET", "/readyz", lambda _: None)


def error_of(reply: httpx.Response) -> ServiceError | BrokenAnswerError:
    """What an answer that is no success says."""
    asked = f"{reply.request.method} {reply.url}"
    try:
        detail = answers.FailedQuery.model_validate_json(reply.content).error
    except ValidationError:
        message = f"{asked}: {reply.status_code}, in words that are not of an AnyKey service"
        if reply.status_code in BUSY_STATUSES:  # of a proxy that does not reach the service now
            return BusyError("no_service", message, "", reply.status_code, retry_after_s(reply))
        return BrokenAnswerError(message)
    kind = error_class(detail.type, reply.status_code)
    return kind(detail.type, detail.message, detail.request_id, reply.status_code, retry_after_s(reply))


def retry_after_s(reply: httpx.Response) -> float | None:
    """How long the service wants to be left alone; `None` if it does not say."""
    text = reply.headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return None
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _read_stream(reply: httpx.Response) -> Streamed:
    *outcomes, last = reply.content.splitlines() or [b""]
    try:
        summary = answers.StreamSummary.model_validate_json(last)
        read = [answers.KeyOutcome.model_validate_json(line) for line in outcomes]
    except ValidationError:
        return Streamed([], BrokenAnswerError(f"PUT {reply.url}: the answer is no list of outcomes, or ends early"))
    if summary.done:
        return Streamed(read, None)
    detail = summary.error or answers.ErrorDetail(type="internal", message="the stream was broken off")
    return Streamed(read, error_class(detail.type, 0)(detail.type, detail.message))


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


def _undo(undo: bool) -> dict[str, str]:
    return {"undo": "true"} if undo else {}


def _key_path(key: str) -> str:
    """The path of a key; dots are encoded too, because `/keys/..` would be taken for the root.

    Raises:
        ValueError: the key is empty.
    """
    if not key:
        raise ValueError("expected the name of a key, got an empty one")
    return f"/keys/{quote(key, safe='').replace('.', '%2E')}"


def _as_parameters(fields: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else ",".join(value) if isinstance(value, list) else json.dumps(value)
        for name, value in as_json(fields).items()
    }
