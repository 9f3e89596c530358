"""A service that knows a dataset: real HTTP, and always the right answer first."""

import base64
from collections import deque
from collections.abc import Mapping
from typing import Any

from anykey.benchmark.dataset import Dataset, Query, image_bytes
from tests.unit.benchmark.fake_service import FakeService, Hits


class KnowingService:
    """Answers each query with its relevant keys, and then with the others it may return.

    Queries that look alike and have other answers must come in their order, one after another.

    Attributes:
        service: What is served.
        bodies: Every search body that arrived.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._entries = {entry.key: entry for entry in dataset.corpus()}
        self._queries: dict[tuple[object, ...], deque[Query]] = {}
        pools: dict[str, int] = {}
        for task in dataset.tasks():
            if task.pool is not None:
                pools[task.pool] = len(dataset.keys(task.pool))
            for query in dataset.queries(task):
                images = [base64.b64encode(image_bytes(image)).decode() for image in query.images]
                asked = self._asked(query.text, images, query.within, task.pool)
                alike = self._queries.setdefault(asked, deque())
                if query not in alike:
                    alike.append(query)
        self.service = FakeService(self._answer, pools, len(self._entries))

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return self.service.bodies

    def _asked(self, text: object, images: list[str], within: object, pool: object) -> tuple[object, ...]:
        return text, *images, tuple(within) if isinstance(within, list | tuple) else None, pool

    def _answer(self, body: Mapping[str, Any]) -> Hits:
        image = body.get("image", [])
        images = [image] if isinstance(image, str) else image
        alike = self._queries[self._asked(body.get("text"), images, body.get("within"), body.get("pool"))]
        query = alike[0]
        alike.rotate(-1)
        allowed = [
            entry
            for entry in self._entries.values()
            if entry.key not in body.get("exclude", [])
            and ("pool" not in body or body["pool"] in entry.pools)
            and ("within" not in body or entry.key in body["within"])
        ]
        allowed.sort(key=lambda entry: entry.key not in query.relevant)
        return [(entry.key, 0.9 - rank * 0.001, entry.modality) for rank, entry in enumerate(allowed)]
