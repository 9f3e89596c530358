"""The two clients: one that waits for each answer, and one to be awaited. Both send the same calls."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from anykey.client import answers, calls
from anykey.client.calls import Call
from anykey.client.errors import AnyKeyError, BusyError, NoAnswerError
from anykey.client.inputs import ItemFields, KeyFields, NewKey, ScopeFields, SearchFields

T = TypeVar("T")
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
POLL_S = 0.1
KEYS_AT_ONCE = 200
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
        api_key: Sent as `Authorization: Bearer`, for a proxy that asks for one.
    """

    url: str
    index: str | None = None
    timeout_s: float = 30.0
    max_attempts: int = 5
    api_key: str | None = None

    def settings(self) -> dict[str, Any]:
        """Arguments of an HTTP client."""
        headers = {"user-agent": "anykey-client"}
        if self.api_key is not None:
            headers["authorization"] = f"Bearer {self.api_key}"
        return {"base_url": self.url.rstrip("/"), "timeout": self.timeout_s, "headers": headers}

    def request(self, call: Call[Any]) -> dict[str, Any]:
        """Arguments of one request."""
        prefix = "" if self.index is None or call.is_global else f"/indexes/{self.index}"
        body = {} if call.body is None else {"json": call.body}
        return {
            "method": call.method,
            "url": prefix + call.path,
            "params": dict(call.parameters),
            "headers": dict(call.headers),
            **body,
        }


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
        if self._num_failed >= self._options.max_attempts:
            raise error
        backed_off_s = FIRST_PAUSE_S * 2.0 ** (self._num_failed - 1) * random.uniform(0.5, 1.5)
        return min(max(wanted_s or 0.0, backed_off_s), LONGEST_PAUSE_S)


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
            **options: As in `Options`: `index`, `timeout_s`, `max_attempts`, `api_key`.
        """
        self._options = Options(url, **options)
        self._http = httpx.Client(**self._options.settings())

    def search(self, **query: Unpack[SearchFields]) -> answers.SearchAnswer:
        """Finds the keys that best match a text, an image, both, a key, a vector, words or several weighted parts."""
        return self._send(calls.search(query))

    def pages(self, **query: Unpack[SearchFields]) -> Iterator[answers.SearchAnswer]:
        """The pages of a search, `k` hits or groups each and all of one moment of the index, until none are left."""
        offset, snapshot = query.get("offset", 0), query.get("snapshot")
        while True:
            page = self.search(**_page_of(query, offset, snapshot))
            if not page.hits:
                return
            yield page
            offset, snapshot = offset + query.get("k", DEFAULT_K), page.snapshot

    def search_batch(self, queries: Sequence[SearchFields]) -> answers.BatchAnswer:
        """Answers many queries together; each has an answer or an error of its own."""
        return self._send(calls.search_batch(queries))

    def embed(
        self, items: Sequence[ItemFields], *, role: str = "query", width: int | None = None
    ) -> answers.EmbedAnswer:
        """The items' unit vectors; `role` is `query` for what is searched with, and `key` for what is stored."""
        return self._send(calls.embed(items, {"role": role, "width": width}))

    def get(self, key: str) -> answers.StoredKey:
        """One key."""
        return self._send(calls.get(key))

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

    def count(self, **scope: Unpack[ScopeFields]) -> int:
        """How many keys are in a scope."""
        return self._send(calls.count(scope)).num_keys

    def put(self, key: str, **fields: Unpack[KeyFields]) -> answers.KeyOutcome:
        """Stores a key in place of whatever has its name; it is in the next search, and on disk."""
        return self._send(calls.put(key, fields))

    def put_many(self, keys: Sequence[NewKey], *, atomic: bool = False) -> answers.ChangesAnswer:
        """Stores several keys in one request, each with an outcome; `atomic`: all of them or none."""
        return self._send(calls.put_many(keys, atomic))

    def put_all(self, keys: Iterable[NewKey], *, at_once: int = KEYS_AT_ONCE) -> Iterator[answers.KeyOutcome]:
        """Stores any number of keys, `at_once` in a request, and gives their outcomes in order while it goes on."""
        for some in _blocks(keys, at_once):
            yield from self.put_many(some).outcomes

    def patch(
        self,
        key: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        pools: Sequence[str] | None = None,
        if_seq: int | None = None,
    ) -> answers.KeyOutcome:
        """Merges metadata into a key's (RFC 7396: `None` removes a name), and puts it into pools."""
        return self._send(calls.patch(key, {"metadata": metadata, "pools": pools, "if_seq": if_seq}))

    def delete(self, key: str, *, if_seq: int | None = None) -> answers.KeyOutcome:
        """Deletes a key; with `if_seq` only if its last change has this number."""
        return self._send(calls.delete(key, if_seq))

    def delete_many(
        self, keys: Sequence[str] | None = None, *, dry_run: bool = False, **scope: Unpack[ScopeFields]
    ) -> answers.Deleted:
        """Deletes the keys that are named, or those in a scope; `dry_run` only counts them."""
        return self._send(calls.delete_many({"keys": keys, "dry_run": dry_run or None, **scope}))

    def fields(self, *, pool: str | None = None) -> answers.Fields:
        """What the metadata really hold: names, types, frequent values, ranges."""
        return self._send(calls.fields_of_index({"pool": pool}))

    def info(self) -> answers.Info:
        """What is served, and what a request may ask for."""
        return self._send(calls.info())

    def indexes(self) -> answers.IndexesAnswer:
        """The indexes that the service has."""
        return self._send(calls.indexes())

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
            calls.ready().read(_checked(self._http.request(**self._options.request(calls.ready()))))
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
            if not page.hits:
                return
            yield page
            offset, snapshot = offset + query.get("k", DEFAULT_K), page.snapshot

    async def search_batch(self, queries: Sequence[SearchFields]) -> answers.BatchAnswer:
        """As `Client.search_batch`."""
        return await self._send(calls.search_batch(queries))

    async def embed(
        self, items: Sequence[ItemFields], *, role: str = "query", width: int | None = None
    ) -> answers.EmbedAnswer:
        """As `Client.embed`."""
        return await self._send(calls.embed(items, {"role": role, "width": width}))

    async def get(self, key: str) -> answers.StoredKey:
        """As `Client.get`."""
        return await self._send(calls.get(key))

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

    async def count(self, **scope: Unpack[ScopeFields]) -> int:
        """As `Client.count`."""
        return (await self._send(calls.count(scope))).num_keys

    async def put(self, key: str, **fields: Unpack[KeyFields]) -> answers.KeyOutcome:
        """As `Client.put`."""
        return await self._send(calls.put(key, fields))

    async def put_many(self, keys: Sequence[NewKey], *, atomic: bool = False) -> answers.ChangesAnswer:
        """As `Client.put_many`."""
        return await self._send(calls.put_many(keys, atomic))

    async def put_all(
        self, keys: Iterable[NewKey], *, at_once: int = KEYS_AT_ONCE
    ) -> AsyncIterator[answers.KeyOutcome]:
        """As `Client.put_all`."""
        for some in _blocks(keys, at_once):
            for outcome in (await self.put_many(some)).outcomes:
                yield outcome

    async def patch(
        self,
        key: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        pools: Sequence[str] | None = None,
        if_seq: int | None = None,
    ) -> answers.KeyOutcome:
        """As `Client.patch`."""
        return await self._send(calls.patch(key, {"metadata": metadata, "pools": pools, "if_seq": if_seq}))

    async def delete(self, key: str, *, if_seq: int | None = None) -> answers.KeyOutcome:
        """As `Client.delete`."""
        return await self._send(calls.delete(key, if_seq))

    async def delete_many(
        self, keys: Sequence[str] | None = None, *, dry_run: bool = False, **scope: Unpack[ScopeFields]
    ) -> answers.Deleted:
        """As `Client.delete_many`."""
        return await self._send(calls.delete_many({"keys": keys, "dry_run": dry_run or None, **scope}))

    async def fields(self, *, pool: str | None = None) -> answers.Fields:
        """As `Client.fields`."""
        return await self._send(calls.fields_of_index({"pool": pool}))

    async def info(self) -> answers.Info:
        """As `Client.info`."""
        return await self._send(calls.info())

    async def indexes(self) -> answers.IndexesAnswer:
        """As `Client.indexes`."""
        return await self._send(calls.indexes())

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
            calls.ready().read(_checked(await self._http.request(**self._options.request(calls.ready()))))
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


def _blocks(keys: Iterable[NewKey], at_once: int) -> Iterator[list[NewKey]]:
    remaining = iter(keys)
    while some := list(itertools.islice(remaining, at_once)):
        yield some


def _checked(reply: httpx.Response) -> httpx.Response:
    if not reply.is_success:
        raise calls.error_of(reply)
    return reply


def _raise_late(error: Exception, ends_s: float, url: str) -> None:
    """Raises an error once it is too late to try again."""
    if time.monotonic() < ends_s:
        return
    if isinstance(error, AnyKeyError):
        raise error
    raise NoAnswerError(f"nothing answers at {url}: {error}") from error
