"""How much each caller may ask for: requests, images and bytes in a time.

Limits hold over sliding windows, so that no more passes at the boundary of two. They are counted in this process, or in
Redis for all processes that share it; while that fails they are counted here, and nobody is refused for its sake.
"""

import asyncio
import contextlib
import ipaddress
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import Redis
from starlette.types import Message, Receive, Scope

from anykey.service.access.callers import caller_of
from anykey.service.embedding.cache import KEY_PREFIX, REDIS_FAILURES, connect
from anykey.service.errors import RateLimitedError
from anykey.service.logs import LogEvent
from anykey.service.requests.proxy import client_address, parse_proxies

Counted = Literal["requests", "images", "bytes"]
PAYER = "anykey.payer"  # in a request's scope: whose limits it counts against
IPV6_PREFIX = 64  # of an address that is counted as one caller, who has all of the rest

HOLDING_IMAGES = frozenset({"images", "item", "parts", "items", "query", "queries", "documents", "keys"})

logger = logging.getLogger(__name__)


class RateLimits:
    """Counts what callers ask for, and refuses what is too much; belongs to one event loop.

    Attributes:
        are_set: Whether there is any limit.
    """

    def __init__(
        self,
        limits: Mapping[Counted, Sequence[str]],
        *,
        proxies: Sequence[str],
        redis_url: str | None,
        timeout_s: float,
        pause_s: float,
    ) -> None:
        """Counts nothing yet.

        Args:
            limits: What is limited, and how: `100/minute`, in the words of the limits library.
            proxies: Addresses and networks whose word is taken for who sent a request.
            redis_url: Where all processes count together; `None`: each counts for itself.
            timeout_s: Longest wait for Redis.
            pause_s: How long Redis is left alone after a failure.

        Raises:
            StartupError: the Redis URL is none.
        """
        self._limits = {what: [parse(one) for one in each] for what, each in limits.items() if each}
        self.are_set = bool(self._limits)
        self._proxies = parse_proxies(proxies)
        self._timeout_s, self._pause_s = timeout_s, pause_s
        self._here = SlidingWindowCounterRateLimiter(MemoryStorage())
        is_shared = self.are_set and redis_url is not None
        self._client = connect(str(redis_url), timeout_s) if is_shared else None
        self._shared = None if self._client is None else _shared(str(redis_url), self._client)
        self._paused_until_s = -math.inf
        self._has_failed = False
        self._policy = ", ".join(
            f'"{_name(what, item)}";q={item.amount}{_unit(what)};w={item.get_expiry()}'
            for what, items in self._limits.items()
            for item in items
        )

    async def admit(self, scope: Scope, receive: Receive) -> Receive:
        """Counts a request, and its body; gives what its body is to be read from.

        Args:
            scope: The request's, whose caller is known.
            receive: Gives its body.

        Raises:
            RateLimitedError: it is too much.
        """
        scope[PAYER] = self._payer(scope)
        await self._spend("requests", scope[PAYER], 1)
        if "bytes" not in self._limits:
            return receive
        length = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        if length is not None and length.isdigit():
            await self._spend("bytes", scope[PAYER], int(length))
            return receive
        return self._counting(scope[PAYER], receive)

    async def spend_images(self, scope: Scope, asked: Any) -> None:
        """Counts the images of what a request asks for, before they are decoded.

        Args:
            scope: The request's.
            asked: A query, items, keys, or several of these.

        Raises:
            RateLimitedError: they are too many.
        """
        if "images" in self._limits:
            await self._spend("images", scope[PAYER], num_images(asked))

    async def close(self) -> None:
        """Closes the connections to Redis; what they are asked now is not answered."""
        if self._client is not None:
            with contextlib.suppress(*REDIS_FAILURES):
                async with asyncio.timeout(self._timeout_s):
                    await self._client.aclose()

    def _counting(self, payer: str, receive: Receive) -> Receive:
        """Counts a body of unknown length piece by piece; one that is too long is refused once."""
        is_refused = False

        async def counted() -> Message:
            nonlocal is_refused
            message = await receive()
            if message["type"] == "http.request" and not is_refused:
                try:
                    await self._spend("bytes", payer, len(message.get("body", b"")))
                except RateLimitedError:
                    is_refused = True
                    raise
            return message

        return counted

    def _payer(self, scope: Scope) -> str:
        caller = caller_of(scope)
        if caller.name is not None:
            return f"key:{caller.name}"
        address = client_address(scope, self._proxies)
        if isinstance(address, ipaddress.IPv6Address):
            return f"address:{ipaddress.ip_network((address, IPV6_PREFIX), strict=False)}"
        return f"address:{address}"

    async def _spend(self, what: Counted, payer: str, amount: int) -> None:
        if amount == 0:
            return
        for item in self._limits.get(what, ()):
            limiter, has_passed = await self._hit(item, what, payer, amount)
            if not has_passed:
                raise await self._refusal(limiter, item, what, payer, amount)

    async def _hit(
        self, item: RateLimitItem, what: Counted, payer: str, amount: int
    ) -> tuple[SlidingWindowCounterRateLimiter, bool]:
        """Who counted, and whether it was within the limit."""
        if self._shared is not None and time.monotonic() >= self._paused_until_s:
            try:
                async with asyncio.timeout(self._timeout_s):
                    has_passed = await self._shared.hit(item, what, payer, cost=amount)
            except REDIS_FAILURES as error:
                self._pause(error)
            else:
                self._resume()
                return self._shared, has_passed
        return self._here, await self._here.hit(item, what, payer, cost=amount)

    async def _refusal(
        self, limiter: SlidingWindowCounterRateLimiter, item: RateLimitItem, what: Counted, payer: str, amount: int
    ) -> RateLimitedError:
        window_s, left = item.get_expiry(), 0
        wait_s = float(window_s)
        try:
            async with asyncio.timeout(self._timeout_s):
                reset_s, left = await limiter.get_window_stats(item, what, payer)
            wait_s = reset_s - time.time()
        except REDIS_FAILURES as error:
            self._pause(error)
        retry_after_s = min(window_s, max(1, math.ceil(wait_s)))
        asked = "" if amount == 1 else f", and this request has {amount}"
        return RateLimitedError(
            f"at most {item.amount} {what} in {window_s} s are accepted of one caller{asked}; "
            f"retry in {retry_after_s} s",
            {
                "retry-after": str(retry_after_s),
                "ratelimit": f'"{_name(what, item)}";r={left};t={retry_after_s}',
                "ratelimit-policy": self._policy,
            },
        )

    def _pause(self, error: Exception) -> None:
        self._paused_until_s = time.monotonic() + self._pause_s
        if not self._has_failed:
            logger.warning(
                "Redis failed or was too slow; limits are counted in this process alone",
                extra={"event": LogEvent.LIMITS_ALONE, "reason": type(error).__name__, "pause_s": self._pause_s},
            )
        self._has_failed = True

    def _resume(self) -> None:
        if self._has_failed:
            logger.info("Redis counts for limits again", extra={"event": LogEvent.LIMITS_SHARED})
        self._has_failed = False


def num_images(asked: Any) -> int:
    """How many images there are in a query, items, keys, or several of these."""
    if isinstance(asked, list | tuple):
        return sum(map(num_images, asked))
    if not is_dataclass(asked):
        return 0
    held = {field.name: getattr(asked, field.name) for field in fields(asked) if field.name in HOLDING_IMAGES}
    return len(held["images"]) if "images" in held else sum(map(num_images, held.values()))


def _name(what: Counted, item: RateLimitItem) -> str:
    return f"{what}-{item.get_expiry()}s"


def _unit(what: Counted) -> str:
    return ';qu="content-bytes"' if what == "bytes" else ""


def _shared(url: str, client: Redis) -> SlidingWindowCounterRateLimiter:
    pool: Any = client.connection_pool
    storage = RedisStorage(
        f"async+{url}", implementation="redispy", key_prefix=f"{KEY_PREFIX}limits", connection_pool=pool
    )
    return SlidingWindowCounterRateLimiter(storage)
