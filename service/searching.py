"""A vector and a scope to hits, in threads; belongs to no query's encoder.

Shape legend: Q = queries, D = width.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index import errors as index_errors
from anykey.index.deadline import NEVER, Deadline
from anykey.index.hits import FoundImage, Hit, StoredKey
from anykey.index.key_index import EVERYTHING, IndexInfo, Scope
from anykey.index.store.manifest import EncoderFacts
from anykey.service.deadline import late
from anykey.service.errors import InvalidRequestError
from anykey.service.threads import BoundedThreads
from anykey.service.watch import IndexWatch

T = TypeVar("T")
Vector = NDArray[np.float32]


class SearchableIndex(Protocol):
    """What the service needs of an index, a part of `KeyIndex`; safe to call from several threads."""

    @property
    def encoder(self) -> EncoderFacts:
        """The encoder that made the vectors."""
        ...

    @property
    def version(self) -> str | None:
        """Name of the published version that answers; `None` where there are no versions."""
        ...

    def check(self) -> None:
        """Raises when the index cannot answer at this moment."""
        ...

    def info(self) -> IndexInfo:
        """What the index is at this moment."""
        ...

    def search(
        self,
        vectors_QD: Vector,
        k: int,
        scope: Scope = EVERYTHING,
        *,
        exact: bool = False,
        query_modalities: Sequence[Modality] | None = None,
        deadline: Deadline = NEVER,
    ) -> list[list[Hit]]:
        """The best `k` keys of the scope for each query; stops at the deadline."""
        ...

    def get(self, key: str) -> StoredKey:
        """One key."""
        ...

    def find_image(self, key: str, position: int = 0) -> FoundImage:
        """One image of a key, looked up but not fetched."""
        ...

    def close(self) -> None:
        """Releases files and memory."""
        ...


class IndexSearcher:
    """Searches the index in `threads`, no search longer than `deadline_s`.

    Belongs to one event loop, which it never blocks. Owns none of its parts; who made them closes them.
    """

    def __init__(
        self, index: SearchableIndex, watch: IndexWatch, *, threads: BoundedThreads, deadline_s: float
    ) -> None:
        """Joins the parts.

        Args:
            index: What is searched.
            watch: The index's.
            threads: For `index.search` and for writing its hits.
            deadline_s: Longest time for one search.
        """
        self._index = index
        self._watch = watch
        self._threads = threads
        self._deadline_s = deadline_s

    async def search(
        self,
        vector_D: Vector,
        modality: Modality,
        k: int,
        scope: Scope,
        write: Callable[[list[Hit]], T],
        exact: bool = False,
    ) -> T:
        """The best keys of the scope.

        Args:
            vector_D: The query's unit vector.
            modality: What the query was.
            k: How many hits, from 1.
            scope: Which keys to look at.
            write: Makes of the hits, best first, what is wanted of them; called in the thread that searched.
            exact: Whether every key of the scope is compared.

        Raises:
            InvalidRequestError: the index has no such pool.
            OverloadedError: no place in the queue.
            DeadlineExceededError: not found within the deadline.
            NotReadyError: shutting down.
            IndexUnavailableError: the index cannot be reached, or is damaged.
        """
        deadline = Deadline(self._deadline_s)

        def search_index() -> list[Hit]:
            vectors_QD = vector_D[None, :]
            found = self._index.search(
                vectors_QD, k, scope, exact=exact, query_modalities=[modality], deadline=deadline
            )
            return found[0]

        try:
            return await self._threads.run(lambda: write(self._watch.call(search_index)))
        except index_errors.DeadlineExceededError as error:
            raise late(self._deadline_s) from error
        except index_errors.UnknownPoolError as error:
            raise InvalidRequestError(str(error)) from error
        finally:
            deadline.cancel()  # the client may have gone, and its search be under way
