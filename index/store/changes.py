"""What came into a store after some moment, on its way into memory.

Shape legend: R = keys read, D = width.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anykey.index.errors import KeyCorruptError
from anykey.index.hits import StoredKey
from anykey.index.queries import MAX_NORM_ERROR


@dataclass(frozen=True)
class Changes:
    """What came into a store after some number of its change sequence.

    Attributes:
        seq: The number of the last change.
        seqs_R: Numbers of the changes that stored new keys, ascending.
        vectors_RD: Their vectors.
        keys: Their keys with their payload.
        removed: Numbers of those that stored what is no longer there.
        unsound: What is wrong with damaged records, by their numbers in `seqs_R`.
    """

    seq: int
    seqs_R: NDArray[np.int64]
    vectors_RD: NDArray[np.float32]
    keys: list[StoredKey]
    removed: NDArray[np.int64]
    unsound: dict[int, "Unsound"] = field(default_factory=dict)


@dataclass(frozen=True)
class Unsound:
    """What is wrong with the record of one new key.

    Attributes:
        error: The damage; raised by every answer that the key is in.
        has_payload: Whether it can be told what filters ask for.
        has_vector: Whether its vector points where it did, as far as can be told.
    """

    error: KeyCorruptError
    has_payload: bool
    has_vector: bool


def is_usable(vector: object, dtype: np.dtype[Any], width: int) -> bool:
    """Whether a damaged vector can still be compared: it is one, of length 1, so that little of it can have changed."""
    if not isinstance(vector, bytes) or len(vector) != width * dtype.itemsize:
        return False
    norm = float(np.linalg.norm(np.frombuffer(vector, dtype).astype(np.float64)))
    return abs(norm - 1) <= MAX_NORM_ERROR
