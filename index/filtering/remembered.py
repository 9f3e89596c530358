"""What scopes were found to hold, remembered for the next search with the same filters; bounded."""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from anykey.index.filtering.conditions import And, Condition, In, Not, Or
from anykey.index.filtering.filters import to_json

MOST_ENTRIES = 4096
MOST_BYTES = 64 * 2**20  # of positions, and of what remembering them takes besides
LARGEST_SHARE = 4  # an entry has at most one part in so many of it
MOST_CONDITION_BYTES = 32 * 2**10  # as JSON; to know a larger condition again takes longer than is gained
FEW_VALUES = 16  # of a list, which are not large whatever they are
ENTRY_BYTES = 256  # digest, array and their places

Name = bytes  # of the filters of a scope


class Remembered:
    """Positions by the filters that found them, the least recently used forgotten first; safe for several threads.

    A condition is known by its digest, so that none is kept, however large it is.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[Name, NDArray[np.int64]] = OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """What is taken."""
        return self._num_bytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: Name) -> NDArray[np.int64] | None:
        """The positions, if they are remembered."""
        with self._lock:
            found = self._entries.get(name)
            if found is not None:
                self._entries.move_to_end(name)
            return found

    def put(self, name: Name, positions: NDArray[np.int64]) -> None:
        """Remembers positions, unless they are too many; forgets others for them."""
        size = _size(positions)
        if size > MOST_BYTES // LARGEST_SHARE:
            return
        with self._lock:
            replaced = self._entries.pop(name, None)
            self._num_bytes += size - (0 if replaced is None else _size(replaced))
            self._entries[name] = positions
            while self._num_bytes > MOST_BYTES or len(self._entries) > MOST_ENTRIES:
                _, forgotten = self._entries.popitem(last=False)
                self._num_bytes -= _size(forgotten)


def name_of(modalities: Collection[str] | None, pool: str | None, condition: Condition | None) -> Name | None:
    """What filters are remembered by: equal for equal ones; `None` for a condition that is not worth it."""
    if condition is not None and _has_large_list(condition):  # found out before it is written as JSON
        return None
    names = None if modalities is None else sorted(set(modalities))
    text = json.dumps([names, pool, None if condition is None else to_json(condition)])
    return None if len(text) > MOST_CONDITION_BYTES else hashlib.sha256(text.encode()).digest()


def _size(positions: NDArray[np.int64]) -> int:
    return positions.nbytes + ENTRY_BYTES


def _has_large_list(condition: Condition) -> bool:
    if isinstance(condition, In):
        return len(condition.values) > FEW_VALUES and sum(len(str(value)) for value in condition.values) > (
            MOST_CONDITION_BYTES
        )
    if isinstance(condition, And | Or):
        return any(map(_has_large_list, condition.conditions))
    return isinstance(condition, Not) and _has_large_list(condition.condition)
