"""A line of the log for each request that took long: where its time went, and nothing of what was asked."""

import logging
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from anykey.service.logs import LogEvent
from anykey.service.operations.records import BatchRecord, QueryRecord, RequestRecord
from anykey.service.operations.stage_times import named_stages

MOST_QUERIES = 10  # of a batch that are told of, those that took longest

logger = logging.getLogger(__name__)


class SlowQueries:
    """Logs requests that searched, and took long."""

    def __init__(self, slow_s: float) -> None:
        """Sets the limit.

        Args:
            slow_s: How long a request takes that is slow.
        """
        self._slow_s = slow_s

    def __call__(self, records: Iterable[RequestRecord]) -> None:
        """Looks through requests that have ended."""
        for record in records:
            if record.ended_s - record.started_s >= self._slow_s and record.queries:
                logger.warning("a slow query", extra={"event": LogEvent.SLOW_QUERY, **facts_of(record)})


def facts_of(record: RequestRecord) -> dict[str, Any]:
    """What may be told of a request: no content."""
    slowest = sorted(record.queries, key=lambda query: -query.fields.timings_ms.total)[:MOST_QUERIES]
    return {
        "request_id": record.request_id,
        **({} if record.trace is None else {"trace_id": record.trace.trace}),
        "index": record.index,
        "route": record.route,
        "status": record.status,
        "duration_ms": in_ms(record.ended_s - record.started_s),
        "stages_ms": {name: in_ms(seconds) for name, seconds in named_stages(record)},
        "num_queries": len(record.queries),
        "queries": [facts_of_query(query) for query in slowest],
        "batches": [_facts_of_batch(batch, record) for batch in record.batches[:MOST_QUERIES]],
    }


def facts_of_query(query: QueryRecord) -> dict[str, Any]:
    """What may be told of a query: no content."""
    fields, asked = query.fields, query.query
    facts: dict[str, Any] = {
        "modality": None if fields.query_modality is None else str(fields.query_modality),
        "num_parts": len(asked.parts),
        "k": asked.k,
        "exact": asked.exact,
        "num_hits": query.num_hits,
        "vector_cached": fields.cached,
        "result_cached": fields.result_cached,
        "index_version": fields.index_version,
        "release": fields.release,
        "timings_ms": fields.timings_ms.model_dump(),
        "write_ms": in_ms(query.write_s),
    }
    if fields.reranking is not None:
        facts |= {"reranker": fields.reranking.model, "num_reranked_pairs": fields.reranking.num_scored}
    if query.how is not None:
        facts |= {"num_together": query.num_together, **search_facts(query.how.facts)}
    return facts


def search_facts(noted: Any) -> dict[str, Any]:
    """What the index noted of a search; times in milliseconds."""
    facts = {name: value for name, value in asdict(noted).items() if name != "counts_vectors"}
    times = {name: facts.pop(name) for name in list(facts) if name.endswith("_s")}
    return facts | {name.removesuffix("_s") + "_ms": in_ms(seconds) for name, seconds in times.items()}


def _facts_of_batch(batch: BatchRecord, record: RequestRecord) -> dict[str, Any]:
    return {
        "model": batch.model,
        "num_items": batch.num_items,
        "num_tokens": batch.num_tokens,
        "num_requests": len(batch.members),
        "wait_ms": in_ms(batch.started_s - batch.members.get(record, batch.started_s)),
        "encode_ms": in_ms(batch.ended_s - batch.started_s),
    }


def in_ms(seconds: float) -> float:
    """Milliseconds."""
    return round(seconds * 1000, 3)
