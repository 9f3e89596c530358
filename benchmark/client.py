"""A client of a running AnyKey service, as a user's program would write one: asynchronous, patient, suspicious.

Every answer is checked before it is believed: ranks from 1, no key twice, scores falling, all numbers finite.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import SecretStr

from anykey.benchmark.connection import FIRST_PAUSE_S, LEAST_WAIT_S, Connection, json_of, message_of, own_key, reason_of
from anykey.benchmark.dataset import Hit, Query, Task
from anykey.benchmark.errors import EndpointNotReadyError, EndpointUnreachableError, RequestFailedError


@dataclass(frozen=True)
class Answer:
    """A checked answer to one query.

    Attributes:
        hits: Hits, best first.
        latency_s: From sending the request that was answered to having read the answer.
        timings_ms: The service's own stage timings.
        cached: Whether the service had the query's vector already.
        num_retries: Earlier tries that were turned away.
        versions: Index version, if the index has versions, and model fingerprint that answered.
    """

    hits: tuple[Hit, ...]
    latency_s: float
    timings_ms: dict[str, float]
    cached: bool
    num_retries: int
    versions: tuple[str | None, str]

    @property
    def keys(self) -> list[str]:
        """The keys, best first."""
        return [hit.key for hit in self.hits]


class SearchClient:
    """Talks to one service; an asynchronous context manager that owns its connections (`Connection`).

    Without an API key that is given, it sends that of the environment's `ANYKEY_API_KEY`, if there is one.
    """

    def __init__(
        self,
        url: str,
        timeout_s: float = 60.0,
        concurrency: int = 8,
        max_attempts: int = 8,
        api_key: SecretStr | None = None,
    ) -> None:
        self._connection = Connection(url, timeout_s, concurrency, max_attempts, own_key(api_key))
        self.url = self._connection.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._connection.__aexit__(kind, error, traceback)

    async def wait_until_ready(self, timeout_s: float) -> None:
        """Returns once GET /readyz says 200.

        Raises:
            EndpointUnreachableError: nothing answered within `timeout_s`.
            EndpointNotReadyError: it answered, and was not ready within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            failure: EndpointUnreachableError | EndpointNotReadyError
            try:
                wait_s = max(min(self._connection.timeout_s, deadline - time.monotonic()), LEAST_WAIT_S)
                response = await self._connection.once("GET", "/readyz", wait_s)
                if response.status_code == 200:
                    return
                reason = f"{response.status_code} {message_of(response)}"
                failure = EndpointNotReadyError(f"{self.url}/readyz was not ready in {timeout_s:g} s: {reason}")
            except httpx.RequestError as error:
                failure = EndpointUnreachableError(f"nothing answers at {self.url}: {reason_of(error)}")
            if time.monotonic() >= deadline:
                raise failure
            await asyncio.sleep(min(FIRST_PAUSE_S, max(0.0, deadline - time.monotonic())))

    async def info(self) -> dict[str, Any]:
        """What GET /info says.

        Raises:
            EndpointUnreachableError: no answer.
            RequestFailedError: an answer that is no information about a service.
        """
        try:
            response = await self._connection.once("GET", "/info", self._connection.timeout_s)
        except httpx.RequestError as error:
            raise EndpointUnreachableError(f"GET {self.url}/info: {reason_of(error)}") from error
        if response.status_code != 200:
            raise RequestFailedError(f"GET {self.url}/info: {response.status_code} {message_of(response)}")
        body = json_of(response)
        if not isinstance(body, dict) or not isinstance(body.get("index"), dict):
            raise RequestFailedError(f"GET {self.url}/info: expected an object with 'index', is this AnyKey?")
        return body

    async def prepare(self, queries: Mapping[Task, Sequence[Query]]) -> None:
        """Nothing: its index was built before."""

    async def search(self, name: str, body: dict[str, Any]) -> Answer:
        """Sends one query until it is answered.

        Args:
            name: What errors call the query.
            body: JSON body of POST /search.

        Raises:
            RequestFailedError: the service refused it, stayed overloaded, or its answer breaks the wire format.
            EndpointUnreachableError: the connection broke at every try.
        """
        reply = await self._connection.post(f"query {name}", "/search", body)
        return _checked(name, reply.response, body["k"], reply.latency_s, reply.num_retries)

    async def vectors(self, name: str, items: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        """The unit vectors `[B, D]` of items, embedded as keys are.

        Args:
            name: What errors call the request.
            items: The items, as POST /embed takes them.

        Raises:
            RequestFailedError: the service refused one of them, or its answer breaks the wire format.
            EndpointUnreachableError: the connection broke at every try.
        """
        reply = await self._connection.post(name, "/embed", {"items": list(items), "role": "key"})
        body = json_of(reply.response)
        try:
            if refused := [item["error"]["message"] for item in body["items"] if item["error"] is not None]:
                raise RequestFailedError(f"{name}: {refused[0]}")
            vectors_BD = np.array([item["vector"] for item in body["items"]], np.float32).reshape(len(items), -1)
        except (KeyError, TypeError, ValueError) as error:
            raise RequestFailedError(f"{name}: the answer lacks or garbles {error}") from error
        if not np.isfinite(vectors_BD).all():
            raise RequestFailedError(f"{name}: a vector is not finite")
        return vectors_BD

    async def store(self, keys: Sequence[Mapping[str, Any]]) -> int:
        """Stores keys.

        Args:
            keys: Each as PUT /keys takes it.

        Returns:
            How many of them are new.

        Raises:
            RequestFailedError: the service may not be changed, refused a key, or its answer breaks the wire format.
            EndpointUnreachableError: the connection broke at every try.
        """
        name = f"key {keys[0]['key']} and {len(keys) - 1} more" if len(keys) > 1 else f"key {keys[0]['key']}"
        reply = await self._connection.put(name, "/keys", {"keys": list(keys)})
        body = json_of(reply.response)
        try:
            for outcome in body["outcomes"]:
                if outcome["error"] is not None:
                    raise RequestFailedError(f"key {outcome['key']}: {outcome['error']['message']}")
            if len(body["outcomes"]) != len(keys):
                raise RequestFailedError(f"{name}: {len(body['outcomes'])} outcomes for {len(keys)} keys")
            return sum(bool(outcome["is_new"]) for outcome in body["outcomes"])
        except (KeyError, TypeError) as error:
            raise RequestFailedError(f"{name}: the answer lacks or garbles {error}") from error


def _checked(name: str, response: httpx.Response, k: int, latency_s: float, num_retries: int) -> Answer:
    """The answer, if it is one."""
    body = json_of(response)
    try:
        hits = tuple(Hit(str(hit["key"]), float(hit["score"]), str(hit["modality"])) for hit in body["hits"])
        ranks = [hit["rank"] for hit in body["hits"]]
        timings_ms = {str(stage): float(value) for stage, value in body["timings_ms"].items()}
        version = body["index_version"]
        versions = (None if version is None else str(version), str(body["model_fingerprint"]))
        cached = bool(body.get("cached"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestFailedError(f"query {name}: the answer lacks or garbles {error}") from error
    if reason := fault_of(hits, ranks, k):
        raise RequestFailedError(f"query {name}: {reason}")
    return Answer(hits, latency_s, timings_ms, cached, num_retries, versions)


def fault_of(hits: tuple[Hit, ...], ranks: list[Any], k: int) -> str | None:
    """Why the hits cannot be a ranking, or None."""
    if not hits:
        return "the answer has no hits"
    if len(hits) > k:
        return f"asked for {k} hits, got {len(hits)}"
    if ranks != list(range(1, len(hits) + 1)):
        return "ranks do not count up from 1"
    if len({hit.key for hit in hits}) < len(hits):
        return "a key comes twice"
    scores = [hit.score for hit in hits]
    if not all(map(math.isfinite, scores)) or any(b > a for a, b in itertools.pairwise(scores)):
        return "scores are not finite and falling"
    return None
