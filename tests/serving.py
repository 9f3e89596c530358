"""A real server in a thread, and parts whose timing a test decides with events."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from rich.console import Console

from anykey.encoder.item import Item, Modality
from anykey.encoder.protocol import ItemEncoder, Role
from anykey.index.changes import Applied, Capabilities, Change, RequestKey
from anykey.index.deadline import NEVER, Deadline
from anykey.index.errors import KeyNotFoundError, ReadOnlyError, UnknownPoolError, WordsUnavailableError
from anykey.index.filtering.conditions import Exists, matches
from anykey.index.filtering.conditions import Path as FieldPath
from anykey.index.filtering.facets import Facet, FacetCounts, FieldsPage
from anykey.index.hits import FoundImage, Hit, Payload, SearchFacts, StoredImage, StoredKey, at_hand
from anykey.index.jobs.build import build_index
from anykey.index.jobs.encoding import EncoderSource
from anykey.index.key_index import EVERYTHING, Held, IndexInfo, Place, Ranking, Scope
from anykey.index.settings import BuildSettings
from anykey.index.store.manifest import EncoderFacts
from anykey.index.words.joining import Words
from anykey.service.app import create_app
from anykey.service.searching.searcher import SearchableIndex
from anykey.service.server import listen, web_server
from anykey.service.settings import ServiceSettings
from tests.counted_values import counts_of, fields_of
from tests.fakes import FakeEncoder

WAIT_S = 20.0  # far longer than anything takes; only a hang reaches it
POLL_S = 0.005
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # of clients over HTTP: each would read all certificates, for 50 ms


class GatedEncoder(FakeEncoder):
    """A fake encoder that waits inside each batch until the test lets it go.

    Attributes:
        entered: Released once for each batch begun.
        gate: Batches wait until it is set; set from the start.
        failures: Exceptions to raise, one for each coming batch; `None` for a batch that works.
    """

    def __init__(self, **facts: Any) -> None:
        super().__init__(**facts)
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.failures: list[BaseException | None] = []

    def encode_prepared(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        """Waits for the gate, then fails or encodes."""
        self.entered.release()
        assert self.gate.wait(WAIT_S), "the test never opened the gate"
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure
        return super().encode_prepared(prepared)

    def wait_until_entered(self) -> None:
        """Blocks until a batch has begun that was not waited for before."""
        assert self.entered.acquire(timeout=WAIT_S), "no batch began"


class MemoryIndex:
    """An index of a few keys, searched by sorting all scores; the slow, obvious twin of the real one."""

    def __init__(self, encoder: ItemEncoder, keys: Sequence[tuple[StoredKey, Item]], **facts: Any) -> None:
        self.keys = [key for key, _ in keys]
        self._items = {key.key: item for key, item in keys}
        prepared = [encoder.prepare(item, Role.KEY) for _, item in keys]
        self._vectors_ND = encoder.encode_prepared(prepared) if keys else np.zeros((0, encoder.width), np.float32)
        self.version = "1"
        self.encoder = EncoderFacts(
            name=encoder.name,
            width=facts.get("width", encoder.width),
            fingerprint=facts.get("fingerprint", encoder.fingerprint),
            fusion=facts.get("fusion", str(encoder.fusion)),
        )

    def check(self) -> None:
        """Can always answer."""

    def info(self) -> IndexInfo:
        """Counts everything."""
        modalities = {m: sum(key.modality is m for key in self.keys) for m in Modality}
        names = sorted({pool for key in self.keys for pool in key.pools})
        pools = {pool: sum(pool in key.pools for key in self.keys) for pool in names}
        return IndexInfo("memory", self.encoder, len(self.keys), modalities, pools, {"version": self.version})

    def search(
        self,
        vectors_QD: NDArray[np.float32],
        k: int,
        scope: Scope = EVERYTHING,
        *,
        exact: bool = False,
        query_modalities: Sequence[Modality | None] | None = None,
        are_centred: bool = False,
        with_vectors: bool = False,
        deadline: Deadline = NEVER,
    ) -> list[list[Hit]]:
        """The best `k` keys of the scope for each query, equal scores in corpus order."""
        pools = {pool for key in self.keys for pool in key.pools}
        if scope.pool is not None and scope.pool not in pools:
            raise UnknownPoolError(scope.pool, pools)
        rows = [row for row, key in enumerate(self.keys) if is_in_scope(key, scope)]
        found = []
        for vector_D in vectors_QD:
            scores = {row: float(self._vectors_ND[row] @ vector_D) for row in rows}
            best = sorted(rows, key=lambda row: -scores[row])[:k]
            found.append([self._hit(row, scores[row], rank, with_vectors) for rank, row in enumerate(best, 1)])
        return found

    def _hit(self, row: int, score: float, rank: int, with_vector: bool) -> Hit:
        key = self.keys[row]
        vector_D = self._vectors_ND[row] if with_vector else None
        return Hit(key.key, score, rank, key.modality, key.payload, vector_D)

    @contextmanager
    def moment(self, snapshot: str | None = None, *, deadline: Deadline = NEVER) -> Iterator["MemoryMoment"]:
        """The index, which never changes."""
        yield MemoryMoment(self, deadline)

    def moment_at_hand(self) -> None:
        """Nothing: each has to be asked for."""

    def vectors(self, keys: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of some keys."""
        rows = {key.key: row for row, key in enumerate(self.keys)}
        return self._vectors_ND[[rows[key] for key in keys]]

    def get(self, key: str, *, with_vector: bool = False) -> StoredKey:
        """One key."""
        for row, stored in enumerate(self.keys):
            if stored.key == key:
                return replace(stored, vector_D=self._vectors_ND[row]) if with_vector else stored
        raise KeyNotFoundError(f"no key {key!r}")

    def find_image(self, key: str, position: int = 0) -> FoundImage:
        """One image of a key."""
        self.get(key)
        images = self._items[key].images
        if position >= len(images) or not isinstance(images[position], bytes):
            raise KeyNotFoundError(f"key {key!r} has no image {position}")
        data = images[position]
        assert isinstance(data, bytes)
        return at_hand(StoredImage(data, "image/png" if data.startswith(b"\x89PNG") else "text/html"))

    def page(
        self, after: str | None = None, limit: int = 100, scope: Scope = EVERYTHING, *, deadline: Deadline = NEVER
    ) -> list[StoredKey]:
        """The first keys of a scope by name."""
        names = sorted(key.key for key in self.keys if is_in_scope(key, scope))
        return [self.get(name) for name in names if after is None or name > after][:limit]

    def count(self, scope: Scope = EVERYTHING, *, deadline: Deadline = NEVER) -> int:
        """Number of keys in a scope."""
        return sum(is_in_scope(key, scope) for key in self.keys)

    @property
    def capabilities(self) -> Capabilities:
        """None."""
        return Capabilities(numbers_changes=False, is_atomic=False, remembers_requests=False, puts_back=False)

    def make_writable(self, wanted: bool) -> bool:
        """Never: it is not changed."""
        raise ReadOnlyError("an index of this kind is not changed")

    def apply(self, changes: Sequence[Change], *, atomic: bool = False, request: RequestKey | None = None) -> Applied:
        """Refuses: it is never changed."""
        raise ReadOnlyError("an index of this kind is not changed")

    def delete_scope(
        self,
        scope: Scope,
        *,
        dry_run: bool = False,
        request: RequestKey | None = None,
        deadline: Deadline = NEVER,
        pause: Callable[[Applied], None] | None = None,
    ) -> Applied:
        """Refuses: it is never changed."""
        raise ReadOnlyError("an index of this kind is not changed")

    def remembered(self, request: RequestKey) -> Applied | None:
        """Refuses: it is never changed."""
        raise ReadOnlyError("an index of this kind is not changed")

    def held(self) -> list[Held]:
        """The vectors."""
        return [Held("vectors", self._vectors_ND.nbytes, Place.MEMORY)]

    def replace_image(self, key: str, data: bytes) -> None:
        """Puts other bytes where the key's image was."""
        self._items[key] = Item(images=(data,))

    def close(self) -> None:
        """Nothing to release."""


class MemoryMoment:
    """A `MemoryIndex` at any moment: what it finds are its hits."""

    def __init__(self, index: MemoryIndex, deadline: Deadline) -> None:
        self.version: str | None = index.version
        self.seq: int | None = len(index.keys)
        self.snapshot: str | None = "memory"
        self.identity: str | None = None
        self._index = index
        self._deadline = deadline

    def search(self, vectors_QD: NDArray[np.float32], k: int, *args: Any, **options: Any) -> list[list[Hit]]:
        """As the index."""
        return self._index.search(vectors_QD, k, *args, **options, deadline=self._deadline)

    def rank(self, vectors_QD: NDArray[np.float32], k: int, *args: Any, **options: Any) -> list[Ranking]:
        """The hits, with their scores beside them."""
        return [_ranking(hits) for hits in self.search(vectors_QD, k, *args, **options)]

    def explain(self) -> SearchFacts:
        """Notes nothing."""
        return SearchFacts()

    def centred(self, vectors_QD: NDArray[np.float32], modalities: Sequence[Modality | None]) -> NDArray[np.float32]:
        """The vectors."""
        return vectors_QD

    def get(self, key: str, *, with_vector: bool = False) -> StoredKey:
        """As the index."""
        return self._index.get(key, with_vector=with_vector)

    def rank_words(self, words: Words, k: int, *args: Any, **options: Any) -> Ranking:
        """Refuses."""
        raise WordsUnavailableError("an index in memory has no words")

    def is_exact(self, exact: bool) -> bool:
        """Always."""
        return True

    def hits(self, ranking: Ranking, *, with_vectors: bool = False) -> list[Hit]:
        """With new ranks."""
        vectors = self.vectors(ranking) if with_vectors else [None] * len(ranking)
        found = zip(ranking.found_K.tolist(), vectors, strict=True)
        return [replace(hit, rank=rank, vector_D=vector_D) for rank, (hit, vector_D) in enumerate(found, 1)]

    def vectors(self, ranking: Ranking) -> NDArray[np.float32]:
        """The vectors of the hits' keys."""
        return self._index.vectors([hit.key for hit in ranking.found_K])

    def background(
        self, vectors_QD: NDArray[np.float32], most: int, scope: Scope = EVERYTHING, **options: Any
    ) -> NDArray[np.float32]:
        """The scores of the first keys."""
        keys = [key.key for key in self._index.keys if is_in_scope(key, scope)][:most]
        return np.asarray(vectors_QD @ self._index.vectors(keys).T)

    def has_field(self, path: FieldPath) -> bool:
        """Looks at all keys."""
        return self.count(Scope(condition=Exists(path))) > 0

    def count(self, scope: Scope = EVERYTHING) -> int:
        """Counts."""
        return sum(is_in_scope(key, scope) for key in self._index.keys)

    def facets(self, facets: Sequence[Facet], scope: Scope = EVERYTHING) -> list[FacetCounts]:
        """Goes through the metadata of all keys."""
        everything = [key.payload.metadata for key in self._index.keys]
        counts = [counts_of(facet, self._metadata(scope)) for facet in facets]
        return [replace(each, is_known=counts_of(each.facet, everything).is_known) for each in counts]

    def fields(self, after: FieldPath | None = None, limit: int = 100, scope: Scope = EVERYTHING) -> FieldsPage:
        """Goes through the metadata of all keys; fields in the order of their names."""
        rows = self._metadata(scope)
        fields = [facts for path, facts in sorted(fields_of(rows).items()) if after is None or path > after]
        return FieldsPage(tuple(fields[:limit]), len(rows), fields[limit - 1].path if len(fields) > limit else None)

    def _metadata(self, scope: Scope) -> list[dict[str, Any]]:
        return [key.payload.metadata for key in self._index.keys if is_in_scope(key, scope)]

    def keep(self, *, is_asked_for: bool = False) -> None:
        """Nothing ever changes."""


def _ranking(hits: Sequence[Hit]) -> Ranking:
    found_K = np.empty(len(hits), object)
    found_K[:] = hits
    return Ranking(np.array([hit.score for hit in hits], np.float32), found_K)


def is_in_scope(key: StoredKey, scope: Scope) -> bool:
    """Whether a search or a count of this scope looks at the key."""
    return (
        (scope.modalities is None or key.modality in scope.modalities)
        and (scope.pool is None or scope.pool in key.pools)
        and (scope.condition is None or matches(scope.condition, key.payload.metadata))
        and (scope.within is None or key.key in scope.within)
        and key.key not in scope.exclude
    )


def stored(key: str, item: Item, pools: tuple[str, ...] = (), **metadata: Any) -> tuple[StoredKey, Item]:
    """A key for `MemoryIndex`."""
    return StoredKey(key, item.modality, Payload(item.text, metadata, len(item.images)), pools), item


@dataclass
class ReadyEncoder(EncoderSource):
    """An encoder for the index builder that is loaded already."""

    encoder: ItemEncoder

    def fingerprint(self) -> str:
        """The encoder's."""
        return self.encoder.fingerprint

    def width(self) -> int:
        """The encoder's."""
        return self.encoder.width

    def load(self) -> Any:
        """The encoder."""
        return self.encoder


def build_real_index(directory: Path, encoder: ItemEncoder, keys: Sequence[tuple[StoredKey, Item]]) -> Path:
    """Builds an index of these keys with the builder; gives its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (key, item) in enumerate(keys):
        images = []
        for position, image in enumerate(item.images):
            assert isinstance(image, bytes)
            images.append(f"{number}-{position}.png")
            (directory / images[-1]).write_bytes(image)
        row = {"key": key.key, "text": item.text, "image": images, "metadata": key.payload.metadata}
        rows.append({name: value for name, value in row.items() if value} | {"pool": list(key.pools)})
    corpus = directory / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = BuildSettings(corpus=[corpus], checkpoint="given", output=directory / "index", strict=True)
    build_index(settings, ReadyEncoder(encoder), Console(quiet=True))
    return settings.output


def make_settings(**values: Any) -> ServiceSettings:
    """Settings for a test: small, quick, no Redis."""
    return ServiceSettings(
        **{"max_wait_ms": 1.0, "decode_threads": 2, "drain_ms": 10_000, "max_batch_searches": 16, **values}
    )


@contextmanager
def running(app: FastAPI) -> Iterator[httpx.Client]:
    """Serves the application on a free port; gives a client whose base address it is."""
    with listen("127.0.0.1", 0) as listener:
        server = web_server(app, app.state.lifecycle.settings, [listener])
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server")
        thread.start()
        address = f"http://127.0.0.1:{port_of(listener)}"
        try:
            with httpx.Client(base_url=address, timeout=WAIT_S, trust_env=False, verify=PLAIN) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(WAIT_S)
            assert not thread.is_alive(), "the server did not stop"


@contextmanager
def serving(
    encoder: ItemEncoder | None = None, index: SearchableIndex | None = None, **settings: Any
) -> Iterator[httpx.Client]:
    """Serves these parts on a free port."""
    with running(create_app(make_settings(**settings), encoder=encoder, index=index)) as client:
        yield client


def until(condition: Callable[[], bool], what: str, wait_s: float = WAIT_S) -> None:
    """Asks again and again until the condition holds; fails after a time."""
    give_up_s = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < give_up_s, f"never happened: {what}"
        time.sleep(POLL_S)  # what is waited for needs the processor, too


def counters(client: httpx.Client, part: str) -> dict[str, int]:
    """The batcher's or the cache's counters."""
    found: dict[str, int] = client.get("/info").json()["counters"][part]
    return found


def port_of(listener: socket.socket) -> int:
    """The port a socket is bound to."""
    port: int = listener.getsockname()[1]
    return port
