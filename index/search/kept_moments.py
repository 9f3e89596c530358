"""Moments of an index that are kept for a while, so that later pages of an answer are of the moment of the first.

A kept moment holds its version's files open and a read transaction of the store. Neither keeps a writer from working,
but the store's write-ahead log cannot be begun anew before the moment is let go of, and a version not be deleted.
"""

import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from anykey.index.deadline import NEVER, Deadline
from anykey.index.errors import SnapshotExpiredError, SnapshotRefusedError
from anykey.index.search.generation import Generation
from anykey.index.search.view import View
from anykey.index.store.store_reader import OpenMoment, ReadTransaction

NAME_CHARS = 8  # of a store and of who opened it: what tells them apart, not what keeps them secret
LOOK_S = 0.25  # between two looks at the moments' ages and at the store's log
_TOKEN = re.compile(r"(?a:([0-9a-f]{8})\.([0-9a-f]{8})\.([\w-]{1,40})\.(\d{1,18}))")


@dataclass(frozen=True)
class Keeping:
    """How long moments are kept, and how many.

    Attributes:
        seconds: How long one is kept after the last answer of it; 0 for not at all.
        most: How many are kept at a time; the oldest goes first, those that nobody said they would ask for before.
        most_log_bytes: When the store's write-ahead log is larger, only those are kept that somebody said they would
            ask for, so that the writer can begin it anew.
        most_log_bytes_ever: When the log is larger than this, none is kept.
    """

    seconds: float = 60.0
    most: int = 32
    most_log_bytes: int = 64 * 2**20
    most_log_bytes_ever: int = 2**30

    def __post_init__(self) -> None:
        if not (0 <= self.seconds < float("inf") and self.most >= 1):
            raise ValueError(f"expected seconds from 0 and most from 1, got {self.seconds} and {self.most}")


KEEPING = Keeping()


@dataclass
class _Kept:
    """One kept moment; `users` counts the answers that are made of it just now."""

    generation: Generation
    view: View
    store: OpenMoment
    until_s: float
    is_asked_for: bool
    users: int = 0

    def close(self) -> None:
        self.store.close()
        self.generation.release()


class KeptMoments:
    """The kept moments of one open index, by their tokens; safe for use from several threads.

    A thread of its own lets go of those whose time is over, as long as there are some. `close` lets go of all.

    None is kept of a store that is one file, which nobody writes to. Its moment is now for as long as that is so. To
    begin the store's log, a writer needs a moment in which nobody reads, and a kept moment is read until it is over.
    """

    def __init__(self, keeping: Keeping = KEEPING, clock: Callable[[], float] = time.monotonic) -> None:
        """Keeps nothing yet.

        Args:
            keeping: How long and how many.
            clock: Seconds that only go forward.
        """
        self._keeping = keeping
        self._clock = clock
        self._opened = secrets.token_hex(NAME_CHARS // 2)
        self._kept: dict[str, _Kept] = {}  # the one that was used last is the last
        self._changed = threading.Condition()
        self._cleaner: threading.Thread | None = None
        self._is_open = True

    def __len__(self) -> int:
        with self._changed:
            return len(self._kept)

    def __contains__(self, token: str) -> bool:
        with self._changed:
            return token in self._kept

    @property
    def is_on(self) -> bool:
        """Whether moments are kept at all."""
        return self._keeping.seconds > 0

    def token(self, generation: Generation, view: View) -> str:
        """What names a moment to those who ask for it again."""
        manifest = generation.version.manifest
        return f"{self._opened}.{manifest.store_id[:NAME_CHARS]}.{manifest.version}.{view.seq}"

    def is_of(self, token: str, generation: Generation, view: View) -> bool:
        """Whether a token names a moment, whoever gave it: the store and its version say all that an answer needs."""
        return token.partition(".")[2] == self.token(generation, view).partition(".")[2]

    def keep(self, generation: Generation, view: View, transaction: ReadTransaction, *, is_asked_for: bool) -> None:
        """Keeps a moment, if there is room, from the end of its transaction's block on; or keeps it for longer.

        Args:
            generation: The version.
            view: What it is searched by at this moment.
            transaction: The store at the same moment.
            is_asked_for: Whether somebody said that they would ask for this moment.
        """
        if not self.is_on:
            return
        token = self.token(generation, view)
        if not self._renew(token, is_asked_for):
            transaction.heir = lambda store: self._add(token, generation, view, store, is_asked_for)

    def prolong(self, token: str, store: Path) -> bool:
        """Keeps a moment for longer, if that takes no waiting; true also where none of its store is kept.

        Args:
            token: Names it.
            store: Its store.
        """
        if not self.is_on:
            return True
        if not self._changed.acquire(blocking=False):
            return False
        try:
            return self._renew(token, False) or _log_bytes(store) is None
        finally:
            self._changed.release()

    @contextmanager
    def moment(
        self, token: str, deadline: Deadline = NEVER
    ) -> Iterator[tuple[Generation, View, ReadTransaction] | None]:
        """The kept moment that a token names, for the length of the block; `None` if it is not kept.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
            IndexCorruptError: a file is damaged, or turns out to be in the block.
        """
        with self._changed:
            kept = self._kept.get(token)
            if kept is not None:
                kept.users += 1
        if kept is None:
            yield None
            return
        try:
            with kept.generation.health.noting_damage():
                kept.generation.health.require_files()
                with kept.store.reading(deadline) as transaction:
                    yield kept.generation, kept.view, transaction
        finally:
            self._leave(token, kept)

    def expired(self, token: str) -> SnapshotExpiredError:
        """Why there is no moment of this name."""
        if token.partition(".")[0] != self._opened:
            return SnapshotExpiredError(
                "the snapshot was given by another process, or before this one opened the index; search again"
            )
        return SnapshotExpiredError(
            f"the snapshot is no longer kept: that is done for {self._keeping.seconds:g} s after the last answer of it,"
            f" and for at most {self._keeping.most} at a time; search again"
        )

    def close(self) -> None:
        """Lets go of all moments; no thread may be in one. Repeating it is fine."""
        with self._changed:
            self._is_open = False
            self._drop(list(self._kept))
            self._changed.notify_all()
            cleaner = self._cleaner
        if cleaner is not None:
            cleaner.join()

    def _renew(self, token: str, is_asked_for: bool) -> bool:
        """Keeps a moment for longer, if it is kept."""
        with self._changed:
            kept = self._kept.pop(token, None)
            if kept is None:
                return False
            self._kept[token] = kept
            kept.until_s = self._clock() + self._keeping.seconds
            kept.is_asked_for |= is_asked_for
            return True

    def _add(self, token: str, generation: Generation, view: View, store: OpenMoment, is_asked_for: bool) -> None:
        """Takes over a moment whose store is open; the generation is in use by the caller."""
        log_bytes = _log_bytes(store.path)
        most_bytes = self._keeping.most_log_bytes_ever if is_asked_for else self._keeping.most_log_bytes
        is_refused = log_bytes is None or log_bytes > most_bytes
        if is_refused or self._renew(token, is_asked_for) or not generation.acquire():
            store.close()
            return
        kept = _Kept(generation, view, store, self._clock() + self._keeping.seconds, is_asked_for)
        with self._changed:
            if not self._is_open or token in self._kept:
                kept.close()
                return
            self._kept[token] = kept
            if (excess := len(self._kept) - self._keeping.most) > 0:
                others = [other for other in self._kept if other != token]
                self._drop(sorted(others, key=lambda other: self._kept[other].is_asked_for)[:excess])
            if self._cleaner is None:
                self._cleaner = threading.Thread(target=self._clean, name="kept-moments", daemon=True)
                self._cleaner.start()

    def _leave(self, token: str, kept: _Kept) -> None:
        with self._changed:
            kept.users -= 1
            if not kept.users and self._kept.get(token) is not kept:
                kept.close()

    def _clean(self) -> None:
        """Lets go of what is over, until there is nothing left."""
        with self._changed:
            while self._kept:
                self._drop([token for token, kept in self._kept.items() if self._is_over(kept)])
                self._changed.wait(min(LOOK_S, self._keeping.seconds))
            self._cleaner = None

    def _is_over(self, kept: _Kept) -> bool:
        log_bytes = _log_bytes(kept.store.path)
        most_bytes = self._keeping.most_log_bytes_ever if kept.is_asked_for else self._keeping.most_log_bytes
        return kept.until_s <= self._clock() or (log_bytes or 0) > most_bytes

    def _drop(self, tokens: list[str]) -> None:
        """Forgets moments, and lets go of those that no answer is made of."""
        for token in tokens:
            kept = self._kept.pop(token)
            if not kept.users:
                kept.close()


def check_token(token: str) -> None:
    """Raises `SnapshotRefusedError` unless it may name a moment."""
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise SnapshotRefusedError("snapshot must be one that an earlier answer gave, got another text")


def _log_bytes(store: Path) -> int | None:
    """Size of a store's log; `None` if it has none, so that a writer cannot begin one while the store is read."""
    try:
        return os.stat(f"{store}-wal").st_size
    except OSError:
        return None
