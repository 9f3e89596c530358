"""Qdrant's searches to queries: what `POST /collections/NAME/points/query` and its like ask for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ConfigDict, Field, StrictFloat, StrictInt

from anykey.index.filtering.conditions import And, Exists
from anykey.service.compat.content import item_part
from anykey.service.compat.fields import Served, numbers_of_vector
from anykey.service.compat.qdrant.filters import scope_of
from anykey.service.compat.qdrant.points import (
    ONLY_VECTOR,
    QdrantRequest,
    Shown,
    check_using,
    key_of,
    path_of,
    read_shown,
)
from anykey.service.errors import InvalidRequestError
from anykey.service.queries.parts import finite_number
from anykey.service.queries.query import ItemPart, KeyPart, Part, Query, VectorPart
from anykey.service.queries.wanted import Grouping, check_wanted
from anykey.service.queries.wrong_values import shown

INFERENCE = ("text", "image", "object")
OTHER_QUERIES = {
    "discover": "discovery",
    "context": "a context of pairs",
    "order_by": "an order by a field",
    "fusion": "fusion of prefetched results",
    "rrf": "fusion of prefetched results",
    "formula": "a formula",
    "sample": "a random sample",
    "relevance_feedback": "feedback",
    "indices": "a sparse vector",
}
DEFAULT_DIVERSITY = 0.5
DEFAULT_LIMIT = 10
DEFAULT_GROUPS = (3, 3)  # how many, and of how many points


class QdrantQuery(QdrantRequest):
    """What to search for. Unknown fields are ignored, and null counts as absent."""

    model_config = ConfigDict(
        title="QdrantQuery",
        json_schema_extra={
            "examples": [
                {
                    "query": {"nearest": {"text": "a red mug", "model": "anykey"}},
                    "filter": {"must": [{"key": "lang", "match": {"value": "en"}}]},
                    "limit": 5,
                    "with_payload": True,
                }
            ]
        },
    )

    query: Any = Field(
        None,
        description="A vector, the id of a point, or an object of these for the model to embed: `text`, `image`, or "
        "`object` with both; or `nearest` with one of them and perhaps `mmr`; or `recommend`.",
    )
    filter: Any = Field(None, description="Which points: `must`, `should`, `must_not`, `min_should`.")
    limit: StrictInt | None = Field(None, description="How many points. Absent: 10; of groups, 3.")
    offset: StrictInt | None = Field(None, description="How many points come before the first.")
    score_threshold: StrictFloat | StrictInt | None = Field(None, description="Points of a lower cosine are left out.")
    with_payload: Any = Field(None, description="Whether payloads are shown, or which members of them. Absent: no.")
    with_vector: Any = Field(None, description="Whether vectors are shown. Absent: no.")
    params: Any = Field(None, description="`exact`: whether every point is compared.")
    using: Any = Field(None, description="Only empty: each point has one vector.")
    prefetch: Any = Field(None, description="Only empty.")
    lookup_from: Any = Field(None, description="Only absent.")


class QdrantGroupsQuery(QdrantQuery):
    """What to search for, and what the points of a group have in common."""

    model_config = ConfigDict(
        title="QdrantGroupsQuery",
        json_schema_extra={"examples": [{"query": {"text": "a mug", "model": "anykey"}, "group_by": "brand"}]},
    )

    group_by: str | None = Field(None, description="A field of the payload; points without it are left out.")
    group_size: StrictInt | None = Field(None, description="Most points of a group. Absent: 3.")
    with_lookup: Any = Field(None, description="Only absent.")


@dataclass(frozen=True)
class QdrantSearch:
    """A search, and what is shown of each point that it finds."""

    query: Query
    shown: Shown


def read_search(fields: QdrantQuery, served: Served, where: str = "") -> QdrantSearch:
    """Reads a search.

    Args:
        fields: What was asked for.
        served: What answers.
        where: What messages call it; empty where the request has no other.

    Raises:
        InvalidRequestError: it has something that cannot be done here; says what.
        ItemTooLargeError: a text or an image is over a limit.
    """
    dot, limits = f"{where}." if where else "", served.limits
    check_using(fields.using, f"{dot}using")
    if fields.prefetch:
        raise InvalidRequestError(f"{dot}prefetch: nothing is searched beforehand; join what you look for by recommend")
    if fields.lookup_from is not None:
        raise InvalidRequestError(f"{dot}lookup_from: points are looked up in the collection that is searched")
    asked = _asked(fields.query, served, f"{dot}query")
    showing = read_shown(fields.with_payload, fields.with_vector, default=False)
    scope = scope_of(fields.filter, f"{dot}filter", limits)
    limit = DEFAULT_LIMIT if fields.limit is None else fields.limit
    if not 1 <= limit <= limits.max_k:
        raise InvalidRequestError(f"{dot}limit must be a whole number from 1 to {limits.max_k}, got {limit}")
    if fields.offset is not None and fields.offset < 0:
        raise InvalidRequestError(f"{dot}offset must be a whole number of at least 0, got {fields.offset}")
    own = {part.key for part in asked.parts if isinstance(part, KeyPart)}
    query = Query(
        asked.parts,
        k=limit,
        scope=replace(scope, exclude=frozenset(own).union(scope.exclude)),
        exact=_is_exact(fields.params, f"{dot}params"),
        min_score=_threshold(fields.score_threshold, f"{dot}score_threshold"),
        include=showing.include,
        offset=fields.offset or None,
        diversity=asked.diversity,
        max_depth=limits.max_depth,
        num_candidates=asked.num_candidates,
    )
    check_wanted(query.wanted, None, limits)
    return QdrantSearch(query, showing)


def read_groups(fields: QdrantGroupsQuery, served: Served) -> QdrantSearch:
    """Reads a search for groups; raises as `read_search`."""
    if fields.with_lookup is not None:
        raise InvalidRequestError("with_lookup: groups are looked up in no other collection")
    if fields.offset:
        raise InvalidRequestError("offset: groups are counted from the first one")
    if fields.group_by is None:
        raise InvalidRequestError("group_by: expected a field of the payload; it is absent")
    path = path_of(fields.group_by, "group_by")
    num_groups, size = (
        default if given is None else given
        for given, default in zip((fields.limit, fields.group_size), DEFAULT_GROUPS, strict=True)
    )
    if not 1 <= size <= served.limits.max_k:
        raise InvalidRequestError(f"group_size must be a whole number from 1 to {served.limits.max_k}, got {size}")
    plain = read_search(fields.model_copy(update={"limit": num_groups}), served)
    scope, has_field = plain.query.scope, Exists(path)
    condition = has_field if scope.condition is None else And((scope.condition, has_field))
    scope = replace(scope, condition=condition)
    query = replace(plain.query, scope=scope, grouping=Grouping(path, size))
    return replace(plain, query=query)


@dataclass(frozen=True)
class _Asked:
    """What is looked for, and how much it counts that points differ, among how many."""

    parts: tuple[Part, ...]
    diversity: float | None = None
    num_candidates: int | None = None


def _asked(value: Any, served: Served, where: str) -> _Asked:
    if value is None:
        raise InvalidRequestError(f"{where}: expected what to look for; POST .../points/scroll lists points")
    if not isinstance(value, dict):
        return _Asked((_part(value, 1.0, served, where),))
    given = {name: inner for name, inner in value.items() if inner is not None}
    kinds = [name for name in ("nearest", "recommend", *OTHER_QUERIES, *INFERENCE) if name in given]
    if len(kinds) > 1 and kinds[0] in ("nearest", "recommend"):
        raise InvalidRequestError(f"{where}: expected one kind of query, got {' and '.join(kinds)}")
    if "nearest" in given:
        part = _part(given["nearest"], 1.0, served, f"{where}.nearest")
        return _Asked((part,), *_mmr(given.get("mmr"), served, f"{where}.mmr"))
    if "recommend" in given:
        return _Asked(_recommended(given["recommend"], served, f"{where}.recommend"))
    return _Asked((_part(given, 1.0, served, where),))


def _part(value: Any, weight: float, served: Served, where: str) -> Part:
    """A vector, the id of a point, or an item for the model to embed."""
    if isinstance(value, list):
        return VectorPart(numbers_of_vector(value, where), None, weight, where)
    if not isinstance(value, dict):
        return KeyPart(key_of(value, where), weight, where)
    for name, what in OTHER_QUERIES.items():
        if name in value:
            raise InvalidRequestError(f"{where}: {what} cannot be asked for; known: nearest, recommend")
    return replace(read_item(value, served, where), weight=weight)


def read_item(value: dict[str, Any], served: Served, where: str) -> ItemPart:
    """An item for the model to embed: Qdrant's document, image or inference object.

    Raises:
        InvalidRequestError: it is none, or is to be embedded by another model or in another way.
        ItemTooLargeError: a text or an image is over a limit.
    """
    kinds = [name for name in INFERENCE if value.get(name) is not None]
    if len(kinds) != 1:
        raise InvalidRequestError(
            f"{where}: expected a vector, the id of a point, or an object with one of text, image and object, got "
            + (", ".join(kinds) or "an object without them")
        )
    (kind,) = kinds
    if value.get("model") is not None and not isinstance(value["model"], str):
        raise InvalidRequestError(f"{where}.model: expected a string, got {shown(value['model'])}")
    served.model_of(value.get("model"))
    if value.get("options"):
        raise InvalidRequestError(f"{where}.options: there are none for a model that is served here")
    string_is = None if kind == "object" else kind
    return item_part(value[kind], f"{where}.{kind}", served.limits, string_is)


def vector_or_none(value: Any, where: str) -> Sequence[float] | None:
    """The numbers of a point's vector, which may have the empty name; `None` where it is something else.

    Raises:
        InvalidRequestError: another name, or no numbers.
    """
    if isinstance(value, dict) and len(value) == 1 and next(iter(value)) in ONLY_VECTOR:
        ((_, value),) = value.items()
    return numbers_of_vector(value, where) if isinstance(value, list) else None


def _recommended(value: Any, served: Served, where: str) -> tuple[Part, ...]:
    """The mean of what is liked, and as far again from the mean of what is not: Qdrant's average vector."""
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{where}: expected an object with positive, got {shown(value)}")
    if (strategy := value.get("strategy")) not in (None, "average_vector"):
        raise InvalidRequestError(f"{where}.strategy: expected average_vector, got {shown(strategy)}")
    examples = {name: value.get(name) or [] for name in ("positive", "negative")}
    for name, given in examples.items():
        if not isinstance(given, list):
            raise InvalidRequestError(f"{where}.{name}: expected a list, got {shown(given)}")
    liked, disliked = examples["positive"], examples["negative"]
    if not liked:
        raise InvalidRequestError(f"{where}.positive: expected at least one example, got none")
    if len(liked) + len(disliked) > served.limits.max_parts:
        most = served.limits.max_parts
        raise InvalidRequestError(f"{where}: at most {most} examples, got {len(liked) + len(disliked)}")
    for_weight = (2 if disliked else 1) / len(liked)
    parts = [_part(one, for_weight, served, f"{where}.positive[{at}]") for at, one in enumerate(liked)]
    parts += [_part(one, -1 / len(disliked), served, f"{where}.negative[{at}]") for at, one in enumerate(disliked)]
    return tuple(parts)


def _mmr(value: Any, served: Served, where: str) -> tuple[float | None, int | None]:
    if value is None:
        return None, None
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{where}: expected an object, got {shown(value)}")
    diversity, num_candidates = value.get("diversity"), value.get("candidates_limit")
    diversity = DEFAULT_DIVERSITY if diversity is None else diversity
    if isinstance(diversity, bool) or not isinstance(diversity, int | float) or not 0 <= diversity <= 1:
        raise InvalidRequestError(f"{where}.diversity must be a number from 0 to 1, got {shown(diversity)}")
    most = served.limits.max_k
    is_number = isinstance(num_candidates, int) and not isinstance(num_candidates, bool)
    if num_candidates is not None and not (is_number and 1 <= num_candidates <= most):
        came = shown(num_candidates)
        raise InvalidRequestError(f"{where}.candidates_limit must be a whole number from 1 to {most}, got {came}")
    return float(diversity), num_candidates


def _is_exact(params: Any, where: str) -> bool:
    """Whether every point is compared; all else there is about a structure that this is not."""
    if params is None:
        return False
    exact = params.get("exact") if isinstance(params, dict) else params
    if exact is None:
        return False
    if not isinstance(exact, bool):
        raise InvalidRequestError(f'{where}: expected an object such as {{"exact": true}}, got {shown(exact)}')
    return exact


def _threshold(value: float | None, where: str) -> float | None:
    return None if value is None else finite_number(value, where)
