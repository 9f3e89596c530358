"""Vectors that another tool embedded: the rows of a FAISS file in the place of an encoder.

The file holds one vector for each row of the corpus, in the same order, as autofaiss, clip-retrieval and `export` make
them. Everything else of a build stays what it is.

Shape legend: B = batch, D = width.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Item
from anykey.index.errors import IndexCorruptError
from anykey.index.jobs.encoding import CheckpointSource, EncoderSource, VectorEncoder
from anykey.index.queries import MAX_NORM_ERROR
from anykey.index.settings import EmbeddingSettings
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

    def load(self) -> "ImportedVectors":
        """The vectors.

        Raises:
            SourceError: they are of another width than the encoder's, or the file cannot be read.
        """
        with self._lock:
            if self._vectors is None:
                self._vectors = ImportedVectors(self._path, self._encoder.load(), self._normalizes)
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


class ImportedVectors:
    """What a build needs of an encoder, from a FAISS file; what it prepares is a row's place.

    Attributes:
        name: The encoder's.
        width: D.
        fingerprint: The encoder's.
        fusion: The encoder's.
        precision: `imported`.
        device: What the vectors are read from.
    """

    precision = "imported"

    def __init__(self, path: Path, encoder: VectorEncoder, normalizes: bool) -> None:
        self.name = encoder.name
        self.width = encoder.width
        self.fingerprint = encoder.fingerprint
        self.fusion = encoder.fusion
        self._path = path
        self._normalizes = normalizes
        self._structure = _read(path)
        self.device: Any = f"FAISS {type(self._structure).__name__}"
        if self._structure.d != self.width:
            raise SourceError(f"{path} holds vectors of width {self._structure.d}, the encoder's have {self.width}")
        try:
            self._stored = _with_vectors(self._structure)
        except RuntimeError as error:  # numbers in inverted lists that are no places
            raise _without_vectors(path, self._structure, error) from error

    def prepare(self, item: Item, position: int | None = None) -> int:
        """The row's place; images are kept as they are, not decoded.

        Args:
            item: What the row holds.
            position: Its place in the corpus, from 1.
        """
        assert position is not None
        return position - 1

    def encode_prepared(self, prepared: Sequence[int]) -> NDArray[np.float32]:
        """Unit vectors `[B, D]` at some places.

        Raises:
            SourceError: the file does not give its vectors back, or they are no unit vectors.
        """
        places_B = np.asarray(prepared, dtype=np.int64)
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
                f"{self._path}: vector {prepared[place]} (from 0) has length {norms_B[place]:.4g}, expected 1; "
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
