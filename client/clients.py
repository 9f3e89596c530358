"""The two clients: one that waits for each answer, and one to be awaited. Both send the same calls."""

import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack
from urllib.parse import quote

import httpx

from anykey.client import answers, calls
from anykey.client.calls import Call
from anykey.client.errors import AnyKeyError, BusyError, NoAnswerError
from anykey.client.inputs import ItemFields, KeyFields, NewKey, ScopeFields, SearchFields

T = TypeVar("T")
FIRST_PAUSE_S = 0.1
POLL_S = 0.1
KEYS_AT_ONCE = 1000
DEFAULT_K = 10  # the service's


@dataclass(frozen=True)
class Options:
    """How a service is talked to.

    Attributes:
        url: The service's address, such as `http://127.0.0.1:8000`; a path in it is kept.
        index: Which of several indexes; `None`: the service's default one.
        timeout_s: Longest wait for a connection, and between two bytes of an answer.
        max_attempts: How often a call is sent before its failure is raised; 1 never repeats. What is repeated makes no
            change twice: changes carry an `Idempotency-Key`.
        longest_pause_s: Longest pause between two tries; where the service asks for more, its error is raised at once.
        idempotency_keys: False for a Milvus collection, which takes none. Changes are then repeated without, which
            leaves the same keys; only what is told of them (`is_new`, or that a deleted key is gone) may differ.
        api_key: Sent as `Authorization: Bearer`; by default the environment's `ANYKEY_API_KEY`, unless empty.
    """

    url: str
    index: str | None = None
    timeout_s: float = 30.0
    max_attempts: int = 5
    longest_pause_s: float = 30.0
    idempotency_keys: bool = True
    api_key: str | None = field(default_factory=lambda: os.environ.get("ANYKEY_API_KEY"), repr=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url must begin with http:// or https://, got {self.url!r}")
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, got {self.max_attempts}")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s must be above 0, got {self.timeout_s}")

    def settings(self) -> dict[str, Any]:
        """Arguments of an HTTP client."""
        headers = {"user-agent": "anykey-client"}
        if self.api_key:
            headers["authorization"] = f"Bearer {self.api_key}"
        return {"base_url": self.url.rstrip("/"), "timeout": self.timeout_s, "headers": headers}

    def request(self, call: Call[Any]) -> dict[str, Any]:
        """Arguments of one request."""
        prefix = "" if self.index is None or call.is_global else f"/indexes/{quote(self.index, safe='')}"
        headers = trace_headers()
        for name, value in call.headers.items():
            if self.idempotency_keys or name != "idempotency-key":
                headers[name] = value
        body = {} if call.body is None else {"content" if isinstance(call.body, bytes) else "json": call.body}
        return {
            "method": call.method,
            "url": prefix + call.path,
            "params": dict(call.parameters),
            "headers": headers,
            **body,
        }


def trace_headers() -> dict[str, str]:
    """What tells the service of which trace a call is a part, where the program uses OpenTelemetry."""
    headers: dict[str, str] = {}
    if (propagate := sys.modules.get("opentelemetry.propagate")) is not None:
        propagate.inject(headers)
    return headers


class _Attempts:
    """The tries of one call: what an answer comes to, and how long to pause before the next try."""

    def __init__(self, options: Options, call: Call[Any]) -> None:
        self._options = options
        self._call = call
        self._num_failed = 0

    def result(self, reply: httpx.Response) -> tuple[Any, float | None]:
        """The result of an answer, or nothing and the pause in seconds before the next try; raises the last error."""
        if reply.is_success:
            return self._call.read(reply), None
        error = calls.error_of(reply)
        if not isinstance(error, BusyError):
            raise error
        return None, self._pause_s(error, error.retry_after_s)

    def after_failure(self, error: httpx.RequestError) -> float:
        """The pause in seconds after a try that had no answer; raises when it was the last."""
        reason = str(error) or type(error).__name__
        return self._pause_s(NoAnswerError(f"{self._call.method} {self._options.url}{self._call.path}: {reason}"), None)

    def _pause_s(self, error: AnyKeyError, wanted_s: float | None) -> float:
        self._num_failed += 1
        if self._num_failed >= self._options.max_attempts or (wanted_s or 0.0) > self._options.longest_pause_s:
            raise error
        backed_off_s = FIRST_PAUSE_S * 2.0 ** (self._num_failed - 1) * random.uniform(0.5, 1.5)
        return max(wanted_s or 0.0, min(backed_off_s, self._options.longest_pause_s))


class Client(AbstractContextManager["Client"]):
    """Waits for each answer; safe for use from several threads. A context manager that owns its connections.

    Every method raises `NoAnswerError` when nothing came back, `BrokenAnswerError` for what is no answer of ours, and a
    `ServiceError` for an error of the service (`anykey.client.errors` has the tree). Calls that failed because the
    service is busy, starting or out of reach are repeated, `max_attempts` times in all.
    """

    def __init__(self, url: str, **options: Any) -> None:
        """Sends nothing yet.

        Args:
            url: The service's address, such as `http://127.0.0.1:8000`.
            **options: As in `Options`: `index`, `timeout_s`, `max_attempts`, `longest_pause_s`, `idempotency_keys`,
                `api_key`.

        Raises:
            ValueError: the address or an option cannot be meant.
        """
        self._options = Options(url, **options)
        self._http = httpx.Client(**self._options.settings())

    def search(self, **query: Unpack[SearchFields]) -> answers.SearchAnswer:
        """Finds the keys that best match a text, an image, both, a key, a vector, words or several weighted parts."""
        return self._send(calls.search(query))

    def pages(self, **query: Unpack[SearchFields]) -> Iterator[answers.SearchAnswer]:
        """The pages of a search, `k` hits or groups each and all of one moment of the index, until none are left.

        Raises, when it comes to it, `SnapshotExpiredError` if the moment is no longer kept, and `InvalidRequestError`
        behind the last page that the service gives (`limits.max_depth`).
        """
        offset, snapshot = query.get("offset", 0), query.get("snapshot")
        while True:
            page = self.search(**_page_of(query, offset, snapshot))
            if page.hits:
                yield page
            if _is_last(query, page):
                return
            offset, snapshot = offset + query.get("k", DEFAULT_K), page.snapshot

    def search_batch(self, queries: Sequence[SearchFields]) -> answers.BatchAnswer:
        """Answers many queries together; each has an answer or an error of its own."""
        return self._send(calls.search_batch(queries))

    def embed(
        self, items: Sequence[ItemFields], *, role: str = "query", width: int | None = None
    ) -> answers.EmbedAnswer:
        """The items' unit vectors; `role` is `query` for what is searched with, and `key` for what is stored."""
        return self._send(calls.embed(items, {"role": role, "width": width}))

    def get(self, key: str, *, with_vector: bool = False) -> answers.StoredKey:
        """One key, if asked for with its vector."""
        return self._send(calls.get(key, with_vector))

    def image(self, key: str, position: int = 0) -> bytes:
        """One image of a key, as it was stored."""
        return self._send(calls.image(key, position))

    def scan(self, *, limit: int = 100, **scope: Unpack[ScopeFields]) -> Iterator[answers.StoredKey]:
        """All keys of a scope in the order of their names, asked for `limit` at a time."""
        cursor: str | None = None
        while True:
            page = self._send(calls.page({"cursor": cursor, "limit": limit, **scope}))
            yield from page.keys
            cursor = page.cursor
            if cursor is None:
                return

    def fields(self, *, limit: int = 100, **scope: Unpack[ScopeFields]) -> list[answers.FieldInfo]:
        """What fields the metadata of a scope's keys really have, asked for `limit` at a time."""
        page = self._send(calls.fields({"limit": limit, **scope}))
        found = page.fields
        while page.cursor is not None:
            page = self._send(calls.fields({"cursor": page.cursor, "limit": limit, **scope}))
            found = found + page.fields
        return found

    def count(self, **scope: Unpack[ScopeFields]) -> int:
        """How many keys are in a scope."""
        return self._send(calls.count(scope)).num_keys

    def put(self, key: str, *, undo: bool = False, **fields: Unpack[KeyFields]) -> answers.KeyOutcome:
        """Stores a key in place of whatever has its name; it is in the next search, and on disk.

        `undo` keeps what was there before for `undo_s` of the answer.
        """
        return self._send(calls.put(key, fields, undo))

    def put_many(self, keys: Sequence[NewKey], *, atomic: bool = False) -> answers.ChangesAnswer:
        """Stores several keys in one request, each with an outcome; `atomic`: all of them or none."""
        return self._send(calls.put_many(keys, atomic))

    def put_all(self, keys: Iterable[NewKey], *, at_once: int = KEYS_AT_ONCE) -> Iterator[answers.KeyOutcome]:
        """Stores any number of keys, each by itself, and gives their outcomes in order while it goes on.

        Keys are sent as streams of `at_once` of them, or of 16 MiB, so that no limit but that of a single key holds.
        An error that ends it is raised behind the outcomes of what was stored; to begin again is safe.
        """
        for lines in calls.blocks(keys, at_once):
            streamed = self._send(calls.put_stream(lines))
            yield from streamed.outcomes
            if streamed.error is not None:
                raise streamed.error

    def patch(
        self,
        key: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        pools: Sequence[str] | None = None,
        overwrite: bool = False,
        if_seq: int | None = None,
        undo: bool = False,
    ) -> answers.KeyOutcome:
        """Merges metadata into a key's (RFC 7396: `None` removes a name) or overwrites them, and puts it into pools."""
        fields = {"metadata": metadata, "pools": pools, "overwrite": overwrite or None, "if_seq": if_seq}
        return self._send(calls.patch(key, fields, undo))

    def delete(self, key: str, *, if_seq: int | None = None, undo: bool = False) -> answers.KeyOutcome:
        """Deletes a key; with `if_seq` only if its last change has this number."""
        return self._send(calls.delete(key, if_seq, undo))

    def undo(self, seq: int) -> answers.KeyOutcome:
        """Takes a change back that was made with `undo=True`, by the `seq` of its answer, unless another came since."""
        return self._send(calls.undo(seq))

    def delete_many(
        self,
        keys: Sequence[str] | None = None,
        *,
        all: bool = False,
        dry_run: bool = False,
        **scope: Unpack[ScopeFields],
    ) -> answers.Deleted:
        """Deletes the keys that are named, those in a scope, or `all` of the index; `dry_run` only counts them."""
        return self._send(calls.delete_many({"keys": keys, "all": all, "dry_run": dry_run, **scope}))

    def judge(self, query_id: str, key: str, *, good: bool) -> None:
        """Tells the service whether a hit of an answer, which `query_id` names, is what was looked for."""
        self._send(calls.judge(query_id, key, good))

    def info(self) -> answers.Info:
        """What is served, and what a request may ask for."""
        return self._send(calls.info())

    def indexes(self) -> answers.IndexesAnswer:
        """The indexes that the service has."""
        return self._send(calls.indexes())

    def access(self) -> answers.AccessAnswer:
        """Whether the service requires API keys, and what the one of this client allows."""
        return self._send(calls.access())

    def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """Returns once the service answers searches; raises the last error if it does not within the time."""
        ends_s = time.monotonic() + timeout_s
        while not self._is_ready(ends_s):
            time.sleep(POLL_S)

    def close(self) -> None:
        """Closes the connections; repeating it is fine."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _is_ready(self, ends_s: float) -> bool:
        try:
            _check(self._http.request(**self._options.request(calls.ready()), timeout=_wait_s(ends_s, self._options)))
        except (AnyKeyError, httpx.RequestError) as error:
            _raise_late(error, ends_s, self._options.url)
            return False
        return True

    def _send(self, call: Call[T]) -> T:
        attempts = _Attempts(self._options, call)
        while True:
            try:
                reply = self._http.request(**self._options.request(call))
            except httpx.RequestError as error:
                time.sleep(attempts.after_failure(error))
                continue
            result, pause_s = attempts.result(reply)
            if pause_s is None:
                return result  # type: ignore[no-any-return]
            time.sleep(pause_s)


class AsyncClient(AbstractAsyncContextManager["AsyncClient"]):
    """Has the methods of `Client`, to be awaited; belongs to one event loop, and takes many calls at once."""

    def __init__(self, url: str, **options: Any) -> None:
        """Sends nothing yet; arguments as for `Client`."""
        self._options = Options(url, **options)
        self._http = httpx.AsyncClient(**self._options.settings())

    async def search(self, **query: Unpack[SearchFields]) -> answers.SearchAnswer:
        """As `Client.search`."""
        return await self._send(calls.search(query))

    async def pages(self, **query: Unpack[SearchFields]) -> AsyncIterator[answers.SearchAnswer]:
        """As `Client.pages`."""
        offset, snapshot = query.get("offset", 0), query.get("snapshot")
        while True:
            page = await self.search(**_page_of(query, offset, snapshot))
            if page.hits:
                yield page
            if _is_last(query, page):
                return
            offset, snapshot = offset + query.get("k", DEFAULT_K), page.snapshot

    async def search_batch(self, queries: Sequence[SearchFields]) -> answers.BatchAnswer:
        """As `Client.search_batch`."""
        return await self._send(calls.search_batch(queries))

    async def embed(
        self, items: Sequence[ItemFields], *, role: str = "query", width: int | None = None
    ) -> answers.EmbedAnswer:
        """As `Client.embed`."""
        return await self._send(calls.embed(items, {"role": role, "width": width}))

    async def get(self, key: str, *, with_vector: bool = False) -> answers.StoredKey:
        """As `Client.get`."""
        return await self._send(calls.get(key, with_vector))

    async def image(self, key: str, position: int = 0) -> bytes:
        """As `Client.image`."""
        return await self._send(calls.image(key, position))

    async def scan(self, *, limit: int = 100, **scope: Unpack[ScopeFields]) -> AsyncIterator[answers.StoredKey]:
        """As `Client.scan`."""
        cursor: str | None = None
        while True:
            page = await self._send(calls.page({"cursor": cursor, "limit": limit, **scope}))
            for key in page.keys:
                yield key
            cursor = page.cursor
            if cursor is None:
                return

    async def fields(self, *, limit: int = 100, **scope: Unpack[ScopeFields]) -> list[answers.FieldInfo]:
        """As `Client.fields`."""
        page = await self._send(calls.fields({"limit": limit, **scope}))
        found = page.fields
        while page.cursor is not None:
            page = await self._send(calls.fields({"cursor": page.cursor, "limit": limit, **scope}))
            found = found + page.fields
        return found

    async def count(self, **scope: Unpack[ScopeFields]) -> int:
        """As `Client.count`."""
        return (await self._send(calls.count(scope))).num_keys

    async def put(self, key: str, *, undo: bool = False, **fields: Unpack[KeyFields]) -> answers.KeyOutcome:
        """As `Client.put`."""
        return await self._send(calls.put(key, fields, undo))

    async def put_many(self, keys: Sequence[NewKey], *, atomic: bool = False) -> answers.ChangesAnswer:
        """As `Client.put_many`."""
        return await self._send(calls.put_many(keys, atomic))

    async def put_all(
        self, keys: Iterable[NewKey], *, at_once: int = KEYS_AT_ONCE
    ) -> AsyncIterator[answers.KeyOutcome]:
        """As `Client.put_all`."""
        blocks = calls.blocks(keys, at_once)
        while (lines := await asyncio.to_thread(next, blocks, None)) is not None:
            streamed = await self._send(calls.put_stream(lines))
            for outcome in streamed.outcomes:
                yield outcome
            if streamed.error is not None:
                raise streamed.error

    async def patch(
        self,
        key: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        pools: Sequence[str] | None = None,
        overwrite: bool = False,
        if_seq: int | None = None,
        undo: bool = False,
    ) -> answers.KeyOutcome:
        """As `Client.patch`."""
        fields = {"metadata": metadata, "pools": pools, "overwrite": overwrite or None, "if_seq": if_seq}
        return await self._send(calls.patch(key, fields, undo))

    async def delete(self, key: str, *, if_seq: int | None = None, undo: bool = False) -> answers.KeyOutcome:
        """As `Client.delete`."""
        return await self._send(calls.delete(key, if_seq, undo))

    async def undo(self, seq: int) -> answers.KeyOutcome:
        """As `Client.undo`."""
        return await self._send(calls.undo(seq))

    async def delete_many(
        self,
        keys: Sequence[str] | None = None,
        *,
        all: bool = False,
        dry_run: bool = False,
        **scope: Unpack[ScopeFields],
    ) -> answers.Deleted:
        """As `Client.delete_many`."""
        return await self._send(calls.delete_many({"keys": keys, "all": all, "dry_run": dry_run, **scope}))

    async def judge(self, query_id: str, key: str, *, good: bool) -> None:
        """As `Client.judge`."""
        await self._send(calls.judge(query_id, key, good))

    async def info(self) -> answers.Info:
        """As `Client.info`."""
        return await self._send(calls.info())

    async def indexes(self) -> answers.IndexesAnswer:
        """As `Client.indexes`."""
        return await self._send(calls.indexes())

    async def access(self) -> answers.AccessAnswer:
        """As `Client.access`."""
        return await self._send(calls.access())

    async def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """As `Client.wait_until_ready`."""
        ends_s = time.monotonic() + timeout_s
        while not await self._is_ready(ends_s):
            await asyncio.sleep(POLL_S)

    async def close(self) -> None:
        """Closes the connections; repeating it is fine."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _is_ready(self, ends_s: float) -> bool:
        try:
            request = self._options.request(calls.ready())
            _check(await self._http.request(**request, timeout=_wait_s(ends_s, self._options)))
        except (AnyKeyError, httpx.RequestError) as error:
            _raise_late(error, ends_s, self._options.url)
            return False
        return True

    async def _send(self, call: Call[T]) -> T:
        attempts = _Attempts(self._options, call)
        while True:
            try:
                reply = await self._http.request(**self._options.request(call))
            except httpx.RequestError as error:
                await asyncio.sleep(attempts.after_failure(error))
                continue
            result, pause_s = attempts.result(reply)
            if pause_s is None:
                return result  # type: ignore[no-any-return]
            await asyncio.sleep(pause_s)


def _page_of(query: SearchFields, offset: int, snapshot: str | None) -> SearchFields:
    page: SearchFields = {**query, "offset": offset}
    if snapshot is not None:
        page["snapshot"] = snapshot
    return page


def _is_last(query: SearchFields, page: answers.SearchAnswer) -> bool:
    """Whether no page follows: of groups only an empty page tells, as a group may have several hits."""
    return not page.hits or ("group_by" not in query and len(page.hits) < query.get("k", DEFAULT_K))


def _check(reply: httpx.Response) -> None:
    if not reply.is_success:
        raise calls.error_of(reply)


def _wait_s(ends_s: float, options: Options) -> float:
    """How long one question for readiness may take."""
    return min(options.timeout_s, max(POLL_S, ends_s - time.monotonic()))


def _raise_late(error: Exception, ends_s: float, url: str) -> None:
    """Raises an error once it is too late to try again."""
    if time.monotonic() < ends_s:
        return
    if isinstance(error, AnyKeyError):
        raise error
    raise NoAnswerError(f"nothing answers at {url}: {error}") from error
