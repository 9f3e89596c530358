"""One validated query, however it was sent."""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from anykey.encoder.item import Item, Modality
from anykey.index.errors import InvalidFilterError
from anykey.index.filtering.conditions import Condition
from anykey.index.filtering.facets import Facet
from anykey.index.filtering.filters import parse_condition
from anykey.index.key_index import EVERYTHING, Scope
from anykey.index.words.joining import MOST_JOINED, Join, Words
from anykey.service.errors import InvalidRequestError, ServiceError
from anykey.service.queries.base64_text import decode_base64
from anykey.service.queries.canonical import digest_of
from anykey.service.queries.facets import read_facets
from anykey.service.queries.include import MAX_INCLUDED, PAYLOAD, Include, parse_include
from anykey.service.queries.parts import (
    MAX_VECTOR_NUMBERS,
    EmbeddedParts,
    ItemPart,
    KeyPart,
    Part,
    VectorPart,
    WordsPart,
    read_parts,
)
from anykey.service.queries.schemas import (
    DEFAULT_RERANK_TOP,
    MAX_WEIGHT,
    PartRequest,
    RerankRequest,
    SearchedPart,
    SearchRequest,
)
from anykey.service.queries.strict_json import parse_json
from anykey.service.queries.wanted import DEFAULT_DEPTH, Grouping, Wanted, check_wanted, grouping_of
from anykey.service.queries.wrong_values import place_in_list, shown, telling, wrong_value
from anykey.service.schemas import Limits

__all__ = [
    "ItemPart",
    "KeyPart",
    "Part",
    "Query",
    "Reranked",
    "VectorPart",
    "decode_base64",
    "queries_from_json",
    "query_from_fields",
    "query_from_json",
]

MAX_SHOWN_ERRORS = 5
QUICK_KEYS = 100  # of a scope: so many are hashed in the event loop
EXPECTED = {
    "min_score": "a number from -1 to 1",
    "offset": "a whole number of at least 0",
    "cutoff": '"auto"',
    "group_by": "a field of the metadata, as a string or a list of names",
    "group_size": "a whole number of at least 1",
    "duplicate_score": "a number above 0, up to 1",
    "diversity": "a number from 0 to 1",
}


@dataclass(frozen=True)
class Reranked:
    """By which reranker the best hits are put in order.

    Attributes:
        model: Its name, or `None` for the only one.
        top: How many hits it is given, from the query's `k`.
    """

    model: str | None
    top: int


@dataclass(frozen=True)
class Query:
    """What to search for and among which keys.

    Attributes:
        parts: What it looks for, at least one part.
        k: How many hits, from 1.
        scope: Which keys to look at.
        exact: Whether every key of the scope is compared.
        rerank: Who puts the hits in order; `None`: the index.
        snapshot: Names the moment of the index that is searched; `None`: now.
        min_score: Hits of a lower score are left out; `None`: none are.
        include: What is shown of each hit.
        explain: Whether it is told how the answer was made.
        offset: How many hits or groups come before the first; `None`: none, and nobody will ask for more.
        cuts: Whether the irrelevant tail is cut.
        grouping: How hits become one; `None`: each stays one.
        diversity: How much it counts that hits differ, in [0, 1]; `None`: nothing.
        max_depth: How far down the ranking is looked at.
        join: How the ranking by words is joined with the vector's.
        num_candidates: How many of the best a diverse order is made of; `None`: by `k`.
        facets: Counts of values over the scope.
    """

    parts: tuple[Part, ...]
    k: int = 10
    scope: Scope = EVERYTHING
    exact: bool = False
    rerank: Reranked | None = None
    snapshot: str | None = None
    min_score: float | None = None
    include: Include = PAYLOAD
    explain: bool = False
    offset: int | None = None
    cuts: bool = False
    grouping: Grouping | None = None
    diversity: float | None = None
    max_depth: int = DEFAULT_DEPTH
    join: Join = "rank"
    num_candidates: int | None = None
    facets: tuple[Facet, ...] = ()

    @property
    def wanted(self) -> Wanted:
        """Which of the ranked keys are its hits."""
        return Wanted(
            self.k,
            self.offset,
            self.min_score,
            self.cuts,
            self.grouping,
            self.diversity,
            max_depth=self.max_depth,
            num_candidates=self.num_candidates,
        )

    @property
    def to_rerank(self) -> Wanted:
        """Which of the ranked keys a reranker is given: as many as that is told, from the first on."""
        assert self.rerank is not None
        return replace(self.wanted, k=self.rerank.top, offset=None if self.offset is None else 0)

    @property
    def embedded_parts(self) -> tuple[EmbeddedParts, ...]:
        """What its vector is made of: the normalised weighted sum of their unit vectors; none for words alone."""
        return tuple(part for part in self.parts if not isinstance(part, WordsPart))

    @property
    def words(self) -> Words | None:
        """The words that it looks for, and how they are joined with the rest, which weighs as much as all its parts."""
        asked = tuple((part.words, part.weight) for part in self.parts if isinstance(part, WordsPart))
        return Words(asked, self.join, sum(abs(part.weight) for part in self.embedded_parts) or 1.0) if asked else None

    @cached_property
    def digest(self) -> str:
        """What tells it from all other queries, at whatever moment it is asked; of an image, its digest counts."""
        parts = tuple(part.with_images_hashed() if isinstance(part, ItemPart) else part for part in self.parts)
        if self.snapshot is None and all(map(operator.is_, parts, self.parts)):
            return digest_of(self)
        return digest_of(replace(self, parts=parts, snapshot=None))

    @property
    def is_quickly_hashed(self) -> bool:
        """Whether its digest takes less time than handing it to a thread."""
        if "digest" in vars(self):
            return True
        num_keys = len(self.scope.within or ()) + len(self.scope.exclude)
        return num_keys <= QUICK_KEYS and all(
            part.is_quickly_hashed for part in self.parts if isinstance(part, ItemPart)
        )

    @property
    def item(self) -> Item | None:
        """The item that is the whole query; `None` if there are several parts, or one of another kind or negative."""
        only = self.parts[0] if len(self.parts) == 1 else None
        return only.item if isinstance(only, ItemPart) and only.weight > 0 else None


def query_from_json(body: bytes | bytearray, limits: Limits) -> Query:
    """Reads a query from a JSON body.

    Args:
        body: The whole body.
        limits: What a request may ask for.

    Raises:
        InvalidRequestError: no JSON object, an unknown or repeated field, a value out of bounds, broken base64.
        ItemTooLargeError: an image or the text is over a limit.
    """
    fields = parse_json(body, "the body")
    if not isinstance(fields, dict):
        raise InvalidRequestError(f"the body must be a JSON object, got {shown(fields)}")
    return query_from_fields(fields, (), limits)


def queries_from_json(body: bytes | bytearray, limits: Limits) -> list[Query | ServiceError]:
    """Reads the queries of a batch from a JSON body.

    Args:
        body: The whole body.
        limits: What a request may ask for.

    Returns:
        The queries in their order; what is wrong with one stands in its place.

    Raises:
        InvalidRequestError: no JSON object, something else in it than `queries`, or too many of them.
    """
    fields = parse_json(body, "the body")
    if not isinstance(fields, dict) or not isinstance(queries := fields.get("queries"), list):
        raise InvalidRequestError('the body must be a JSON object such as {"queries": [{"text": "a red mug"}, ...]}')
    if others := [name for name in fields if name != "queries"]:
        raise InvalidRequestError(f"unknown field {shown(others[0])}; known: queries, whose members have all others")
    if not 1 <= len(queries) <= limits.max_batch_queries:
        raise InvalidRequestError(f"queries: expected from 1 to {limits.max_batch_queries} of them, got {len(queries)}")
    return [_query_or_error(query, limits) for query in queries]


def _query_or_error(fields: Any, limits: Limits) -> Query | ServiceError:
    try:
        if not isinstance(fields, dict):
            raise InvalidRequestError(f"a query must be a JSON object, got {shown(fields)}")
        return query_from_fields(fields, (), limits)
    except ServiceError as error:
        return error.as_result()


def query_from_fields(fields: dict[str, Any], files: tuple[bytes, ...], limits: Limits) -> Query:
    """Reads a query from fields by name and images that came as files.

    Args:
        fields: As in `SearchRequest`.
        files: Encoded images: those of parts, which name them, else before those of the `image` field.
        limits: What a request may ask for.

    Raises:
        InvalidRequestError: an unknown field, a value of the wrong type or out of bounds, broken base64,
            or nothing to look for.
        ItemTooLargeError: an image or the text is over a limit.
    """
    _check_lengths(fields, limits)
    try:
        request = SearchRequest.model_validate(_with_few_unknown(fields, SearchRequest))
    except ValidationError as error:
        details = telling(error.errors(include_url=False))[:MAX_SHOWN_ERRORS]
        sentences = dict.fromkeys(_sentences(details, limits))
        raise InvalidRequestError("; ".join(sentences)) from error
    if not 1 <= request.k <= limits.max_k:
        raise InvalidRequestError(_expected_k(limits, request.k))
    rerank = _rerank_of(request, limits)
    condition = _condition_of(request)
    include = parse_include(request.include)
    facets = read_facets(request.facets)
    parts = read_parts(request, files, limits)
    _check_words(request, parts)
    own = {part.key for part in parts if isinstance(part, KeyPart)} if request.exclude_query_keys else set()
    query = Query(
        parts,
        k=request.k,
        scope=_scope_of(request, condition, own),
        exact=request.exact,
        rerank=rerank,
        snapshot=request.snapshot,
        min_score=request.min_score,
        include=include,
        explain=request.explain,
        offset=request.offset,
        cuts=request.cutoff is not None,
        grouping=grouping_of(request, limits),
        diversity=request.diversity,
        max_depth=limits.max_depth,
        join=request.join or "rank",
        facets=facets,
    )
    check_wanted(query.wanted, None if rerank is None else rerank.top, limits)
    return query


def _check_words(request: SearchRequest, parts: tuple[Part, ...]) -> None:
    """Refuses what would be ignored: what is said of words without any, or of vectors without one."""
    num_words = sum(isinstance(part, WordsPart) for part in parts)
    if request.join is not None and not num_words:
        raise InvalidRequestError("join says how words are joined with the rest: expected a part with words")
    for name in ("min_score", "cutoff", "diversity"):
        if num_words and getattr(request, name) is not None:
            raise InvalidRequestError(
                f"{name} goes by cosine similarity, and a query with words does not; leave it out"
            )
    end = (request.offset or 0) + request.k
    if num_words and num_words < len(parts) and end > MOST_JOINED:
        raise InvalidRequestError(f"offset + k must be at most {MOST_JOINED} for words beside other parts, got {end}")


def _check_lengths(fields: dict[str, Any], limits: Limits) -> None:
    """Refuses lists that are too long before their entries are looked at."""
    parts = fields.get("parts")
    for name, most, what in (
        ("exclude", limits.max_exclude, "keys"),
        ("within", limits.max_within, "keys"),
        ("parts", limits.max_parts, "parts"),
        ("include", MAX_INCLUDED, "names"),
        ("vector", MAX_VECTOR_NUMBERS, "numbers"),
    ):
        entries = fields.get(name)
        if isinstance(entries, list) and len(entries) > most:
            raise InvalidRequestError(f"{name}: at most {most} {what}, got {len(entries)}")
    for number, part in enumerate(parts if isinstance(parts, list) else ()):
        if (
            isinstance(part, dict)
            and isinstance(vector := part.get("vector"), list)
            and len(vector) > MAX_VECTOR_NUMBERS
        ):
            raise InvalidRequestError(
                f"parts[{number}].vector: at most {MAX_VECTOR_NUMBERS} numbers, got {len(vector)}"
            )


def _with_few_unknown(fields: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """The fields there are, and as many of the others as a message names: each costs an error to be made."""
    others = [name for name in fields if name not in model.model_fields][:MAX_SHOWN_ERRORS]
    kept = {name: fields[name] for name in [*model.model_fields, *others] if name in fields}
    if isinstance(rerank := kept.get("rerank"), dict):
        kept["rerank"] = _with_few_unknown(rerank, RerankRequest)
    if isinstance(parts := kept.get("parts"), list):
        kept["parts"] = [_with_few_unknown(part, PartRequest) if isinstance(part, dict) else part for part in parts]
    return kept


def _rerank_of(request: SearchRequest, limits: Limits) -> Reranked | None:
    """How the hits are ranked again, its bounds checked."""
    if request.rerank is None:
        return None
    default = min(max(DEFAULT_RERANK_TOP, request.k), limits.max_rerank_top)
    top = default if request.rerank.top is None else request.rerank.top
    if not 1 <= top <= limits.max_rerank_top:
        raise InvalidRequestError(_expected_top(limits, top))
    if request.k > top:
        raise InvalidRequestError(f"k must be at most rerank.top, {top}, got {request.k}")
    return Reranked(request.rerank.model, top)


def _scope_of(request: SearchRequest, condition: Condition | None, own: set[str]) -> Scope:
    """Which keys are looked at; none of a query's own, if those are left out."""
    scope = Scope(
        frozenset(request.modalities) if request.modalities is not None else None,
        request.pool,
        condition,
        frozenset(request.within) if request.within is not None else None,
        frozenset(request.exclude) | own,
    )
    return EVERYTHING if scope == EVERYTHING else scope  # which tells at a glance that nothing was said


def _condition_of(request: SearchRequest) -> Condition | None:
    if request.filter is None:
        return None
    try:
        return parse_condition(request.filter)
    except InvalidFilterError as error:
        raise InvalidRequestError(str(error)) from error


def _sentences(details: Sequence[ErrorDetails], limits: Limits) -> Iterator[str]:
    """What is wrong with a request, its unknown fields all in one."""
    unknown = [detail for detail in details if detail["type"] == "extra_forbidden" and len(detail["loc"]) == 1]
    if unknown:
        names = ", ".join(shown(detail["loc"][0]) for detail in unknown)
        yield f"unknown field{'s' * (len(unknown) > 1)} {names}; known: {', '.join(SearchRequest.model_fields)}"
    for detail in details:
        if detail not in unknown:
            yield _sentence(detail, limits)


def _sentence(detail: ErrorDetails, limits: Limits) -> str:
    """What is wrong with one field, without repeating long or private contents."""
    name = str(detail["loc"][0]) if detail["loc"] else "the name of a field"
    if name == "parts":
        return _part_sentence(detail)
    if name == "rerank":
        return _rerank_sentence(detail, limits)
    if name == "k":
        return _expected_k(limits, detail["input"])
    if name == "modalities" and detail["type"] == "enum":
        return f"unknown modality {shown(detail['input'])}; known: {', '.join(Modality)}"
    if name in ("exact", "exclude_query_keys", "explain"):
        return f"{name} must be true or false, got {shown(detail['input'])}"
    if name in EXPECTED:
        return f"{name} must be {EXPECTED[name]}, got {shown(detail['input'])}"
    if name == "join":
        return f"join must be 'rank' or 'weight', got {shown(detail['input'])}"
    if name == "image" or name in SearchedPart.model_fields:
        return _thing_sentence(name, name, detail)
    return wrong_value(f"{name}{place_in_list(detail['loc'][1:])}", detail)


def _part_sentence(detail: ErrorDetails) -> str:
    """What is wrong with `parts`, with one of them, or with a field of one."""
    loc = detail["loc"]
    if len(loc) == 1:
        came = "none" if detail["input"] == [] else shown(detail["input"])
        return f'parts must be a list of objects such as {{"text": "red"}}, at least one, got {came}'
    where = f"parts[{loc[1]}]"
    if len(loc) == 2:
        return f'{where} must be an object such as {{"text": "red"}}, got {shown(detail["input"])}'
    name = str(loc[2])
    if detail["type"] == "extra_forbidden" and len(loc) == 3:
        return f"unknown field {shown(name)} of {where}; known: {', '.join(PartRequest.model_fields)}"
    if name == "weight":
        return f"{where}.weight must be a number from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}, got {shown(detail['input'])}"
    return _thing_sentence(name, f"{where}.{name}", detail, loc[3:])


def _thing_sentence(name: str, where: str, detail: ErrorDetails, behind: tuple[int | str, ...] | None = None) -> str:
    """What is wrong with a field of something that is looked for; `behind` is the place within the field."""
    place = where + place_in_list(detail["loc"][1:] if behind is None else behind)
    came = shown(detail["input"])
    if name == "text_weight":
        return f"{place} must be a number from 0 to 1, got {came}"
    if name == "vector":
        is_number = place.endswith("]")
        return f"{place} must be a {'number' if is_number else 'list of numbers, or base64 of float32'}, got {came}"
    if name == "image":
        one = "base64" if behind is None else 'base64, or a file of the form such as {"file": 0}'
        return f"{place} must be {one}{'' if place.endswith(']') else ', or a list of these'}, got {came}"
    if name == "vector_modality":
        return f"{place} must be one of {', '.join(Modality)}, got {came}"
    return wrong_value(place, detail)


def _rerank_sentence(detail: ErrorDetails, limits: Limits) -> str:
    """What is wrong with `rerank`, or with one of its members."""
    if len(detail["loc"]) == 1:
        return f'rerank must be an object such as {{"top": 50}}, got {shown(detail["input"])}'
    name = str(detail["loc"][1])
    if detail["type"] == "extra_forbidden":
        return f"unknown field {shown(name)} of rerank; known: {', '.join(RerankRequest.model_fields)}"
    return _expected_top(limits, detail["input"]) if name == "top" else wrong_value(f"rerank.{name}", detail)


def _expected_top(limits: Limits, came: object) -> str:
    return f"rerank.top must be a whole number from 1 to {limits.max_rerank_top}, got {shown(came)}"


def _expected_k(limits: Limits, came: object) -> str:
    return f"k must be a whole number from 1 to {limits.max_k}, got {shown(came)}"
