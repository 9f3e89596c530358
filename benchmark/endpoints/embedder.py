"""Vectors of items, from an embeddings endpoint.

Shape legend: B = items, D = width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anykey.benchmark.connection import Connection, json_of
from anykey.benchmark.endpoints.wires import Item, Wire
from anykey.benchmark.errors import EndpointMismatchError, RequestFailedError


class Embedder:
    """Has items embedded, and makes unit vectors of what comes.

    Attributes:
        connection: To the server.
        width: How many numbers a vector has; 0 as long as none came.
    """

    def __init__(self, connection: Connection, path: str, wire: Wire) -> None:
        """Nothing is sent yet.

        Args:
            connection: To the server.
            path: Where its embeddings are.
            wire: How items are spelt.
        """
        self.connection, self.width = connection, 0
        self._path, self._wire = path, wire

    async def wait_until_ready(self, timeout_s: float) -> None:
        """Returns once a text has been embedded.

        Raises:
            EndpointUnreachableError: nothing answered within `timeout_s`.
            EndpointNotReadyError: it answered with 429 or 503 until then.
            RequestFailedError: it refuses a text, or its answer has another form.
        """
        first = [Item("a first text", "a text", ())]
        response = await self.connection.first(self._path, self._wire.body(first, is_query=True), timeout_s)
        self.width = self._units(first[0].name, first, json_of(response)).shape[1]

    async def vectors(self, items: Sequence[Item], is_query: bool) -> tuple[NDArray[np.float32], int]:
        """Unit vectors `[B, D]` of the items, and how often a try was turned away."""
        for item in items:
            if len(item.images) > self._wire.most_images:
                raise EndpointMismatchError(f"{item.name}: {len(item.images)} images, which is more than it can embed")
        parts, num_retries = [], 0
        for group in self._wire.groups(items):
            name = group[0].name if len(group) == 1 else f"{group[0].name} and {len(group) - 1} more"
            reply = await self.connection.post(name, self._path, self._wire.body(group, is_query))
            parts.append(self._units(name, group, json_of(reply.response)))
            num_retries += reply.num_retries
        return np.concatenate(parts), num_retries

    def _units(self, name: str, group: Sequence[Item], answer: Any) -> NDArray[np.float32]:
        """The vectors of an answer, if they are such, as unit vectors."""
        try:
            vectors_BD = np.array(self._wire.vectors(answer), dtype=np.float32)
            num, width = vectors_BD.shape
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise RequestFailedError(f"{name}: the answer lacks or garbles {error}") from error
        if num != len(group) or width != (self.width or width):
            expected = f"{len(group)} vectors of {self.width or width} numbers"
            raise RequestFailedError(f"{name}: expected {expected}, got {num} of {width}")
        norms_B = np.linalg.norm(vectors_BD, axis=1)
        for item, norm in zip(group, norms_B, strict=True):
            if not np.isfinite(norm) or norm == 0:
                raise RequestFailedError(f"{item.name}: its vector is 0 or not finite")
        units_BD: NDArray[np.float32] = vectors_BD / norms_B[:, None]
        return units_BD
