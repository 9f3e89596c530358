"""A query to its answer: what single searches and batches of them have in common, and whoever else has a query."""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from anykey.index.hits import Hit
from anykey.index.key_index import MomentFacts
from anykey.service.answers.kept import KeptAnswer
from anykey.service.answers.schemas import (
    BatchTimings,
    Cutoff,
    Explanation,
    GroupSearch,
    PartExplanation,
    PartScores,
    Reranking,
    SearchResponse,
    Timings,
)
from anykey.service.answers.written import with_hits, write_facets, write_hits
from anykey.service.embedding.query_embedder import Embedded, EmbeddedPart, notes_of, terms_of
from anykey.service.errors import InternalError, ServiceError
from anykey.service.indexes.parts import Parts
from anykey.service.logs import LogEvent
from anykey.service.operations.records import CURRENT, QueryRecord
from anykey.service.queries.parts import WordsPart
from anykey.service.queries.query import Query
from anykey.service.queries.terms import Terms
from anykey.service.queries.wanted import Wanted
from anykey.service.requests.deadline import within
from anykey.service.schemas import ErrorDetail, ErrorResponse
from anykey.service.searching.batcher import PlaceTogether
from anykey.service.searching.ranking import Group, Selected, notes_of_groups
from anykey.service.searching.reranking import LoadedReranker
from anykey.service.searching.searcher import Found, notes_of_fields

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asker:
    """What an answer depends on besides the query.

    Attributes:
        prefix: What a proxy put before the service's addresses.
        request_id: For log lines.
    """

    prefix: str
    request_id: str


@dataclass(frozen=True)
class Answer:
    """The answer to one query.

    Attributes:
        fields: All of it but the hits and facets.
        hits: These, as JSON.
        num_hits: How many.
        facets: Those, as JSON.
        moment: What no other moment of any index has; `None` where that is not known.
        write_s: How long writing the hits took.
        found: What they were chosen from; `None` for an answer that was kept.
    """

    fields: SearchResponse
    hits: bytes
    num_hits: int
    facets: bytes
    moment: str | None
    write_s: float = 0.0
    found: Found | None = None

    def written(self) -> tuple[bytes, ...]:
        """All of it as JSON, in parts that follow each other."""
        return with_hits(self.fields, self.hits, self.facets)


async def answer(parts: Parts, query: Query, asker: Asker, place: PlaceTogether | None = None) -> Answer:
    """Embeds a query, searches, and ranks again if that is asked for; the query is remembered for the next release.

    Args:
        parts: What answers.
        query: The query.
        asker: Who asks.
        place: The place of its search among others that it begins with.

    Returns:
        The answer; how long reading took, and all of it, is for the caller to say.

    Raises:
        ServiceError: there is none; says why.
    """
    began_s = time.monotonic()
    look = await parts.results.look_up(query, asker.prefix)
    if look.found is not None and look.before is not None:
        return _noted(query, _again(look.found, look.before, time.monotonic() - began_s))
    found = await find_answer(parts, query, asker, place)
    parts.results.keep(look, found)
    parts.recent.add(query)
    return _noted(query, found)


def _noted(query: Query, found: Answer) -> Answer:
    """Notes an answer in the record of the request."""
    if (record := CURRENT.get()) is not None:
        how, num_together = (None, 0) if found.found is None else (found.found.how, found.found.num_together)
        if record.is_logged:
            found.fields.query_id = uuid.uuid4().hex
        of_answer = (found.fields, found.hits if record.is_logged else b"", found.num_hits, how, num_together)
        record.queries.append(QueryRecord(query, *of_answer, time.monotonic(), found.write_s))
    return found


def _again(kept: KeptAnswer, moment: MomentFacts, seconds: float) -> Answer:
    """A kept answer as one of now, in which only the look for it took time."""
    told = {
        "cached": True,
        "result_cached": True,
        "index_version": moment.version,
        "index_seq": moment.seq,
        "snapshot": moment.snapshot,
        "timings_ms": Timings(
            read=0.0, decode=0.0, queue=0.0, encode=0.0, search=in_ms(seconds), rerank=0.0, total=0.0
        ),
    }
    return Answer(kept.fields.model_copy(update=told), kept.hits, kept.num_hits, kept.facets, moment.identity)


async def find_answer(parts: Parts, query: Query, asker: Asker, place: PlaceTogether | None = None) -> Answer:
    """What `answer` gives, computed anew and without remembering the query; takes and raises the same."""
    reranker = None if query.rerank is None else parts.rerankers.named(query.rerank.model)
    if reranker is not None:
        reranker.check_query(query)
    embedded = await parts.embedder.embed(query, is_alone=place is None)
    ranked = await (
        _search(parts, query, embedded, asker, place)
        if reranker is None
        else _search_and_rerank(parts, query, embedded, asker, place, reranker)
    )
    fields = SearchResponse(
        hits=[],
        query_modality=embedded.modality,
        cached=embedded.is_cached,
        result_cached=False,
        text_cut=embedded.is_text_cut,
        num_below_min_score=None if query.min_score is None else ranked.found.selected.num_below,
        notes=notes_of(query, embedded)
        + notes_of_groups(query.wanted, ranked.found.selected)
        + notes_of_fields(ranked.found),
        release=parts.release,
        index_version=ranked.found.version,
        index_seq=ranked.found.seq,
        snapshot=ranked.found.snapshot,
        model_fingerprint=parts.encoder.fingerprint,
        explanation=_explanation_of(query, embedded, ranked),
        reranking=ranked.reranking,
        cutoff=_cutoff_of(ranked.found.selected),
        grouping=_grouping_of(ranked.found.selected),
        timings_ms=Timings(
            read=0.0,
            decode=in_ms(embedded.decode_s),
            queue=in_ms(embedded.queue_s),
            encode=in_ms(embedded.encode_s),
            search=in_ms(ranked.search_s),
            rerank=in_ms(ranked.rerank_s),
            total=0.0,
        ),
    )
    found = ranked.found
    return Answer(fields, ranked.written, ranked.num_hits, ranked.facets, found.identity, ranked.write_s, found)


async def answer_all(
    parts: Parts, queries: Sequence[Query | ServiceError], asker: Asker, deadline_s: float
) -> list[Answer | ServiceError]:
    """Answers many queries together: their items share batches, and their searches calls of the index.

    Args:
        parts: What answers.
        queries: The queries; an error in the place of one that cannot be read comes back in its place.
        asker: Who asks.
        deadline_s: Longest time for each.

    Returns:
        In the order of the queries, the answer to each, or why there is none.
    """
    wanted = [query for query in queries if isinstance(query, Query)]
    together = parts.searcher.together(len(wanted))

    async def answer_one(query: Query | ServiceError) -> Answer | ServiceError:
        if isinstance(query, ServiceError):
            return query
        with together.place() as place:
            try:
                return await within(deadline_s, answer(parts, query, asker, place))
            except ServiceError as error:
                return error.as_result()
            except Exception:
                fields = {"event": LogEvent.REQUEST_FAILED, "request_id": asker.request_id}
                logger.exception("a query of a batch failed", extra=fields)
                return InternalError("something unforeseen went wrong; report the request id")

    async with asyncio.TaskGroup() as group:
        answers = []
        for query in queries:
            answers.append(group.create_task(answer_one(query)))
            await asyncio.sleep(0)  # others have their turn between any two of them
    return [one.result() for one in answers]


def written_batch(answers: Sequence[Answer | ServiceError], timings: BatchTimings, request_id: str) -> list[bytes]:
    """The answers to a batch as JSON, in parts that follow each other.

    Args:
        answers: In the order of the queries.
        timings: Of all of it.
        request_id: What errors say.
    """
    written = [b'{"answers":[']
    for number, one in enumerate(answers):
        written.append(b"," if number else b"")
        if isinstance(one, Answer):
            one.fields.timings_ms.read, one.fields.timings_ms.total = timings.read, timings.total
            written += one.written()
        else:
            detail = ErrorDetail(type=one.type, message=one.message, request_id=request_id)
            written.append(ErrorResponse(error=detail).model_dump_json().encode())
    return [*written, b'],"timings_ms":', timings.model_dump_json().encode(), b"}"]


@dataclass(frozen=True)
class _Ranked:
    """Hits and facets as JSON, what they were chosen from, when that began, and how long it all took.

    Of `search_s`, where nothing is reranked, and else of `rerank_s`, `write_s` went by writing.
    """

    written: bytes
    facets: bytes
    num_hits: int
    found: Found
    began_s: float
    search_s: float
    write_s: float
    rerank_s: float = 0.0
    reranking: Reranking | None = None


async def _search(parts: Parts, query: Query, embedded: Embedded, asker: Asker, place: PlaceTogether | None) -> _Ranked:
    """The hits in the index's order."""
    started_s = time.monotonic()

    terms = terms_of(query, embedded)
    part_scores = _part_scores(query, terms)

    def write(found: Found) -> tuple[bytes, bytes, Found, float]:
        began_s = time.monotonic()
        hits, groups = found.selected.hits, found.selected.groups
        written = write_hits(asker.prefix, hits, None, query.include, groups, part_scores)
        return written, write_facets(found.facets), found, time.monotonic() - began_s

    written, facets, found, write_s = await _find(parts, query, embedded, terms, query.wanted, write, place)
    return _Ranked(written, facets, len(found.hits), found, started_s, time.monotonic() - started_s, write_s)


async def _search_and_rerank(
    parts: Parts,
    query: Query,
    embedded: Embedded,
    asker: Asker,
    place: PlaceTogether | None,
    reranker: LoadedReranker,
) -> _Ranked:
    """More hits than are wanted, and of them the best by the reranker."""
    assert query.rerank is not None
    assert query.item is not None
    started_s = time.monotonic()
    terms = terms_of(query, embedded)

    def write(found: Found) -> tuple[bytes, Found]:
        return write_facets(found.facets), found

    facets, found = await _find(parts, query, embedded, terms, query.to_rerank, write, place)
    hits = found.hits
    found_s = time.monotonic()
    ranked = await reranker.rerank(query.item, hits, asker.request_id)
    best = ranked[query.wanted.start : query.wanted.end]
    scores = [one.score for one in best]
    shown = [one.hit for one in best]
    groups = _groups_of(shown, found.selected)
    part_scores = _part_scores(query, terms)
    written = await parts.body_threads.run(write_hits, asker.prefix, shown, scores, query.include, groups, part_scores)
    reranking = Reranking(
        model=reranker.scorer.name,
        fingerprint=reranker.scorer.fingerprint,
        num_candidates=len(hits),
        num_scored=sum(one.score is not None for one in ranked),
    )
    rerank_s = time.monotonic() - found_s
    return _Ranked(written, facets, len(best), found, started_s, found_s - started_s, 0.0, rerank_s, reranking)


async def _find(
    parts: Parts,
    query: Query,
    embedded: Embedded,
    terms: Terms | None,
    wanted: Wanted,
    write: Callable[[Found], T],
    place: PlaceTogether | None,
) -> T:
    """What `write` makes of those of the ranked keys that are wanted."""
    return await parts.searcher.search(
        embedded.vector_D,
        embedded.modality,
        wanted,
        query.scope,
        write,
        query.exact,
        query.snapshot,
        place,
        with_vectors=query.include.vector,
        terms=terms,
        with_part_scores=query.include.part_scores,
        words=query.words,
        explain=query.explain,
        facets=query.facets,
    )


def _groups_of(hits: Sequence[Hit], selected: Selected) -> list[Group] | None:
    """The groups of some of the hits that were selected, which another order has been given to."""
    if selected.groups is None:
        return None
    group_of = dict(zip([hit.key for hit in selected.hits], selected.groups, strict=True))
    return [group_of[hit.key] for hit in hits]


def _cutoff_of(selected: Selected) -> Cutoff | None:
    return None if selected.cut is None else Cutoff(score=selected.cut.score, num_cut=selected.cut.num_cut)


def _grouping_of(selected: Selected) -> GroupSearch | None:
    if selected.groups is None:
        return None
    return GroupSearch(num_candidates=selected.num_candidates, is_complete=selected.is_complete)


def _explanation_of(query: Query, embedded: Embedded, ranked: _Ranked) -> Explanation | None:
    """How an answer was made, where that was asked for."""
    if not query.explain or (how := ranked.found.how) is None:
        return None
    facts = how.facts
    noted_s = facts.scope_s + facts.compare_s + facts.words_s + facts.payload_s + facts.facets_s
    wait_s = max(0.0, how.began_s - ranked.began_s)
    made = iter(embedded.parts)
    return Explanation(
        parts=[_part_explanation(None if isinstance(part, WordsPart) else next(made)) for part in query.parts],
        structure=facts.structure,
        exact=facts.is_exact,
        num_keys=facts.num_keys,
        num_in_scope=facts.num_in_scope,
        num_compared=facts.num_compared,
        num_reranked=facts.num_reranked,
        num_recent=facts.num_recent,
        num_with_words=facts.num_with_words,
        scope_looked_up=facts.is_scope_looked_up,
        num_searches=facts.num_searches,
        num_together=ranked.found.num_together,
        wait_ms=in_ms(wait_s),
        scope_ms=in_ms(facts.scope_s),
        compare_ms=in_ms(facts.compare_s),
        words_ms=in_ms(facts.words_s),
        payload_ms=in_ms(facts.payload_s),
        facets_ms=in_ms(facts.facets_s),
        choose_ms=in_ms(max(0.0, how.took_s - noted_s)),
        write_ms=in_ms(max(0.0, ranked.search_s - wait_s - how.took_s)),
    )


def _part_explanation(part: EmbeddedPart | None) -> PartExplanation:
    """Where the vector of a part came from; `None` for words, which have none."""
    if part is None:
        return PartExplanation(source="words", decode_ms=0.0, queue_ms=0.0, encode_ms=0.0)
    return PartExplanation(
        source=part.source.value,
        decode_ms=in_ms(part.decode_s),
        queue_ms=in_ms(part.queue_s),
        encode_ms=in_ms(part.encode_s),
    )


def _part_scores(query: Query, terms: Terms | None) -> Callable[[Hit], list[PartScores]] | None:
    """What tells how well a hit matches each part, where that is shown."""
    return terms.part_scores if terms is not None and query.include.part_scores else None


def in_ms(seconds: float) -> float:
    """Milliseconds, as answers show them."""
    return round(seconds * 1000, 3)
