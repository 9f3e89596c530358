"""The command `anykey-bench store`: a dataset's keys into a running service that may be changed.

The service embeds them. Where a key's images count differently, which no index can do, their vectors are asked for and
the key is stored with their weighted sum.
"""

import asyncio
import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from anykey.benchmark.client import SearchClient
from anykey.benchmark.connection import at_once
from anykey.benchmark.dataset import Dataset, Entry, image_bytes
from anykey.benchmark.datasets import open_dataset
from anykey.benchmark.errors import EndpointMismatchError
from anykey.benchmark.pooling import pooled
from anykey.benchmark.settings import StoreSettings
from anykey.program.progress import progress
from anykey.program.settings import plain_console


@dataclass(frozen=True)
class ReadKey:
    """A key whose images have been read.

    Attributes:
        entry: The key.
        images: Its images, as base64.
    """

    entry: Entry
    images: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """What it takes of a request, about."""
        return sum(map(len, self.images)) + 4 * len(self.entry.text or "") + 1024

    def body(self) -> dict[str, Any]:
        """The key as PUT /keys takes it, without a vector."""
        entry = self.entry
        body: dict[str, Any] = {"key": entry.key, "pools": list(entry.pools), "metadata": dict(entry.metadata)}
        if entry.text:
            body["text"] = entry.text
        if self.images:
            body["image"] = list(self.images)
        return body


class KeyBatches:
    """Keys of a dataset in requests that the service takes; what is next is read when it is asked for.

    Args:
        entries: The keys.
        most: How many go into a request.
        limits: What the service takes, as its GET /info says.
    """

    def __init__(self, entries: Iterable[Entry], most: int, limits: Mapping[str, int]) -> None:
        self._entries, self._limits = iter(entries), limits
        self._most = min(most, limits["max_keys"])
        self._held: ReadKey | None = None
        self._lock = asyncio.Lock()

    async def next(self) -> list[ReadKey]:
        """The next keys; none at the end.

        Raises:
            DatasetError: a key is wrong, or an image cannot be read.
            EndpointMismatchError: a key has more images than the service takes.
        """
        async with self._lock:  # images are read, and frames of videos decoded, away from the event loop
            return await asyncio.to_thread(self._next)

    def _next(self) -> list[ReadKey]:
        batch: list[ReadKey] = []
        left = self._limits["max_body_bytes"] // 2
        images = self._limits["max_embed_items"]
        while len(batch) < self._most and (read := self._read()) is not None:
            left, images = left - read.num_bytes, images - len(read.images)
            if batch and min(left, images) < 0:
                self._held = read
                break
            batch.append(read)
        return batch

    def _read(self) -> ReadKey | None:
        held, self._held = self._held, None
        if held is not None:
            return held
        entry = next(self._entries, None)
        if entry is None:
            return None
        if len(entry.images) > self._limits["max_images"]:
            raise EndpointMismatchError(
                f"key '{entry.key}' has {len(entry.images)} images, the service takes at most "
                f"{self._limits['max_images']}: give it a larger max_images"
            )
        images = (base64.b64encode(image_bytes(image)).decode("ascii") for image in entry.images)
        return ReadKey(entry, tuple(images))


def run(settings: StoreSettings) -> int:
    """The command: stores all keys, and says how many were new.

    Returns:
        The exit code, 0.

    Raises:
        DatasetError: the dataset is wrong.
        EndpointError: the service cannot be reached, may not be changed, or refused a key.
    """
    dataset = open_dataset(settings.dataset, settings.format, settings.split, settings.options)
    num_keys, num_new = asyncio.run(store(dataset, settings))
    for warning in dataset.warnings(dataset.tasks()):
        plain_console(stderr=True).print(Text.assemble(("warning:", "yellow"), f" {warning}"), soft_wrap=True)
    said = f"{num_keys} keys of {dataset.name}, {num_new} of them new, are stored at {settings.url}"
    plain_console().print(said, soft_wrap=True)
    return 0


async def store(dataset: Dataset, settings: StoreSettings) -> tuple[int, int]:
    """Stores a dataset's keys.

    Returns:
        How many there are, and how many of them were new.

    Raises:
        DatasetError: As for `run`.
        EndpointError: As for `run`.
    """
    done: list[tuple[int, int]] = []
    patience = (settings.timeout_s, settings.concurrency, settings.max_attempts)
    async with SearchClient(settings.url, *patience, settings.api_key) as client:
        await client.wait_until_ready(settings.ready_timeout_s)
        batches = KeyBatches(dataset.corpus(), settings.batch, (await client.info())["limits"])
        with progress(plain_console(stderr=True), f"keys of {dataset.name}", dataset.num_keys()) as advance:

            async def store_next() -> None:
                while batch := await batches.next():
                    done.append((len(batch), await _stored(client, batch)))
                    advance(len(batch))

            await at_once(settings.concurrency, store_next)
    return sum(num for num, _ in done), sum(new for _, new in done)


async def _stored(client: SearchClient, batch: list[ReadKey]) -> int:
    """Stores some keys; how many of them were new."""
    weighed = [read for read in batch if read.entry.image_weights is not None]
    bodies = {read.entry.key: read.body() for read in batch}
    if weighed:
        entries = [read.entry for read in weighed]
        images = [image for read in weighed for image in read.images]
        vectors_FD = await client.vectors(f"images of key {entries[0].key}", [{"image": image} for image in images])
        for entry, vector_D in zip(entries, pooled(entries, vectors_FD), strict=True):
            bodies[entry.key]["vector"] = vector_D.tolist()
    return await client.store(list(bodies.values()))
