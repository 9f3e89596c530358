"""What all metrics are now, read from those who count; where `/info` shows the same, it asks the same ones."""

import asyncio
import json
import sys
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from anykey.index.key_index import IndexInfo
from anykey.program.machine import release
from anykey.service.embedding.batcher import Batcher
from anykey.service.errors import ServiceError
from anykey.service.indexes.memory import counters_of
from anykey.service.indexes.named import ServedIndex
from anykey.service.indexes.parts import Parts
from anykey.service.indexes.schemas import IndexMemory
from anykey.service.indexes.serving import Serving
from anykey.service.logs import EventCounts
from anykey.service.operations.histogram import FINE_BOUNDS_S, STEPS_PER_DOUBLING, cumulative
from anykey.service.operations.metrics import Readings, model_labels
from anykey.service.operations.stage_times import STAGES
from anykey.service.operations.summary import summary_of, written
from anykey.service.requests.context import PROBES

if TYPE_CHECKING:
    from anykey.service.lifecycle import Lifecycle
    from anykey.service.requests.connection import ConnectionBound

REST_FOR_WORK = 20  # an index that took a second to tell of itself is asked again after so many
FACTS_S = 1.0  # longest wait for what an index says of itself: metrics are wanted most when it hangs
FIRST_SHOWN_STEP = 3 * STEPS_PER_DOUBLING  # times are shown in buckets from 80 microseconds on, each twice as long
ITEM_OUTCOMES = ("encoded", "dropped", "expired", "failed", "abandoned", "rejected", "hopeless")
SEARCH_OUTCOMES = ("searched", "shared", "dropped", "expired", "rejected", "hopeless")
REFUSALS = frozenset({"not_ready", "rate_limited", "unauthorized", "forbidden"})  # errors that are refusals as such
REFUSED = {"rejected": "queue_full", "hopeless": "queue_too_slow"}
OF_QUEUES = {
    "decode": "decode_threads",
    "bodies": "body_threads",
    "images": "image_threads",
    "changes": "change_threads",
}
MEMORY_KINDS = ("resident", "own", "limit", "free", "weights")


@dataclass
class _Seen:
    """What was seen of an index so far, from which its pace is told.

    Attributes:
        version: Its version.
        seq: Number of its last change.
        num_folds: How many other versions came after the first that was seen.
        newest_s: When its last change was first seen.
        uncovered_since_s: When changes were first seen that no version covers; `None` where there are none.
    """

    version: str | None
    seq: int | None
    num_folds: int = 0
    newest_s: float | None = None
    uncovered_since_s: float | None = None

    def look(self, details: Mapping[str, Any], now_s: float) -> None:
        """Takes note of how it is."""
        version, seq = details.get("version"), details.get("seq")
        if version != self.version:
            self.version, self.num_folds = version, self.num_folds + 1
        if seq != self.seq:
            self.seq, self.newest_s = seq, now_s
        if not details.get("num_unfolded"):
            self.uncovered_since_s = None
        elif self.uncovered_since_s is None:
            self.uncovered_since_s = now_s


class _Facts:
    """What an index says of itself, asked so rarely that it spends little of its time on answering.

    Some have to count for it: Milvus reads all keys that are in pools.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = weakref.ref(parts)  # which must go when another release has taken over
        self._latest: IndexInfo | None = None
        self._asking: asyncio.Task[None] | None = None
        self._good_until_s = 0.0

    def are_of(self, parts: Parts) -> bool:
        """Whether they are of these parts."""
        return self._parts() is parts

    async def latest(self, parts: Parts) -> IndexInfo | None:
        """What it said last; `None` where it has said nothing yet, or failed."""
        if self._asking is None and time.monotonic() >= self._good_until_s:
            self._asking = asyncio.create_task(self._ask(parts))
        if self._asking is not None:
            await asyncio.wait([self._asking], timeout=FACTS_S)
        return self._latest

    async def _ask(self, parts: Parts) -> None:
        began_s = time.monotonic()
        try:
            self._latest = await parts.facts.answer()
        except Exception:  # whatever it is, the other metrics are wanted, and the watch tells of it
            self._latest = None
        now_s = time.monotonic()
        self._asking, self._good_until_s = None, now_s + REST_FOR_WORK * (now_s - began_s)


@dataclass(frozen=True)
class _Told:
    """What an index said of itself, as far as it did in time."""

    served: ServedIndex
    is_ready: bool
    parts: Parts | None = None
    info: IndexInfo | None = None
    memory: IndexMemory | None = None


@dataclass(eq=False)
class _AsCollector(Collector):
    readings: Readings

    def collect(self) -> Any:
        return self.readings.collect()


@dataclass(eq=False)
class MetricsCollector:
    """Reads all metrics of a service; `exposition` belongs to its event loop.

    Attributes:
        lifecycle: The service's.
        events: Counts lines of the log.
        connections: Bounds those of the server, where one is known.
    """

    lifecycle: "Lifecycle"
    events: EventCounts
    connections: "ConnectionBound | None" = None
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _facts_of: dict[str, _Facts] = field(default_factory=dict)

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics as text, and its media type: of Prometheus, or OpenMetrics for who accepts that.

        Args:
            accept: The header of this name.
        """
        readings = await self.readings()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_AsCollector(readings))
        ProcessCollector(registry=registry)
        write, media_type = choose_encoder(accept)
        return await asyncio.to_thread(write, registry), media_type

    async def summary(self, accept: str) -> tuple[bytes, str]:
        """Where time goes, and its media type: a table, or JSON for who accepts that and no text.

        Args:
            accept: The header of this name.
        """
        wanted = {one.split(";")[0].strip().lower() for one in accept.split(",")}
        as_json = "application/json" in wanted and not wanted & {"text/plain", "text/*", "*/*"}

        def write() -> tuple[bytes, str]:
            self.lifecycle.watcher.catch_up()
            found = summary_of(self.lifecycle.watcher.times)
            if as_json:
                return json.dumps(found).encode(), "application/json"
            return written(found).encode(), "text/plain; charset=utf-8"

        return await asyncio.to_thread(write)

    async def readings(self) -> Readings:
        """What all metrics are now."""
        lifecycle = self.lifecycle
        told = await asyncio.gather(*map(self._ask, lifecycle.indexes.all()))
        await asyncio.to_thread(lifecycle.watcher.catch_up)
        readings = Readings()
        readings.add("anykey_build_info", 1, release())
        self._requests(readings)
        self._resources(readings)
        for each in told:
            self._index(readings, each)
        await self._memory(readings)
        for event, count in self.events.counts.items():
            readings.add("anykey_log_events_total", count, str(event))
        return readings

    async def _ask(self, served: ServedIndex) -> _Told:
        try:
            serving = served.serving()
        except ServiceError:
            return _Told(served, False)
        serving.acquire()
        try:
            return await self._ask_serving(served, serving)
        finally:
            serving.let_go()

    async def _ask_serving(self, served: ServedIndex, serving: Serving) -> _Told:
        parts = serving.parts
        try:
            served.require_ready()
            is_ready = True
        except ServiceError:
            is_ready = False
        facts = self._facts_of.get(served.name)
        if facts is None or not facts.are_of(parts):
            facts = self._facts_of[served.name] = _Facts(parts)
        info = await facts.latest(parts)
        return _Told(served, is_ready, parts, info, await self._memory_of(parts))

    async def _memory_of(self, parts: Parts) -> IndexMemory | None:
        try:
            async with asyncio.timeout(FACTS_S):
                return await self.lifecycle.memory.of_index(parts)
        except Exception:  # as above
            return None

    def _requests(self, readings: Readings) -> None:
        lifecycle, times = self.lifecycle, self.lifecycle.watcher.times
        for (index, route, method, status), number in times.requests.copy().items():
            readings.add("anykey_requests_total", number, index, route, method, str(status))
        for (index, route, kind), number in times.errors.copy().items():
            readings.add("anykey_errors_total", number, index, route, kind)
            if kind in REFUSALS and route not in PROBES:
                readings.add("anykey_refusals_total", number, kind)
        for (index, route), of_place in times.since_start().items():
            for number, stage in enumerate(STAGES):
                counts_B = of_place.counts_SB[number]
                if counts_B.any():
                    buckets = _shown(cumulative(FINE_BOUNDS_S, counts_B))
                    readings.add_buckets(
                        "anykey_stage_seconds", buckets, float(of_place.total_S[number]), index, route, stage
                    )
        for kind in REFUSALS:  # told from the first on, or nobody sees the first one in a rate
            readings.add("anykey_refusals_total", 0, kind)
        readings.add("anykey_requests_under_way", lifecycle.watcher.num_under_way)
        if (connections := self.connections) is not None:
            readings.add("anykey_connections", connections.num_open)
            readings.add("anykey_connections_displaced_total", connections.num_displaced)
            readings.add("anykey_refusals_total", connections.num_turned_away, "connections_full")
        readings.add("anykey_bodies", lifecycle.bodies.num_shares)
        readings.add("anykey_bodies_bytes", lifecycle.bodies.taken_bytes)
        readings.add("anykey_refusals_total", lifecycle.bodies.num_refused, "bodies_full")

    def _resources(self, readings: Readings) -> None:
        resources = self.lifecycle.resources
        for queue, name in OF_QUEUES.items():
            threads = getattr(resources, name)
            readings.add("anykey_queue_items", threads.num_pending, queue, "")
            readings.add("anykey_refusals_total", threads.num_refused, f"{queue}_full")
        for loaded in resources.encoders.all():
            encoder = loaded.encoder
            labels = model_labels(encoder.name, encoder.fingerprint)
            device = str(encoder.device)
            readings.add("anykey_model_info", 1, "encoder", *labels, encoder.backend, encoder.precision, device)
            _batcher(readings, loaded.batcher, "encoder", labels)
        for scorer, batcher in resources.rerankers:
            labels = model_labels(scorer.name, scorer.fingerprint)
            readings.add("anykey_model_info", 1, "reranker", *labels, "", "", scorer.device)
            _batcher(readings, batcher, "reranker", labels)
        vectors = resources.vector_counts
        for outcome, number in (
            ("memory", vectors.memory_hits),
            ("redis", vectors.redis_hits),
            ("miss", vectors.misses),
        ):
            readings.add("anykey_cache_lookups_total", number, "vectors", "", outcome)
        readings.add("anykey_redis_errors_total", vectors.redis_errors)
        readings.add("anykey_redis_skipped_total", vectors.redis_skipped)
        if (log := self.lifecycle.query_log) is not None:
            readings.add("anykey_query_log_lines_total", log.num_written, "written")
            readings.add("anykey_query_log_lines_total", log.num_lost, "lost")
            for judgement in ("good", "bad"):
                readings.add("anykey_feedback_total", log.feedback[judgement], judgement)
        if resources.audit is not None:
            readings.add("anykey_audit_lines_total", resources.audit.num_written, "written")
            readings.add("anykey_audit_lines_total", resources.audit.num_lost, "lost")
        for name, cache in (
            ("vectors", resources.query_vectors),
            ("answers", resources.answers),
            ("thumbnails", resources.thumbnails),
        ):
            readings.add("anykey_cache_entries", len(cache), name)
            readings.add("anykey_cache_bytes", cache.num_bytes, name)

    def _index(self, readings: Readings, told: _Told) -> None:
        name, parts = told.served.name, told.parts
        readings.add("anykey_index_ready", told.is_ready, name)
        readings.add("anykey_release_problem", told.served.problem is not None, name)
        if parts is None:
            return
        searches, answers = parts.searcher.counters(), parts.results.counters()
        for outcome in SEARCH_OUTCOMES:
            readings.add("anykey_searches_total", searches[outcome], name, outcome)
        for outcome, reason in REFUSED.items():
            readings.add("anykey_refusals_total", searches[outcome], f"searches_{reason}")
        readings.add("anykey_search_calls_total", searches["calls"], name)
        readings.add("anykey_queue_items", searches["waiting"], "searches", name)
        for outcome, counter in (
            ("memory", "result_hits"),
            ("redis", "result_redis_hits"),
            ("miss", "result_misses"),
        ):
            readings.add("anykey_cache_lookups_total", answers[counter], "answers", name, outcome)
        readings.add("anykey_index_changes_total", parts.storer.writer.num_made, name)
        if told.memory is not None:
            for place in ("mapped", "memory", "gpu", "disk"):
                readings.add("anykey_index_bytes", getattr(told.memory, f"{place}_bytes"), name, place)
        if told.info is not None:
            self._facts(readings, name, parts, told.info)

    def _facts(self, readings: Readings, name: str, parts: Parts, info: IndexInfo) -> None:
        details, now_s = info.details, time.monotonic()
        seen = self._seen.setdefault(name, _Seen(details.get("version"), details.get("seq")))
        seen.look(details, now_s)
        structure: Mapping[str, Any] = details.get("structure") or {}
        version = str(details.get("version") or "")
        kind = str(structure.get("factory") or structure.get("kind") or "exact")
        fingerprint = model_labels("", parts.encoder.fingerprint)[1]
        readings.add("anykey_index_info", 1, name, info.engine, version, parts.release or "", kind, fingerprint)
        for modality, number in info.modalities.items():
            readings.add("anykey_index_keys", number, name, str(modality))
        readings.add("anykey_index_seq", details.get("seq"), name)
        readings.add("anykey_index_damaged_keys", details.get("num_damaged"), name)
        measured: Mapping[str, Any] = structure.get("measured") or {}
        for depth in ("10", "100"):
            readings.add("anykey_index_recall", measured.get(f"recall_at_{depth}"), name, depth)
        readings.add("anykey_index_folds_total", seen.num_folds, name)
        if (num_uncovered := details.get("num_unfolded")) is not None:
            readings.add("anykey_index_uncovered_changes", num_uncovered, name)
            most = max(info.num_keys, num_uncovered)
            readings.add("anykey_index_covered_share", 1 - num_uncovered / most if most else 1.0, name)
            since_s = seen.uncovered_since_s
            readings.add("anykey_index_uncovered_seconds", 0.0 if since_s is None else now_s - since_s, name)
            failure = details.get("fold_failure")
            readings.add("anykey_index_fold_failures", 0 if failure is None else failure["num_failures"], name)
        if seen.newest_s is not None:
            readings.add("anykey_index_newest_change_seconds", now_s - seen.newest_s, name)

    async def _memory(self, readings: Readings) -> None:
        of_process = counters_of(None, await self.lifecycle.memory.of_process())
        for kind in MEMORY_KINDS:
            readings.add("anykey_memory_bytes", of_process.get(f"{kind}_bytes"), kind)
        for device, kind, num_bytes in await asyncio.to_thread(_gpu_memory):
            readings.add("anykey_gpu_memory_bytes", num_bytes, device, kind)


def _batcher(readings: Readings, batcher: Batcher[Any], queue: str, labels: tuple[str, str]) -> None:
    counts = batcher.counters()
    for outcome in ITEM_OUTCOMES:
        readings.add("anykey_model_items_total", counts[outcome], *labels, outcome)
    for outcome, reason in REFUSED.items():
        readings.add("anykey_refusals_total", counts[outcome], f"{queue}_{reason}")
    readings.add("anykey_queue_items", counts["places_taken"], queue, "")
    if "later_places_taken" in counts:
        readings.add("anykey_queue_items", counts["later_places_taken"], f"{queue}_later", "")
    readings.add_histogram("anykey_batch_items", batcher.sizes.items, *labels)
    readings.add_histogram("anykey_batch_tokens", batcher.sizes.tokens, *labels)
    readings.add_histogram("anykey_batch_seconds", batcher.sizes.seconds, *labels)


def _shown(buckets: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Every so many buckets, and all of them together."""
    return [*buckets[FIRST_SHOWN_STEP:-1:STEPS_PER_DOUBLING], buckets[-1]]


def _gpu_memory() -> list[tuple[str, str, float]]:
    """Device, kind and bytes, of each GPU that this process uses; nothing is loaded to find out."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return []
    found = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = f"cuda:{number}"
        found += [
            (name, "allocated", torch.cuda.memory_allocated(number)),
            (name, "reserved", torch.cuda.memory_reserved(number)),
            (name, "used", total - free),
            (name, "total", total),
        ]
    return found
