"""A query as the body of `POST /search` that asks for the same, in whichever dialect it came."""

from collections.abc import Callable
from typing import Any

from anykey.index.filtering.filters import field_of_path, to_json
from anykey.index.key_index import EVERYTHING, Scope
from anykey.service.queries.parts import ItemPart, KeyPart, Part, VectorPart
from anykey.service.queries.query import Query
from anykey.service.queries.wanted import Duplicates


def body_of(query: Query, image: Callable[[bytes], str]) -> dict[str, Any]:
    """The body, without what only shows more of the same hits, and without the moment, which will not be kept.

    Args:
        query: The query.
        image: How an encoded image is written.
    """
    written = [_part(part, image) for part in query.parts]
    only = written[0] if len(written) == 1 and query.parts[0].weight == 1 else None
    body: dict[str, Any] = {"parts": written} if only is None else only
    body["k"] = query.k
    if query.scope != EVERYTHING:
        body |= scope_json(query.scope)
    for name, value, usual in (
        ("exact", query.exact, False),
        ("min_score", query.min_score, None),
        ("offset", query.offset, None),
        ("diversity", query.diversity, None),
        ("join", query.join, "rank"),
    ):
        if value != usual:
            body[name] = value
    if query.cuts:
        body["cutoff"] = "auto"
    if query.rerank is not None:
        body["rerank"] = {"model": query.rerank.model, "top": query.rerank.top}
    return body | _grouping(query)


def scope_json(scope: Scope) -> dict[str, Any]:
    """A scope in JSON, without what narrows nothing."""
    described = {
        "modalities": None if scope.modalities is None else sorted(map(str, scope.modalities)),
        "pool": scope.pool,
        "filter": None if scope.condition is None else to_json(scope.condition),
        "within": None if scope.within is None else sorted(scope.within),
        "exclude": sorted(scope.exclude) or None,
    }
    return {name: value for name, value in described.items() if value is not None}


def _grouping(query: Query) -> dict[str, Any]:
    if (grouping := query.grouping) is None:
        return {}
    if isinstance(grouping.by, Duplicates):
        by: dict[str, Any] = {"group_by": "duplicates", "duplicate_score": grouping.by.score}
    else:
        by = {"group_by": field_of_path(grouping.by)}
    return {**by, "group_size": grouping.size}


def _part(part: Part, image: Callable[[bytes], str]) -> dict[str, Any]:
    weight = {} if part.weight == 1 else {"weight": part.weight}
    if isinstance(part, KeyPart):
        return {"key": part.key, **weight}
    if isinstance(part, VectorPart):
        modality = {} if part.modality is None else {"vector_modality": str(part.modality)}
        return {"vector": list(part.vector), **modality, **weight}
    if isinstance(part, ItemPart):
        return {**_item(part, image), **weight}
    return {"words": part.words, **weight}


def _item(part: ItemPart, image: Callable[[bytes], str]) -> dict[str, Any]:
    written: dict[str, Any] = {}
    if part.item.has_text:
        written["text"] = part.item.text
    images = [image(each) for each in part.item.images if isinstance(each, bytes)]
    if images:
        written["image"] = images[0] if len(images) == 1 else images
        if part.item.has_text:
            written["text_weight"] = part.text_weight
    if part.instruction is not None:
        written["instruction"] = part.instruction
    return written
