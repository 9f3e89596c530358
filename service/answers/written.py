"""What is sent of keys: written in the thread that read them, so that a long answer holds up no other request."""

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from anykey.index.filtering.facets import Extent, FacetCounts, FieldFacts, FieldsPage, RangeFacet, ValueCount
from anykey.index.filtering.filters import field_of_path
from anykey.index.filtering.terms import TYPES
from anykey.index.hits import Hit, Payload, StoredKey
from anykey.service.answers.schemas import HitGroup, PartScores, SearchResponse
from anykey.service.queries.include import PAYLOAD, Include
from anykey.service.requests.address import image_urls
from anykey.service.searching.ranking import Group

NOTHING = b'{"hits":[],"facets":null'  # what answers begin with before hits and facets are put in
NO_FACETS = b"null"
_MEMBERS = TypeAdapter(dict[str, Any])
PIECE_BYTES = 2**17  # of an answer that are handed to the system in one go: a fraction of a millisecond


class WrittenAnswer(Response):
    """JSON that has been written, sent piece by piece: between two of them other requests have their turn."""

    media_type = "application/json"

    def __init__(self, written: Sequence[bytes], headers: Mapping[str, str] | None = None) -> None:
        """Takes what is sent, in its order; nothing of it is copied as a whole."""
        self._written = written
        super().__init__(headers={**(headers or {}), "content-length": str(sum(map(len, written)))})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends all of it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        *before, last = _pieces(self._written)
        for piece in before:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": last})


def _pieces(written: Sequence[bytes]) -> list[bytes | memoryview]:
    """The same in pieces of at most `PIECE_BYTES`; one, if it is no longer."""
    if sum(map(len, written)) <= PIECE_BYTES:
        return [b"".join(written)]
    return [
        memoryview(part)[start : start + PIECE_BYTES] for part in written for start in range(0, len(part), PIECE_BYTES)
    ]


def write_hits(
    prefix: str,
    hits: Sequence[Hit],
    rerank_scores: Sequence[float | None] | None = None,
    include: Include = PAYLOAD,
    groups: Sequence[Group] | None = None,
    part_scores: Callable[[Hit], list[PartScores]] | None = None,
) -> bytes:
    """The members of the list of hits as JSON, best first.

    Each is written on its own: between two of them other threads may run.

    Args:
        prefix: What a proxy put before the service's addresses.
        hits: The hits.
        rerank_scores: A reranker's, for each hit; absent: none was asked for.
        include: What is shown of each.
        groups: The group of each hit; absent: none were asked for.
        part_scores: Tells how well a hit matches each part of the query, where that is shown.
    """
    nothing = [None] * len(hits)
    told = zip(hits, rerank_scores or nothing, groups or nothing, strict=True)
    return b",".join(_written(_wire_hit(prefix, hit, score, include, group, part_scores)) for hit, score, group in told)


def write_facets(facets: Sequence[FacetCounts]) -> bytes:
    """What facets came to as JSON; `NO_FACETS` where none were asked for."""
    return b"[" + b",".join(write_json(_wire_facet(counts)) for counts in facets) + b"]" if facets else NO_FACETS


def with_hits(answer: SearchResponse, hits: bytes, facets: bytes) -> tuple[bytes, ...]:
    """An answer as JSON, in parts that follow each other.

    Args:
        answer: All but the hits and facets.
        hits: The hits, as `write_hits` gives them.
        facets: The facets, as `write_facets` gives them.
    """
    rest = answer.model_dump_json().encode()
    assert rest.startswith(NOTHING)
    return b'{"hits":[', hits, b'],"facets":', facets, rest[len(NOTHING) :]


def write_fields(
    page: FieldsPage, cursor: str | None, version: str | None, seq: int | None, notes: Sequence[str]
) -> bytes:
    """Fields of a list as JSON.

    Args:
        page: The fields.
        cursor: What gives the next ones.
        version: The index version that they are of.
        seq: Number of the last change that is in them.
        notes: What whoever asked should know of the scope.
    """
    fields = [_wire_field(facts) for facts in page.fields]
    answer = {"fields": fields, "cursor": cursor, "num_keys": page.num_keys}
    return write_json({**answer, "index_version": version, "index_seq": seq, "notes": list(notes)})


def write_json(value: Any) -> bytes:
    """An answer as JSON, written piece by piece: between two vectors of a long one other threads may run."""
    if isinstance(value, dict):
        members = (json.dumps(name).encode() + b":" + write_json(member) for name, member in value.items())
        return b"{" + b",".join(members) + b"}"
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        return b"[" + b",".join(map(write_json, value)) + b"]"
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def write_key(prefix: str, stored: StoredKey) -> bytes:
    """One key as JSON, as `KeyResponse` describes it."""
    answer = {
        "key": stored.key,
        "modality": stored.modality,
        "pools": stored.pools,
        "seq": stored.seq,
        "payload": _wire_payload(prefix, stored.key, stored.payload),
    }
    if stored.vector_D is not None:
        answer["vector"] = stored.vector_D.tolist()
    return _written(answer)


def write_keys(prefix: str, page: Sequence[StoredKey], cursor: str | None, notes: Sequence[str]) -> bytes:
    """Keys of a list as JSON, each written on its own.

    Args:
        prefix: What a proxy put before the service's addresses.
        page: The keys.
        cursor: What gives the next ones.
        notes: What whoever asked should know of the scope.
    """
    keys = b",".join(write_key(prefix, stored) for stored in page)
    rest = write_json({"cursor": cursor, "notes": list(notes)})
    return b'{"keys":[' + keys + b"]," + rest[1:]


def _wire_facet(counts: FacetCounts) -> dict[str, Any]:
    facet = counts.facet
    ranges = zip(facet.ranges, counts.range_counts, strict=True) if isinstance(facet, RangeFacet) else None
    return {
        "field": field_of_path(facet.path),
        "num_keys": counts.num_keys,
        "num_missing": counts.num_missing,
        "values": _wire_values(counts.values) if ranges is None else None,
        "num_other_values": counts.num_other_values if ranges is None else None,
        "ranges": None if ranges is None else [{**wanted.bounds, "num_keys": num} for wanted, num in ranges],
    }


def _wire_field(facts: FieldFacts) -> dict[str, Any]:
    return {
        "field": field_of_path(facts.path),
        "num_keys": facts.num_keys,
        "types": {of_type: facts.types.get(of_type, 0) for of_type in TYPES},
        "num_values": facts.num_values,
        "values": _wire_values(facts.values),
        "numbers": _wire_extent(facts.numbers),
        "dates": _wire_extent(facts.dates),
    }


def _wire_values(values: Sequence[ValueCount]) -> list[dict[str, Any]]:
    return [{"value": value, "num_keys": num} for value, num in values]


def _wire_extent(extent: Extent | None) -> dict[str, Any] | None:
    return None if extent is None else {"min": extent.lowest, "max": extent.highest}


def _wire_hit(
    prefix: str,
    hit: Hit,
    rerank_score: float | None,
    include: Include,
    group: Group | None,
    part_scores: Callable[[Hit], list[PartScores]] | None,
) -> dict[str, Any]:
    """The members of a `WireHit`, in its order."""
    shown: dict[str, Any] = {"key": hit.key, "score": None if math.isnan(hit.score) else hit.score}
    if hit.words_score is not None:
        shown["words_score"] = hit.words_score
    shown["rerank_score"] = rerank_score
    shown["rank"] = hit.rank
    shown["modality"] = hit.modality
    shown["payload"] = _wire_payload(prefix, hit.key, hit.payload, include)
    if include.vector and hit.vector_D is not None:
        shown["vector"] = hit.vector_D.tolist()
    if part_scores is not None:
        shown["part_scores"] = part_scores(hit)
    if group is not None:
        shown["group"] = HitGroup(value=group.value, num_folded=group.num_folded)
    return shown


def _wire_payload(prefix: str, key: str, payload: Payload, include: Include = PAYLOAD) -> dict[str, Any]:
    """The members of a `HitPayload` that are shown, in its order."""
    shown: dict[str, Any] = {}
    if include.text:
        shown["text"] = payload.text
    if include.metadata or include.members:
        shown["metadata"] = include.metadata_of(payload.metadata)
    if include.image_urls:
        shown["image_urls"] = image_urls(prefix, key, payload.num_images)
    return shown


def _written(members: dict[str, Any]) -> bytes:
    """JSON as a model of these members would be written, which would be checked first, at twice the time."""
    return _MEMBERS.dump_json(members)
