"""A client of a running AnyKey service, as a user's program would write one: asynchronous, patient, suspicious.

Every answer is checked before it is believed: ranks from 1, no key twice, scores falling, all numbers finite.
"""

import asyncio
import itertools
import math
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

from anykey.benchmark.errors import EndpointNotReadyError, EndpointUnreachableError, RequestFailedError

RETRIED = (429, 503)  # overloaded, not ready: the service asks for another try
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0
LEAST_WAIT_S = 1.0  # for an answer, however little time is left


@dataclass(frozen=True)
class Hit:
    """One hit of an answer.

    Attributes:
        key: The key.
        score: Its score, higher is better.
        modality: "text", "image" or "fused".
    """

    key: str
    score: float
    modality: str


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
    """Talks to one service; an asynchronous context manager that owns its connections.

    A search that is turned away with 429 or 503, or whose connection breaks, is tried again after what
    `Retry-After` says (at most 30 s), or after a pause that doubles, up to `max_attempts` tries. How many searches
    are under way at once is the caller's choice; `concurrency` only says how many connections are kept. An answer that
    is not there whole after `timeout_s` is none, be it that nothing comes or little by little.
    """

    def __init__(self, url: str, timeout_s: float = 60.0, concurrency: int = 8, max_attempts: int = 8) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._max_attempts = max_attempts
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        try:
            self._http = httpx.AsyncClient(base_url=self.url, timeout=None, limits=limits, trust_env=False)
        except (httpx.InvalidURL, ValueError) as error:
            raise EndpointUnreachableError(f"'{url}' is no URL: {error}") from error

    async def __aenter__(self) -> "SearchClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.aclose()

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
                wait_s = max(min(self._timeout_s, deadline - time.monotonic()), LEAST_WAIT_S)
                response = await self._answer("GET", "/readyz", wait_s)
                if response.status_code == 200:
                    return
                reason = f"{response.status_code} {_message(response)}"
                failure = EndpointNotReadyError(f"{self.url}/readyz was not ready in {timeout_s:g} s: {reason}")
            except httpx.RequestError as error:
                failure = EndpointUnreachableError(f"nothing answers at {self.url}: {_reason(error)}")
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
            response = await self._answer("GET", "/info", self._timeout_s)
        except httpx.RequestError as error:
            raise EndpointUnreachableError(f"GET {self.url}/info: {_reason(error)}") from error
        if response.status_code != 200:
            raise RequestFailedError(f"GET {self.url}/info: {response.status_code} {_message(response)}")
        body = _json(response)
        if not isinstance(body, dict) or not isinstance(body.get("index"), dict):
            raise RequestFailedError(f"GET {self.url}/info: expected an object with 'index', is this AnyKey?")
        return body

    async def search(self, name: str, body: dict[str, Any]) -> Answer:
        """Sends one query until it is answered.

        Args:
            name: What errors call the query.
            body: JSON body of POST /search.

        Raises:
            RequestFailedError: the service refused it, stayed overloaded, or its answer breaks the wire format.
            EndpointUnreachableError: the connection broke at every try.
        """
        for attempt in range(self._max_attempts):
            is_last = attempt + 1 == self._max_attempts
            start = time.perf_counter()
            try:
                response = await self._answer("POST", "/search", self._timeout_s, body)
            except httpx.RequestError as error:
                if is_last:
                    raise EndpointUnreachableError(f"query {name}: no answer: {_reason(error)}") from error
                await asyncio.sleep(_pause_s(None, attempt))
                continue
            latency_s = time.perf_counter() - start
            if response.status_code == 200:
                return _checked(name, response, body["k"], latency_s, attempt)
            if response.status_code not in RETRIED or is_last:
                tries = f" after {attempt + 1} tries" if attempt else ""
                raise RequestFailedError(f"query {name}: {response.status_code} {_message(response)}{tries}")
            await asyncio.sleep(_pause_s(response.headers.get("Retry-After"), attempt))
        raise AssertionError("the last try returns or raises")

    async def _answer(
        self, method: str, path: str, timeout_s: float, body: dict[str, Any] | None = None
    ) -> httpx.Response:
        """The whole answer; the time limits of httpx are for each part of it.

        Raises:
            httpx.RequestError: there is none in `timeout_s`, or it is no answer.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._http.request(method, path, json=body)
        except TimeoutError as error:
            raise httpx.ReadTimeout(f"no whole answer in {timeout_s:g} s") from error


def _pause_s(retry_after: str | None, attempt: int) -> float:
    """Seconds until the next try; `Retry-After` in seconds is obeyed, another form is not understood."""
    try:
        wanted = float(retry_after) if retry_after is not None else FIRST_PAUSE_S * 2**attempt
    except ValueError:
        wanted = FIRST_PAUSE_S * 2**attempt
    return min(max(wanted, 0.0), LONGEST_PAUSE_S)


def _checked(name: str, response: httpx.Response, k: int, latency_s: float, num_retries: int) -> Answer:
    """The answer, if it is one."""
    body = _json(response)
    try:
        hits = tuple(Hit(str(hit["key"]), float(hit["score"]), str(hit["modality"])) for hit in body["hits"])
        ranks = [hit["rank"] for hit in body["hits"]]
        timings_ms = {str(stage): float(value) for stage, value in body["timings_ms"].items()}
        version = body["index_version"]
        versions = (None if version is None else str(version), str(body["model_fingerprint"]))
        cached = bool(body.get("cached"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestFailedError(f"query {name}: the answer lacks or garbles {error}") from error
    if reason := _fault(hits, ranks, k):
        raise RequestFailedError(f"query {name}: {reason}")
    return Answer(hits, latency_s, timings_ms, cached, num_retries, versions)


def _fault(hits: tuple[Hit, ...], ranks: list[Any], k: int) -> str | None:
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


def _json(response: httpx.Response) -> Any:
    """The body, or None where it is no JSON."""
    try:
        return response.json()
    except ValueError:
        return None


def _message(response: httpx.Response) -> str:
    """The error message of the documented shape, or the start of whatever came."""
    body = _json(response)
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        return f"{body['error'].get('type')}: {body['error'].get('message')}"
    return response.text[:200]


def _reason(error: Exception) -> str:
    """The exception's text, or its type where it has none (as timeouts do)."""
    return str(error) or type(error).__name__
