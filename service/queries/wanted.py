"""Which hits of a ranking a request wants: how many, from where on, without a tail, in groups, or diverse."""

from collections.abc import Sequence
from dataclasses import dataclass

from anykey.index.errors import InvalidFilterError
from anykey.index.filtering.conditions import Exists, Path
from anykey.index.filtering.filters import parse_path
from anykey.service.errors import InvalidRequestError
from anykey.service.queries.schemas import SearchRequest
from anykey.service.schemas import Limits

DEFAULT_DEPTH = 10_000
DUPLICATES = "duplicates"
DUPLICATE_SCORE = 0.95
DIVERSE_CANDIDATES = (10, 100, 1_000)  # for each hit, at least, at most


@dataclass(frozen=True)
class Duplicates:
    """Groups hits whose vectors are nearly the same as that of a better one.

    Attributes:
        score: From which cosine of two vectors on.
    """

    score: float = DUPLICATE_SCORE


@dataclass(frozen=True)
class Grouping:
    """How hits become one.

    Attributes:
        by: A field of the metadata, by its path, or near-duplicates.
        size: Most hits of a group in the answer.
    """

    by: Path | Duplicates
    size: int = 1


@dataclass(frozen=True)
class Wanted:
    """Which hits of a ranking are wanted; equal ones are answered alike.

    Attributes:
        k: How many hits, or groups of them, from 1.
        offset: How many come before; `None`: none, and nobody says that they will ask for more.
        min_score: Hits of a lower score are left out; `None`: none are.
        cuts: Whether the irrelevant tail is cut.
        grouping: How hits become one; `None`: each stays one.
        diversity: How much it counts, in [0, 1], that a hit differs from those before it; `None`: nothing.
        max_depth: How far down the ranking is looked at.
        num_candidates: How many of the best a diverse order is made of; `None`: by `k`.
    """

    k: int = 10
    offset: int | None = None
    min_score: float | None = None
    cuts: bool = False
    grouping: Grouping | None = None
    diversity: float | None = None
    max_depth: int = DEFAULT_DEPTH
    num_candidates: int | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the first `k` of the ranking are wanted, unless they score too low, and nothing else."""
        return self == Wanted(self.k, min_score=self.min_score, max_depth=self.max_depth)

    @property
    def end(self) -> int:
        """Place of the last hit or group that is wanted, from 1."""
        return self.start + self.k

    @property
    def start(self) -> int:
        """How many hits or groups come before the first."""
        return self.offset or 0

    @property
    def num_diverse(self) -> int:
        """How many candidates the diverse order is made of: the same for each page."""
        return diverse_candidates(self.k) if self.num_candidates is None else self.num_candidates


def diverse_candidates(k: int) -> int:
    """How many of the best candidates a diverse order of pages of `k` is made of."""
    each, least, most = DIVERSE_CANDIDATES
    return max(k, min(max(each * k, least), most))


def grouping_of(request: SearchRequest, limits: Limits) -> Grouping | None:
    """How a request wants its hits grouped.

    Raises:
        InvalidRequestError: a value is out of bounds, no field is named, or groups are told of where none are wanted.
    """
    if request.group_by is None:
        for name in ("group_size", "duplicate_score"):
            if getattr(request, name) is not None:
                raise InvalidRequestError(f"{name} is about groups; give it with group_by")
        return None
    size = 1 if request.group_size is None else request.group_size
    if not 1 <= size <= limits.max_k:
        raise InvalidRequestError(f"group_size must be a whole number from 1 to {limits.max_k}, got {size}")
    if request.group_by == DUPLICATES:
        score = DUPLICATE_SCORE if request.duplicate_score is None else request.duplicate_score
        return Grouping(Duplicates(score), size)
    if request.duplicate_score is not None:
        raise InvalidRequestError(f'duplicate_score is about near-duplicates; give it with "group_by": "{DUPLICATES}"')
    return Grouping(_path_of(request.group_by), size)


def check_wanted(wanted: Wanted, rerank_top: int | None, limits: Limits) -> None:
    """Refuses what cannot be had together, and what lies too deep.

    Args:
        wanted: What a request wants.
        rerank_top: How many hits a reranker is to be given, if one is.
        limits: What a request may ask for.

    Raises:
        InvalidRequestError: it cannot be had; says why.
    """
    if wanted.end > limits.max_depth:
        raise InvalidRequestError(f"offset + k must be at most {limits.max_depth} (limits.max_depth), got {wanted.end}")
    if wanted.diversity is not None and wanted.end > wanted.num_diverse:
        whose = f"candidates of k = {wanted.k}" if wanted.num_candidates is None else "candidates that are asked for"
        raise InvalidRequestError(
            f"with diversity, offset + k must be at most {wanted.num_diverse}, the {whose}; got {wanted.end}"
        )
    if rerank_top is None:
        return
    if wanted.diversity is not None:
        raise InvalidRequestError("rerank and diversity each put the hits into an order of their own; leave one out")
    if wanted.grouping is not None and wanted.grouping.size > 1:
        raise InvalidRequestError("with rerank, group_size must be 1: a reranker orders hits, not groups")
    if wanted.end > rerank_top:
        raise InvalidRequestError(f"offset + k must be at most rerank.top, {rerank_top}, got {wanted.end}")


def _path_of(field: str | Sequence[str]) -> Path:
    try:
        return Exists(parse_path(field)).path  # which checks what a path may be
    except InvalidFilterError as error:
        raise InvalidRequestError(f"group_by must name a field of the metadata: {error.reason}") from error
