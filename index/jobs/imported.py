"""Vectors that another tool embedded: the rows of a FAISS file in the place of an encoder.

The file holds one vector for each row of the corpus, in the same order, as autofaiss, clip-retrieval and `export` make
them. Everything else of a build stays what it is.

Shape legend: B = batch, D = width.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Item
from anykey.encoder.protocol import ItemEncoder
from anykey.index.errors import IndexCorruptError
from anykey.index.jobs.encoding import CheckpointSource, EncoderSource
from anykey.index.queries import MAX_NORM_ERROR
from anykey.index.settings import EmbeddingSettings
from anykey.index.store.manifest import EncoderFacts
from anykey.index.vectors.exact import read_faiss
from anykey.sources.errors import SourceError
from anykey.sources.files.files import file_state, reason_of


def source_of(settings: EmbeddingSettings) -> EncoderSource:
    """Where the settings say that vectors come from: the encoder, or a FAISS file that it made.

    Raises:
        SourceError: there is no such file.
    """
    encoder = CheckpointSource(settings)
    if settings.faiss is None:
        return encoder
    try:
        file_state(str(settings.faiss))
    except OSError as error:
        raise SourceError(f"vectors {settings.faiss} cannot be read: {reason_of(error)}") from error
    return ImportedSource(settings.faiss, encoder, settings.normalize)


class ImportedSource(EncoderSource):
    """A FAISS file of the vectors that an encoder gave for the corpus."""

    step = "taking vectors"

    def __init__(self, path: Path, encoder: EncoderSource, normalizes: bool = False) -> None:
        """Reads nothing yet.

        Args:
            path: The FAISS file.
            encoder: The encoder that made the vectors, and that queries will be embedded by.
            normalizes: Scales vectors to unit length instead of refusing those of another.
        """
        self._path = path
        self._encoder = encoder
        self._normalizes = normalizes
        self._lock = threading.Lock()
        self._vectors: ImportedVectors | None = None

    def fingerprint(self) -> str:
        """The encoder's."""
        return self._encoder.fingerprint()

    def width(self) -> int:
        """The encoder's."""
        return self._encoder.width()

    def load(self) -> ItemEncoder:
        """The encoder."""
        return self._encoder.load()

    def facts(self) -> EncoderFacts:
        """The encoder's, computed elsewhere.

        Raises:
            SourceError: the vectors are of another width than the encoder's, or the file cannot be read.
        """
        facts = EncoderFacts.of(self.load())
        return facts.model_copy(update={"computed_in": [f"imported on {self._read_once().structure}"]})

    def prepare(self, item: Item, row: int | None = None) -> "ImportedRow":
        """The row's place; images are kept as they are, not decoded.

        Raises:
            SourceError: the vectors are of another width than the encoder's, or the file cannot be read.
        """
        assert row is not None
        self._read_once()
        return ImportedRow(row - 1)

    def encode(self, prepared: "Sequence[ImportedRow]") -> NDArray[np.float32]:
        """Unit vectors `[B, D]` at some places.

        Raises:
            SourceError: the file does not give its vectors back, or they are no unit vectors.
        """
        return self._read_once().at([row.place for row in prepared])

    def _read_once(self) -> "ImportedVectors":
        with self._lock:
            if self._vectors is None:
                self._vectors = ImportedVectors(self._path, self.load().width, self._normalizes)
            return self._vectors

    def stamp(self) -> list[str | int]:
        """What tells the file, and how its vectors are taken, from another.

        Raises:
            OSError: the file is missing.
        """
        found = self._path.stat()
        return [str(self._path.absolute()), found.st_size, found.st_mtime_ns, self._normalizes]

    def require_rows(self, num_rows: int | None) -> None:
        """Makes sure that the file is as long as the corpus.

        Raises:
            SourceError: it is not, or either of them cannot be read whole.
        """
        if num_rows is None:
            raise SourceError(
                f"{self._path} holds a vector for each row of the corpus, of which a stretch cannot be read: nobody "
                "knows which vectors belong to the rows behind it"
            )
        num_vectors = _read(self._path).ntotal
        if num_vectors != num_rows:
            raise SourceError(
                f"{self._path} holds {num_vectors:,} vectors, the corpus has {num_rows:,} rows: expected one for each, "
                "in the same order"
            )


@dataclass(frozen=True)
class ImportedRow:
    """What stands for a key whose vector another tool made, which does not tell whether it cut a text.

    Attributes:
        place: The vector's place in the file, from 0.
    """

    place: int

    @property
    def is_text_cut(self) -> bool:
        """Nothing is known of it."""
        return False


class ImportedVectors:
    """The vectors of a FAISS file, by their places.

    Attributes:
        structure: What the file holds, as FAISS calls it.
    """

    def __init__(self, path: Path, width: int, normalizes: bool) -> None:
        self._path = path
        self._normalizes = normalizes
        self._whole = _read(path)
        self.structure = f"FAISS {type(self._whole).__name__}"
        if self._whole.d != width:
            raise SourceError(f"{path} holds vectors of width {self._whole.d}, the encoder's have {width}")
        try:
            self._stored = _with_vectors(self._whole)
        except RuntimeError as error:  # numbers in inverted lists that are no places
            raise _without_vectors(path, self._whole, error) from error

    def at(self, places: Sequence[int]) -> NDArray[np.float32]:
        """Unit vectors `[B, D]` at some places.

        Raises:
            SourceError: the file does not give its vectors back, or they are no unit vectors.
        """
        places_B = np.asarray(places, dtype=np.int64)
        try:
            vectors_BD = np.asarray(self._stored.reconstruct_batch(places_B), dtype=np.float32)
        except RuntimeError as error:
            raise _without_vectors(self._path, self._stored, error) from error
        norms_B = np.linalg.norm(vectors_BD.astype(np.float64), axis=1)  # float32 overflows at 1e19
        can_be_scaled_B = (norms_B > 0) & np.isfinite(norms_B)
        is_usable_B = can_be_scaled_B if self._normalizes else np.abs(norms_B - 1) <= MAX_NORM_ERROR
        if not is_usable_B.all():  # false for NaN too
            place = int(np.argmin(is_usable_B))
            raise SourceError(
                f"{self._path}: vector {places[place]} (from 0) has length {norms_B[place]:.4g}, expected 1; "
                "--normalize scales vectors to it"
            )
        return np.asarray(vectors_BD / norms_B[:, None], np.float32) if self._normalizes else vectors_BD


def _read(path: Path) -> Any:
    """A FAISS index that another tool made, or `anykey-index export`."""
    try:
        return read_faiss(path)
    except IndexCorruptError as error:
        raise SourceError(f"{path} cannot be read as a file that FAISS wrote: {error.reason}") from error


def _without_vectors(path: Path, structure: Any, error: RuntimeError) -> SourceError:
    reason = str(error).splitlines()[0].rsplit("Error: ", 1)[-1]
    return SourceError(f"{path}: this {type(structure).__name__} does not give its vectors back: {reason}")


def _with_vectors(structure: Any) -> Any:
    """The part of a FAISS index that gives vectors back by their place; it lives as long as the whole does."""
    if isinstance(structure, faiss.IndexIDMap):  # its numbers are the application's, not places
        return _with_vectors(faiss.downcast_index(structure.index))
    if isinstance(structure, faiss.IndexPreTransform):
        _with_vectors(faiss.downcast_index(structure.index))
    if isinstance(structure, faiss.IndexIVF):
        structure.make_direct_map()
    return structure
