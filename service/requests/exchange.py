"""A request's body to what it says, and that to an answer: within the limits, and only while the client waits."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from anykey.service.concurrency.threads import BoundedThreads
from anykey.service.lifecycle import lifecycle_of
from anykey.service.operations.records import CURRENT
from anykey.service.requests.address import check_parameters
from anykey.service.requests.admission import Admission
from anykey.service.requests.body import Take, is_quick, read_body
from anykey.service.requests.context import note, noted
from anykey.service.requests.deadline import within

T = TypeVar("T")
UNWATCHED_S = 0.005  # in which most answers are there that wait for nothing; watching costs as much as some of them


async def exchange(
    request: Request,
    threads: BoundedThreads,
    parse: Callable[[bytearray, Take], T],
    answer: Callable[[T], Awaitable[Response]],
    deadline_ms: float,
    *parameters: str,
    admission: Admission | None = None,
) -> Response:
    """Answers a request that says everything in its body.

    Args:
        request: The request; its body has not been read.
        threads: A body that takes long to parse is parsed there.
        parse: What the body says; also given what to call before it keeps more bytes than the body has.
        answer: The answer to that.
        deadline_ms: Longest time from the whole body read to the answer.
        parameters: Names of what the address may have beside it.
        admission: Refuses it before it is read, and again before it is parsed; absent: nobody does.

    Raises:
        ServiceError: as `parse` and `answer`, or the body is too long, too late, or too much for all requests together.
        starlette.requests.ClientDisconnect: the client went away, which ends the work.
    """
    started_s = time.monotonic()
    check_parameters(request, *parameters, hint="; send it in the body")
    lifecycle = lifecycle_of(request)
    settings = lifecycle.settings
    if admission is not None:
        admission.check(request.headers)
    with lifecycle.bodies.share() as take:
        arriving = read_body(request, settings.max_body_bytes, take)
        body = await within(settings.body_deadline_ms / 1000, arriving, "whole body")
        note(request, body_bytes=len(body))

        if admission is not None:
            admission.check(request.headers)

        async def work() -> Response:
            run = read_here if is_quick(body, request.headers) else threads.run
            parsed = await lifecycle.image_fetcher.read(partial(parse, body, take), run, take)
            body.clear()
            if lifecycle.rate_limits.are_set:
                await lifecycle.rate_limits.spend_images(request.scope, parsed)
            if (record := CURRENT.get()) is not None:
                record.read_s = time.monotonic() - started_s
            return await answer(parsed)

        async with while_client_waits(request):
            response = await within(deadline_ms / 1000, work())
    if "timings_ms" not in noted(request):
        note(request, timings_ms={"total": round((time.monotonic() - started_s) * 1000, 3)})
    return response


async def read_here(read: Callable[[], T]) -> T:
    """What `read` gives, without a thread; as a thread's `run`."""
    return read()


@asynccontextmanager
async def while_client_waits(request: Request) -> AsyncIterator[None]:
    """Cancels the block when the client goes away; what is over at once is not worth watching for that.

    Raises:
        ClientDisconnect: it did.
    """
    task = asyncio.current_task()
    assert task is not None
    watching: list[asyncio.Task[None]] = []

    def watch() -> None:
        watching.append(asyncio.create_task(_cancel_when_client_leaves(request, task)))

    beginning = asyncio.get_running_loop().call_later(UNWATCHED_S, watch)
    try:
        yield
    except asyncio.CancelledError:
        has_left = bool(watching) and watching[0].done()
        if has_left and task.uncancel() == 0:  # else somebody else cancels too, such as a server that stops
            raise ClientDisconnect from None
        raise
    finally:
        beginning.cancel()
        for one in watching:
            one.cancel()


async def _cancel_when_client_leaves(request: Request, task: "asyncio.Task[Any]") -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    task.cancel()
