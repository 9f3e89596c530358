"""What scopes were found to hold, remembered for the next search with the same filters, or their counts; bounded."""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

from anykey.index.filtering.conditions import And, Condition, In, Not, Or
from anykey.index.filtering.filters import to_json

MOST_ENTRIES = 4096
MOST_BYTES = 64 * 2**20  # of what is found, and of what remembering it takes besides
LARGEST_SHARE = 4  # an entry has at most one part in so many of it
MOST_CONDITION_BYTES = 32 * 2**10  # as JSON; to know a larger condition again takes longer than is gained
FEW_VALUES = 16  # of a list, which are not large whatever they are
ENTRY_BYTES = 256  # digest, object and their places

Name = bytes  # of the filters of a scope, or of what was asked within one
T = TypeVar("T")


class Remembered(Generic[T]):
    """What was found, by what was asked, the least recently used forgotten first; safe for several threads.

    A condition is known by its digest, so that none is kept, however large it is.
    """

    def __init__(self, size_of: Callable[[T], int], most_bytes: int = MOST_BYTES) -> None:
        """Remembers nothing yet.

        Args:
            size_of: Bytes that something takes.
            most_bytes: Room, what remembering takes included.
        """
        self._size_of = size_of
        self._most_bytes = most_bytes
        self._entries: OrderedDict[Name, T] = OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """What is taken."""
        return self._num_bytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: Name) -> T | None:
        """What was found, if it is remembered."""
        with self._lock:
            found = self._entries.get(name)
            if found is not None:
                self._entries.move_to_end(name)
            return found

    def put(self, name: Name, found: T) -> None:
        """Remembers what was found, unless it is too large; forgets other things for it."""
        size = self._size(found)
        if size > self._most_bytes // LARGEST_SHARE:
            return
        with self._lock:
            replaced = self._entries.pop(name, None)
            self._num_bytes += size - (0 if replaced is None else self._size(replaced))
            self._entries[name] = found
            while self._num_bytes > self._most_bytes or len(self._entries) > MOST_ENTRIES:
                _, forgotten = self._entries.popitem(last=False)
                self._num_bytes -= self._size(forgotten)

    def _size(self, found: T) -> int:
        return self._size_of(found) + ENTRY_BYTES


def name_of(modalities: Collection[str] | None, pool: str | None, condition: Condition | None) -> Name | None:
    """What filters are remembered by: equal for equal ones; `None` for a condition that is not worth it."""
    if condition is not None and _has_large_list(condition):  # found out before it is written as JSON
        return None
    names = None if modalities is None else sorted(set(modalities))
    text = json.dumps([names, pool, None if condition is None else to_json(condition)])
    return None if len(text) > MOST_CONDITION_BYTES else hashlib.sha256(text.encode()).digest()


def _has_large_list(condition: Condition) -> bool:
    if isinstance(condition, In):
        return len(condition.values) > FEW_VALUES and sum(len(str(value)) for value in condition.values) > (
            MOST_CONDITION_BYTES
        )
    if isinstance(condition, And | Or):
        return any(map(_has_large_list, condition.conditions))
    return isinstance(condition, Not) and _has_large_list(condition.condition)
