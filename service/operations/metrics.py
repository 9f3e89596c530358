"""Every metric that the service has. `docs/metrics.md` says what to do about each; a test compares the two."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family

from anykey.service.operations.histogram import Histogram

Kind = Literal["counter", "gauge", "histogram", "info"]
MODEL = ("model", "fingerprint")
FINGERPRINT_CHARS = 12  # which tell models apart in labels


@dataclass(frozen=True)
class Metric:
    """What a metric is.

    Attributes:
        name: As Prometheus shows it.
        kind: Its type.
        help: One sentence.
        labels: Names of its labels, each with few values: never a key, a text, an API key or an address.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


_ALL = (
    # Requests
    Metric("anykey_requests_total", "counter", "Requests answered.", ("index", "route", "method", "status")),
    Metric("anykey_errors_total", "counter", "Requests answered with an error.", ("index", "route", "type")),
    Metric("anykey_stage_seconds", "histogram", "Time of a stage of a request.", ("index", "route", "stage")),
    Metric("anykey_requests_under_way", "gauge", "Requests being answered now."),
    Metric("anykey_connections", "gauge", "Open connections."),
    Metric("anykey_connections_displaced_total", "counter", "Idle connections closed to make room for others."),
    Metric("anykey_bodies", "gauge", "Requests whose bodies are received or used now."),
    Metric("anykey_bodies_bytes", "gauge", "What those bodies take, counted against max_bodies_bytes."),
    Metric("anykey_refusals_total", "counter", "Requests, or items of them, refused for want of room.", ("reason",)),
    Metric("anykey_queue_items", "gauge", "Items waiting in a queue now.", ("queue", "index")),
    # Models
    Metric("anykey_model_info", "info", "A model in use.", ("kind", *MODEL, "backend", "precision", "device")),
    Metric("anykey_batch_items", "histogram", "Items of a batch that a model computed.", MODEL),
    Metric("anykey_batch_tokens", "histogram", "Tokens of a batch, which are its cost.", MODEL),
    Metric("anykey_batch_seconds", "histogram", "Time that a model took for a batch.", MODEL),
    Metric("anykey_model_items_total", "counter", "Items that came to a model's queue.", (*MODEL, "outcome")),
    # Searches and caches
    Metric("anykey_searches_total", "counter", "Searches of an index.", ("index", "outcome")),
    Metric("anykey_search_calls_total", "counter", "Calls of an index, which searches share.", ("index",)),
    Metric("anykey_cache_lookups_total", "counter", "Looks for what is kept.", ("cache", "index", "outcome")),
    Metric("anykey_cache_entries", "gauge", "Entries of a cache in this process.", ("cache",)),
    Metric("anykey_cache_bytes", "gauge", "What a cache takes in this process, about.", ("cache",)),
    Metric("anykey_redis_errors_total", "counter", "Calls of Redis that failed or came late."),
    Metric("anykey_redis_skipped_total", "counter", "Calls of Redis not made, as it had just failed."),
    # Indexes
    Metric("anykey_index_ready", "gauge", "Whether an index answers every search.", ("index",)),
    Metric(
        "anykey_index_info",
        "info",
        "What an index is.",
        ("index", "engine", "version", "release", "structure", "model"),
    ),
    Metric("anykey_index_keys", "gauge", "Keys of an index.", ("index", "modality")),
    Metric("anykey_index_seq", "gauge", "Number of the last change of an index.", ("index",)),
    Metric("anykey_index_uncovered_changes", "gauge", "Changes that no version covers yet.", ("index",)),
    Metric("anykey_index_covered_share", "gauge", "Share of an index that its version covers.", ("index",)),
    Metric("anykey_index_uncovered_seconds", "gauge", "How long changes have waited for a version.", ("index",)),
    Metric("anykey_index_newest_change_seconds", "gauge", "How long ago the newest change was seen.", ("index",)),
    Metric(
        "anykey_index_recall", "gauge", "Recall of the search structure, as its build measured.", ("index", "depth")
    ),
    Metric("anykey_index_damaged_keys", "gauge", "Keys whose records are damaged.", ("index",)),
    Metric("anykey_index_folds_total", "counter", "New versions that this process took up.", ("index",)),
    Metric("anykey_index_fold_failures", "gauge", "How often in a row no version could be made.", ("index",)),
    Metric("anykey_index_changes_total", "counter", "Changes that this process made.", ("index",)),
    Metric("anykey_query_log_lines_total", "counter", "Queries of the query log.", ("outcome",)),
    Metric("anykey_feedback_total", "counter", "Judgements that users gave.", ("judgement",)),
    Metric("anykey_audit_lines_total", "counter", "Lines of the audit log.", ("outcome",)),
    Metric("anykey_index_bytes", "gauge", "What an index holds.", ("index", "place")),
    Metric("anykey_release_problem", "gauge", "Whether the current release cannot be loaded.", ("index",)),
    # The process
    Metric("anykey_build_info", "info", "The program.", ("version",)),
    Metric("anykey_memory_bytes", "gauge", "Memory of the process.", ("kind",)),
    Metric("anykey_gpu_memory_bytes", "gauge", "Memory of a GPU.", ("device", "kind")),
    Metric("anykey_log_events_total", "counter", "Lines of the log, by event.", ("event",)),
)

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _ALL})

# Of the process by prometheus_client itself, where the system tells.
OF_PROCESS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("process_cpu_seconds_total", "counter", "Processor time of the process."),
            Metric("process_resident_memory_bytes", "gauge", "Resident memory of the process."),
            Metric("process_virtual_memory_bytes", "gauge", "Virtual memory of the process."),
            Metric("process_start_time_seconds", "gauge", "When the process began, in seconds since 1970."),
            Metric("process_open_fds", "gauge", "Open files and connections of the process."),
            Metric("process_max_fds", "gauge", "Most that it may open."),
        )
    }
)


class Readings:
    """What all metrics are at one moment."""

    def __init__(self) -> None:
        """Begins with none."""
        self._values: dict[str, dict[tuple[str, ...], float]] = {}
        self._histograms: dict[str, dict[tuple[str, ...], tuple[dict[str, float], float]]] = {}

    def add(self, name: str, value: float | None, *labels: str) -> None:
        """Adds to a counter or gauge, or tells of an info; what is not known is left out.

        Args:
            name: The metric's.
            value: A number.
            labels: Values of its labels, in their order.
        """
        assert len(labels) == len(METRICS[name].labels), name
        if value is not None:
            values = self._values.setdefault(name, {})
            values[labels] = values.get(labels, 0.0) + value

    def add_buckets(self, name: str, buckets: Sequence[tuple[str, float]], total: float, *labels: str) -> None:
        """Adds to a histogram.

        Args:
            name: The metric's.
            buckets: How many are at most each bound.
            total: Their sum.
            labels: Values of its labels, in their order.
        """
        assert len(labels) == len(METRICS[name].labels), name
        found = self._histograms.setdefault(name, {})
        before, total_before = found.get(labels, ({}, 0.0))
        joined = {bound: number + before.get(bound, 0.0) for bound, number in buckets}
        found[labels] = (joined, total + total_before)

    def add_histogram(self, name: str, histogram: Histogram, *labels: str) -> None:
        """The same of a histogram."""
        self.add_buckets(name, histogram.buckets(), histogram.total, *labels)

    def collect(self) -> Iterator[Family]:
        """All of them, as prometheus_client writes them."""
        for name, metric in METRICS.items():
            if metric.kind == "histogram":
                family = HistogramMetricFamily(name, metric.help, labels=metric.labels)
                for labels, (buckets, total) in sorted(self._histograms.get(name, {}).items()):
                    family.add_metric(labels, list(buckets.items()), total)
                yield family
            else:
                yield _plain_family(metric, self._values.get(name, {}))


def _plain_family(metric: Metric, values: Mapping[tuple[str, ...], float]) -> Family:
    if metric.kind == "info":
        info = InfoMetricFamily(metric.name.removesuffix("_info"), metric.help)
        for labels in sorted(values):
            info.add_metric([], dict(zip(metric.labels, labels, strict=True)))
        return info
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name.removesuffix("_total"), metric.help, labels=metric.labels)
    for labels, value in sorted(values.items()):
        family.add_metric(labels, value)
    return family


def model_labels(name: str, fingerprint: str) -> tuple[str, str]:
    """What tells a model in labels."""
    return name, fingerprint.rpartition(":")[2][:FINGERPRINT_CHARS]
