"""A vector as clients want it: numbers or base64, whole or only its signs.

Shape legend: D = width.
"""

import base64
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anykey.service.errors import InvalidRequestError
from anykey.service.queries.wrong_values import shown

Vector = NDArray[np.float32]


class Numbers(StrEnum):
    """What the numbers of a vector are."""

    FLOAT = "float"
    BINARY = "binary"  # signs, eight to a byte, as int8: the bytes less 128
    UBINARY = "ubinary"  # signs, eight to a byte, as uint8


def numbers_of(name: str | None, field: str) -> Numbers:
    """The numbers that a client names; absent: floats.

    Raises:
        InvalidRequestError: numbers that are not made here, such as int8, which take a scale that others do not know.
    """
    try:
        return Numbers(name or "float")
    except ValueError as error:
        raise InvalidRequestError(f"{field}: known are {', '.join(Numbers)}, got {shown(name)}") from error


def written(vector_D: Vector, numbers: Numbers, is_base64: bool) -> Any:
    """A vector as a list of numbers, or as the base64 of their bytes, the lowest first."""
    values: NDArray[Any] = vector_D.astype("<f4")
    if numbers is not Numbers.FLOAT:
        bits = np.packbits(vector_D > 0)
        values = bits if numbers is Numbers.UBINARY else (bits.astype(np.int16) - 128).astype(np.int8)
    return base64.b64encode(values.tobytes()).decode("ascii") if is_base64 else values.tolist()
