"""Approximate search: a FAISS structure finds candidates, the exact vectors rank them; and which GPUs may do it.

Shape legend: Q = queries, D = width, N = vectors, K = results per query, B = batch.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from anykey.index.deadline import NEVER, Deadline
from anykey.index.errors import IndexCorruptError, InvalidStructureError, UntrainableError, faiss_reason
from anykey.index.hits import SearchFacts
from anykey.index.vectors.exact import (
    Allowed,
    ExactVectors,
    bitmap_selector,
    count_allowed,
    in_turns,
    read_faiss,
    sort_by_score,
)
from anykey.index.vectors.structure_facts import EXACT, SearchParameters

ADD_BATCH_BYTES = 128 * 2**20  # of float32 vectors handed to FAISS at once
TRAIN_BYTES = 2**30  # of float32 vectors that a structure is trained on, at most
TRAIN_VECTORS_PER_LIST = 40  # what FAISS recommends for k-means
TRAIN_VECTORS = 100_000  # at least, where there are so many; enough for quantizers of 256 codes
EXACT_ALLOWED = 10_000  # so few allowed vectors are searched exactly: faster, and nothing is missed
COARSE_EFFORT = 128  # of finding the nearest lists by a graph of their centres; FAISS: 16, 7 in 100 get another
COARSE_GRAPH_EFFORT = 400  # of making that graph; it is small
MIN_RERANK_PER_RESULT = 4  # candidates a result: quantized scores do not tell the last of `k` from the next
LEAST = SearchParameters()
TOO_FEW = "Number of training points"  # begins what FAISS says where there are more lists or codes than vectors
FILTER_POWER = 0.6  # of one over the allowed share; keeps recall at 1,000,000 x 512 about what it is without a filter
LARGEST_LISTS = 4  # times the mean, those that are looked at most
DEEPER = 4  # times the effort, where a search found too few

DEFAULT_TEMPORARY_BYTES = 256 * 2**20  # that a search may take on each GPU beyond the vectors

Clustering = Callable[[int], Any]  # from a width to an empty FAISS index of it, or to `None`

_faiss: Any = faiss  # its type stubs describe the C++ constructors, not the Python ones
_USABLE = (faiss.IndexIVF, faiss.IndexHNSW, faiss.IndexScalarQuantizer, faiss.IndexRaBitQ)


@dataclass(frozen=True)
class GpuUse:
    """Which GPUs search, and how much of their memory searches may take.

    Attributes:
        gpus: Their numbers; none for search on the CPU.
        temporary_bytes: Memory on each GPU that a search may take beyond the vectors.
    """

    gpus: tuple[int, ...] = ()
    temporary_bytes: int = DEFAULT_TEMPORARY_BYTES

    @classmethod
    def of(cls, device: str, temporary_bytes: int = DEFAULT_TEMPORARY_BYTES) -> "GpuUse":
        """What a device setting means; see `gpus_of`.

        Raises:
            InvalidStructureError: it is no device, or FAISS does not have it.
        """
        return cls(tuple(gpus_of(device)), temporary_bytes)


ON_CPU = GpuUse()


class ApproximateIndex:
    """A FAISS structure over exact vectors, open for search; safe for use from several threads.

    Attributes:
        exact: The vectors it was built from; position p here is position p there.
        parameters: How far a search of effort 1 looks.
        core: The FAISS structure behind its transforms; never to be changed.
    """

    def __init__(
        self,
        structure: Any,
        exact: ExactVectors,
        parameters: SearchParameters = LEAST,
        exact_allowed: int = EXACT_ALLOWED,
    ) -> None:
        """Joins a FAISS structure with its vectors; use `build` or `open`."""
        self.exact = exact
        self.parameters = parameters
        self._exact_allowed = exact_allowed
        self._structure = structure
        self.core = _core(structure)
        self._is_graph_over_exact = _is_graph(self.core) and self.core.storage is None
        if self._is_graph_over_exact:
            self.core.storage = exact.structure
            self.core.own_fields = False
            exact.structure.thisown = True  # the assignment took it from Python
        self._reranked = _faiss.IndexRefine(structure, exact.structure)

    @classmethod
    def build(
        cls,
        factory: str,
        exact: ExactVectors,
        path: Path,
        seed: int = 0,
        centroids_CD: NDArray[np.float32] | None = None,
        *,
        on_progress: Callable[[int], None] = lambda count: None,
        clustering: Clustering | None = None,
        exact_allowed: int = EXACT_ALLOWED,
        train_bytes: int = TRAIN_BYTES,
        add_bytes: int = ADD_BATCH_BYTES,
    ) -> "ApproximateIndex":
        """Trains a structure on a sample, adds all vectors and writes it; memory beyond the structure is bounded.

        Args:
            factory: FAISS factory string, such as `IVF1024,PQ64x4fs`. A graph over whole vectors (`HNSW32`) is
                built over their 8-bit codes and searched over the exact vectors, of which it keeps no copy.
            exact: The vectors.
            path: The file to write.
            seed: Decides the sample.
            centroids_CD: Centres of the inverted lists, from a structure with the same number of them over the same
                vectors; they are trained when absent.
            on_progress: Called with the number of vectors that were added.
            clustering: What compares vectors with centres while lists are trained; FAISS itself when absent.
            exact_allowed: So few allowed vectors are searched exactly.
            train_bytes: The most float32 vectors that the structure is trained on; lists get one vector each anyway.
            add_bytes: Float32 vectors that FAISS is handed at once.

        Returns:
            The structure, opened from its file.

        Raises:
            InvalidStructureError: FAISS has no such structure for inner products of this width, or cannot build it.
            UntrainableError: there are too few vectors to train it on.
            OSError: the disk is full or not writable.
        """
        structure = make_structure(factory, exact.width)
        is_whole_graph = isinstance(structure, faiss.IndexHNSWFlat)
        if is_whole_graph:
            structure = _graph_over_codes(structure, exact.width)
        if isinstance(structure, faiss.IndexIVF) and centroids_CD is not None:
            structure.quantizer.train(centroids_CD)
            structure.quantizer.add(centroids_CD)
        try:
            train(structure, exact, seed, clustering, train_bytes)
            for vectors_BD in _batches(exact, add_bytes):
                structure.add(vectors_BD)
                on_progress(len(vectors_BD))
        except RuntimeError as error:
            if TOO_FEW in str(error):
                raise UntrainableError(factory, exact.num_vectors, faiss_reason(error)) from error
            message = f"structure '{factory}' cannot be built over {exact.num_vectors:,} vectors: {faiss_reason(error)}"
            raise InvalidStructureError(message) from error
        except MemoryError as error:
            message = f"structure '{factory}' of {exact.num_vectors:,} vectors does not fit into this machine's memory"
            raise InvalidStructureError(message) from error
        _write(structure, path, faiss.IO_FLAG_SKIP_STORAGE if is_whole_graph else 0)
        del structure
        return cls.open(path, exact, exact_allowed=exact_allowed)

    @classmethod
    def open(
        cls,
        path: Path,
        exact: ExactVectors,
        parameters: SearchParameters = LEAST,
        exact_allowed: int = EXACT_ALLOWED,
    ) -> "ApproximateIndex":
        """Opens what `build` wrote, memory-mapped where FAISS can.

        Args:
            path: The file.
            exact: The vectors it was built from.
            parameters: How far searches look.
            exact_allowed: So few allowed vectors are searched exactly.

        Raises:
            IndexCorruptError: it is missing, damaged, or over other vectors.
        """
        structure = read_faiss(path)
        shape, expected = (structure.ntotal, structure.d), (exact.num_vectors, exact.width)
        if shape != expected or structure.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise IndexCorruptError(path, f"it is over {shape[0]} vectors of width {shape[1]}, expected {expected}")
        if (reason := _why_not(_core(structure))) is not None:
            raise IndexCorruptError(path, f"it holds no structure that searches can use: {reason}")
        return cls(structure, exact, parameters, exact_allowed)

    def centroids(self) -> NDArray[np.float32] | None:
        """Centres of the inverted lists, for another structure with as many; `None` where there are none to share."""
        if not isinstance(self._structure, faiss.IndexIVF):
            return None
        centroids_CD: NDArray[np.float32] = self.core.quantizer.reconstruct_n(0, self.core.nlist)
        return centroids_CD

    @property
    def max_probes(self) -> int:
        """The most `SearchParameters.probes` that mean anything; 1 where the structure knows no such thing."""
        if isinstance(self.core, faiss.IndexIVF):
            return int(self.core.nlist)
        return self.exact.num_vectors if _is_graph(self.core) else 1

    @property
    def needs_rerank(self) -> bool:
        """Whether the structure's own scores are not exact."""
        return not self._is_graph_over_exact

    @property
    def is_mapped(self) -> bool:
        """Whether the structure is in its file, of which FAISS has read no copy into memory."""
        if not isinstance(self.core, faiss.IndexIVF):
            return True
        return not isinstance(_faiss.downcast_InvertedLists(self.core.invlists), _faiss.BlockInvertedLists)

    @property
    def walks_exact(self) -> bool:
        """Whether searches walk over the exact vectors, which must then be in memory to be fast."""
        return self._is_graph_over_exact

    def as_searched(self, parameters: SearchParameters, k: int) -> SearchParameters:
        """The parameters that a search for `k` results takes: a graph's queue holds at least all candidates."""
        return parameters.model_copy(update={"probes": self._reach(parameters, k)[0]})

    def search(
        self,
        queries_QD: NDArray[np.float32],
        k: int,
        allowed: Allowed = None,
        effort: float = 1.0,
        parameters: SearchParameters | None = None,
        deadline: Deadline = NEVER,
        facts: SearchFacts | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Finds about the `k` best allowed vectors per query; their scores are exact.

        The best `max(parameters.rerank, 4 k)` by the structure's own scores are ranked by their exact ones. Where a
        query gets fewer than `k` although more are allowed, it is searched again, deeper, and in the end exactly.

        Args:
            queries_QD: Unit vectors.
            k: Most results per query, at least 1.
            allowed: A mask `[N]`, or ascending positions; all vectors when absent.
            effort: Multiplies how far to look; 2 is about half as fast.
            parameters: How far to look; `self.parameters` when absent.
            deadline: Until when the answer is wanted.
            facts: Told of how they are found.

        Returns:
            Scores and positions `[Q, K]`, best first, equal scores by position; K is `k` or the number of allowed
            vectors, if that is less.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
        """
        queries_QD = np.ascontiguousarray(queries_QD, dtype=np.float32)
        parameters = parameters or self.parameters
        num_allowed = count_allowed(allowed, self.exact.num_vectors)
        k = min(k, num_allowed)
        if num_allowed <= self._exact_allowed or MIN_RERANK_PER_RESULT * k >= num_allowed or len(queries_QD) == 0:
            if facts is not None:
                facts.compared(len(queries_QD) * num_allowed)
            return self.exact.search(queries_QD, k, allowed, deadline)
        selector = bitmap_selector(allowed, self.exact.num_vectors)
        effort *= _effort_of_filter(num_allowed / self.exact.num_vectors)
        self._note(facts, queries_QD, k, parameters, effort)
        scores_QK, positions_QK = self._search_once(queries_QD, k, selector, parameters, effort, deadline)
        short_Q = np.flatnonzero(positions_QK[:, -1] < 0)
        while len(short_Q) and not self._is_exhausted(parameters, effort):
            effort *= DEEPER
            self._note(facts, queries_QD[short_Q], k, parameters, effort)
            found = self._search_once(queries_QD[short_Q], k, selector, parameters, effort, deadline)
            scores_QK[short_Q], positions_QK[short_Q] = found
            short_Q = short_Q[found[1][:, -1] < 0]
        if len(short_Q):
            if facts is not None:
                facts.compared(len(short_Q) * num_allowed)
            scores_QK[short_Q], positions_QK[short_Q] = self.exact.search(queries_QD[short_Q], k, allowed, deadline)
        return scores_QK, positions_QK

    def _note(
        self,
        facts: SearchFacts | None,
        queries_QD: NDArray[np.float32],
        k: int,
        parameters: SearchParameters,
        effort: float,
    ) -> None:
        """Tells how far a search looks: what the lists have that it goes through, and how many of it are re-ranked."""
        if facts is None:
            return
        probes, depth = self._reach(parameters, k, effort)
        facts.is_exact = False
        facts.num_reranked += len(queries_QD) * (depth if self.needs_rerank else 0)
        facts.compared(self._num_in_lists(queries_QD, probes) if facts.counts_vectors else None)

    def _num_in_lists(self, queries_QD: NDArray[np.float32], probes: int) -> int | None:
        """How many vectors the nearest lists of all queries have; `None` where there are no lists."""
        structure: Any = self._structure
        core: Any = self.core
        if not isinstance(core, faiss.IndexIVF):
            return None if _is_graph(core) else len(queries_QD) * self.exact.num_vectors
        if structure is not core:
            for number in range(structure.chain.size()):
                queries_QD = structure.chain.at(number).apply(queries_QD)
        _, lists_QP = core.quantizer.search(queries_QD, probes, params=_coarse_parameters(core, probes))
        return int(sum(core.invlists.list_size(int(number)) for number in lists_QP.ravel() if number >= 0))

    def _is_exhausted(self, parameters: SearchParameters, effort: float) -> bool:
        return parameters.probes * effort >= self.max_probes

    def _search_once(
        self,
        queries_QD: NDArray[np.float32],
        k: int,
        selector: Any,
        parameters: SearchParameters,
        effort: float,
        deadline: Deadline,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        probes, depth = self._reach(parameters, k, effort)
        inner = self._parameters(self._structure, probes, selector)
        outer = _faiss.IndexRefineSearchParameters(k_factor=depth / k + 1e-6, base_index_params=inner)
        return sort_by_score(
            *in_turns(
                lambda some_BD: self._reranked.search(some_BD, k, params=outer),
                queries_QD,
                self._most_compared(probes, depth),
                deadline,
            )
        )

    def _most_compared(self, probes: int, depth: int) -> int:
        """About how many vectors a query is compared with, at most."""
        num_vectors = self.exact.num_vectors
        if not isinstance(self.core, faiss.IndexIVF):
            return num_vectors
        return min(num_vectors, LARGEST_LISTS * num_vectors * probes // self.core.nlist + depth)

    def _reach(self, parameters: SearchParameters, k: int, effort: float = 1.0) -> tuple[int, int]:
        """Lists that are looked at, or length of the queue, and candidates that are re-ranked."""
        probes = min(max(1, round(parameters.probes * effort)), self.max_probes)
        depth = max(round(parameters.rerank * effort), MIN_RERANK_PER_RESULT * k) if self.needs_rerank else k
        depth = min(depth, self.exact.num_vectors)
        return (max(probes, depth) if _is_graph(self.core) else probes), depth

    def _parameters(self, structure: Any, probes: int, selector: Any) -> Any:
        """The structure's own parameters of one call; nothing shared is changed."""
        if isinstance(structure, faiss.IndexPreTransform):
            inner = self._parameters(self.core, probes, selector)
            return _faiss.SearchParametersPreTransform(index_params=inner)
        if isinstance(structure, faiss.IndexIVF):
            is_rabitq = isinstance(structure, faiss.IndexIVFRaBitQ | faiss.IndexIVFRaBitQFastScan)
            kind = _faiss.IVFRaBitQSearchParameters if is_rabitq else _faiss.SearchParametersIVF
            return kind(nprobe=probes, sel=selector, quantizer_params=_coarse_parameters(structure, probes))
        if _is_graph(structure):
            return _faiss.SearchParametersHNSW(efSearch=probes, sel=selector)
        return None if selector is None else _faiss.SearchParameters(sel=selector)


def make_structure(factory: str, width: int) -> Any:
    """An empty FAISS structure for inner products.

    Raises:
        InvalidStructureError: FAISS does not know it, or it is of no use here; says which and why.
    """
    try:
        structure = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        message = f"FAISS has no structure '{factory}' for inner products of width {width}: {faiss_reason(error)}"
        raise InvalidStructureError(message) from error
    core: Any = _core(structure)
    reason = _why_not(core)
    if reason is not None:
        raise InvalidStructureError(f"structure '{factory}' is of no use here: {reason}")
    _spare_training(core)
    if (graph := _coarse_graph(core)) is not None:
        graph.hnsw.efConstruction, graph.hnsw.efSearch = COARSE_GRAPH_EFFORT, COARSE_EFFORT
    return structure


def train(
    structure: Any,
    exact: ExactVectors,
    seed: int = 0,
    clustering: Clustering | None = None,
    most_bytes: int = TRAIN_BYTES,
) -> None:
    """Trains an empty structure on a sample of the vectors, the same one for the same seed.

    Args:
        structure: The structure.
        exact: The vectors.
        seed: Decides the sample.
        clustering: What compares vectors with centres while lists are trained; FAISS itself when absent.
        most_bytes: The most float32 vectors of the sample; lists get one vector each anyway.
    """
    core = _core(structure)
    sample_BD = _sample(exact, _num_to_train(core, exact.width, most_bytes), seed)
    if clustering is None or not isinstance(core, faiss.IndexIVF):
        structure.train(sample_BD)
        return
    lists: Any = core
    comparing = clustering(core.d)
    lists.clustering_index = comparing
    comparing.thisown = True  # the assignment took it from Python, though nothing in FAISS ever frees it
    try:
        structure.train(sample_BD)
    finally:
        lists.clustering_index = None  # the structure goes on without it


def _why_not(core: Any) -> str | None:
    if core.metric_type != faiss.METRIC_INNER_PRODUCT:
        return "it does not rank by inner product"
    if isinstance(core, faiss.IndexFlat):
        return f"exact search needs no structure, ask for '{EXACT}'"
    if isinstance(core, faiss.IndexRefine):
        return "leave the refinement out, all candidates are ranked by their exact vectors"
    if not isinstance(core, _USABLE):
        return "FAISS cannot filter it or set its search parameters for one call; lists (IVF1024,...) and HNSW can be"
    return None


def _spare_training(core: Any) -> None:
    """Leaves out an order of codes that no search of ours uses, and words on stderr where vectors are few."""
    if hasattr(core, "do_polysemous_training"):
        core.do_polysemous_training = False
    for owner in (core, getattr(core, "pq", core)):
        if hasattr(owner, "cp"):
            owner.cp.min_points_per_centroid = 1


def _core(structure: Any) -> Any:
    """The structure behind its vector transforms; lives as long as the whole does."""
    return _core(faiss.downcast_index(structure.index)) if isinstance(structure, faiss.IndexPreTransform) else structure


def _coarse_graph(core: Any) -> Any:
    """The graph that finds a vector's lists by their centres; `None` where all centres are compared."""
    quantizer = faiss.downcast_index(core.quantizer) if isinstance(core, faiss.IndexIVF) else None
    return quantizer if _is_graph(quantizer) else None


def _coarse_parameters(structure: Any, probes: int) -> Any:
    if _coarse_graph(structure) is None:
        return None
    return _faiss.SearchParametersHNSW(efSearch=max(COARSE_EFFORT, 2 * probes))


def _is_graph(core: Any) -> bool:
    return isinstance(core, faiss.IndexHNSW)


def _graph_over_codes(graph: Any, width: int) -> Any:
    over_codes = _faiss.IndexHNSWSQ(
        width, faiss.ScalarQuantizer.QT_8bit, graph.hnsw.nb_neighbors(1), faiss.METRIC_INNER_PRODUCT
    )
    over_codes.hnsw.efConstruction = graph.hnsw.efConstruction
    return over_codes


def _effort_of_filter(share: float) -> float:
    """Allowed vectors are rarer among the near ones, so as many of them lie further away."""
    return float(share**-FILTER_POWER)


def _write(structure: Any, path: Path, flags: int) -> None:
    try:
        _faiss.write_index(structure, str(path), flags)
    except RuntimeError as error:
        raise OSError(f"cannot write {path}: {faiss_reason(error)}") from error


def _num_to_train(core: Any, width: int, most_bytes: int) -> int:
    """Bounded by memory, except for lists so many that their centres take as much."""
    num_lists: int = core.nlist if isinstance(core, faiss.IndexIVF) else 0
    wanted = max(TRAIN_VECTORS, TRAIN_VECTORS_PER_LIST * num_lists)
    return max(min(wanted, most_bytes // (4 * width)), num_lists)


def _sample(exact: ExactVectors, count: int, seed: int) -> NDArray[np.float32]:
    count = min(count, exact.num_vectors)
    chosen = np.random.default_rng(seed).choice(exact.num_vectors, count, replace=False)
    return exact.vectors(np.sort(chosen))


def _batches(exact: ExactVectors, num_bytes: int) -> Iterator[NDArray[np.float32]]:
    size = max(1, num_bytes // (4 * exact.width))
    for start in range(0, exact.num_vectors, size):
        yield exact.vectors(np.arange(start, min(start + size, exact.num_vectors)))


def use_cores(number: int) -> None:
    """Has searches that this thread makes from now on use so many cores at most; other threads are left alone."""
    faiss.omp_set_num_threads(number)


def num_gpus() -> int:
    """Number of GPUs that FAISS can use: 0 without one, or where FAISS is built for CPUs only."""
    return int(_faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def gpus_of(device: str, available: int | None = None) -> list[int]:
    """The GPUs that a device setting means; none for the CPU.

    Args:
        device: `auto` (all GPUs, if there are any), `cpu`, `cuda` (all), or some of them: `cuda:1` or `cuda:0,2`.
        available: How many there are; as many as FAISS finds when absent.

    Raises:
        InvalidStructureError: it is no device, or FAISS does not have it; says what it has.
    """
    available = num_gpus() if available is None else available
    if device == "cpu":
        return []
    if device == "auto":
        return list(range(available))
    match = re.fullmatch(r"cuda(?::(\d+(?:,\d+)*))?", device, re.ASCII)
    if match is None:
        raise InvalidStructureError(f"expected a device such as auto, cpu, cuda, cuda:1 or cuda:0,2, got {device!r}")
    chosen = sorted({int(number) for number in match[1].split(",")}) if match[1] else list(range(available))
    if not chosen or chosen[-1] >= available:
        has = f"{available} GPUs" if available else "no GPU (faiss-gpu is needed, and a driver)"
        raise InvalidStructureError(f"device '{device}': FAISS finds {has}")
    return chosen
