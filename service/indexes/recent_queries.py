"""Queries that came lately, which another release is warmed with before it answers."""

from collections import deque

from anykey.service.queries.query import ItemPart, Query

MAX_IMAGE_BYTES = 512 * 1024  # of a query; one with more is not kept


class RecentQueries:
    """The latest queries of an index, in this process alone; belongs to one event loop."""

    def __init__(self, most: int) -> None:
        """Begins with none.

        Args:
            most: How many are kept.
        """
        self._kept: deque[Query] = deque(maxlen=most)

    def add(self, query: Query) -> None:
        """Keeps a query that was answered, in place of the oldest."""
        if _image_bytes(query) <= MAX_IMAGE_BYTES:
            self._kept.append(query)

    def all(self) -> list[Query]:
        """Those that are kept, the latest first."""
        return list(reversed(self._kept))


def _image_bytes(query: Query) -> int:
    items = [part.item for part in query.parts if isinstance(part, ItemPart)]
    return sum(len(image) for item in items for image in item.images if isinstance(image, bytes))
