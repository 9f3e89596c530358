"""Traces for OpenTelemetry: spans of each request and of the batches that it shared, made after it has been answered.

Nothing of OpenTelemetry is imported unless traces are wanted.
"""

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from anykey.program.extras import MissingLibraryError, require_library
from anykey.program.machine import release
from anykey.service.errors import StartupError
from anykey.service.operations.records import SAMPLED, BatchRecord, QueryRecord, RequestRecord, Trace
from anykey.service.operations.slow_queries import search_facts

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Link, Span, SpanContext

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
MAX_QUEUE_SPANS = 2**14  # they come half a second at a time, some nine for each request
FLUSH_S = 2.0  # in which a receiver that answers has taken what is left

logger = logging.getLogger(__name__)


def are_wanted(url: str | None, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether somebody said where traces go, by the setting or by OpenTelemetry's own variables."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    return url is not None or any(environment.get(name) for name in ENDPOINTS)


class Tracer:
    """Makes spans of records and sends them off; used in the watcher's thread.

    A request is a span with one for each stage. A batch of a model is a trace of its own, linked to the requests that
    it had items of; their spans of it are linked back. What is sampled, `OTEL_TRACES_SAMPLER` says.
    """

    def __init__(self, url: str | None) -> None:
        """Prepares the exporter, which connects when there is something to send.

        Args:
            url: Where traces go, by OTLP over HTTP; `None`: where OpenTelemetry's variables say.

        Raises:
            StartupError: the library is missing, or a variable is wrong.
        """
        try:
            require_library("opentelemetry.exporter.otlp.proto.http", "otel", "tracing")
            self._ids, self._provider = _provider(url)
        except (MissingLibraryError, ValueError) as error:
            raise StartupError(str(error)) from error
        self._tracer = self._provider.get_tracer("anykey", release())
        self._offset_ns = 0

    def __call__(self, records: Iterable[RequestRecord]) -> None:
        """Makes the spans of requests that have ended."""
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        for record in records:
            if record.trace is not None:
                self._request(record, record.trace)

    def close(self) -> None:
        """Sends what is left, for a few seconds at most."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(FLUSH_S)

    def _request(self, record: RequestRecord, trace: Trace) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode

        self._ids.give(trace.trace_id, trace.span_id)
        span = self._tracer.start_span(
            f"{record.method} {record.route}",
            _context(trace.trace_id, trace.parent_id, trace.flags),
            SpanKind.SERVER,
            _attributes_of(record),
            start_time=self._ns(record.started_s),
        )
        self._ids.give(None, None)
        if span.is_recording():
            self._stages(span, record)
            for batch in record.batches:
                self._batch(span, batch, record)
            for query in record.queries:
                self._query(span, query)
        if record.status >= 500 or not record.status:
            span.set_status(Status(StatusCode.ERROR, record.error_type or None))
        span.end(self._ns(record.ended_s))

    def _stages(self, span: "Span", record: RequestRecord) -> None:
        if record.read_s:
            self._child(span, "read", record.started_s, record.started_s + record.read_s)
        if record.answered_s:
            self._child(span, "write", record.answered_s, record.ended_s)

    def _batch(self, span: "Span", batch: BatchRecord, record: RequestRecord) -> None:
        """The wait for a batch, and the batch."""
        facts = {"anykey.model": batch.model, "anykey.batch.items": batch.num_items}
        queued_s = batch.members.get(record, batch.started_s)
        self._child(span, "queue", queued_s, batch.started_s, {"anykey.model": batch.model})
        links = _links([self._span_of_batch(batch)])
        self._child(span, "encode", batch.started_s, batch.ended_s, facts, links)

    def _span_of_batch(self, batch: BatchRecord) -> "SpanContext":
        """What names the span of a batch, which is made when the first of its requests comes."""
        if batch.context is None:
            traces = [record.trace for record in batch.members if record.trace is not None]
            span = self._tracer.start_span(
                "batch",
                _context(None, None, 0),
                attributes={
                    "anykey.model": batch.model,
                    "anykey.batch.items": batch.num_items,
                    "anykey.batch.tokens": batch.num_tokens,
                },
                links=_links([_span_context(trace.trace_id, trace.span_id, trace.flags) for trace in traces]),
                start_time=self._ns(batch.started_s),
            )
            span.end(self._ns(batch.ended_s))
            batch.context = span.get_span_context()
        context: SpanContext = batch.context
        return context

    def _query(self, span: "Span", query: QueryRecord) -> None:
        timings = query.fields.timings_ms
        reranked_s, searched_s = timings.rerank / 1000, timings.search / 1000
        began_s = query.ended_s - reranked_s - searched_s
        facts: dict[str, Any] = {
            "anykey.k": query.query.k,
            "anykey.hits": query.num_hits,
            "anykey.vector_cached": query.fields.cached,
            "anykey.result_cached": query.fields.result_cached,
            "anykey.index.version": query.fields.index_version,
            "anykey.release": query.fields.release,
        }
        if query.how is not None:
            facts |= {f"anykey.search.{name}": value for name, value in search_facts(query.how.facts).items()}
            facts["anykey.search.num_together"] = query.num_together
        if timings.decode:
            before_s = began_s - (timings.encode + timings.queue) / 1000
            self._child(span, "decode", before_s - timings.decode / 1000, before_s)
        self._child(span, "search", began_s, began_s + searched_s, facts)
        if query.fields.reranking is not None:
            of_reranker = {"anykey.model": query.fields.reranking.model}
            self._child(span, "rerank", query.ended_s - reranked_s, query.ended_s, of_reranker)

    def _child(
        self,
        parent: "Span",
        name: str,
        began_s: float,
        ended_s: float,
        facts: Mapping[str, Any] | None = None,
        links: "list[Link] | None" = None,
    ) -> None:
        from opentelemetry.trace import set_span_in_context

        known = {key: value for key, value in (facts or {}).items() if value is not None}
        context = set_span_in_context(parent)
        span = self._tracer.start_span(name, context, attributes=known, links=links, start_time=self._ns(began_s))
        span.end(self._ns(ended_s))

    def _ns(self, seconds: float) -> int:
        """The time of day at a moment of the monotonic clock, in nanoseconds since 1970."""
        return int(seconds * 1e9) + self._offset_ns


def _provider(url: str | None) -> "tuple[Any, TracerProvider]":
    """What makes spans with given ids, and the ids."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        """The ids that a request was given when it came, for its own span."""

        def __init__(self) -> None:
            self._trace_id: int | None = None
            self._span_id: int | None = None

        def give(self, trace_id: int | None, span_id: int | None) -> None:
            """Sets those of the next span."""
            self._trace_id, self._span_id = trace_id, span_id

        def generate_trace_id(self) -> int:
            return self._trace_id or super().generate_trace_id()

        def generate_span_id(self) -> int:
            return self._span_id or super().generate_span_id()

    ids = Ids()
    named = Resource({SERVICE_NAME: "anykey", SERVICE_VERSION: release()}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=named, id_generator=ids, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(None if url is None else f"{url.rstrip('/')}/v1/traces")
    is_told = "OTEL_BSP_MAX_QUEUE_SIZE" in os.environ
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=None if is_told else MAX_QUEUE_SPANS))
    return ids, provider


def _span_context(trace_id: int, span_id: int, flags: int) -> "SpanContext":
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags & SAMPLED))


def _context(trace_id: int | None, parent_id: int | None, flags: int) -> Any:
    """What a span is part of; nothing where there is no parent."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    if trace_id is None or parent_id is None:
        return Context()
    return set_span_in_context(NonRecordingSpan(_span_context(trace_id, parent_id, flags)), Context())


def _links(contexts: "Iterable[SpanContext]") -> "list[Link]":
    from opentelemetry.trace import Link

    return [Link(context) for context in contexts]


def _attributes_of(record: RequestRecord) -> dict[str, Any]:
    """What may be told of a request, by OpenTelemetry's names where it has some; no content and no address."""
    facts = {
        "http.request.method": record.method,
        "http.route": record.route,
        "anykey.index": record.index,
        "anykey.request_id": record.request_id,
        "anykey.queries": len(record.queries),
    }
    if record.status:
        facts["http.response.status_code"] = record.status
    if record.error_type:
        facts["error.type"] = record.error_type
    return facts
