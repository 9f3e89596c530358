"""Search on NVIDIA GPUs through faiss-gpu, where there are some; nothing here is needed where there are none.

GPU structures find candidates; the exact vectors rank them on the CPU, so that scores are those of CPU search.

Shape legend: Q = queries, D = width, N = vectors, K = results per query.
"""

import itertools
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from anykey.index.deadline import NEVER, Deadline
from anykey.index.errors import InvalidStructureError, faiss_reason
from anykey.index.filtering.allowed import Allowed, as_mask, count_allowed, sort_by_score
from anykey.index.vectors.exact import ExactVectors
from anykey.index.vectors.structure_facts import (
    ALWAYS_EXACT_BELOW,
    GpuStructure,
    SearchParameters,
    StructureFacts,
    num_lists,
)
from anykey.index.vectors.structures import EXACT_ALLOWED, MIN_RERANK_PER_RESULT, Clustering, make_structure, train

DEFAULT_TEMPORARY_BYTES = 256 * 2**20
MOST_RESULTS = 2048  # FAISS's limit on one GPU search
UNMEASURED = SearchParameters(probes=64, rerank=0)  # of an index that was made on a machine without GPUs
LONGEST_QUEUE = 512  # of a graph's search, beyond which cuVS takes a slower way
PQ_CODES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96)  # per vector, with which FAISS's GPU kernels can do
ADD_BATCH = 65_536
GRAPH_LINKS = 64  # of a vector, in cuVS' graphs as FAISS makes them

_faiss: Any = faiss  # the CPU's package has none of the names for GPUs


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


@dataclass(frozen=True)
class Part:
    """What one GPU holds.

    Attributes:
        first: The position of its first vector.
        structure: The FAISS structure over its vectors.
        resources: FAISS's resources of the GPU, which must outlive the structure.
    """

    first: int
    structure: Any
    resources: Any = None


def num_gpus() -> int:
    """Number of GPUs that FAISS can use: 0 without one, or where FAISS is built for CPUs only."""
    return int(_faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def gpus_of(device: str) -> list[int]:
    """The GPUs that a device setting means; none for the CPU.

    Args:
        device: `auto` (all GPUs, if there are any), `cpu`, `cuda` (all), or some of them: `cuda:1` or `cuda:0,2`.

    Raises:
        InvalidStructureError: it is no device, or FAISS does not have it; says what it has.
    """
    available = num_gpus()
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


class GpuIndex:
    """Vectors, or codes of them, on one or several GPUs, open for search; each GPU has a part of the positions.

    One search runs at a time. The memory that searches take beyond the vectors is bounded, so that an encoder can
    share the GPU.
    """

    def __init__(
        self, parts: list[Part], exact: ExactVectors, is_exact: bool, parameters: SearchParameters = UNMEASURED
    ) -> None:
        """Joins FAISS structures with their vectors; use `open`."""
        self.exact = exact
        self.parameters = parameters
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
    ) -> "GpuIndex":
        """Builds a structure on GPUs.

        Args:
            kind: The structure.
            exact: The vectors; `cagra` holds a GPU's part of them in this process's memory while it is built.
            gpus: Numbers of the GPUs, at least one.
            temporary_bytes: Memory on each GPU that searches may take.
            parameters: How far searches look.

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
        return cls(parts, exact, kind is GpuStructure.FLAT, parameters)

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

        GPU structures cannot be filtered: more results are asked for, as the share of allowed vectors demands, and
        a query that still gets fewer than `k` is searched exactly on the CPU, as all are where too many were needed
        or only few vectors are allowed.

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
        queries_QD = np.ascontiguousarray(queries_QD, dtype=np.float32)
        parameters = parameters or self.parameters
        num_vectors, num_allowed = self.exact.num_vectors, count_allowed(allowed, self.exact.num_vectors)
        k = min(k, num_allowed)
        per_result = 2 if self._is_exact else MIN_RERANK_PER_RESULT
        depth = min(max(parameters.rerank, per_result * k) * num_vectors // max(num_allowed, 1), num_vectors)
        is_few = allowed is not None and num_allowed <= EXACT_ALLOWED
        if is_few or len(queries_QD) == 0 or k == 0 or depth > MOST_RESULTS:
            return self.exact.search(queries_QD, k, allowed, deadline)
        positions_QK = self._candidates(queries_QD, depth, parameters.probes, deadline)
        if allowed is not None:
            mask_N = as_mask(allowed, num_vectors)
            positions_QK = np.where(mask_N[positions_QK], positions_QK, -1)
        found = sort_by_score(self.exact.scores_of(queries_QD, positions_QK), positions_QK)
        scores_QK, positions_QK = found[0][:, :k], found[1][:, :k]
        short_Q = np.flatnonzero(positions_QK[:, -1] < 0)
        if len(short_Q):
            scores_QK[short_Q], positions_QK[short_Q] = self.exact.search(queries_QD[short_Q], k, allowed, deadline)
        return scores_QK, positions_QK

    def close(self) -> None:
        """Frees the GPUs; no thread may be searching."""
        self._threads.shutdown()
        self._parts.clear()

    def _candidates(
        self, queries_QD: NDArray[np.float32], depth: int, probes: int, deadline: Deadline
    ) -> NDArray[np.int64]:
        """The likely positions of each query from all parts, `[Q, K]`; -1 where there are fewer."""

        def search(part: Part) -> NDArray[np.int64]:
            count = min(depth, part.structure.ntotal)
            how = None if self._is_exact else _parameters(part.structure, probes, count)
            _, positions_QK = part.structure.search(queries_QD, count, params=how)
            return np.where(positions_QK < 0, -1, positions_QK + part.first)

        with deadline.held(self._lock):
            return np.concatenate(list(self._threads.map(search, self._parts)), axis=1)


def open_for(facts: StructureFacts, exact: ExactVectors, gpu: GpuUse) -> GpuIndex:
    """What GPUs search a version with: what was chosen and measured on some, else the counterpart of the CPU's.

    Raises:
        InvalidStructureError: there is no such GPU, or FAISS is built without what the structure needs.
    """
    kind, parameters = structure_for(facts, exact.num_vectors)
    return GpuIndex.open(kind, exact, list(gpu.gpus), gpu.temporary_bytes, parameters)


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
            parts.append(Part(part.start, _build(kind, exact, part, template, resources, gpu), resources))
    return parts


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
