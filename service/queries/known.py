"""Queries that were read lately, by the bodies that said them: the most frequent ones come again, letter by letter."""

import threading
from collections import OrderedDict

from anykey.service.queries.image_addresses import are_images_named
from anykey.service.queries.query import Query, query_from_json
from anykey.service.schemas import Limits

SHORT_BYTES = 4096  # of a body; what is longer is an image, which nobody sends twice in a second
OVERHEAD_BYTES = 3000  # of a query that is kept, about, beside its body
MAX_BYTES = 8 * 2**20


class KnownQueries:
    """Reads queries in JSON, and keeps the latest, which never change; safe for use from several threads."""

    def __init__(self, limits: Limits, max_bytes: int = MAX_BYTES) -> None:
        """Knows none.

        Args:
            limits: What a request may ask for.
            max_bytes: What those that are kept may take, about; 0 keeps none.
        """
        self._limits = limits
        self._max_bytes = max_bytes
        self._queries: OrderedDict[bytes, Query] = OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._queries)

    def read(self, body: bytes | bytearray) -> Query:
        """The query that a body says; takes and raises the same as `query_from_json`."""
        if len(body) > SHORT_BYTES:
            return query_from_json(body, self._limits)
        said = bytes(body)
        with self._lock:
            query = self._queries.get(said)
            if query is not None:
                self._queries.move_to_end(said)
                return query
        query = query_from_json(said, self._limits)
        if not are_images_named():
            self._keep(said, query)
        return query

    def _keep(self, said: bytes, query: Query) -> None:
        with self._lock:
            if said in self._queries:
                return
            self._queries[said] = query
            self._num_bytes += len(said) + OVERHEAD_BYTES
            while self._num_bytes > self._max_bytes:
                oldest, _ = self._queries.popitem(last=False)
                self._num_bytes -= len(oldest) + OVERHEAD_BYTES
