"""Search engines of others, whose indices hold the dataset's keys already."""

import base64
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from anykey.benchmark.client import Answer, fault_of
from anykey.benchmark.connection import json_of
from anykey.benchmark.dataset import Dataset, Hit, Query, Task
from anykey.benchmark.endpoints.described import connection_to, index_of
from anykey.benchmark.endpoints.dialects import Dialect
from anykey.benchmark.endpoints.embedder import Embedder
from anykey.benchmark.endpoints.wires import Item
from anykey.benchmark.errors import DatasetError, EndpointMismatchError, RequestFailedError
from anykey.benchmark.settings import QualitySettings


class SearchEndpoint:
    """Sends each query in the engine's own form; hits have the modality that the dataset says.

    A query's own image that must not come back is taken out of the hits here, of which so many more are asked for.

    Attributes:
        url: The engine's address.
    """

    def __init__(
        self,
        dialect: Dialect,
        embedder: Embedder | None,
        dataset: Dataset,
        settings: QualitySettings,
        headers: dict[str, str],
    ) -> None:
        """Nothing is sent yet.

        Args:
            dialect: How the engine is spoken to.
            embedder: What gives the vectors of queries; None where the engine embeds them.
            dataset: Whose queries are sent.
            settings: How.
            headers: Of every request.

        Raises:
            DatasetError: a setting is for services that do more.
            EndpointUnreachableError: the URL is none.
        """
        if settings.text_weight is not None or settings.instructions == "field":
            raise DatasetError(f"--api {settings.api} has no text_weight and no field for instructions")
        self._connection = connection_to(settings, settings.url, headers)
        self.url = self._connection.url
        self._dialect, self._embedder, self._dataset, self._settings = dialect, embedder, dataset, settings
        self._modalities: dict[str, str] = {}
        self._fingerprint = ":".join((settings.api, settings.collection, settings.model))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._connection.__aexit__(kind, error, traceback)
        if self._embedder:
            await self._embedder.connection.__aexit__(kind, error, traceback)

    async def wait_until_ready(self, timeout_s: float) -> None:
        """Returns once a text has been searched for.

        Raises:
            EndpointUnreachableError: nothing answered within `timeout_s`.
            EndpointNotReadyError: it answered with 429 or 503 until then.
            RequestFailedError: it refuses a text.
        """
        vector = None
        if self._embedder:
            await self._embedder.wait_until_ready(timeout_s)
            vector = [1.0] + [0.0] * (self._embedder.width - 1)
        body = self._dialect.body({"text": "a text"}, (), vector, 1)
        await self._connection.first(self._dialect.path, body, timeout_s)

    async def info(self) -> dict[str, Any]:
        """The dataset's corpus as the index, since engines count otherwise, in the words of AnyKey's GET /info."""
        model = {"name": self._settings.model or self._settings.api, "fingerprint": self._fingerprint}
        return {"model": {**model, "fusion": "the server's"}, "index": index_of(self._dataset), "limits": {}}

    async def prepare(self, queries: Mapping[Task, Sequence[Query]]) -> None:
        """Makes sure that the engine takes such queries.

        Raises:
            EndpointMismatchError: it does not; names the task.
        """
        self._modalities = {entry.key: entry.modality for entry in self._dataset.corpus()}
        for task, asked in queries.items():
            takes = self._dialect.takes if self._embedder is None else ("text", "image", "fused")
            if unknown := sorted({query.modality for query in asked} - set(takes)):
                raise EndpointMismatchError(
                    f"{task.name} has queries that are {unknown[0]}, which --api {self._settings.api} does not take"
                )
            if any(len(query.images) > 1 for query in asked):
                raise EndpointMismatchError(f"{task.name} has queries of several images, and one can be sent")
            is_scoped = task.pool is not None or any(query.within is not None for query in asked)
            if is_scoped and not self._dialect.filters:
                raise EndpointMismatchError(
                    f"{task.name} ({task.candidates}) is searched in a part of the corpus, which --api "
                    f"{self._settings.api} cannot do: choose other --pools"
                )

    async def search(self, name: str, body: dict[str, Any]) -> Answer:
        """Sends one query until it is answered.

        Args:
            name: What errors call the query.
            body: JSON body of AnyKey's POST /search.

        Raises:
            EndpointError: there is no answer that can be scored, or it has a key that the dataset has not.
        """
        images = body.get("image", [])
        decoded = [base64.b64decode(image) for image in ([images] if isinstance(images, str) else images)]
        excluded, timings_ms, vector, num_retries = set(body.get("exclude", ())), {}, None, 0
        start = time.perf_counter()
        if self._embedder:
            item = Item(f"query {name}", body.get("text"), tuple(decoded))
            (vector_D,), num_retries = await self._embedder.vectors([item], is_query=True)
            vector, timings_ms = vector_D.tolist(), {"encode": 1000 * (time.perf_counter() - start)}
        asked = self._dialect.body(body, decoded, vector, body["k"] + len(excluded))
        reply = await self._connection.post(f"query {name}", self._dialect.path, asked)
        end = time.perf_counter()
        hits = self._hits(name, json_of(reply.response), excluded)[: body["k"]]
        if reason := fault_of(hits, list(range(1, len(hits) + 1)), body["k"]):
            raise RequestFailedError(f"query {name}: {reason}")
        latency_s = end - start if self._embedder else reply.latency_s
        return Answer(hits, latency_s, timings_ms, False, num_retries + reply.num_retries, (None, self._fingerprint))

    def _hits(self, name: str, answer: Any, excluded: set[str]) -> tuple[Hit, ...]:
        try:
            found = self._dialect.hits(answer)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RequestFailedError(f"query {name}: the answer lacks or garbles {error}") from error
        if unknown := [key for key, _ in found if key not in self._modalities]:
            raise RequestFailedError(
                f"query {name}: key '{unknown[0]}' is none of the dataset's: does --key-field say where the keys are?"
            )
        return tuple(Hit(key, score, self._modalities[key]) for key, score in found if key not in excluded)
