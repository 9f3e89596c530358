"""Where the tests of an index's engines keep their keys: one place per engine, which can be closed and opened again."""

import importlib.util
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from anykey.index import FaissIndex
from anykey.index.hits import Hit
from anykey.index.key_index import KeyIndex
from anykey.index.milvus_index import MilvusIndex, Structure
from anykey.index.publish.creation import create_index
from anykey.index.store.manifest import EncoderFacts, FoldOptions

WIDTH = 8
ENCODER = EncoderFacts(name="engines", fingerprint="sha256:0", width=WIDTH, fusion="raw")
MILVUS_URI = os.environ.get("ANYKEY_TEST_MILVUS_URI")  # a server to test with instead of Milvus Lite
TOLERANCE = 1e-5

needs_milvus = pytest.mark.skipif(
    importlib.util.find_spec("pymilvus") is None
    or (MILVUS_URI is None and importlib.util.find_spec("milvus_lite") is None),
    reason="Milvus Lite is not installed: pip install 'anykey[milvus-lite]'",
)


class Place(Protocol):
    """Keeps one index."""

    def create(self) -> KeyIndex:
        """Makes it, without keys."""
        ...

    def open(self) -> KeyIndex:
        """Opens it again."""
        ...

    def clear(self) -> None:
        """Leaves nothing behind; the index is closed."""
        ...


class FaissPlace:
    """An index directory; what it holds when it is opened again is partly folded and partly not."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / uuid.uuid4().hex

    def create(self) -> FaissIndex:
        create_index(self.path, ENCODER)
        return FaissIndex.open(self.path, writable=True, compact_after=40)

    def open(self) -> FaissIndex:
        return FaissIndex.open(self.path, writable=True, compact_after=40)

    def clear(self) -> None:
        shutil.rmtree(self.path)


class StructuredFaissPlace(FaissPlace):
    """An index directory with a search structure; all is folded when it is opened again, and later changes are not."""

    def create(self) -> FaissIndex:
        create_index(self.path, ENCODER, options=FoldOptions(structure="IVF8,Flat"))
        return FaissIndex.open(self.path, writable=True, compact_after=0, exact_allowed=0)

    def open(self) -> FaissIndex:
        index = FaissIndex.open(self.path, writable=True, compact_after=0, exact_allowed=0)
        index.compact()
        return index


class MilvusPlace:
    """A collection of its own in a shared file or server."""

    def __init__(self, directory: Path, structure: Structure) -> None:
        self.uri = MILVUS_URI or str(directory / "engines.db")
        self.collection = f"keys_{uuid.uuid4().hex}"
        self.images_dir = str(directory / "images")
        self._structure = structure

    def create(self) -> MilvusIndex:
        return MilvusIndex.create(
            self.uri, self.collection, ENCODER, structure=self._structure, images_dir=self.images_dir
        )

    def open(self) -> MilvusIndex:
        return MilvusIndex.open(self.uri, self.collection)

    def clear(self) -> None:
        from pymilvus import MilvusClient

        if MILVUS_URI:
            MilvusClient(MILVUS_URI).drop_collection(self.collection)


def faiss_directory(directory: Path) -> Place:
    """The embedded engine."""
    return FaissPlace(directory)


def clustered_faiss(directory: Path) -> Place:
    """The embedded engine, which compares with the keys of some clusters, unless asked to be exact."""
    return StructuredFaissPlace(directory)


def flat_milvus(directory: Path) -> Place:
    """Compares with every key."""
    return MilvusPlace(directory, Structure())


def graph_milvus(directory: Path) -> Place:
    """Compares with few keys, unless asked to be exact."""
    return MilvusPlace(directory, Structure(kind="HNSW", build={"M": 8, "efConstruction": 40}))


def clustered_milvus(directory: Path) -> Place:
    """Compares with the keys of some clusters, unless asked to be exact."""
    return MilvusPlace(directory, Structure(kind="IVF_FLAT", build={"nlist": 4}, search={"nprobe": 1}))


EVERY_ENGINE = [
    pytest.param(faiss_directory, id="faiss"),
    pytest.param(flat_milvus, marks=needs_milvus, id="milvus"),
]
EVERY_STRUCTURE = [
    *EVERY_ENGINE,
    pytest.param(clustered_faiss, id="faiss-ivf"),
    pytest.param(graph_milvus, marks=needs_milvus, id="milvus-hnsw"),
    pytest.param(clustered_milvus, marks=needs_milvus, id="milvus-ivf"),
]


@contextmanager
def new_index(place: Place) -> Iterator[KeyIndex]:
    """An index without keys, which is gone afterwards."""
    index = place.create()
    try:
        yield index
    finally:
        index.close()
        place.clear()


def unit_vectors(seed: int, number: int) -> NDArray[np.float32]:
    """Vectors in random directions, `[N, 8]`."""
    vectors_ND = np.random.default_rng(seed).standard_normal((number, WIDTH)).astype(np.float32)
    return np.asarray(vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True))


def assert_same_hits(results: list[list[Hit]], expected: list[list[Hit]], everything: list[list[Hit]]) -> None:
    """Same scores rank by rank, and all else as it should be; a key may stand elsewhere only among equal scores.

    Args:
        results: What an engine found.
        expected: What should have been found.
        everything: All keys of the scope, as the expected hits show them.
    """
    assert [len(hits) for hits in results] == [len(hits) for hits in expected]
    for hits, wanted, known in zip(results, expected, everything, strict=True):
        by_key = {hit.key: hit for hit in known}
        assert [hit.rank for hit in hits] == list(range(1, len(wanted) + 1))
        assert len({hit.key for hit in hits}) == len(hits)
        for hit, other in zip(hits, wanted, strict=True):
            assert hit.score == pytest.approx(other.score, abs=TOLERANCE)
            assert hit.score == pytest.approx(by_key[hit.key].score, abs=TOLERANCE)
            assert (hit.modality, hit.payload) == (by_key[hit.key].modality, by_key[hit.key].payload)
