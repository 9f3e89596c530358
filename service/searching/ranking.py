"""From what the index ranks to the hits of an answer: the tail is cut, groups are formed, and then comes diversity.

The order of the stages is the same for all: (1) the index ranks the keys of the scope by score; (2) the scores below
the automatic cut are left out; (3) hits of one group become one; (4) the best of them are put into a diverse order;
(5) the page is taken. What one stage leaves out, the next does not see. A reranker comes after all of that.

Shape legend: C = candidates, K = results, D = width, B = keys of the background.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from anykey.index.filtering.conditions import Path, Scalar, compared, values_at
from anykey.index.hits import Hit
from anykey.index.key_index import Moment, Ranking, Scope
from anykey.index.words.joining import MOST_JOINED, Words
from anykey.service.queries.wanted import Duplicates, Grouping, Wanted

Vector = NDArray[np.float32]

BACKGROUND_KEYS = 256  # whose scores tell what a query's score with any key is like
FEWEST_BACKGROUND_KEYS = 16  # of fewer, nothing can be told
CHANCE_HITS = 5.0  # as many unrelated keys of the scope are expected above the cut
SAME = 0.9999  # a cosine that no unrelated key has: the vectors are equal, but for rounding
SHARE_OF_BEST = 0.7  # of the way from the background to the best score
MAD_OF_NORMAL = 1.4826  # a normal distribution's deviation in its median absolute deviations
DEPTHS = (100, 1_000, 10_000)  # at which an approximate search is made, so that pages of any size fit together
FIRST_CANDIDATES = 4  # for each group that is wanted, at first


@dataclass(frozen=True)
class Cut:
    """What was cut of a ranking.

    Attributes:
        score: Hits below it are left out; `None` where nothing could be told of so few keys.
        num_cut: How many of the `k` places of the ranking that were asked for were left out.
    """

    score: float | None
    num_cut: int


@dataclass(frozen=True)
class Group:
    """The group that a hit is of.

    Attributes:
        value: The field's value, or the key of the best of its near-duplicates; `None` for a key without the field,
            which is a group of its own.
        num_folded: How many more hits of it were looked at, and are not in the answer.
    """

    value: Scalar | None
    num_folded: int


@dataclass(frozen=True)
class Selected:
    """The hits of an answer.

    Attributes:
        hits: In their order, ranks from 1 after those before the page.
        num_below: How many of the `k` places of the ranking that were asked for have less than the least score wanted.
        cut: What was cut; `None` where that was not asked for.
        groups: The group of each hit; `None` where none were asked for.
        num_candidates: How many hits were looked at.
        is_complete: Whether looking at more would have changed nothing.
    """

    hits: list[Hit]
    num_below: int = 0
    cut: Cut | None = None
    groups: list[Group] | None = None
    num_candidates: int = 0
    is_complete: bool = True


class RankedKeys:
    """The keys of a scope in the order of their scores for one query, read as far as they are asked for.

    The first so many are always the same, however many are asked for. A search that compares every key gives that by
    itself. One that does not may find other hits if it is asked for more, so that it is asked for a few fixed numbers,
    and what it finds later comes after what it had found before.
    """

    def __init__(
        self,
        moment: Moment,
        vector_D: Vector | None,
        scope: Scope,
        *,
        exact: bool,
        pages: bool,
        words: Words | None = None,
    ) -> None:
        """Reads nothing yet.

        Args:
            moment: The index.
            vector_D: The query's unit vector, as keys are compared with it (`Moment.centred`); `None` for words alone.
            scope: Which keys to look at.
            exact: Whether every key of the scope is compared.
            pages: Whether other answers go on where this one ends.
            words: Words that keys are found by, alone or beside the vector.
        """
        self._moment = moment
        self._words = words
        self._vector_D = vector_D
        self._scope = scope
        self._exact = exact
        self._is_stable = not pages or words is not None or moment.is_exact(exact)
        self._known = Ranking(np.empty(0, np.float32), np.empty(0, np.int64))
        self._depth = 0

    def first(self, num: int) -> Ranking:
        """The best so many, or all that there are."""
        known = self._known
        while not self._depth or (num > self._depth and len(known) >= self._depth):
            self._depth = num if self._is_stable else _next_depth(self._depth, num)
            found = self._found(self._depth)
            known = self._known = found if self._is_stable or not len(known) else _continued(known, found)
        return known.chosen(slice(0, num))

    def _found(self, depth: int) -> Ranking:
        if self._words is None:
            [found] = self._moment.rank(self._alone(), depth, self._scope, exact=self._exact, are_centred=True)
            return found
        return self._moment.rank_words(
            self._words,
            depth if self._vector_D is None else min(depth, MOST_JOINED),
            self._scope,
            vector_D=self._vector_D,
            is_centred=True,
            exact=self._exact,
        )

    def _alone(self) -> Vector:
        """The vector as the only one of a search, `[1, D]`."""
        assert self._vector_D is not None
        return self._vector_D[None, :]

    def background(self) -> NDArray[np.float32]:
        """Scores `[B]` of some keys of the scope, whether they fit the query or not."""
        scores_1B = self._moment.background(self._alone(), BACKGROUND_KEYS, self._scope, are_centred=True)
        return np.asarray(scores_1B[0])

    @cached_property
    def num_keys(self) -> int:
        """How many keys the scope has."""
        return self._moment.count(self._scope)


def _next_depth(depth: int, num: int) -> int:
    """The next number of hits that an approximate search is asked for, on the way to `num` of them."""
    larger = [fixed for fixed in DEPTHS if fixed > depth]
    return larger[0] if larger else max(num, 10 * depth)


def _continued(before: Ranking, found: Ranking) -> Ranking:
    """What was found before, and then what has come to it."""
    known = set(map(_identity, before.found_K))
    new = [place for place, one in enumerate(found.found_K) if _identity(one) not in known]
    more = found.chosen(new)
    return Ranking(np.concatenate([before.scores_K, more.scores_K]), np.concatenate([before.found_K, more.found_K]))


def _identity(found: object) -> object:
    """What tells a found key from others: Milvus gives its record anew with each search."""
    return found["key"] if isinstance(found, dict) else found


def plainly_selected(hits: list[Hit], min_score: float | None) -> Selected:
    """The first hits of a ranking, but those that score too low."""
    kept = hits if min_score is None else [hit for hit in hits if hit.score >= min_score]
    return Selected(kept, len(hits) - len(kept), num_candidates=len(hits))


def select(
    moment: Moment,
    ranked: RankedKeys,
    wanted: Wanted,
    *,
    with_vectors: bool = False,
    scored_with_PD: Vector | None = None,
) -> Selected:
    """The hits of a ranking that are wanted.

    Args:
        moment: The index that it is a ranking of.
        ranked: The keys by score.
        wanted: Which of them.
        with_vectors: Whether hits come with their keys' vectors.
        scored_with_PD: Vectors, as keys are compared with them, whose scores hits come with; none when absent.
    """
    cut = _cut(ranked, wanted) if wanted.cuts else None
    least = [score for score in (wanted.min_score, None if cut is None else cut.score) if score is not None]
    chosen = _chosen(moment, ranked, wanted, max(least, default=None))
    hits = [
        replace(hit, rank=chosen.num_before + rank)
        for rank, hit in enumerate(moment.hits(chosen.page, with_vectors=with_vectors), start=1)
    ]
    if scored_with_PD is not None:
        scores_KP = np.clip(moment.vectors(chosen.page) @ scored_with_PD.T, -1, 1).tolist()
        hits = [replace(hit, part_scores=tuple(scores_P)) for hit, scores_P in zip(hits, scores_KP, strict=True)]
    num_below = 0 if wanted.min_score is None else _num_below(ranked, wanted, wanted.min_score)
    return Selected(hits, num_below, cut, chosen.groups, chosen.num_looked_at, chosen.is_complete)


def notes_of_groups(wanted: Wanted, selected: Selected) -> list[str]:
    """What whoever asked should know of the groups."""
    is_by_field = wanted.grouping is not None and not isinstance(wanted.grouping.by, Duplicates)
    if is_by_field and selected.groups and all(group.value is None for group in selected.groups):
        return ["group_by: no hit of the answer has a value of this field, so that each is a group of its own"]
    return []


def automatic_cut(scores_K: NDArray[np.float32], background_B: NDArray[np.float32], num_keys: int) -> float | None:
    """The score below which hits are taken for irrelevant, by the shape of this query's scores.

    It is the higher of two: the score that only `CHANCE_HITS` unrelated keys of so many are expected to reach, which
    the background tells, and `SHARE_OF_BEST` of the way from the background's middle to the best score. The median and
    the median absolute deviation tell where the background is and how wide, for they hardly notice the relevant keys
    in it. Of a model that scarcely tells keys apart the background is so wide that chance would reach beyond 1; keys
    with the query's very vector are kept all the same.

    Args:
        scores_K: The best scores, falling.
        background_B: Scores of keys that were chosen whatever the query is.
        num_keys: How many keys there are in all.

    Returns:
        `None` where there are too few keys to tell.
    """
    if len(background_B) < FEWEST_BACKGROUND_KEYS or not len(scores_K):
        return None
    middle = float(np.median(background_B))
    width = MAD_OF_NORMAL * float(np.median(np.abs(background_B - middle)))
    reached = NormalDist().inv_cdf(1 - min(0.5, CHANCE_HITS / num_keys))
    return max(min(middle + reached * width, SAME), middle + SHARE_OF_BEST * (float(scores_K[0]) - middle))


def diverse_order(scores_C: NDArray[np.float32], vectors_CD: Vector, diversity: float, num: int) -> list[int]:
    """Places of the candidates by maximal marginal relevance (Carbonell and Goldstein 1998).

    Each next one has the highest `(1 - diversity) * score - diversity * similarity`, the similarity being the highest
    cosine with any that was chosen before; equal ones in the order of the ranking.

    Args:
        scores_C: Scores, falling.
        vectors_CD: Unit vectors.
        diversity: In [0, 1].
        num: How many to choose.
    """
    relevance_C = (1 - diversity) * scores_C.astype(np.float64)
    similarity_C = np.zeros(len(scores_C))
    is_left_C = np.ones(len(scores_C), np.bool_)
    order: list[int] = []
    while len(order) < min(num, len(scores_C)):
        values_C = np.where(is_left_C, relevance_C - diversity * similarity_C, -np.inf)
        best = int(np.argmax(values_C))
        cosines_C = (vectors_CD @ vectors_CD[best]).astype(np.float64)
        similarity_C = np.maximum(similarity_C, cosines_C) if order else cosines_C
        is_left_C[best] = False
        order.append(best)
    return order


@dataclass(frozen=True)
class _Chosen:
    """Found keys of one page, the groups that they are of, and what was looked at."""

    page: Ranking
    num_before: int
    groups: list[Group] | None
    num_looked_at: int
    is_complete: bool = True


@dataclass(frozen=True)
class _Members:
    """The hits of a group that were looked at, best first, and what is told of it."""

    members: Ranking
    value: Scalar | None

    def shown(self, size: int) -> tuple[Ranking, Group]:
        """The best of them, and how many are not among these."""
        best = self.members.chosen(slice(0, size))
        return best, Group(self.value, len(self.members) - len(best))


@dataclass(frozen=True)
class _Groups:
    """The best groups, how many hits were looked at, and whether more would have changed nothing."""

    best: list[_Members]
    num_looked_at: int
    is_complete: bool


def _chosen(moment: Moment, ranked: RankedKeys, wanted: Wanted, least: float | None) -> _Chosen:
    """What is left of the ranking from `least` on, in its order or a diverse one."""
    if wanted.grouping is not None:
        return _chosen_groups(moment, ranked, wanted, wanted.grouping, least)
    found = _not_below(ranked.first(wanted.end if wanted.diversity is None else wanted.num_diverse), least)
    if wanted.diversity is None:
        return _Chosen(found.chosen(slice(wanted.start, wanted.end)), wanted.start, None, len(found))
    order = diverse_order(found.scores_K, moment.vectors(found), wanted.diversity, wanted.end)
    return _Chosen(found.chosen(order[wanted.start :]), wanted.start, None, len(found))


def _chosen_groups(
    moment: Moment, ranked: RankedKeys, wanted: Wanted, grouping: Grouping, least: float | None
) -> _Chosen:
    groups = _grouped(moment, ranked, wanted, grouping, least)
    order = list(range(len(groups.best)))
    if wanted.diversity is not None:
        heads = _joined([group.members.chosen([0]) for group in groups.best])
        order = diverse_order(heads.scores_K, moment.vectors(heads), wanted.diversity, wanted.end)
    shown = [groups.best[place].shown(grouping.size) for place in order[: wanted.end]]
    page = shown[wanted.start :]
    return _Chosen(
        page=_joined([members for members, _ in page]),
        num_before=sum(len(members) for members, _ in shown[: wanted.start]),
        groups=[group for members, group in page for _ in range(len(members))],
        num_looked_at=groups.num_looked_at,
        is_complete=groups.is_complete,
    )


def _cut(ranked: RankedKeys, wanted: Wanted) -> Cut:
    least = automatic_cut(ranked.first(1).scores_K, ranked.background(), ranked.num_keys)
    return Cut(least, 0 if least is None else _num_below(ranked, wanted, least))


def _num_below(ranked: RankedKeys, wanted: Wanted, score: float) -> int:
    """How many of the places of the ranking that are asked for have less than a score."""
    return int((ranked.first(wanted.end).scores_K[wanted.start :] < score).sum())


def _not_below(found: Ranking, least: float | None) -> Ranking:
    return found if least is None else found.chosen(np.flatnonzero(found.scores_K >= least))


def _grouped(moment: Moment, ranked: RankedKeys, wanted: Wanted, grouping: Grouping, least: float | None) -> _Groups:
    """The groups of the ranking: looks as far down as it takes to have those that are wanted, and their members."""
    by, size = grouping.by, grouping.size
    num_groups = wanted.end if wanted.diversity is None else max(wanted.end, wanted.num_diverse)
    name_all = _by_likeness(moment, by.score) if isinstance(by, Duplicates) else _by_value(moment, by)
    places: dict[object, list[int]] = {}
    values: dict[object, Scalar | None] = {}
    num_looked_at, depth = 0, min(max(FIRST_CANDIDATES * num_groups, 64), wanted.max_depth)
    while True:
        found = ranked.first(depth)
        allowed = _not_below(found, least)
        named = name_all(allowed.chosen(slice(num_looked_at, None)))
        for place, (name, value) in enumerate(named, start=num_looked_at):
            places.setdefault(name, []).append(place)
            values.setdefault(name, value)
        num_looked_at = len(allowed)
        best = list(places)[:num_groups]
        is_all = len(found) < depth or len(allowed) < len(found)
        is_filled = len(best) == num_groups and all(len(places[name]) >= size for name in best)
        if is_all or is_filled or depth >= wanted.max_depth:
            members = [_Members(allowed.chosen(places[name]), values[name]) for name in best]
            return _Groups(members, num_looked_at, is_all or is_filled)
        depth = min(4 * depth, wanted.max_depth)


Named = Iterable[tuple[object, Scalar | None]]  # what the hits of a group have in common, and what is told of it


def _by_value(moment: Moment, path: Path) -> Callable[[Ranking], Named]:
    """Groups hits by the first value at a path of their metadata; one that has none is a group of its own."""

    def name_all(found: Ranking) -> Named:
        for hit in moment.hits(found):
            values = values_at(path, hit.payload.metadata)
            yield (compared(values[0]), values[0]) if values else (("no value", hit.key), None)

    return name_all


def _by_likeness(moment: Moment, score: float) -> Callable[[Ranking], Named]:
    """Groups a hit with the best of those before it that lead a group and have nearly its vector; else it leads one."""
    leaders: list[str] = []
    vectors_LD = np.empty((0, 0), np.float32)

    def name_all(found: Ranking) -> Named:
        nonlocal vectors_LD
        vectors_KD = moment.vectors(found)
        room_LD = np.empty((len(leaders) + len(found), vectors_KD.shape[1]), np.float32)
        if leaders:
            room_LD[: len(leaders)] = vectors_LD[: len(leaders)]
        vectors_LD = room_LD
        for hit, vector_D in zip(moment.hits(found), vectors_KD, strict=True):
            alike = np.flatnonzero(vectors_LD[: len(leaders)] @ vector_D >= score)
            if not len(alike):
                vectors_LD[len(leaders)] = vector_D
                leaders.append(hit.key)
            leader = leaders[alike[0]] if len(alike) else hit.key
            yield leader, leader

    return name_all


def _joined(rankings: Sequence[Ranking]) -> Ranking:
    """Rankings one after the other."""
    if not rankings:
        return Ranking(np.empty(0, np.float32), np.empty(0, np.int64))
    words = [ranking.words_K for ranking in rankings if ranking.words_K is not None]
    return Ranking(
        np.concatenate([ranking.scores_K for ranking in rankings]),
        np.concatenate([ranking.found_K for ranking in rankings]),
        np.concatenate(words) if words else None,
    )
