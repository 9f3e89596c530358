"""Changes that can be taken back: what they replaced is kept for a while, in the memory of this process."""

import time
from collections import OrderedDict
from dataclasses import dataclass

from anykey.index.changes import ABSENT, Delete, Outcome, PutBack, Status
from anykey.index.store.records import Record
from anykey.service.errors import NotFoundError

OVERHEAD_BYTES = 1000  # of one change, beside what it replaced


@dataclass(frozen=True)
class _Made:
    """One change.

    Attributes:
        undo: What takes it back, unless somebody else has changed the key since.
        num_bytes: About how much memory that takes.
        ends_s: On the clock of `time.monotonic`; when it is given up.
    """

    undo: PutBack | Delete
    num_bytes: int
    ends_s: float


class UndoableChanges:
    """The latest changes that were asked to be undoable, by their numbers; belongs to one event loop."""

    def __init__(self, keep_s: float, max_bytes: int) -> None:
        """Begins without any.

        Args:
            keep_s: How long a change can be taken back; 0 for not at all.
            max_bytes: Most memory for what changes replaced; of more, the oldest are given up first.
        """
        self.keep_s = keep_s
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._made: OrderedDict[int, _Made] = OrderedDict()

    def note(self, outcome: Outcome, keeps: bool) -> float | None:
        """Keeps what takes a change back; gives for how many seconds, or `None` where it cannot be.

        Args:
            outcome: What became of the change.
            keeps: Whether it was asked to be undoable; one that is told of again may be known from the first time.
        """
        self._forget_old()
        seq = outcome.seq
        if seq is None or outcome.status not in (Status.STORED, Status.DELETED):
            return None
        if seq not in self._made and keeps and (undo := _undo_of(outcome, seq)) is not None:
            num_bytes = OVERHEAD_BYTES + (_size_of(undo.record) if isinstance(undo, PutBack) else 0)
            if self.keep_s and num_bytes <= self._max_bytes:
                self._made[seq] = _Made(undo, num_bytes, time.monotonic() + self.keep_s)
                self._num_bytes += num_bytes
                while self._num_bytes > self._max_bytes:
                    self._drop(next(iter(self._made)))
        made = self._made.get(seq)
        return None if made is None else round(max(0.0, made.ends_s - time.monotonic()), 3)

    def undo_of(self, seq: int) -> PutBack | Delete:
        """What takes a change back.

        Raises:
            NotFoundError: it is not kept, or no longer.
        """
        self._forget_old()
        made = self._made.get(seq)
        if made is None:
            raise NotFoundError(
                f"change {seq} cannot be undone: that takes a change that was made with undo=true by this process, "
                f"in the last {self.keep_s:g} s, and was not undone yet"
            )
        return made.undo

    def done(self, seq: int) -> None:
        """Forgets a change that was taken back."""
        if seq in self._made:
            self._drop(seq)

    def _forget_old(self) -> None:
        now_s = time.monotonic()
        for seq in [seq for seq, made in self._made.items() if made.ends_s <= now_s]:
            self._drop(seq)

    def _drop(self, seq: int) -> None:
        self._num_bytes -= self._made.pop(seq).num_bytes


def _undo_of(outcome: Outcome, seq: int) -> PutBack | Delete | None:
    """What takes a change back, as long as the key is as that change left it."""
    if outcome.is_new:
        return Delete(outcome.key, if_seq=seq)
    if outcome.earlier is None:  # it could not be read, or the answer is one to an earlier request
        return None
    return PutBack(outcome.earlier, if_seq=ABSENT if outcome.status is Status.DELETED else seq)


def _size_of(record: Record) -> int:
    vector = 0 if record.vector_D is None else record.vector_D.nbytes
    images = sum(len(image.data or b"") for image in record.images)
    return 4 * (len(record.text or "") + len(record.metadata)) + vector + images  # of most, a character takes 4 bytes
