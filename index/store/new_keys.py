"""A key that was handed over to be stored, checked and in the form that the store takes."""

import json
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.changes import Patch
from anykey.index.errors import InvalidKeyError
from anykey.index.key_index import NewKey
from anykey.index.queries import check_vector, is_unicode
from anykey.index.store.records import NewImage, Record


def to_record(new: NewKey, width: int) -> Record:
    """Checks a key; raises as `check_record` does."""
    if not isinstance(new, NewKey):
        raise InvalidKeyError(f"expected a NewKey, got {type(new).__name__}")
    images = tuple(NewImage(image.media_type, None, image.data) for image in new.images)
    return check_record(new.key, new.text, new.metadata, new.pools, images, new.vector_D, width, new.bare)


def check_patch(patch: Patch) -> None:
    """Checks what a key's metadata and pools are to become.

    Raises:
        InvalidKeyError: a pool's name is blank or no Unicode, or the metadata are no standard JSON object.
    """
    try:
        _check_names("of the patch", [], sorted(set(patch.pools or ())))
        if patch.metadata is not None:
            dump_metadata(dict(patch.metadata))
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidKeyError(f"key {patch.key!r} cannot be changed: {error}") from error


def check_record(
    key: str,
    text: str | None,
    metadata: dict[str, Any],
    pools: Iterable[str],
    images: tuple[NewImage, ...],
    vector_D: NDArray[np.floating[Any]],
    width: int,
    bare: Modality | None = None,
) -> Record:
    """Checks the parts of a key and joins them.

    Args:
        key: Its name.
        text: Its text, or `None`.
        metadata: Its metadata object.
        pools: Its pools.
        images: Its images.
        vector_D: Its vector.
        width: Length of the index's vectors.
        bare: What the vector is of, for a key with neither text nor image.

    Raises:
        InvalidKeyError: its name, text or a pool's name is blank or no Unicode, its metadata are no standard JSON
            object, its vector is no unit vector of that width, or it has neither text nor image and is not bare.
    """
    try:
        sorted_pools = tuple(sorted(set(pools)))
        _check_names(key, [] if text is None else [text], sorted_pools)
        if text is None and not images and bare is None:
            raise ValueError("it has neither text nor image")
        for image in images:
            _check_image(image)
        checked_D = check_vector(vector_D, width)
        dumped = dump_metadata(metadata)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidKeyError(f"key {key!r} cannot be stored: {error}") from error
    modality = bare or (Modality.TEXT if not images else Modality.IMAGE if text is None else Modality.FUSED)
    return Record(key, modality, text, dumped, sorted_pools, images, checked_D)


def _check_names(key: str, texts: Collection[str], pools: Collection[str]) -> None:
    for what, values in (("key", [key]), ("text", texts), ("pool", pools)):
        for value in values:
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"expected its {what} to be a string that is not blank, got {value!r}")
            if not is_unicode(value):
                raise ValueError(f"its {what} is no Unicode text")


def _check_image(image: NewImage) -> None:
    if image.path is None and image.data is None:
        raise ValueError("an image has neither data nor path")
    if not isinstance(image.path, str | None) or not isinstance(image.data, bytes | None):
        raise ValueError("expected an image's path as a string and its data as bytes")
    if not isinstance(image.media_type, str) or not all(map(is_unicode, (image.media_type, image.path or ""))):
        raise ValueError("expected an image's media type and path as Unicode text")


def dump_metadata(metadata: dict[str, Any]) -> str:
    """Metadata as canonical JSON.

    Raises:
        TypeError: they are no object, or hold what JSON has no word for.
        ValueError: a number in them is not finite, or a text no Unicode.
        RecursionError: they are nested too deeply.
    """
    if not isinstance(metadata, dict):
        raise TypeError(f"expected metadata to be an object, got {type(metadata).__name__}")
    dumped = json.dumps(metadata, sort_keys=True, ensure_ascii=False, allow_nan=False)
    dumped.encode()
    return dumped
