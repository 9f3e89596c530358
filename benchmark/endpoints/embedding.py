"""An embeddings endpoint of others: the harness has it embed keys and queries, and compares them all.

Shape legend: B = items, D = width.
"""

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from anykey.benchmark.client import Answer
from anykey.benchmark.dataset import Dataset, Entry, Hit, Query, Task, image_bytes
from anykey.benchmark.endpoints.described import bearer, connection_to, index_of
from anykey.benchmark.endpoints.embedder import Embedder
from anykey.benchmark.endpoints.vectors import VectorFile, best
from anykey.benchmark.endpoints.wires import Item, Wire
from anykey.benchmark.errors import (
    DatasetError,
    EndpointMismatchError,
    RequestFailedError,
)
from anykey.benchmark.pooling import embedded_apart, pooled
from anykey.benchmark.settings import QualitySettings
from anykey.program.progress import progress
from anykey.program.settings import plain_console


class EmbeddingEndpoint:
    """Vectors of an endpoint, and the exact search of them by cosine similarity.

    Keys are embedded before the first query, in batches of which some are under way at once, and kept on disk: a run
    that was stopped goes on. Vectors are made unit vectors.

    Attributes:
        url: The server's address.
    """

    def __init__(self, wire: Wire, dataset: Dataset, settings: QualitySettings) -> None:
        """Nothing is sent yet.

        Raises:
            DatasetError: a setting is for services that search themselves, or there is no model.
            EndpointUnreachableError: the URL is none.
        """
        if settings.text_weight is not None or settings.instructions == "field":
            raise DatasetError(f"--api {settings.api} has no text_weight and no field for instructions")
        if not settings.model:
            raise DatasetError(f"--api {settings.api} asks for a model: give --model")
        connection = connection_to(settings, settings.url, bearer(settings))
        self._embedder = Embedder(connection, settings.embed_path or wire.path, wire)
        self.url = connection.url
        self._wire, self._dataset, self._settings = wire, dataset, settings
        self._fingerprint = ":".join((settings.api, settings.model, settings.item_form))
        self._keys: list[str] = []
        self._modalities: list[str] = []
        self._rows: dict[str, int] = {}
        self._pools: dict[str, NDArray[np.int64]] = {}
        self._vectors_ND: NDArray[np.float32] = np.empty((0, 0), np.float32)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._embedder.connection.__aexit__(kind, error, traceback)

    async def wait_until_ready(self, timeout_s: float) -> None:
        """Returns once a text has been embedded.

        Raises:
            EndpointUnreachableError: nothing answered within `timeout_s`.
            EndpointNotReadyError: it answered with 429 or 503 until then.
            RequestFailedError: it refuses a text, or its answer has another form.
        """
        await self._embedder.wait_until_ready(timeout_s)

    async def info(self) -> dict[str, Any]:
        """The model that was asked for, and the dataset's corpus as the index, in the words of AnyKey's GET /info."""
        return {
            "model": {
                "name": self._settings.model,
                "fingerprint": self._fingerprint,
                "width": self._embedder.width,
                "fusion": "the server's",
            },
            "index": index_of(self._dataset),
            "limits": {},
        }

    async def prepare(self, queries: Mapping[Task, Sequence[Query]]) -> None:
        """Has the keys of the tasks embedded.

        Raises:
            EndpointMismatchError: the endpoint embeds no such queries or keys; names the task.
            EndpointError: a batch failed; names its first key.
        """
        names, modalities, digest = list[str](), list[str](), hashlib.sha256()
        pools: dict[str, list[int]] = {}
        for entry in self._wanted(list(queries)):
            for pool in entry.pools:
                pools.setdefault(pool, []).append(len(names))
            names.append(entry.key)
            modalities.append(entry.modality)
            digest.update(json.dumps([entry.key, entry.text, len(entry.images)]).encode())
        self._keys, self._modalities = names, modalities
        self._rows = {key: row for row, key in enumerate(names)}
        self._pools = {pool: np.array(rows, np.int64) for pool, rows in pools.items()}
        self._check(queries)
        given = self._settings
        facts = {
            **given.model_dump(
                mode="json", include={"api", "model", "item_form", "embed_path", "url", "split", "options"}
            ),
            "dataset": str(given.dataset.resolve()),
            "keys": digest.hexdigest(),
        }
        file = VectorFile(given.vectors or given.output / "vectors", facts, self._embedder.width)
        await self._embed_keys(file, list(queries))
        self._vectors_ND = file.open()

    async def search(self, name: str, body: dict[str, Any]) -> Answer:
        """Has the query embedded, and compares it with every key of its scope.

        Args:
            name: What errors call the query.
            body: JSON body of AnyKey's POST /search.

        Raises:
            EndpointError: the query was not embedded, or nothing is left to find.
        """
        images = body.get("image", [])
        encoded = [images] if isinstance(images, str) else images
        item = Item(f"query {name}", body.get("text"), tuple(base64.b64decode(image) for image in encoded))
        start = time.perf_counter()
        (vector_D,), num_retries = await self._embedder.vectors([item], is_query=True)
        embedded = time.perf_counter()
        rows, scores = await asyncio.to_thread(best, self._vectors_ND, vector_D, self._scope(body), body["k"])
        if not len(rows):
            raise RequestFailedError(f"query {name}: no key is left to find")
        end = time.perf_counter()
        hits = tuple(
            Hit(self._keys[row], float(score), self._modalities[row]) for row, score in zip(rows, scores, strict=True)
        )
        timings_ms = {"encode": 1000 * (embedded - start), "search": 1000 * (end - embedded)}
        return Answer(hits, end - start, timings_ms, False, num_retries, (None, self._fingerprint))

    def _wanted(self, tasks: Sequence[Task]) -> Iterator[Entry]:
        """The keys that the tasks search among."""
        pools = {task.pool for task in tasks}
        return (entry for entry in self._dataset.corpus() if None in pools or pools & set(entry.pools))

    def _check(self, queries: Mapping[Task, Sequence[Query]]) -> None:
        """Makes sure that all queries and keys can be embedded."""
        form = f" with --item-form {self._settings.item_form}" if self._settings.api == "openai" else ""
        where = f"--api {self._settings.api}{form}"
        for task, asked in queries.items():
            rows = range(len(self._keys)) if task.pool is None else self._pools[task.pool]
            for kind, found in (
                ("queries", {q.modality for q in asked}),
                ("keys", {self._modalities[r] for r in rows}),
            ):
                if unknown := sorted(found - set(self._wire.takes)):
                    raise EndpointMismatchError(
                        f"{task.name} has {kind} that are {unknown[0]}, which {where} cannot embed"
                    )

    async def _embed_keys(self, file: VectorFile, tasks: Sequence[Task]) -> None:
        """Embeds the keys that the file does not have, `concurrency` batches at a time."""
        batch, entries = self._settings.embed_batch, islice(self._wanted(tasks), len(file), None)
        with progress(plain_console(stderr=True), "keys embedded", len(self._keys) - len(file)) as advance:
            while several := list(islice(entries, batch * self._settings.concurrency)):
                starts = range(0, len(several), batch)
                batches = [asyncio.create_task(self._batch(several[start : start + batch])) for start in starts]
                try:
                    found = await asyncio.gather(*batches)
                finally:
                    for task in batches:
                        task.cancel()
                    await asyncio.gather(*batches, return_exceptions=True)
                for vectors_BD in found:
                    file.append(vectors_BD)
                    for _ in vectors_BD:
                        advance()

    async def _batch(self, entries: Sequence[Entry]) -> NDArray[np.float32]:
        apart = [each for entry in entries for each in embedded_apart(entry)]
        items = await asyncio.to_thread(lambda: [_item(entry) for entry in apart])
        vectors_FD, _ = await self._embedder.vectors(items, is_query=False)
        return pooled(entries, vectors_FD)

    def _scope(self, body: Mapping[str, Any]) -> NDArray[np.int64] | None:
        """The rows that a query looks at, rising; None for all."""
        rows_R = self._pools[body["pool"]] if "pool" in body else None
        if "within" in body:
            inside = np.array(sorted(self._rows[key] for key in body["within"] if key in self._rows), np.int64)
            rows_R = inside if rows_R is None else np.intersect1d(rows_R, inside)
        if "exclude" in body:
            rows_R = np.arange(len(self._keys)) if rows_R is None else rows_R
            rows_R = np.setdiff1d(rows_R, [self._rows[key] for key in body["exclude"] if key in self._rows])
        return rows_R


def _item(entry: Entry) -> Item:
    """A key as it is embedded."""
    return Item(f"key {entry.key}", entry.text, tuple(image_bytes(image) for image in entry.images))
