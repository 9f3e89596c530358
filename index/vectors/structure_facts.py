"""What a version's manifest says about its search structure: what was asked for, tried, chosen and measured."""

import math
import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, TypeAdapter, ValidationError

EXACT = "exact"  # in the place of a FAISS factory string
FAST_SCAN = "fs"  # ends the names of codes that are compared many at once

ALWAYS_EXACT_BELOW = 2000  # vectors; too few to train a structure on
FEWEST_LISTS = 64
VectorType = Literal["float32", "float16"]  # of the exact vectors
DEFAULT_RECALL = 0.98

_UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_DURATION = re.compile(rf"\s*([0-9]*\.?[0-9]+)\s*({'|'.join(_UNITS_MS)})\s*", re.ASCII)
_BYTES: TypeAdapter[ByteSize] = TypeAdapter(ByteSize)


def parse_bytes(value: Any) -> int:
    """Reads an amount of memory.

    Raises:
        ValueError: it is none, or not above 0.

    >>> parse_bytes("4GiB"), parse_bytes("500MB")
    (4294967296, 500000000)
    """
    try:
        num_bytes = 0 if isinstance(value, bool) else int(_BYTES.validate_python(value))
    except ValidationError:
        num_bytes = 0
    if num_bytes <= 0:
        raise ValueError(f"expected an amount of memory such as 4GiB or 500MB, got {value!r}")
    return num_bytes


def parse_milliseconds(value: Any) -> float:
    """Reads a duration; a bare number is milliseconds.

    Raises:
        ValueError: it is none, or not above 0.

    >>> parse_milliseconds("10ms"), parse_milliseconds("0.5s"), parse_milliseconds(2)
    (10.0, 500.0, 2.0)
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        milliseconds = float(value)
    else:
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        milliseconds = float(match[1]) * _UNITS_MS[match[2]] if match else 0.0
    if not 0 < milliseconds < float("inf"):
        raise ValueError(f"expected a duration such as 10ms or 0.5s, got {value!r}")
    return milliseconds


def parse_recall(value: Any) -> float:
    """Reads a share above 0 and at most 1.

    Raises:
        ValueError: it is none.
    """
    try:
        recall = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        recall = float("nan")
    if not 0 < recall <= 1:
        raise ValueError(f"expected a recall above 0 and at most 1, such as 0.98, got {value!r}")
    return recall


# For settings: `--memory 4GiB --recall 0.98 --latency 10ms`
MemoryBytes = Annotated[int, BeforeValidator(parse_bytes)]
LatencyMs = Annotated[float, BeforeValidator(parse_milliseconds)]
Recall = Annotated[float, BeforeValidator(parse_recall)]


class Targets(BaseModel):
    """What a search is asked to keep to; where not all can be had, memory goes before recall, recall before latency.

    Attributes:
        memory_bytes: Most bytes that searches keep in memory; no bound when absent.
        recall: Least recall@10 against exact search.
        latency_ms: Most milliseconds that the typical (median) query alone takes; as fast as can be when absent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory_bytes: MemoryBytes | None = None
    recall: Recall = Field(DEFAULT_RECALL)
    latency_ms: LatencyMs | None = None


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

    @property
    def is_mapped(self) -> bool:
        """Whether its file is mapped where the CPU searches; FAISS reads codes for its fast scan into memory."""
        return not self.factory.endswith(FAST_SCAN)


def num_lists(num_vectors: int) -> int:
    """About 4 sqrt(N) inverted lists, a power of two, and no more than there are vectors."""
    if num_vectors < FEWEST_LISTS:
        return 1
    return int(max(FEWEST_LISTS, 2 ** round(math.log2(4 * math.sqrt(num_vectors)))))
