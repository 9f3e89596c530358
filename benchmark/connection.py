"""Requests to a server under measurement: patient with one that is overloaded, and each answer whole or none."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import SecretStr

from anykey.benchmark.errors import EndpointNotReadyError, EndpointUnreachableError, RequestFailedError

RETRIED = (429, 503)  # overloaded, not ready: the server asks for another try
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0
LEAST_WAIT_S = 1.0  # for an answer, however little time is left


@dataclass(frozen=True)
class Reply:
    """A request's answer with status 200.

    Attributes:
        response: The answer.
        latency_s: From sending the request that was answered to having read the answer.
        num_retries: Earlier tries that were turned away.
    """

    response: httpx.Response
    latency_s: float
    num_retries: int


class Connection:
    """An asynchronous context manager that owns the connections to one server.

    A request that is turned away with 429 or 503, or whose connection breaks, is tried again after what `Retry-After`
    says (at most 30 s), or after a pause that doubles, up to `max_attempts` tries. How many are under way at once is
    the caller's choice; `concurrency` only says how many connections are kept. An answer that is not there whole after
    `timeout_s` is none, be it that nothing comes or little by little.

    Attributes:
        url: The server's address.
        timeout_s: The longest wait for one whole answer.
    """

    def __init__(
        self,
        url: str,
        timeout_s: float = 60.0,
        concurrency: int = 8,
        max_attempts: int = 8,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.url, self.timeout_s = url.rstrip("/"), timeout_s
        self._max_attempts = max_attempts
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        try:
            self._http = httpx.AsyncClient(
                base_url=self.url, timeout=None, limits=limits, trust_env=False, headers=headers
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise EndpointUnreachableError(f"'{url}' is no URL: {error}") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def post(self, name: str, path: str, body: dict[str, Any]) -> Reply:
        """Sends a POST until it is answered.

        Args:
            name: What errors call it, such as "query 7".
            path: Where it goes.
            body: Its JSON.

        Raises:
            RequestFailedError: the server refused it, or stayed overloaded.
            EndpointUnreachableError: the connection broke at every try.
        """
        return await self._answered("POST", name, path, body)

    async def put(self, name: str, path: str, body: dict[str, Any]) -> Reply:
        """Sends a PUT until it is answered; as `post`."""
        return await self._answered("PUT", name, path, body)

    async def _answered(self, method: str, name: str, path: str, body: dict[str, Any]) -> Reply:
        for attempt in range(self._max_attempts):
            is_last = attempt + 1 == self._max_attempts
            start = time.perf_counter()
            try:
                response = await self.once(method, path, self.timeout_s, body)
            except httpx.RequestError as error:
                if is_last:
                    raise EndpointUnreachableError(f"{name}: no answer: {reason_of(error)}") from error
                await asyncio.sleep(pause_after(None, attempt))
                continue
            if response.status_code == 200:
                return Reply(response, time.perf_counter() - start, attempt)
            if response.status_code not in RETRIED or is_last:
                tries = f" after {attempt + 1} tries" if attempt else ""
                raise RequestFailedError(f"{name}: {response.status_code} {message_of(response)}{tries}")
            await asyncio.sleep(pause_after(response.headers.get("Retry-After"), attempt))
        raise AssertionError("the last try returns or raises")

    async def first(self, path: str, body: dict[str, Any], timeout_s: float) -> httpx.Response:
        """The answer to a first POST, as soon as the server gives one.

        Raises:
            EndpointUnreachableError: nothing answered within `timeout_s`.
            EndpointNotReadyError: it answered with 429 or 503 until then.
            RequestFailedError: it refuses the request.
        """
        deadline, address = time.monotonic() + timeout_s, f"{self.url}{path}"
        failure: EndpointUnreachableError | EndpointNotReadyError
        while True:
            try:
                wait_s = max(min(self.timeout_s, deadline - time.monotonic()), LEAST_WAIT_S)
                response = await self.once("POST", path, wait_s, body)
                if response.status_code == 200:
                    return response
                reason = f"{response.status_code} {message_of(response)}"
                failure = EndpointNotReadyError(f"{address} was not ready in {timeout_s:g} s: {reason}")
                if response.status_code not in RETRIED:
                    raise RequestFailedError(f"{address} refuses a text: {reason}")
            except httpx.RequestError as error:
                failure = EndpointUnreachableError(f"nothing answers at {address}: {reason_of(error)}")
            if time.monotonic() >= deadline:
                raise failure
            await asyncio.sleep(min(FIRST_PAUSE_S, max(0.0, deadline - time.monotonic())))

    async def once(
        self, method: str, path: str, timeout_s: float, body: dict[str, Any] | None = None
    ) -> httpx.Response:
        """One try's whole answer; the time limits of httpx are for each part of it.

        Raises:
            httpx.RequestError: there is none in `timeout_s`, or it is no answer.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._http.request(method, path, json=body)
        except TimeoutError as error:
            raise httpx.ReadTimeout(f"no whole answer in {timeout_s:g} s") from error


def own_key(given: SecretStr | None) -> dict[str, str]:
    """Headers with the API key that AnyKey asks for: the one given, else the environment's `ANYKEY_API_KEY`."""
    key = os.environ.get("ANYKEY_API_KEY") if given is None else given.get_secret_value()
    return {"Authorization": f"Bearer {key}"} if key else {}


def json_of(response: httpx.Response) -> Any:
    """The body, or None where it is no JSON."""
    try:
        return response.json()
    except ValueError:
        return None


def message_of(response: httpx.Response) -> str:
    """The error message of the documented shape, or the start of whatever came."""
    body = json_of(response)
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        return f"{body['error'].get('type')}: {body['error'].get('message')}"
    return response.text[:200]


def reason_of(error: Exception) -> str:
    """The exception's text, or its type where it has none (as timeouts do)."""
    return str(error) or type(error).__name__


def pause_after(retry_after: str | None, attempt: int) -> float:
    """Seconds until the next try; `Retry-After` in seconds is obeyed, another form is not understood."""
    try:
        wanted = float(retry_after) if retry_after is not None else FIRST_PAUSE_S * 2**attempt
    except ValueError:
        wanted = FIRST_PAUSE_S * 2**attempt
    return min(max(wanted, 0.0), LONGEST_PAUSE_S)


async def at_once(number: int, work: Callable[[], Awaitable[None]]) -> None:
    """Runs the same work so many times at once; the first failure ends the others and is raised."""
    workers = [asyncio.ensure_future(work()) for _ in range(number)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
