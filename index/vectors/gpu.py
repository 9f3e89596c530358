"""Search on NVIDIA GPUs through faiss-gpu, where there are some; nothing here is needed where there are none.

GPU structures find candidates; the exact vectors rank them on the CPU, so that scores are those of CPU search.

Shape legend: Q = queries, D = width, N = vectors, K = results per query, B = queries at once, P = positions,
C = candidates per query.
"""

import functools
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from anykey.index.deadline import NEVER, Deadline
from anykey.index.errors import InvalidStructureError, faiss_reason
from anykey.index.vectors.exact import (
    Allowed,
    ExactVectors,
    Found,
    as_mask,
    as_positions,
    best,
    count_allowed,
    sort_by_score,
)
from anykey.index.vectors.structure_facts import (
    ALWAYS_EXACT_BELOW,
    GpuStructure,
    SearchParameters,
    StructureFacts,
    num_lists,
)
from anykey.index.vectors.structures import (
    DEFAULT_TEMPORARY_BYTES,
    EXACT_ALLOWED,
    MIN_RERANK_PER_RESULT,
    Clustering,
    GpuUse,
    make_structure,
    num_gpus,
    train,
)

MOST_RESULTS = 2048  # FAISS's limit on one GPU search
UNMEASURED = SearchParameters(probes=64, rerank=0)  # of an index that was made on a machine without GPUs
LONGEST_QUEUE = 512  # of a graph's search, beyond which cuVS takes a slower way
PQ_CODES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96)  # per vector, with which FAISS's GPU kernels can do
ADD_BATCH = 65_536
GRAPH_LINKS = 64  # of a vector, in cuVS' graphs as FAISS makes them
QUERIES_TO_COPY_FOR = 8  # with one filter: for fewer, the CPU compares about as fast as it could copy the vectors

# The best `k` of some vectors [P, D] for each of some queries [Q, D]: scores and places [Q, k].
Compare = Callable[[NDArray[np.float32], NDArray[np.float32], int], Found]

_faiss: Any = faiss  # the CPU's package has none of the names for GPUs


@dataclass(frozen=True)
class SameAllowed:
    """Some queries of a batch that may find the same positions.

    Attributes:
        allowed: Which positions.
        count: How many those are.
        queries_Q: Places of the queries in the batch, ascending.
    """

    allowed: Allowed
    count: int
    queries_Q: NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """What one GPU holds.

    Attributes:
        first: The position of its first vector.
        structure: The FAISS structure over its vectors.
        resources: FAISS's resources of the GPU, which must outlive the structure.
        compare: Compares queries with vectors of this machine's memory on the GPU; `None` where it cannot.
    """

    first: int
    structure: Any
    resources: Any = None
    compare: Compare | None = None


class GpuIndex:
    """Vectors, or codes of them, on one or several GPUs, open for search; each GPU has a part of the positions.

    One search runs at a time. The memory that searches take beyond the vectors is bounded, so that an encoder can
    share the GPU.

    Attributes:
        exact: The vectors.
        parameters: How far searches look.
        num_bytes: About what the structures take of the GPUs' memory, all of them together; 0 where nobody says it.
    """

    def __init__(
        self,
        parts: list[Part],
        exact: ExactVectors,
        is_exact: bool,
        parameters: SearchParameters = UNMEASURED,
        *,
        temporary_bytes: int = DEFAULT_TEMPORARY_BYTES,
        exact_allowed: int = EXACT_ALLOWED,
        num_bytes: int = 0,
    ) -> None:
        """Joins FAISS structures with their vectors; use `open`."""
        self.exact = exact
        self.parameters = parameters
        self.num_bytes = num_bytes
        self._exact_allowed = exact_allowed
        self._copied_rows = max(1, temporary_bytes // 2 // (4 * exact.width))  # the rest is FAISS's, for scores
        self._parts = parts
        self._is_exact = is_exact
        self._lock = threading.Lock()  # FAISS's GPU resources are not for several threads at once
        self._threads = ThreadPoolExecutor(len(parts), "gpu-search")

    @classmethod
    def open(
        cls,
        kind: GpuStructure,
        exact: ExactVectors,
        gpus: list[int],
        temporary_bytes: int = DEFAULT_TEMPORARY_BYTES,
        parameters: SearchParameters = UNMEASURED,
        exact_allowed: int = EXACT_ALLOWED,
    ) -> "GpuIndex":
        """Builds a structure on GPUs.

        Args:
            kind: The structure.
            exact: The vectors; `cagra` holds a GPU's part of them in this process's memory while it is built.
            gpus: Numbers of the GPUs, at least one.
            temporary_bytes: Memory on each GPU that searches may take.
            parameters: How far searches look.
            exact_allowed: So few allowed vectors are compared one by one.

        Raises:
            InvalidStructureError: there is no such GPU, FAISS is built without what the structure needs, or it cannot
                be made of these vectors, for want of memory mostly.
        """
        if not gpus or max(gpus) >= num_gpus():
            raise InvalidStructureError(f"GPUs {gpus} are asked for, FAISS finds {num_gpus()}")
        if kind is GpuStructure.CAGRA and not hasattr(faiss, "GpuIndexCagra"):
            raise InvalidStructureError("FAISS is built without cuVS, which CAGRA needs; install faiss-gpu-cuvs")
        try:
            parts = _build_parts(kind, exact, gpus, temporary_bytes)
        except RuntimeError as error:
            message = f"{kind} cannot be built over {exact.num_vectors} vectors on GPUs {gpus}: {faiss_reason(error)}"
            raise InvalidStructureError(message) from error
        is_flat = kind is GpuStructure.FLAT
        return cls(
            parts,
            exact,
            is_flat,
            parameters,
            temporary_bytes=temporary_bytes,
            exact_allowed=exact_allowed,
            num_bytes=about_bytes(kind, exact),
        )

    @property
    def max_probes(self) -> int:
        """The most `SearchParameters.probes` that mean anything: lists, or places in a graph's queue; 1 if exact."""
        if self._is_exact:
            return 1
        return int(getattr(self._parts[0].structure, "nlist", LONGEST_QUEUE))

    @property
    def needs_rerank(self) -> bool:
        """Whether the structures' own scores are not exact."""
        return not self._is_exact

    def as_searched(self, parameters: SearchParameters, k: int) -> SearchParameters:
        """The parameters that a search for `k` results takes: a graph's queue holds at least all candidates."""
        if self._is_exact or hasattr(self._parts[0].structure, "nlist"):
            return parameters
        queue = max(parameters.probes, parameters.rerank, MIN_RERANK_PER_RESULT * k)
        return parameters.model_copy(update={"probes": queue})

    def search(
        self,
        queries_QD: NDArray[np.float32],
        k: int,
        allowed: Allowed = None,
        parameters: SearchParameters | None = None,
        deadline: Deadline = NEVER,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Finds about the `k` best allowed vectors per query (exactly those if `flat`, up to ties).

        Args:
            queries_QD: Unit vectors.
            k: Most results per query, at least 1.
            allowed: A mask `[N]`, or ascending positions; all vectors when absent.
            parameters: How far to look; `self.parameters` when absent.
            deadline: Until when the answer is wanted.

        Returns:
            Exact scores and positions `[Q, K]`, best first, equal scores by position; K is `k` or the number of
            allowed vectors, if that is less.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
        """
        k = min(k, count_allowed(allowed, self.exact.num_vectors))
        return self.search_each(queries_QD, k, [allowed] * len(queries_QD), parameters, deadline)

    def search_each(
        self,
        queries_QD: NDArray[np.float32],
        k: int,
        allowed_Q: Sequence[Allowed],
        parameters: SearchParameters | None = None,
        deadline: Deadline = NEVER,
    ) -> Found:
        """Finds about the `k` best vectors for each query of a batch, of those that this query allows.

        GPU structures cannot be filtered. So all queries ask them together, for more results as the share of allowed
        vectors demands, and each query keeps those that it allows. Where too many would be needed, only few vectors
        are allowed, or a query still gets fewer than `k`, the allowed vectors are compared one by one: once for all
        queries that allow the same ones, on the GPUs where these queries are many, else on the CPU.

        Args:
            queries_QD: Unit vectors.
            k: Most results per query, at least 1.
            allowed_Q: For each query, a mask `[N]`, or ascending positions, or `None` for all vectors.
            parameters: How far to look; `self.parameters` when absent.
            deadline: Until when the answer is wanted.

        Returns:
            Exact scores and positions `[Q, k]`, best first, equal scores by position; minus infinity and -1 where
            fewer vectors are allowed.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
        """
        parameters = parameters or self.parameters
        batch = _Batch.of(queries_QD, k, deadline)
        groups = [group for group in grouped(allowed_Q, self.exact.num_vectors) if min(k, group.count)]
        depths = [self._depth(group, k, parameters) for group in groups]
        asked = [(depth, group) for depth, group in zip(depths, groups, strict=True) if depth is not None]
        one_by_one = [group for depth, group in zip(depths, groups, strict=True) if depth is None]
        for depth, some in _alike(asked):
            one_by_one += self._ask_structures(batch, some, depth, parameters.probes)
        for group in one_by_one:
            batch.keep(group.queries_Q, self._compare(batch.queries_QD[group.queries_Q], k, group, deadline))
        return batch.found

    def close(self) -> None:
        """Frees the GPUs; no thread may be searching."""
        self._threads.shutdown()
        self._parts.clear()

    def _depth(self, group: SameAllowed, k: int, parameters: SearchParameters) -> int | None:
        """How many candidates the structures are asked for; `None` where all allowed vectors are compared."""
        if group.allowed is not None and group.count <= self._exact_allowed:
            return None
        per_result = 2 if self._is_exact else MIN_RERANK_PER_RESULT
        wanted = max(parameters.rerank, per_result * min(k, group.count))
        depth = min(wanted * self.exact.num_vectors // group.count, self.exact.num_vectors)
        return depth if depth <= MOST_RESULTS else None

    def _ask_structures(
        self, batch: "_Batch", groups: Sequence[SameAllowed], depth: int, probes: int
    ) -> list[SameAllowed]:
        """Keeps what the structures find for some groups together; gives the queries that they find too little for."""
        queries_B = np.concatenate([group.queries_Q for group in groups])
        positions_BC = self._candidates(batch.queries_QD[queries_B], depth, probes, batch.deadline)
        ends = np.cumsum([len(group.queries_Q) for group in groups])
        lacking = []
        for group, positions_QC in zip(groups, np.split(positions_BC, ends[:-1]), strict=True):
            if group.allowed is not None:
                mask_N = as_mask(group.allowed, self.exact.num_vectors)
                positions_QC = np.where(mask_N[positions_QC], positions_QC, -1)
            found = self._best_of(batch.queries_QD[group.queries_Q], positions_QC, min(batch.k, group.count))
            batch.keep(group.queries_Q, found)
            short_Q = group.queries_Q[found[1][:, -1] < 0]
            if len(short_Q):
                lacking.append(SameAllowed(group.allowed, group.count, short_Q))
        return lacking

    def _best_of(self, queries_QD: NDArray[np.float32], positions_QC: NDArray[np.int64], k: int) -> Found:
        """The best of some candidates by their exact scores; -1 stands for none."""
        scores_QC, positions_QC = sort_by_score(self.exact.scores_of(queries_QD, positions_QC), positions_QC)
        return scores_QC[:, :k], positions_QC[:, :k]

    def _compare(self, queries_QD: NDArray[np.float32], k: int, group: SameAllowed, deadline: Deadline) -> Found:
        """The `k` best of all vectors that a group allows, or all of them if they are fewer."""
        k = min(k, group.count)
        compares = [part.compare for part in self._parts if part.compare is not None]
        is_worth_copying = len(queries_QD) >= QUERIES_TO_COPY_FOR and 2 * k <= MOST_RESULTS
        if group.allowed is None or not compares or not is_worth_copying:
            return self.exact.search(queries_QD, k, group.allowed, deadline)
        positions_P = as_positions(group.allowed)
        rows = self._copied_rows
        chunks = [positions_P[start : start + rows] for start in range(0, len(positions_P), rows)]
        nearest: Found = (np.empty((len(queries_QD), 0), np.float32), np.empty((len(queries_QD), 0), np.int64))
        with deadline.held(self._lock):
            for start in range(0, len(chunks), len(compares)):
                deadline.check()
                some = chunks[start : start + len(compares)]
                work = functools.partial(self._compare_chunk, queries_QD, 2 * k)
                scores, positions = zip(nearest, *self._threads.map(work, compares, some), strict=True)
                nearest = best(np.concatenate(scores, axis=1), np.concatenate(positions, axis=1), 2 * k)
        return self._best_of(queries_QD, nearest[1], k)

    def _compare_chunk(
        self, queries_QD: NDArray[np.float32], count: int, compare: Compare, positions_P: NDArray[np.int64]
    ) -> Found:
        scores_QC, places_QC = compare(queries_QD, self.exact.vectors(positions_P), min(count, len(positions_P)))
        return scores_QC, positions_P[places_QC]

    def _candidates(
        self, queries_QD: NDArray[np.float32], depth: int, probes: int, deadline: Deadline
    ) -> NDArray[np.int64]:
        """The likely positions of each query from all parts, `[Q, K]`; -1 where there are fewer.

        Exact structures give the best `depth` of all parts together and no more. Those of a small part would otherwise
        reach deeper than those of a large one, and a filter that leaves only such would take them for the best.
        """

        def search(part: Part) -> Found:
            count = min(depth, part.structure.ntotal)
            how = None if self._is_exact else _parameters(part.structure, probes, count)
            scores_QK, positions_QK = part.structure.search(queries_QD, count, params=how)
            return scores_QK, np.where(positions_QK < 0, -1, positions_QK + part.first)

        with deadline.held(self._lock):
            if not self._parts:
                raise RuntimeError("the structures on the GPUs were closed, and cannot be searched any more")
            scores, positions = zip(*self._threads.map(search, self._parts), strict=True)
        scores_QC, positions_QC = np.concatenate(scores, axis=1), np.concatenate(positions, axis=1)
        return best(scores_QC, positions_QC, depth)[1] if self._is_exact else positions_QC


def open_for(facts: StructureFacts, exact: ExactVectors, gpu: GpuUse, exact_allowed: int = EXACT_ALLOWED) -> GpuIndex:
    """What GPUs search a version with: what was chosen and measured on some, else the counterpart of the CPU's.

    Raises:
        InvalidStructureError: there is no such GPU, or FAISS is built without what the structure needs.
    """
    kind, parameters = structure_for(facts, exact.num_vectors)
    return GpuIndex.open(kind, exact, list(gpu.gpus), gpu.temporary_bytes, parameters, exact_allowed)


def structure_for(facts: StructureFacts, num_vectors: int) -> tuple[GpuStructure, SearchParameters]:
    """Which structure that is, and how far it looks; too few vectors to train anything are compared one by one."""
    has_graphs = hasattr(faiss, "GpuIndexCagra")
    if facts.gpu is not None and (facts.gpu.kind != GpuStructure.CAGRA or has_graphs):
        return facts.gpu.kind, facts.gpu.search
    if facts.is_exact or num_vectors < ALWAYS_EXACT_BELOW:
        return GpuStructure.FLAT, UNMEASURED
    return GpuStructure.CAGRA if "HNSW" in facts.factory and has_graphs else GpuStructure.IVF_PQ, UNMEASURED


def clustering_on(gpu: GpuUse) -> Clustering | None:
    """What compares vectors with centres on GPUs while lists are trained; `None` where there is no GPU."""
    if not gpu.gpus or not num_gpus():
        return None
    resources = [_resources(gpu.temporary_bytes) for _ in gpu.gpus]
    return lambda width: _faiss.index_cpu_to_gpu_multiple_py(resources, faiss.IndexFlatIP(width), gpus=list(gpu.gpus))


def about_bytes(kind: GpuStructure, exact: ExactVectors) -> int:
    """About what a structure takes of the GPUs' memory, all of them together."""
    numbers = exact.num_vectors * exact.width
    if kind is GpuStructure.FLAT:
        return numbers * (2 if exact.dtype == "float16" else 4)
    if kind is GpuStructure.CAGRA:
        return numbers * 4 + exact.num_vectors * GRAPH_LINKS * 4
    return exact.num_vectors * (_num_codes(exact.width) + 8) + 4 * exact.width * num_lists(exact.num_vectors)


def _alike(asked: list[tuple[int, SameAllowed]]) -> Iterator[tuple[int, list[SameAllowed]]]:
    """Groups of which each needs at least half as many candidates as all of them are asked for."""
    asked = sorted(asked, key=lambda each: -each[0])
    while asked:
        depth = asked[0][0]
        some = [group for wanted, group in asked if 2 * wanted >= depth]
        yield depth, some
        asked = asked[len(some) :]


@dataclass(frozen=True)
class _Batch:
    """Queries with one filter each, and what has been found for them."""

    queries_QD: NDArray[np.float32]
    k: int
    deadline: Deadline
    found: Found

    @classmethod
    def of(cls, queries_QD: NDArray[np.float32], k: int, deadline: Deadline) -> "_Batch":
        """Nothing is found yet."""
        nothing = np.full((len(queries_QD), k), -np.inf, np.float32), np.full((len(queries_QD), k), -1, np.int64)
        return cls(np.ascontiguousarray(queries_QD, dtype=np.float32), k, deadline, nothing)

    def keep(self, queries_Q: NDArray[np.int64], found: Found) -> None:
        """Writes the results of some queries, which may be fewer than there is room for."""
        scores_QK, positions_QK = found
        self.found[0][queries_Q, : scores_QK.shape[1]] = scores_QK
        self.found[1][queries_Q, : positions_QK.shape[1]] = positions_QK


def _parameters(structure: Any, probes: int, depth: int) -> Any:
    """A structure's own parameters of one call; nothing shared is changed."""
    if hasattr(structure, "nlist"):
        return _faiss.SearchParametersIVF(nprobe=min(probes, structure.nlist))
    if not hasattr(faiss, "SearchParametersCagra"):
        return None
    parameters = _faiss.SearchParametersCagra()
    parameters.itopk_size = max(probes, depth)
    return parameters


def _num_codes(width: int) -> int:
    return max(codes for codes in PQ_CODES if width % codes == 0)


def _template(kind: GpuStructure, exact: ExactVectors) -> Any:
    """The structure that every GPU gets a copy of, trained on the CPU and empty; `None` for a graph."""
    if kind is GpuStructure.CAGRA:
        return None
    if kind is GpuStructure.FLAT:
        return faiss.IndexFlatIP(exact.width)
    # FAISS would order codes by their Hamming distances ("np": no), which takes 20 times as long as the rest and which
    # no GPU makes use of.
    structure = make_structure(f"IVF{num_lists(exact.num_vectors)},PQ{_num_codes(exact.width)}np", exact.width)
    train(structure, exact)
    return structure


def _build_parts(kind: GpuStructure, exact: ExactVectors, gpus: list[int], temporary_bytes: int) -> list[Part]:
    """An equal share of the vectors for each GPU; some get none where there are fewer vectors than GPUs."""
    template = _template(kind, exact)
    bounds = np.linspace(0, exact.num_vectors, len(gpus) + 1).astype(int).tolist()
    parts = []
    for gpu, part in zip(gpus, itertools.starmap(range, itertools.pairwise(bounds)), strict=True):
        if part:
            resources = _resources(temporary_bytes)
            structure = _build(kind, exact, part, template, resources, gpu)
            parts.append(Part(part.start, structure, resources, _comparing_on(resources, gpu)))
    return parts


def _comparing_on(resources: Any, gpu: int) -> Compare:
    return lambda queries_QD, vectors_PD, k: _faiss.knn_gpu(
        resources, queries_QD, vectors_PD, k, metric=faiss.METRIC_INNER_PRODUCT, device=gpu
    )


def _resources(temporary_bytes: int) -> Any:
    """FAISS's resources of one GPU, which take no more of its memory than that beyond what they hold."""
    resources = _faiss.StandardGpuResources()
    resources.setTempMemory(temporary_bytes)
    return resources


def _build(kind: GpuStructure, exact: ExactVectors, part: range, template: Any, resources: Any, gpu: int) -> Any:
    if kind is GpuStructure.CAGRA:
        config = _faiss.GpuIndexCagraConfig()
        config.device = gpu
        structure = _faiss.GpuIndexCagra(resources, exact.width, faiss.METRIC_INNER_PRODUCT, config)
        structure.train(exact.vectors(np.arange(part.start, part.stop)))
        return structure
    options = _faiss.GpuClonerOptions()
    options.useFloat16 = kind is GpuStructure.IVF_PQ or exact.dtype == "float16"  # of lookup tables, of vectors
    structure = _faiss.index_cpu_to_gpu(resources, gpu, template, options)
    for start in range(part.start, part.stop, ADD_BATCH):
        structure.add(exact.vectors(np.arange(start, min(start + ADD_BATCH, part.stop))))
    return structure


def grouped(allowed_Q: Sequence[Allowed], num_vectors: int) -> list[SameAllowed]:
    """The queries of a batch by what they may find, each group where its first query is.

    A mask and the positions that it allows count as different, which only costs time.

    Args:
        allowed_Q: What each query may find.
        num_vectors: N.
    """
    seen: dict[int, object] = {}  # what is one object is compared no further
    groups: dict[object, list[int]] = {}
    for query, allowed in enumerate(allowed_Q):
        if id(allowed) not in seen:
            seen[id(allowed)] = _digest(allowed)
        groups.setdefault(seen[id(allowed)], []).append(query)
    return [
        SameAllowed(allowed, count_allowed(allowed, num_vectors), np.array(queries, np.int64))
        for queries in groups.values()
        for allowed in [allowed_Q[queries[0]]]
    ]


def _digest(allowed: Allowed) -> object:
    if allowed is None:
        return None
    return allowed.dtype.kind, hashlib.blake2b(np.ascontiguousarray(allowed).data, digest_size=16).digest()
