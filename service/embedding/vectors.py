"""Vectors as clients want them: how many numbers, and how they are written.

Shape legend: D = width.
"""

import base64

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.protocol import ItemEncoder
from anykey.service.embedding.schemas import VectorEncoding
from anykey.service.errors import InvalidRequestError
from anykey.service.queries.wrong_values import shown

Vector = NDArray[np.float32]


def width_of(asked: int | None, field: str, encoder: ItemEncoder) -> int:
    """How many numbers of a vector are given.

    Args:
        asked: As a client says it; `None`: as many as the model gives.
        field: Where, for the message.
        encoder: Whose vectors are asked for.

    Raises:
        InvalidRequestError: the model was not trained to be cut to it.
    """
    if asked is None or asked == encoder.width:
        return encoder.width
    widths = [*(shorter for shorter in encoder.widths if shorter < encoder.width), encoder.width]
    if asked not in widths:
        known = ", ".join(map(str, widths))
        raise InvalidRequestError(f"{field}: model {encoder.name} gives vectors of {known} numbers, got {shown(asked)}")
    return asked


def cut_vector(vector_D: Vector, width: int) -> Vector:
    """The first numbers of a vector, scaled to unit norm again; all of them as they are.

    Raises:
        InvalidRequestError: nothing is left of it.
    """
    if width == len(vector_D):
        return vector_D
    head_D = vector_D[:width].astype(np.float64)
    if not head_D.any():
        raise InvalidRequestError(f"the first {width} numbers of a vector are all zero, and cannot be scaled")
    return np.asarray(head_D / np.linalg.norm(head_D), np.float32)


def written_vector(vector_D: Vector, encoding: VectorEncoding) -> list[float] | str:
    """A vector as a list of numbers, or as the base64 of little-endian float32."""
    if encoding is VectorEncoding.BASE64:
        return base64.b64encode(vector_D.astype("<f4").tobytes()).decode("ascii")
    numbers: list[float] = vector_D.tolist()
    return numbers
