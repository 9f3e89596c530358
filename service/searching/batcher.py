"""Concurrent searches share calls of the index, and equal ones that wait are searched for once."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Generic, TypeVar

from anykey.index.deadline import Deadline, JointDeadline
from anykey.service.concurrency.threads import BoundedThreads
from anykey.service.concurrency.throughput import SURE_SHARE, Throughput
from anykey.service.errors import NotReadyError, OverloadedError

KindT = TypeVar("KindT", bound=Hashable)
SoughtT = TypeVar("SoughtT", bound=Hashable)
FoundT = TypeVar("FoundT")
T = TypeVar("T")


@dataclass
class SearchCounters:
    """What became of the searches so far; each counts once in the last six.

    Attributes:
        calls: Calls of the index, failed ones included.
        searched: Were part of a call.
        shared: Waited with an equal one, and were given what that found.
        expired: Past their deadline when their call began.
        dropped: Cancelled by their caller before their call began.
        rejected: Refused, because too many waited.
        hopeless: Refused, because those that waited would have taken too long.
    """

    calls: int = 0
    searched: int = 0
    shared: int = 0
    expired: int = 0
    dropped: int = 0
    rejected: int = 0
    hopeless: int = 0


@dataclass
class _Waiter(Generic[FoundT]):
    finish: Callable[[FoundT], Any]
    deadline: Deadline
    future: "Future[Any]" = field(default_factory=Future)


class Together:
    """Places of searches that begin together: when the last has been taken or given up; belongs to one thread."""

    def __init__(self, num_places: int, lock: "threading.RLock") -> None:
        """Begins with nobody there.

        Args:
            num_places: How many there are; `place` gives each.
            lock: Held while all of them begin.
        """
        self._lock = lock
        self._num_awaited = num_places
        self._begins: list[Callable[[], None]] = []

    def place(self) -> "PlaceTogether":
        """One of them, to be used as a context manager."""
        return PlaceTogether(self)

    def _arrive(self, begin: Callable[[], None] | None) -> None:
        if begin is not None:
            self._begins.append(begin)
        self._num_awaited -= 1
        if not self._num_awaited:
            begins, self._begins = self._begins, []  # which refer to this, and would stay with it until collected
            with self._lock:
                for one in begins:
                    one()


class PlaceTogether:
    """A search's place among others; at the end of its block it is given up, if no search took it.

    Attributes:
        together: The others.
        is_left: Whether it is taken or given up.
    """

    def __init__(self, together: Together) -> None:
        self.together = together
        self.is_left = False

    def take(self, begin: Callable[[], None]) -> None:
        """Lets a search wait here for the others.

        Args:
            begin: Called when all others are there.
        """
        self.is_left = True
        self.together._arrive(begin)

    def __enter__(self) -> "PlaceTogether":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.is_left:
            self.is_left = True
            self.together._arrive(None)


_Group = tuple[KindT, Together | None]


class SearchBatcher(Generic[KindT, SoughtT, FoundT]):
    """Lets searches gather while others are under way, and gives those of one kind to the index in one call.

    Nothing waits to be joined by others: a search begins at once if a thread is free. If none is, it waits, and who
    comes with the same kind meanwhile waits beside it. The search that waits longest goes first, and those of its kind
    go with it, as many as `most_together` says. What differs in kind (another scope, another number of hits) never
    shares a call, because a search must find what it finds alone.

    A search that equals one that waits (same kind, same thing sought) is that one. It never joins one that has begun:
    that one may have begun before a change which the later one has to see.

    Deadlines: a search that is over, or whose caller has gone, when its call begins is left out of it. The call itself
    is wanted for as long as one of its searches is. A search is refused at once where those that wait, at the pace of
    the last calls, take longer than it may wait.

    Searches of one request that has many go together in any case (`together`): those of one kind are one call, whatever
    `most_together` says, as far as `most_at_all` allows it. They wait for each other, and are begun when the last of
    them has come, or is known not to come.

    Failure: where a call of several fails, each of its searches is made alone, for one of them may be the reason.

    Any thread may use it. Owns none of its parts.
    """

    def __init__(
        self,
        call: Callable[[KindT, Sequence[SoughtT], Deadline], Sequence[FoundT]],
        most_together: Callable[[KindT], int],
        most_at_all: Callable[[KindT], int],
        *,
        threads: BoundedThreads,
        num_threads: int,
        max_waiting: int,
    ) -> None:
        """Joins the parts.

        Args:
            call: Searches for several things at once; called in a thread, gives what was found for each.
            most_together: How many searches of a kind share a call at most, at least 1; asked when a call begins.
            most_at_all: How many do that are of one request, at least 1.
            threads: Where calls are made.
            num_threads: Calls under way at most.
            max_waiting: Different searches waiting at most.
        """
        self._call = call
        self._most_together = most_together
        self._most_at_all = most_at_all
        self._threads = threads
        self._num_threads = num_threads
        self._max_waiting = max_waiting
        self._counters = SearchCounters()
        self._lock = threading.RLock()
        self._waiting: OrderedDict[_Group[KindT], OrderedDict[SoughtT, list[_Waiter[FoundT]]]] = OrderedDict()
        self._pace = Throughput()
        self._num_waiting = 0
        self._num_at_work = 0

    def counters(self) -> dict[str, int]:
        """A consistent copy of `SearchCounters`, and how many wait now."""
        with self._lock:
            return {**asdict(self._counters), "waiting": self._num_waiting}

    def together(self, num_searches: int) -> "Together":
        """Places for the searches of one request, of which each takes one or gives it up."""
        return Together(num_searches, self._lock)

    def submit(
        self,
        kind: KindT,
        sought: SoughtT,
        deadline: Deadline,
        finish: Callable[[FoundT], T],
        place: "PlaceTogether | None" = None,
    ) -> "Future[T]":
        """Begins a search, or lets it wait.

        Args:
            kind: All of a search but what it looks for.
            sought: What it looks for.
            deadline: Until when it is wanted.
            finish: Makes of what was found what is wanted of it; called in the thread that searched.
            place: Its place among others, with which it begins; the first search at a place takes it.

        Returns:
            A future of what `finish` gives. It may raise what the index raises, and where it has a place, what follows.

        Raises:
            OverloadedError: too many wait, or for too long.
            NotReadyError: the threads are closed.
        """
        waiter = _Waiter[FoundT](finish, deadline)
        if place is None or place.is_left:
            self._add((kind, None), sought, waiter)
        else:

            def begin() -> None:
                try:
                    self._add((kind, place.together), sought, waiter)
                except Exception as error:  # whatever it is: the others, which begin with this one, are not to be lost
                    waiter.future.set_exception(error)

            place.take(begin)
        return waiter.future

    def _add(self, group: "_Group[KindT]", sought: SoughtT, waiter: _Waiter[FoundT]) -> None:
        with self._lock:
            self._check_room(waiter.deadline)
            self._employ()
            searches = self._waiting.setdefault(group, OrderedDict())
            if sought in searches:
                self._counters.shared += 1
            else:
                self._num_waiting += 1
            searches.setdefault(sought, []).append(waiter)

    def _check_room(self, deadline: Deadline) -> None:
        if self._num_waiting >= self._max_waiting:
            self._counters.rejected += 1
            raise OverloadedError(f"{self._num_waiting} searches are waiting, the most accepted; retry in a moment")
        wait_s = self._pace.seconds_for(self._num_waiting) / self._num_threads
        if wait_s > SURE_SHARE * deadline.seconds_left:
            self._counters.hopeless += 1
            raise OverloadedError(
                f"{self._num_waiting} searches are waiting, which take about {wait_s:.1f} s, too long for one more to "
                "be answered in time; retry in a moment"
            )

    def _employ(self) -> None:
        """Has one more thread work, if it may; else those at work come to everything that waits."""
        if self._num_at_work < self._num_threads:
            try:
                self._threads.submit(self._work)
            except (OverloadedError, NotReadyError):
                if not self._num_at_work:
                    raise
            else:
                self._num_at_work += 1

    def _work(self) -> None:
        """Makes one call and leaves the thread to others that wait for it, then goes on, until nothing waits."""
        while True:
            self._make_next_call()
            with self._lock:
                if not self._waiting:
                    self._num_at_work -= 1
                    return
                try:
                    self._threads.submit(self._work)
                    return
                except (OverloadedError, NotReadyError):
                    pass  # the pool is full or closing: what waits here is made in this thread

    def _make_next_call(self) -> None:
        with self._lock:
            if not self._waiting:
                return
            kind, taken = self._take()
            self._counters.searched += len(taken)
        if taken:
            self._search(kind, taken)

    def _take(self) -> tuple[KindT, list[tuple[SoughtT, list[_Waiter[FoundT]]]]]:
        """The kind that waits longest, and those of its searches that go next and are still wanted."""
        group, searches = next(iter(self._waiting.items()))
        kind, together = group
        most = self._most_together(kind) if together is None else self._most_at_all(kind)
        taken = []
        for _ in range(min(most, len(searches))):
            sought, waiters = searches.popitem(last=False)
            self._num_waiting -= 1
            if wanted := [waiter for waiter in waiters if self._is_wanted(waiter)]:
                taken.append((sought, wanted))
        if searches:
            self._waiting.move_to_end(group)
        else:
            del self._waiting[group]
        return kind, taken

    def _is_wanted(self, waiter: _Waiter[FoundT]) -> bool:
        if not waiter.future.set_running_or_notify_cancel():
            self._counters.dropped += 1
            return False
        try:
            waiter.deadline.check()
        except Exception as error:
            self._counters.expired += 1
            waiter.future.set_exception(error)
            return False
        return True

    def _search(self, kind: KindT, taken: Sequence[tuple[SoughtT, list[_Waiter[FoundT]]]]) -> None:
        deadline = JointDeadline([waiter.deadline for _, waiters in taken for waiter in waiters])
        with self._lock:
            self._counters.calls += 1
        began_s = time.monotonic()
        try:
            found = self._call(kind, [sought for sought, _ in taken], deadline)
            answered = list(zip(taken, found, strict=True))
        except Exception as error:
            if len(taken) > 1:
                for search in taken:
                    self._search(kind, [search])
            else:
                for waiter in taken[0][1]:
                    waiter.future.set_exception(error)
            return
        for (_, waiters), one in answered:
            for waiter in waiters:
                _finish(waiter, one)
        with self._lock:
            self._pace.note(len(taken), time.monotonic() - began_s)


def _finish(waiter: _Waiter[FoundT], found: FoundT) -> None:
    try:
        waiter.deadline.check()
        waiter.future.set_result(waiter.finish(found))
    except Exception as error:
        waiter.future.set_exception(error)
