"""Around every request: its id, its log line, HEAD, and the answer when something unforeseen fails."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anykey.service.errors import TYPES_WITH_RETRY_AFTER, InternalError, ServiceError
from anykey.service.logs import LogEvent
from anykey.service.operations.records import CURRENT, RequestRecord, Trace
from anykey.service.operations.watcher import Watcher
from anykey.service.requests.admission import RefusalPace
from anykey.service.schemas import ErrorDetail, ErrorResponse

REQUEST_ID = "anykey.request_id"
LOG_FIELDS = "anykey.log_fields"
IN_USE = "anykey.in_use"  # what answers, by the index's name
ACCEPTED_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
COMPAT = "compat"  # the tag of routes that speak other people's dialects
QDRANT = "qdrant"  # and of those among them that speak Qdrant's
CLIENT_GONE = 499  # logged only; nobody is there to receive it
PROBES = frozenset({"/livez", "/readyz", "/metrics", "/metrics-summary"})  # asked so often that they are not logged
REFUSALS = frozenset({429, 503})  # after which many clients ask again at once
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# What comes is what it says it is; other sites frame nothing of it, and are not told its addresses, which hold keys.
PROTECTING = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"referrer-policy", b"same-origin"),
)
KEEP_NOWHERE = (b"cache-control", b"no-store")
ASK_AGAIN = (b"cache-control", b"private, no-cache")
STAY_ENCRYPTED = (b"strict-transport-security", b"max-age=31536000")

logger = logging.getLogger(__name__)


def error_response(
    scope: Scope, error: ServiceError, retry_after_s: int, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The documented answer for an error, and a note of it for the request's log line.

    Args:
        scope: The request's.
        error: What went wrong.
        retry_after_s: Sent where the status calls for it.
        headers: More headers, such as `Allow`.
    """
    scope.setdefault(LOG_FIELDS, {})["error_type"] = error.type
    request_id = str(scope.get(REQUEST_ID, ""))
    body = ErrorResponse(error=ErrorDetail(type=error.type, message=error.message, request_id=request_id)).model_dump()
    tags = getattr(scope.get("route"), "tags", ())
    if COMPAT in tags:
        body |= {"detail": error.message, "message": error.message}  # where other people's clients look for it
    if QDRANT in tags:
        body |= {"status": {"error": error.message}, "time": 0.0}
    response = JSONResponse(body, status_code=error.status, headers={**error.headers, **(headers or {})})
    if error.type in TYPES_WITH_RETRY_AFTER:
        response.headers["retry-after"] = str(retry_after_s)
    return response


def note(request: Request, **fields: Any) -> None:
    """Adds fields to the request's log line; never contents of user data."""
    noted(request).update(fields)


def noted(request: Request) -> dict[str, Any]:
    """What was added to the request's log line so far."""
    fields: dict[str, Any] = request.scope.setdefault(LOG_FIELDS, {})
    return fields


def _protect(headers: list[tuple[bytes, bytes]], is_encrypted: bool) -> None:
    """Adds what keeps browsers and caches from misusing an answer, where the answer does not say otherwise itself."""
    said = {name for name, _ in headers}
    headers.extend(header for header in PROTECTING if header[0] not in said)
    if b"cache-control" not in said:
        headers.append(ASK_AGAIN if b"etag" in said else KEEP_NOWHERE)
    if is_encrypted:
        headers.append(STAY_ENCRYPTED)


class RequestContext:
    """Outermost ASGI layer.

    Takes `X-Request-ID` from the client when it is 1 to 128 letters, digits, dots, dashes or underscores, else makes
    one; sends it back, and the trace of a `traceparent`, if it is one; logs one line per request, and has its record
    watched. Answers HEAD as GET without the body. Holds refusals back that come too fast.
    """

    def __init__(
        self, app: ASGIApp, watcher: Watcher, refusal_pace: RefusalPace, address_of: Callable[[Scope], object]
    ) -> None:
        self._app = app
        self._watcher = watcher
        self._refusal_pace = refusal_pace
        self._address_of = address_of  # of the client behind proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, trace, is_forwarded = _told_by(scope["headers"])
        if trace is None and self._watcher.is_tracing:
            trace = Trace.begun()
        is_head = scope["method"] == "HEAD"  # which the server goes on to read in its own scope
        fields = {} if trace is None else {"trace_id": trace.trace}
        inner = {**scope, REQUEST_ID: request_id, LOG_FIELDS: fields, "method": "GET" if is_head else scope["method"]}
        if scope.get("raw_path"):  # where keys are read; routes match no line break
            inner["path"] = scope["path"].replace("\n", " ")
        record = RequestRecord(request_id, time.monotonic(), trace)
        record.is_logged = self._watcher.wants_next is not None and self._watcher.wants_next()
        record.address = str(self._address_of(scope)) if is_forwarded else (scope.get("client") or ("",))[0]
        CURRENT.set(record)
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                await self._pace(inner, status)
                record.answered_s = time.monotonic()
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                _protect(message["headers"], scope["scheme"] == "https")
                if trace is not None:
                    headers["traceparent"] = trace.header
            elif is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        self._watcher.num_under_way += 1
        try:
            await self._app(inner, receive, send_with_id)
        except ClientDisconnect:
            inner[LOG_FIELDS]["error_type"] = "client_gone"
            status = CLIENT_GONE
        finally:
            self._watcher.num_under_way -= 1
        _finish(record, inner, scope["method"], status)
        self._watcher.add(record)
        _log(inner, record, status)

    async def _pace(self, scope: Scope, status: int) -> None:
        """Lets answers pass at once, but for refusals that take too much of the processors."""
        self._refusal_pace.count()
        if status in REFUSALS and getattr(scope.get("route"), "path", "") not in PROBES:
            wait_s = self._refusal_pace.wait_s()
            if wait_s:
                await asyncio.sleep(wait_s)


class UnforeseenFailures:
    """Innermost ASGI layer: logs an unforeseen exception and answers it with `internal`.

    It lies within the layer of CORS, so that a browser may read the answer.
    """

    def __init__(self, app: ASGIApp, retry_after_s: int) -> None:
        self._app = app
        self._retry_after_s = retry_after_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        has_begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except ClientDisconnect:
            raise
        except Exception:
            if scope["type"] != "http":
                raise
            fields = {"event": LogEvent.REQUEST_FAILED, "request_id": scope[REQUEST_ID]}
            logger.exception("request failed", extra=fields)
            if not has_begun:
                error = InternalError("something unforeseen went wrong; report the request id")
                await error_response(scope, error, self._retry_after_s)(scope, receive, send)


def _told_by(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, Trace | None, bool]:
    """The request's id, or a new one, and its trace, as its headers say, and whether a proxy says whose it is."""
    request_id, trace, is_forwarded = None, None, False
    for name, value in headers:
        if name == b"x-request-id" and request_id is None and ACCEPTED_ID.fullmatch(value):
            request_id = value.decode("ascii")
        elif name == b"traceparent":
            trace = Trace.read(value)
        elif name == b"x-forwarded-for":
            is_forwarded = True
    return request_id or uuid.uuid4().hex, trace, is_forwarded


def _finish(record: RequestRecord, scope: Scope, method: str, status: int | None) -> None:
    """Completes the record of a request: its route, not its path, which may hold a key."""
    record.ended_s = time.monotonic()
    record.method = method if method in METHODS else "other"
    record.route = getattr(scope.get("route"), "path", "unknown")
    record.index = next(iter(scope.get(IN_USE, ())), "")
    record.status = status or 0
    record.error_type = scope[LOG_FIELDS].get("error_type", "")


def _log(scope: Scope, record: RequestRecord, status: int | None) -> None:
    """One line per request."""
    is_probe = record.route in PROBES and status == 200
    logger.log(
        logging.DEBUG if is_probe else logging.INFO,
        "request",
        extra={
            "event": LogEvent.REQUEST,
            "request_id": record.request_id,
            "method": record.method,
            "route": record.route,
            "status": status,
            "duration_ms": round((record.ended_s - record.started_s) * 1000, 3),
            **scope[LOG_FIELDS],
        },
    )
