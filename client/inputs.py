"""What a caller hands over, and the JSON that is made of it."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Required, TypedDict


class SavedImage(Protocol):
    """An image that can save itself, as those of Pillow."""

    def save(self, fp: Any, format: str | None = None) -> None:
        """Writes the image into a file that is open."""
        ...


Image = bytes | os.PathLike[str] | SavedImage
"""Encoded bytes, a path, or an image of Pillow, which is sent as PNG."""


class ScopeFields(TypedDict, total=False):
    """Which keys; each field narrows it.

    Attributes:
        modalities: Only keys of these modalities.
        pool: Only keys of this pool.
        filter: Only keys whose metadata fits, such as `{"field": "price", "lt": 20}`.
        within: Only these keys.
        exclude: All but these keys.
    """

    modalities: Sequence[str]
    pool: str
    filter: Mapping[str, Any]
    within: Sequence[str]
    exclude: Sequence[str]


class ItemFields(TypedDict, total=False):
    """An item: a text, one or several images, or both, which the model fuses.

    Attributes:
        text: Its text.
        image: Its image, or several (frames of one item).
        text_weight: The text's share of both, from 0 to 1.
        instruction: What the model is told, in place of its own prompt.
    """

    text: str
    image: Image | Sequence[Image]
    text_weight: float
    instruction: str


class Range(TypedDict, total=False):
    """Bounds of values, as a filter has them: all numbers, or all strings, of which dates compare as moments."""

    gt: float | str
    gte: float | str
    lt: float | str
    lte: float | str


class FacetFields(TypedDict, total=False):
    """A facet with what is not usual of it.

    Attributes:
        field: The member of the metadata; a list of names where dots are part of them.
        limit: Most values.
        prefix: Only values that begin with this.
        ranges: Counts keys with a value within bounds, in place of values.
    """

    field: Required[str | Sequence[str]]
    limit: int
    prefix: str
    ranges: Sequence[Range]


class SearchFields(ItemFields, ScopeFields, total=False):
    """A search: what it looks for, among which keys, and what it wants to know of them; docs/api.md has each field.

    Attributes:
        key: A stored key to find the like of.
        vector: A vector of the model's width.
        vector_modality: What the vector is of, for an index that is calibrated by modality.
        words: Words to find keys by.
        parts: Several weighted things to look for, in place of one; each a `Part`, or a mapping with its fields.
        k: How many hits.
        offset: How many hits come before the first.
        snapshot: Of an earlier answer, to be answered of the same moment.
        min_score: Hits below it are left out.
        cutoff: `auto` leaves out the irrelevant tail.
        group_by: A member of the metadata, or `duplicates`.
        group_size: Most hits of a group.
        duplicate_score: From which cosine on keys are duplicates.
        diversity: How much it counts that hits differ, from 0 to 1.
        include: What is shown of each hit.
        facets: Fields whose values are counted over the scope: names, or mappings with the fields of `FacetFields`.
        join: How words and vectors are joined.
        rerank: Has a cross-encoder put the best hits in order.
        exact: Compares every key.
        exclude_query_keys: Whether stored keys that the query names are left out.
        explain: Has the answer tell how it came about.
    """

    key: str
    vector: Sequence[float]
    vector_modality: str
    words: str
    parts: "Sequence[Part | Mapping[str, Any]]"
    k: int
    offset: int
    snapshot: str
    min_score: float
    cutoff: str
    group_by: str | Sequence[str]
    group_size: int
    duplicate_score: float
    diversity: float
    include: Sequence[str]
    facets: "Sequence[str | FacetFields]"
    join: str
    rerank: Mapping[str, Any]
    exact: bool
    exclude_query_keys: bool
    explain: bool


class KeyFields(TypedDict, total=False):
    """What is stored of a key: a text, images, both, or a vector that the caller has made of them.

    Attributes:
        text: Its text.
        image: Its image, or several (frames of one key).
        vector: The key's vector, in place of the one that the model would give it.
        modality: What the vector is of, for a key with neither text nor image.
        metadata: A JSON object, which filters look at.
        pools: Pools that the key is in.
        if_seq: Stores it only if its last change has this number, or, with 0, if there is no such key.
    """

    text: str
    image: Image | Sequence[Image]
    vector: Sequence[float]
    modality: str
    metadata: Mapping[str, Any]
    pools: Sequence[str]
    if_seq: int


class NewKey(KeyFields):
    """A key of several to be stored; `key` is its name."""

    key: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a query: an item (text, image or both), a stored key, a vector, or words.

    Attributes:
        text: Text of an item.
        image: Image of an item, or several.
        text_weight: The text's share where there are both.
        instruction: What the model is told, in place of its own prompt.
        key: A stored key.
        vector: A vector of the model's width.
        vector_modality: What the vector is of.
        words: Words to find keys by.
        weight: How much the part counts; negative: not like this.
    """

    text: str | None = None
    image: Image | Sequence[Image] | None = None
    text_weight: float | None = None
    instruction: str | None = None
    key: str | None = None
    vector: Sequence[float] | None = None
    vector_modality: str | None = None
    words: str | None = None
    weight: float | None = None


def as_json(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object of some fields: what is `None` left out, images and parts made what the wire has.

    Raises:
        OSError: an image's file cannot be read.
        TypeError: an image is neither bytes nor a path nor can it be saved.
    """
    return {name: _value(name, value) for name, value in fields.items() if value is not None}


def _value(name: str, value: Any) -> Any:
    if name == "image":
        is_list = isinstance(value, Sequence) and not isinstance(value, bytes | str)
        return [_base64(image) for image in value] if is_list else _base64(value)
    if name == "parts":
        return [as_json(part if isinstance(part, Mapping) else vars(part)) for part in value]
    if name == "facets":
        return [facet if isinstance(facet, str) else dict(facet) for facet in value]
    if name == "vector":
        return [float(number) for number in value]
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes):
        return list(value)
    return value


def _base64(image: Any) -> str:
    if isinstance(image, bytes | bytearray):
        data = bytes(image)
    elif isinstance(image, os.PathLike):
        data = Path(image).read_bytes()
    elif hasattr(image, "save"):
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        data = buffer.getvalue()
    else:
        hint = "; wrap the name of a file in pathlib.Path" if isinstance(image, str) else ""
        raise TypeError(f"expected an image as bytes, a path or an image of Pillow, got {type(image).__name__}{hint}")
    return base64.b64encode(data).decode("ascii")
