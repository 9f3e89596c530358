"""Calls that end in time: what a library waits for, which knows no time of ours, it is left to wait for alone.

fsspec keeps file systems, and with them connections, by thread. So all such calls of a thread are made in one other,
until one of them is late; from then on they are made in a new one, over new connections.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

LIMIT_S = 300.0  # of a look at a file, and of reading a part of it, wherever it is
LISTING_S = 3600.0  # of a list of all that is in a bucket, which takes a request for each thousand objects

T = TypeVar("T")


class LateError(TimeoutError):
    """A call has not ended in time; nobody waits for it any longer."""


def in_time(call: Callable[[], T], limit_s: float = LIMIT_S) -> T:
    """What a call gives, or raises.

    Args:
        call: Changes nothing that its caller uses once it is late.
        limit_s: Longest time that it may take.

    Raises:
        LateError: it takes longer.
    """
    caller = getattr(_of_thread, "caller", None)
    if caller is None:
        caller = _of_thread.caller = _Caller()
    result: Future[T] = caller.begin(call)
    try:
        return result.result(limit_s)
    except TimeoutError:
        if result.done():  # it is the call's own
            raise
        raise LateError(f"no answer within {limit_s:.3g} s") from None
    finally:
        if not result.done():
            _of_thread.caller = None


class _Caller:
    """A thread that makes calls one by one, and keeps no program from ending."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        threading.Thread(target=_make_calls, args=(self._calls,), name="remote", daemon=True).start()

    def begin(self, call: Callable[[], T]) -> Future[T]:
        result: Future[T] = Future()
        self._calls.put((call, result))
        return result

    def __del__(self) -> None:
        self._calls.put(None)


def _make_calls(calls: "SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]") -> None:
    while (asked := calls.get()) is not None:
        call, result = asked
        try:
            result.set_result(call())
        except BaseException as error:
            result.set_exception(error)
        del asked, call, result  # or what it gave would be kept until the next


_of_thread = threading.local()
os.register_at_fork(after_in_child=_of_thread.__dict__.clear)
