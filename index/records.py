"""A key that was handed over to be stored, checked and in the form that the store takes."""

import json
import math
from collections.abc import Collection

import numpy as np

from index.errors import InvalidKeyError
from index.key_index import NewKey
from index.store import NewImage, Record
from index.store_reader import is_encodable

MAX_NORM_ERROR = 1e-3


def to_record(new: NewKey, width: int) -> Record:
    """Checks a key.

    Args:
        new: The key.
        width: Length of the index's vectors.

    Raises:
        InvalidKeyError: its name, a text or a pool's name is blank or no Unicode, its metadata are no standard JSON
            object, its vector is no unit vector of that width, or it has neither text nor image.
    """
    try:
        _check(new, width)
        metadata = json.dumps(new.metadata, sort_keys=True, ensure_ascii=False, allow_nan=False)
        metadata.encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidKeyError(f"key {new.key!r} cannot be stored: {error}") from error
    images = tuple(NewImage(image.media_type, None, image.data) for image in new.images)
    pools = tuple(sorted(set(new.pools)))
    return Record(new.key, new.modality, new.text, metadata, pools, images, np.asarray(new.vector_D))


def _check(new: NewKey, width: int) -> None:
    if not isinstance(new.metadata, dict):
        raise ValueError(f"expected metadata to be an object, got {type(new.metadata).__name__}")
    _check_names(new.key, [] if new.text is None else [new.text], new.pools)
    if new.text is None and not new.images:
        raise ValueError("it has neither text nor image")
    vector_D = np.asarray(new.vector_D)
    if vector_D.shape != (width,) or vector_D.dtype.kind != "f":
        raise ValueError(f"expected a vector of {width} numbers, got shape {list(vector_D.shape)} of {vector_D.dtype}")
    norm = float(np.linalg.norm(vector_D.astype(np.float64)))
    if not math.isclose(norm, 1, abs_tol=MAX_NORM_ERROR):  # false for NaN
        raise ValueError(f"expected a unit vector, got norm {norm:.4g}")


def _check_names(key: str, texts: Collection[str], pools: Collection[str]) -> None:
    for what, values in (("key", [key]), ("text", texts), ("pool", pools)):
        for value in values:
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"expected its {what} to be a string that is not blank, got {value!r}")
            if not is_encodable(value):
                raise ValueError(f"its {what} is no Unicode text")
