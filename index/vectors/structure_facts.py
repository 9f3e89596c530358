"""What a version's manifest says about its search structure: what was asked for, tried, chosen and measured."""

import math
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from anykey.index.vectors.targets import Targets

EXACT = "exact"  # in the place of a FAISS factory string

ALWAYS_EXACT_BELOW = 2000  # vectors; too few to train a structure on
FEWEST_LISTS = 64


class GpuStructure(StrEnum):
    """Structures that a GPU can search."""

    FLAT = "flat"
    IVF_PQ = "ivf-pq"
    CAGRA = "cagra"


class _Record(BaseModel):
    # What is measured is for people, so a fact that a later release adds is passed over instead of refused.
    model_config = ConfigDict(frozen=True, extra="ignore")


class SearchParameters(_Record):
    """How far a search looks.

    Attributes:
        probes: Lists that are looked at (FAISS `nprobe`), or length of a graph's queue (`efSearch`).
        rerank: Candidates whose exact scores decide, at least; see `ApproximateIndex.search`.
    """

    probes: int = 1
    rerank: int = 0


class Measured(_Record):
    """One structure with one set of search parameters, measured on held-out queries.

    Attributes:
        recall_at_10: Mean share of a query's 10 exactly best keys that were found; ties count as found.
        recall_at_100: The same of 100.
        latency_p50_ms: Median time of one query alone, for 10 keys.
        latency_p99_ms: 99th percentile of it.
        ms_per_query: Time per query when all are asked at once.
        speedup: Times as many queries per second as exact search, both asked all at once.
    """

    recall_at_10: float
    recall_at_100: float
    latency_p50_ms: float
    latency_p99_ms: float
    ms_per_query: float
    speedup: float


class Point(_Record):
    """A way to search that was tried, on the queries for tuning.

    Attributes:
        factory: FAISS factory string, or `exact`.
        search: The parameters.
        memory_bytes: Bytes that searching keeps in memory.
        recall_at_10: Its recall.
        recall_error: Standard error of that: how far other queries' recall may well be from it.
        latency_p50_ms: Its typical latency.
        work: How much a query reads, counted (`index.vectors.work`); 0 where that is not known.
    """

    factory: str
    search: SearchParameters
    memory_bytes: int
    recall_at_10: float
    recall_error: float = 0.0
    latency_p50_ms: float
    work: float = 0.0


class Candidate(_Record):
    """A structure that was considered.

    Attributes:
        factory: FAISS factory string.
        memory_bytes: Bytes that searching keeps in memory; an estimate if it was not built.
        build_seconds: Training, adding and writing; `None` if it was not built. Lists of a number that an earlier
            candidate has are not trained again.
        skipped: Why it was not built.
    """

    factory: str
    memory_bytes: int
    build_seconds: float | None = None
    skipped: str | None = None


class GpuFacts(_Record):
    """The search structure that GPUs make of a version's vectors when it is opened, as it was chosen and measured.

    Attributes:
        kind: The structure.
        search: Parameters of a search: lists that are looked at, or length of a graph's queue; candidates re-ranked.
        num_gpus: GPUs that shared the vectors.
        build_seconds: Building it from the vectors, which every opening does again.
        measured: What held-out queries measured that the parameters were not chosen with.
        shortfalls: The targets that are missed and by how much.
        candidates: The structures that were considered; `memory_bytes` is about what they take on all GPUs together.
        front: The Pareto front of recall, latency and memory over everything tried, fastest first.
    """

    kind: GpuStructure
    search: SearchParameters
    num_gpus: int
    build_seconds: float
    measured: Measured
    shortfalls: list[str]
    candidates: list[Candidate]
    front: list[Point]


class Untrained(_Record):
    """A structure that was asked for and could not be trained on the keys there were.

    Attributes:
        factory: FAISS factory string.
        reason: What FAISS said.
    """

    factory: str
    reason: str


class StructureFacts(_Record):
    """The search structure of a version.

    Attributes:
        factory: FAISS factory string, or `exact`.
        search: Parameters of a search of effort 1.
        memory_bytes: Bytes that searching keeps in memory: the structure, and the exact vectors where every search
            walks over them (exact search and graphs). Exact vectors that only re-rank stay on disk, mapped.
        build_seconds: Training, adding and writing; 0 for exact search.
        measured: What held-out queries measured that the parameters were not chosen with.
        num_queries: Number of those queries.
        query_source: Where they came from: `sampled keys` (each left out of its own answers), or `query vectors`.
        targets: What was asked for.
        shortfalls: The targets that are missed and by how much, a sentence each; empty where all are met.
        candidates: The structures that were considered.
        front: The Pareto front of recall, latency and memory over everything tried, fastest first.
        gpu: What GPUs search with instead, where the version was made on a machine that has some.
        chosen_for: Number of keys when it was chosen by measurement, for versions of about as many keep to it; 0 where
            it was named, or by a release that does not say.
        instead_of: What was asked for, where exact search stands in for it until there are enough keys to train it on.
    """

    factory: str
    search: SearchParameters
    memory_bytes: int
    build_seconds: float
    measured: Measured
    num_queries: int
    query_source: str
    targets: Targets
    shortfalls: list[str]
    candidates: list[Candidate]
    front: list[Point]
    gpu: GpuFacts | None = None
    chosen_for: int = 0
    instead_of: Untrained | None = None

    @property
    def is_exact(self) -> bool:
        """Whether there is no approximate structure."""
        return self.factory == EXACT


def num_lists(num_vectors: int) -> int:
    """About 4 sqrt(N) inverted lists, a power of two, and no more than there are vectors."""
    if num_vectors < FEWEST_LISTS:
        return 1
    return int(max(FEWEST_LISTS, 2 ** round(math.log2(4 * math.sqrt(num_vectors)))))
