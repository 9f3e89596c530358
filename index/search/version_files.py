"""The keys that a published version covers: its files, open for search.

A key's place in the version's files is its *position*; positions rise with the numbers of the
changes that stored the keys.

Shape legend: N = keys in the version, Q = queries, D = width, K = results per query.
"""

from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.deadline import NEVER, Deadline
from anykey.index.errors import IndexCorruptError, SearchIndexError
from anykey.index.filtering.conditions import Path as FieldPath
from anykey.index.filtering.evaluation import Remembered, name_of
from anykey.index.filtering.postings import Postings, Reading
from anykey.index.hits import SearchFacts
from anykey.index.key_index import Held, Place, Scope
from anykey.index.store.manifest import Manifest
from anykey.index.store.versions import OpenVersion, open_published
from anykey.index.vectors.calibration import Calibration, read_calibration
from anykey.index.vectors.exact import ExactVectors, count_allowed
from anykey.index.vectors.structures import EXACT_ALLOWED, ON_CPU, ApproximateIndex, GpuUse

if TYPE_CHECKING:
    from anykey.index.vectors.gpu import GpuIndex

ROWS_NAME = "rows.npy"
VECTORS_NAME = "vectors.faiss"
FIELDS_NAME = "fields.sqlite"
STRUCTURE_NAME = "structure.faiss"
CALIBRATION_NAME = "calibration.npy"
COUNTS_BYTES = 8 * 2**20
MOST_COSINE = 1.1  # beyond what rounding and quantisation make of 1


class VersionFiles:
    """The files of one version; never changes, safe for use from several threads. Made by `open`.

    Attributes:
        manifest: What the version says about itself.
        calibration: What its vectors and those of queries are centred by, if they are.
        counts: What was counted of its keys, and of those that came since, by moment and scope.
    """

    def __init__(
        self,
        manifest: Manifest,
        seqs_N: NDArray[np.int64],
        exact: ExactVectors,
        approximate: "ApproximateIndex | GpuIndex | None",
        fields: Postings,
        calibration: Calibration | None,
    ) -> None:
        self.manifest = manifest
        self.calibration = calibration
        self._seqs_N = seqs_N
        self._exact = exact
        self._approximate = approximate
        self._fields = fields
        self._remembered: Remembered[NDArray[np.int64]] = Remembered(lambda positions: positions.nbytes)
        self.counts: Remembered[Any] = Remembered(lambda counted: counted.num_bytes, COUNTS_BYTES)

    @classmethod
    def open(cls, version: OpenVersion, gpu: GpuUse = ON_CPU, exact_allowed: int = EXACT_ALLOWED) -> "VersionFiles":
        """Opens a version's files; they are mapped, not read, but for what GPUs take.

        Raises:
            IndexCorruptError: one of them is damaged; names it.
        """
        num_keys, width = version.manifest.num_keys, version.manifest.encoder.width
        seqs_N = read_seqs(version.path / ROWS_NAME, num_keys)
        exact = ExactVectors.open(version.path / VECTORS_NAME)
        if (exact.num_vectors, exact.width) != (num_keys, width):
            raise IndexCorruptError(
                version.path / VECTORS_NAME,
                f"it holds {exact.num_vectors} vectors of width {exact.width}, the manifest says {num_keys} of {width}",
            )
        calibration = None
        if CALIBRATION_NAME in version.manifest.files:
            calibration = read_calibration(version.path / CALIBRATION_NAME, width)
        approximate = _open_structure(version, exact, gpu, exact_allowed)
        fields = _open_fields(version.path / FIELDS_NAME, num_keys)
        return cls(version.manifest, seqs_N, exact, approximate, fields, calibration)

    @property
    def seqs(self) -> NDArray[np.int64]:
        """Change numbers `[N]` of the keys that the version covers, ascending."""
        return self._seqs_N

    @property
    def num_keys(self) -> int:
        """N."""
        return len(self._seqs_N)

    @property
    def is_exact(self) -> bool:
        """Whether searches compare with every key, also where they are not told to."""
        return self._approximate is None

    def vectors(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors at some positions, as the version has them."""
        return self._exact.vectors(positions)

    def as_stored(self, vectors_BD: NDArray[np.float32], codes_B: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the version keeps of the encoder's vectors, given their modalities' positions: centred and rounded."""
        if self.calibration is not None:
            vectors_BD = self.calibration.apply(vectors_BD, codes_B)
        return vectors_BD.astype(self._exact.dtype).astype(np.float32)

    def positions_of_seqs(self, seqs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of those of some keys, by change numbers, that the version covers, ascending."""
        if not self.num_keys or not len(seqs):
            return np.empty(0, np.int64)
        positions = np.searchsorted(self._seqs_N, seqs)
        is_here = self._seqs_N[np.minimum(positions, self.num_keys - 1)] == seqs
        return np.unique(positions[is_here])

    def positions(self, scope: Scope, deadline: Deadline = NEVER) -> NDArray[np.int64] | None:
        """Positions of the keys that a scope's modalities, pool and condition allow, ascending; `None` means all.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
        """
        if scope.modalities is None and scope.pool is None and scope.condition is None:
            return None
        name = name_of(scope.modalities, scope.pool, scope.condition)
        found = None if name is None else self._remembered.get(name)
        if found is None:
            found = self._find(scope, deadline)
            if name is not None:
                self._remembered.put(name, found)
        return found

    def has_field(self, path: FieldPath, deadline: Deadline = NEVER) -> bool:
        """Whether any of the version's keys has a value at a path of its metadata, or below it."""
        return self._fields.has_field(path, deadline)

    def reading(self, deadline: Deadline = NEVER) -> AbstractContextManager[Reading]:
        """Their postings, for one thread, for the length of a block."""
        return self._fields.reading(deadline)

    def search(
        self,
        queries_QD: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.int64] | NDArray[np.bool_] | None,
        exact: bool,
        deadline: Deadline = NEVER,
        facts: SearchFacts | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The best keys for each query: scores and change numbers, best first.

        Args:
            queries_QD: Unit vectors.
            k: Most results per query.
            allowed: Which keys may be found: their positions, or a mask `[N]`; all when absent.
            exact: Compares with every key; equal scores then come by rising change number, also where `k` cuts through
                them.
            deadline: Until when the answer is wanted.
            facts: Told of how they are found.

        Raises:
            DeadlineExceededError: it no longer is.
            IndexCorruptError: a score is no cosine.
        """
        if exact or self._approximate is None:
            scores_QK, positions_QK = self._exact.search(queries_QD, k, allowed, deadline)
            if facts is not None:
                facts.compared(len(queries_QD) * count_allowed(allowed, self.num_keys))
        elif isinstance(self._approximate, ApproximateIndex):
            found = self._approximate.search(queries_QD, k, allowed, deadline=deadline, facts=facts)
            scores_QK, positions_QK = found
            if facts is not None and not facts.is_exact and self.manifest.structure is not None:
                facts.structure = self.manifest.structure.factory
        else:
            scores_QK, positions_QK = self._approximate.search(queries_QD, k, allowed, deadline=deadline)
            if facts is not None:
                of_gpu = None if self.manifest.structure is None else self.manifest.structure.gpu
                facts.structure = "gpu" if of_gpu is None else f"gpu {of_gpu.kind}"
                facts.is_exact = facts.is_exact and not self._approximate.needs_rerank
                facts.compared(None)
        self.require_cosines(scores_QK)
        return scores_QK, self._seqs_N[positions_QK]

    def require_cosines(self, scores: NDArray[np.float32]) -> None:
        """Returns if scores can be products of unit vectors.

        Bits that changed on disk may make a key the best for everything. Whoever watches the files notices that a
        moment later; until then answers would be wrong.

        Raises:
            IndexCorruptError: one of them cannot.
        """
        if scores.size and scores.max() > MOST_COSINE:
            reason = f"a key's score is {scores.max():.3g}, which the product of unit vectors cannot be"
            raise IndexCorruptError(self._exact.path, reason)

    def held(self, folder: Path) -> list[Held]:
        """What is held of the version's files.

        Args:
            folder: Where they are.
        """
        held = [
            Held("vectors", file_bytes(folder / VECTORS_NAME), Place.MAPPED),
            Held("positions", file_bytes(folder / ROWS_NAME), Place.MAPPED),
            Held("fields", file_bytes(folder / FIELDS_NAME), Place.DISK),
        ]
        if isinstance(self._approximate, ApproximateIndex):
            place = Place.MAPPED if self._approximate.is_mapped else Place.MEMORY
            held.append(Held("structure", file_bytes(folder / STRUCTURE_NAME), place))
        elif self._approximate is not None:
            held.append(Held("gpu_structure", self._approximate.num_bytes, Place.GPU))
        return held

    def close(self) -> None:
        """Closes the files; the version stays locked until it is released."""
        self._fields.close()
        if self._approximate is not None and not isinstance(self._approximate, ApproximateIndex):
            self._approximate.close()

    def _find(self, scope: Scope, deadline: Deadline) -> NDArray[np.int64]:
        parts = []
        if scope.modalities is not None:
            parts.append(self._of_modalities(scope.modalities, deadline))
        if scope.pool is not None:
            parts.append(self._fields.positions_of_pool(scope.pool, deadline))
        if scope.condition is not None:
            parts.append(self._fields.positions(scope.condition, deadline))
        parts.sort(key=len)
        found = parts[0]
        for part in parts[1:]:
            found = np.intersect1d(found, part, assume_unique=True)
        return found

    def _of_modalities(self, modalities: Collection[Modality], deadline: Deadline) -> NDArray[np.int64]:
        found = [self._fields.positions_of_modality(modality, deadline) for modality in sorted(set(modalities))]
        return np.sort(np.concatenate([np.empty(0, np.int64), *found]))


def _open_structure(
    version: OpenVersion, exact: ExactVectors, gpu: GpuUse, exact_allowed: int
) -> "ApproximateIndex | GpuIndex | None":
    """What finds candidates; `None` for exact search on the CPU."""
    facts = version.manifest.structure
    if facts is None:
        return None
    if gpu.gpus:
        from anykey.index.vectors.gpu import open_for  # which most machines have no use for

        return open_for(facts, exact, gpu, exact_allowed)
    if facts.is_exact:
        return None
    return ApproximateIndex.open(version.path / STRUCTURE_NAME, exact, facts.search, exact_allowed)


def _open_fields(path: Path, num_keys: int) -> Postings:
    fields = Postings(path)
    if fields.num_positions != num_keys:
        fields.close()
        raise IndexCorruptError(path, f"it covers {fields.num_positions} keys, the manifest says {num_keys}")
    return fields


def read_seqs(path: Path, num_keys: int) -> NDArray[np.int64]:
    """Change numbers `[N]` of the keys that a version covers, ascending; mapped, not read.

    Raises:
        IndexCorruptError: the file is damaged, or holds another number of them.
    """
    try:
        seqs_N = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise IndexCorruptError(path, str(error)) from error
    if seqs_N.shape != (num_keys,) or seqs_N.dtype != np.int64:
        raise IndexCorruptError(path, f"expected {num_keys} rows as int64, got {seqs_N.shape} of {seqs_N.dtype}")
    return np.asarray(seqs_N)


def loaded_bytes(index_dir: Path, *, on_gpus: bool) -> int:
    """About what is read into memory, and not only mapped, when what is published in an index directory is opened.

    Args:
        index_dir: The directory; of what cannot be opened nothing is loaded.
        on_gpus: Whether GPUs search, which need no structure of the CPU's.
    """
    try:
        version = open_published(index_dir, files=[])
    except (SearchIndexError, OSError):
        return 0
    try:
        structure = version.manifest.structure
        is_loaded = structure is not None and not structure.is_mapped and not on_gpus
        return file_bytes(version.path / STRUCTURE_NAME) if is_loaded else 0
    finally:
        version.release()


def file_bytes(*paths: Path) -> int:
    """Bytes of the files that are there."""
    sizes = []
    for path in paths:
        try:
            sizes.append(path.stat().st_size)
        except OSError:  # as of a log, which comes and goes
            sizes.append(0)
    return sum(sizes)
