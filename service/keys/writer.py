"""The one writer of an index, as a service has it: who may change keys, and for how long the index's lock is held."""

import asyncio
import errno
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from anykey.index import errors as index_errors
from anykey.index.changes import Applied, Capabilities, Change, RequestKey, Status
from anykey.index.deadline import NEVER, Deadline
from anykey.index.key_index import Scope
from anykey.service.concurrency.threads import BoundedThreads
from anykey.service.errors import (
    IndexLockedError,
    IndexUnavailableError,
    InvalidRequestError,
    NotReadyError,
    OverloadedError,
    ReadOnlyError,
    RequestMismatchError,
    ServiceError,
)
from anykey.service.indexes.watch import IndexWatch
from anykey.service.logs import LogEvent
from anykey.service.operations.audit import IndexAudit
from anykey.service.operations.records import CURRENT, RequestRecord
from anykey.service.requests.deadline import late

T = TypeVar("T")
MAX_JOINED = 1000  # changes of several requests that are made durable together
LET_PASS_S = 0.05  # where even a turn among those who wait cannot be had
RETRY_S = 2.0  # between two tries to become the writer

logger = logging.getLogger(__name__)


class ChangeableIndex(Protocol):
    """What the service needs of an index to change it, a part of `KeyIndex`."""

    @property
    def capabilities(self) -> Capabilities:
        """What the engine promises of changes."""
        ...

    def make_writable(self, wanted: bool) -> bool:
        """Becomes the index's writer, or gives that up; gives whether it is one."""
        ...

    def apply(self, changes: Sequence[Change], *, atomic: bool = False, request: RequestKey | None = None) -> Applied:
        """Makes changes of single keys in their order."""
        ...

    def delete_scope(
        self,
        scope: Scope,
        *,
        dry_run: bool = False,
        request: RequestKey | None = None,
        deadline: Deadline = NEVER,
        pause: Callable[[Applied], None] | None = None,
    ) -> Applied:
        """Deletes the keys that are in a scope, many of them in pieces."""
        ...

    def remembered(self, request: RequestKey) -> Applied | None:
        """The answer to an earlier request."""
        ...


@dataclass
class _Waiting:
    """Changes of one request that wait to be made, and who waits for what becomes of them."""

    changes: Sequence[Change]
    record: RequestRecord | None
    future: asyncio.Future[Applied] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class KeyWriter:
    """Changes keys, if this service may, one transaction after the other.

    Belongs to one event loop, which it never blocks: the index is called in a thread of its own.

    Attributes:
        num_made: How many changes it has made.

    The lock: an index has one writer at a time, and a build or a tuning is one, too. With `idle_s` 0 the writer takes
    the lock when it begins, or as soon as it is free, and keeps it until it ends. Else it takes the lock for a change
    and gives it back when there has been none for `idle_s`, so that others get at the index meanwhile.

    Changes of several requests that wait at the same time are made durable together, if each may be made without the
    others and none is to be remembered by its idempotency key.
    """

    def __init__(
        self,
        index: ChangeableIndex,
        watch: IndexWatch,
        *,
        is_writable: bool,
        idle_s: float,
        deadline_s: float,
        max_waiting: int,
        audit: IndexAudit | None = None,
        on_change: Callable[[], None] = lambda: None,
        retry_s: float = RETRY_S,
    ) -> None:
        """Joins the parts; `running` begins.

        Args:
            index: What is changed.
            watch: The index's.
            is_writable: Whether this service may change it at all.
            idle_s: How long the lock is kept after the last change; 0 for as long as the writer runs.
            deadline_s: Longest time for looking for the keys of a scope.
            max_waiting: Most calls of the index that wait.
            audit: Where it is written down who changed what; absent: nowhere.
            on_change: Called in the event loop when changes have been made.
            retry_s: Between two tries to take the lock, with `idle_s` 0.
        """
        self._index = index
        self._watch = watch
        self._is_writable = is_writable
        self._idle_s = idle_s
        self._deadline_s = deadline_s
        self._audit = audit
        self._on_change = on_change
        self._retry_s = retry_s
        self._threads = BoundedThreads("writer", 1, max_waiting)
        self._deleter = BoundedThreads("deleter", 1, max_waiting)
        self._deletions: set[asyncio.Task[Applied]] = set()
        self._is_closing = False
        self._waiting: list[_Waiting] = []
        self._committing: asyncio.Task[None] | None = None
        self._num_users = 0
        self._last_used_s = 0.0
        self._is_holding = False
        self._is_told = False  # why the lock cannot be had
        self._is_retired = False
        self.num_made = 0

    @property
    def is_writable(self) -> bool:
        """Whether this service may change the index at all."""
        return self._is_writable

    @property
    def puts_back(self) -> bool:
        """Whether the index's engine can put back what was there before a change."""
        return self._index.capabilities.puts_back

    def retire(self) -> None:
        """Refuses all changes from now on but the one that is being made: another release has taken over."""
        self._is_retired = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Takes and gives back the lock as it should be, for the length of the block; then finishes what waits."""
        keeping = asyncio.create_task(self._keep()) if self._is_writable else None
        try:
            yield
        finally:
            if keeping is not None:
                keeping.cancel()
                await asyncio.wait([keeping])
            if self._committing is not None:
                await asyncio.wait([self._committing])
            self._is_closing = True
            if self._deletions:
                await asyncio.wait(self._deletions)
            if self._is_holding:
                await self._give_back()
            await asyncio.to_thread(self._deleter.close)
            await asyncio.to_thread(self._threads.close)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Holds the lock for the length of the block, so that what was embedded meanwhile can be stored.

        Raises:
            ReadOnlyError: this service changes no keys, or may not write to the index; says who does, where that is
                known.
            IndexLockedError: another process changes the index now.
            NotReadyError: the index is now another encoder's.
            IndexUnavailableError: the index cannot be reached, or is damaged.
        """
        if not self._is_writable:
            await self._refuse()
        self._num_users += 1
        try:
            if not self._is_holding:
                await self._take()
            yield
        finally:
            self._num_users -= 1
            self._last_used_s = time.monotonic()

    async def apply(
        self, changes: Sequence[Change], *, atomic: bool = False, request: RequestKey | None = None
    ) -> Applied:
        """Makes changes; on disk, and in every later answer, when it returns. To be called while the lock is held.

        Raises:
            InvalidRequestError: the engine cannot promise what is asked of it.
            RequestMismatchError: the idempotency key was used for another request.
            IndexUnavailableError: the index cannot be reached, is damaged, or its disk is full; nothing was changed.
        """
        _require(self._index.capabilities, changes, atomic, request)
        self._require_current()
        if atomic or request is not None:
            asked = [(CURRENT.get(), changes)]
            return self._noted(await self._call(lambda: self._apply(asked, atomic=atomic, request=request)))
        waiting = _Waiting(changes, CURRENT.get())
        self._waiting.append(waiting)
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_waiting())
        return await waiting.future

    async def delete_scope(self, scope: Scope, *, dry_run: bool, request: RequestKey | None) -> Applied:
        """Deletes the keys of a scope, or counts them; raises as `apply`, and for a pool that there is not.

        Many keys are deleted in pieces, and who waits for other changes is served between two of them. It goes on when
        nobody waits for it any more, and ends after a piece where the writer does.
        """
        _require(self._index.capabilities, (), False, request)
        if dry_run:
            return await self._call(lambda: self._index.delete_scope(scope, dry_run=True))
        deletion = asyncio.create_task(self._delete(scope, request))
        self._deletions.add(deletion)
        deletion.add_done_callback(self._forget)
        return await asyncio.shield(deletion)

    def _forget(self, deletion: asyncio.Task[Applied]) -> None:
        self._deletions.discard(deletion)
        if not deletion.cancelled():
            deletion.exception()  # who waited may have gone; asyncio complains about errors that nobody looked at

    async def _delete(self, scope: Scope, request: RequestKey | None) -> Applied:
        """Deletes the keys of a scope in a thread that is for this alone, one scope at a time."""
        done = Applied()

        def pause(so_far: Applied) -> None:
            nonlocal done
            done = so_far
            self._require_current()
            if self._is_closing:
                raise NotReadyError("the service is shutting down")
            try:
                self._threads.submit(_take_a_turn).result()  # behind those who wait to change keys
            except OverloadedError:
                time.sleep(LET_PASS_S)

        deadline, record = Deadline(self._deadline_s), CURRENT.get()

        def delete() -> Applied:
            so_far, is_whole = None, False
            try:
                so_far = self._index.delete_scope(scope, request=request, deadline=deadline, pause=pause)
                is_whole = True
            finally:
                if self._audit is not None:
                    self._audit.note_scope(record, scope, so_far or done, is_whole=is_whole)
            return so_far

        try:
            async with self.held():
                self._require_current()
                return self._noted(await self._call(delete, self._deleter))
        except ServiceError as error:
            self.num_made += done.num_deleted
            self._on_change()
            if not done.num_deleted:
                raise
            raise type(error)(f"{done.num_deleted} keys are deleted, and others are not: {error.message}") from error
        finally:
            deadline.cancel()

    async def remembered(self, request: RequestKey) -> Applied | None:
        """The answer to an earlier request, if it is remembered; raises as `apply`."""
        _require(self._index.capabilities, (), False, request)
        return await self._call(lambda: self._index.remembered(request))

    async def _commit_waiting(self) -> None:
        """Makes what waits durable, as much as may go together at a time, until nothing waits."""
        while self._waiting:
            joined: list[_Waiting] = []
            num_changes = 0
            while self._waiting and (not joined or num_changes + len(self._waiting[0].changes) <= MAX_JOINED):
                joined.append(self._waiting.pop(0))
                num_changes += len(joined[-1].changes)
            await self._commit(joined)

    async def _commit(self, joined: Sequence[_Waiting]) -> None:
        asked = [(waiting.record, waiting.changes) for waiting in joined]
        try:
            applied = self._noted(await self._call(lambda: self._apply(asked)))
        except Exception as error:
            for waiting in joined:
                if not waiting.future.done():
                    waiting.future.set_exception(error)
            return
        start = 0
        for waiting in joined:
            outcomes = applied.outcomes[start : start + len(waiting.changes)]
            start += len(waiting.changes)
            if not waiting.future.done():  # who waited may have gone
                num_deleted = sum(outcome.status is Status.DELETED for outcome in outcomes)
                waiting.future.set_result(Applied(outcomes, num_deleted, applied.seq))

    def _apply(self, asked: Sequence[tuple[RequestRecord | None, Sequence[Change]]], **how: Any) -> Applied:
        """Makes changes of requests, in the writer's thread, unless another release took over while they waited."""
        self._require_current()
        applied = self._index.apply([change for _, changes in asked for change in changes], **how)
        if self._audit is not None:
            self._audit.note(asked, applied)
        return applied

    def _require_current(self) -> None:
        if self._is_retired:
            raise NotReadyError(
                "another release has taken over before this could be stored in the one that the request came to; send "
                "it again, and it is stored in that one"
            )

    def _noted(self, applied: Applied) -> Applied:
        """Counts what was made."""
        if not applied.is_repeat:
            stored = sum(outcome.status is Status.STORED for outcome in applied.outcomes)
            self.num_made += stored + applied.num_deleted
            self._on_change()
        return applied

    async def _call(self, function: Callable[[], T], threads: BoundedThreads | None = None) -> T:
        """What a call of the index gives, in the writer's thread or another, and in the wire's words."""
        try:
            return await (threads or self._threads).run(self._watch.call, function)
        except index_errors.RequestMismatchError as error:
            raise RequestMismatchError(str(error)) from error
        except (index_errors.InvalidSearchError, index_errors.UnsupportedError) as error:
            raise InvalidRequestError(str(error)) from error
        except index_errors.DeadlineExceededError as error:
            raise late(self._deadline_s, "end of the look for the keys") from error
        except IndexUnavailableError as error:
            _refuse_forbidden(error)
            if _errno_of(error) in (errno.ENOSPC, errno.EDQUOT):
                raise IndexUnavailableError("the index's disk is full; nothing was changed") from error
            raise

    async def _take(self) -> None:
        try:
            await self._threads.run(self._watch.call, self._index.make_writable, True)
        except index_errors.IndexLockedError as error:
            raise IndexLockedError(f"{_who(error.holder)} changes the index now; retry later") from error
        except index_errors.EncoderMismatchError as error:
            raise NotReadyError("the index was built anew by another encoder; restart the service") from error
        except IndexUnavailableError as error:
            _refuse_forbidden(error)
            raise
        self._is_holding = True

    async def _refuse(self) -> None:
        try:
            await self._threads.run(self._watch.call, lambda: self._index.apply(()))
        except index_errors.ReadOnlyError as error:
            if error.holder is not None:
                raise ReadOnlyError(f"this service changes no keys; {error.holder} does") from error
        raise ReadOnlyError("this service changes no keys; start one with --writable")

    async def _keep(self) -> None:
        """Takes the lock at first; from then on takes it again, or gives it back, as it should be."""
        await self._try_to_take()
        while True:
            await asyncio.sleep(min(self._retry_s, self._idle_s / 4) if self._idle_s else self._retry_s)
            if not self._idle_s and not self._is_holding:
                await self._try_to_take()
            is_idle = not self._num_users and time.monotonic() - self._last_used_s >= self._idle_s
            if self._idle_s and self._is_holding and is_idle:
                await self._give_back()

    async def _try_to_take(self) -> None:
        """Takes the lock if it is free; what keeps it from that is told in the log once."""
        try:
            async with self.held():
                self._is_told = False
                logger.info("this service changes the index", extra={"event": LogEvent.WRITER_READY})
        except Exception as error:  # whatever it is, it is tried again, or told to who wants a change
            if not self._is_told:
                logger.warning("the index cannot be changed now: %s", error, extra={"event": LogEvent.WRITER_WAITS})
            self._is_told = True

    async def _give_back(self) -> None:
        self._is_holding = False  # who comes now takes it again, behind this in the same thread
        try:
            self._is_holding = await self._threads.run(self._index.make_writable, False) or self._is_holding
        except Exception:
            logger.exception("the index could not be closed for changes", extra={"event": LogEvent.INDEX_FAILED})


def _take_a_turn() -> None:
    """Nothing: whoever waits for it has let others go first."""


def _require(capabilities: Capabilities, changes: Sequence[Change], atomic: bool, request: RequestKey | None) -> None:
    try:
        capabilities.require("this index's engine", changes, atomic=atomic, request=request)
    except index_errors.UnsupportedError as error:
        raise InvalidRequestError(str(error)) from error


def _errno_of(error: IndexUnavailableError) -> int | None:
    return error.__cause__.errno if isinstance(error.__cause__, OSError) else None


def _refuse_forbidden(error: IndexUnavailableError) -> None:
    """Says that no later try will do where the index is out of reach only for writing."""
    if _errno_of(error) in (errno.EACCES, errno.EPERM, errno.EROFS):
        raise ReadOnlyError("this service changes no keys: it may not write to the index's files") from error


def _who(holder: object) -> str:
    return "another process" if holder is None else str(holder)
