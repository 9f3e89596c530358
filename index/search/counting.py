"""Counts of values over a view of an index, within a scope; remembered for whoever asks the same of the same moment."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from anykey.index.deadline import Deadline
from anykey.index.filtering.conditions import Path
from anykey.index.filtering.evaluation import FEW_VALUES, name_of
from anykey.index.filtering.facets import Facet, FacetCounts, FieldCounter, FieldsPage, Source
from anykey.index.key_index import Scope
from anykey.index.search.view import View
from anykey.index.store.store_reader import ReadTransaction

CountedT = TypeVar("CountedT", FacetCounts, FieldsPage)


@dataclass(frozen=True)
class Counting:
    """What the keys of a scope have, at one moment.

    Attributes:
        view: The index.
        transaction: Its store at the same moment.
        scope: Which keys are counted.
        deadline: Until when the counts are wanted.
    """

    view: View
    transaction: ReadTransaction
    scope: Scope
    deadline: Deadline

    def facets(self, facets: Sequence[Facet]) -> list[FacetCounts]:
        """What each facet comes to, in their order.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
            KeyCorruptError: of a recent key in the scope, metadata cannot be told, for its record is damaged.
        """
        return [self._once(facet, partial(_count, facet)) for facet in facets]

    def fields(self, after: Path | None, limit: int) -> FieldsPage:
        """Some fields that the keys have, those after one; raises what `facets` does."""
        return self._once(("fields", after, limit), lambda counter: counter.fields(after, limit))

    def _once(self, asked: object, count: Callable[[FieldCounter], CountedT]) -> CountedT:
        """What was counted when the same was asked of this moment before, or is now."""
        name = self._name_of(asked)
        known: Any = None if name is None else self.view.files.counts.get(name)
        if known is not None:
            return known  # type: ignore[no-any-return]
        is_in_N, is_in_R = self._masks
        with self.view.files.reading(self.deadline) as reading:
            sources = [Source(reading, is_in_N), Source(self.view.recent.terms(self.deadline), is_in_R)]
            counted = count(FieldCounter(sources, self.deadline))
        if name is not None:
            self.view.files.counts.put(name, counted)
        return counted

    @cached_property
    def _masks(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        return self.view.masks(self.scope, self.transaction, self.deadline)

    def _name_of(self, asked: object) -> bytes | None:
        """What tells all that the counts depend on from all else; `None` where the scope names many keys."""
        scope = self.scope
        filters = name_of(scope.modalities, scope.pool, scope.condition)
        if filters is None or scope.within is not None or len(scope.exclude) > FEW_VALUES:
            return None
        text = f"{self.view.seq} {filters.hex()} {sorted(scope.exclude)!a} {asked!r}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _count(facet: Facet, counter: FieldCounter) -> FacetCounts:
    return counter.count(facet)
