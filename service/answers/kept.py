"""Answers that are kept, each of one moment of an index: served again only while the index is at that moment.

An answer is known by its query, by all that computed it, and by its moment. Before it is served, the index is asked for
its moment, which every acknowledged change moves on; so nothing stale is ever served, whoever changed the index.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from anykey.encoder.item import Modality
from anykey.index.key_index import MomentFacts
from anykey.program.machine import release
from anykey.service.answers.schemas import SearchResponse
from anykey.service.answers.written import NO_FACETS
from anykey.service.concurrency.threads import BoundedThreads
from anykey.service.embedding.cache import RedisVectors
from anykey.service.queries.query import KeyPart, Query
from anykey.service.searching.reranking import Rerankers
from anykey.service.searching.searcher import IndexSearcher

if TYPE_CHECKING:
    from anykey.service.answers.answering import Answer

RESULTS = "result:3:"
MAX_SHARE = 8  # an answer takes at most this part of the room
MAX_SHARED_BYTES = 1024 * 1024  # of an answer in Redis
OVERHEAD_BYTES = 1000  # of an entry, about, beside what it holds
NUMBER_BYTES = 4  # of what is told of an answer in Redis


@dataclass(frozen=True)
class KeptAnswer:
    """An answer to a query, of one moment.

    Attributes:
        fields: All of it but the hits and facets; how long it took, and what names the moment, are of whoever asks.
        hits: These, as JSON.
        num_hits: How many.
        facets: Those, as JSON.
    """

    fields: SearchResponse
    hits: bytes
    num_hits: int
    facets: bytes = NO_FACETS


@dataclass
class ResultCounters:
    """What became of look-ups.

    Attributes:
        result_hits: Found in this process.
        result_redis_hits: Found in Redis.
        result_misses: Found in neither, or of an earlier moment.
    """

    result_hits: int = 0
    result_redis_hits: int = 0
    result_misses: int = 0


class ResultMemory:
    """The answers of this process that were used last, by query; of each query the latest. For one event loop.

    Attributes:
        num_bytes: What they take, about.
    """

    def __init__(self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Makes an empty one.

        Args:
            max_bytes: Room for answers, about; 0 keeps none.
            ttl_s: How long an answer is kept.
            clock: Seconds, monotonic.
        """
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, str, KeptAnswer]] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, query: str) -> bool:
        return query in self._entries

    def get(self, query: str, moment: str) -> KeptAnswer | None:
        """The answer to a query at a moment; one of another moment, or that is too old, is forgotten."""
        entry = self._entries.get(query)
        if entry is None:
            return None
        until_s, of_moment, answer = entry
        if of_moment != moment or self._clock() >= until_s:
            self._drop(query)
            return None
        self._entries.move_to_end(query)
        return answer

    def put(self, query: str, moment: str, answer: KeptAnswer) -> None:
        """Keeps an answer, in place of an earlier one to the same query, and drops what was used longest ago."""
        size = _size(answer)
        if size > self._max_bytes // MAX_SHARE:
            return
        self._drop(query)
        self._entries[query] = (self._clock() + self._ttl_s, moment, answer)
        self.num_bytes += size
        while self.num_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, query: str) -> None:
        entry = self._entries.pop(query, None)
        if entry is not None:
            self.num_bytes -= _size(entry[2])


@dataclass(frozen=True)
class Look:
    """A look for a kept answer.

    Attributes:
        query: What tells the query, and who computes its answer, from others; `None` if it is not kept.
        before: The moment before anything was computed; `None` where it was not asked for.
        found: The answer; `None` if there is none.
    """

    query: str | None
    before: MomentFacts | None = None
    found: KeptAnswer | None = None


class ResultCache:
    """The kept answers of one index, in this process and in Redis; belongs to one event loop.

    A query of which nothing is kept is not even asked for its moment, where there is no Redis, unless it names a stored
    key: that key's vector is read before the search, and an answer that a change came into is not kept.
    """

    def __init__(
        self,
        memory: ResultMemory,
        redis: RedisVectors | None,
        searcher: IndexSearcher,
        rerankers: Rerankers,
        *,
        computed_by: str,
        threads: BoundedThreads,
        is_on: bool,
    ) -> None:
        """Joins the parts.

        Args:
            memory: The process's, which indexes share.
            redis: Where processes share answers; `None` for none.
            searcher: Knows the index's moment.
            rerankers: Say what computes a reranked answer.
            computed_by: Tells the release, the index's name and the encoder from others.
            threads: For hashing what is long.
            is_on: Whether answers are kept at all.
        """
        self._memory = memory
        self._redis = redis
        self._searcher = searcher
        self._rerankers = rerankers
        self._computed_by = f"{release()} {computed_by}"
        self._threads = threads
        self._is_on = is_on
        self._counts = ResultCounters()

    def counters(self) -> dict[str, int]:
        """A copy of `ResultCounters`, and what this process keeps of all indexes."""
        kept = {"result_entries": len(self._memory), "result_bytes": self._memory.num_bytes}
        return {**asdict(self._counts), **kept}

    async def look_up(self, query: Query, prefix: str) -> Look:
        """Looks for an answer of the moment that the query is for.

        Args:
            query: The query.
            prefix: What addresses in the answer begin with.

        Raises:
            ServiceError: those that a search raises.
        """
        if not self._is_on or not self._is_kept(query):
            return Look(None)
        name = await self._name_of(query, prefix)
        is_anywhere = name in self._memory or self._redis is not None
        if not is_anywhere and not any(isinstance(part, KeyPart) for part in query.parts):
            self._counts.result_misses += 1
            return Look(name)
        is_asked_for = query.snapshot is not None or query.offset is not None
        moment = await self._searcher.moment(query.snapshot, is_asked_for=is_asked_for)
        if moment.identity is None:
            return Look(None)
        found = self._memory.get(name, moment.identity)
        if found is not None:
            self._counts.result_hits += 1
        elif self._redis is not None:
            found = await self._from_redis(self._redis, name, moment.identity)
        self._counts.result_misses += found is None
        return Look(name, moment, found)

    def keep(self, look: Look, answer: "Answer") -> None:
        """Keeps the answer that was computed after a look, unless the index has moved on since that look."""
        moment = answer.moment
        if look.query is None or moment is None or (look.before is not None and look.before.identity != moment):
            return
        fields = answer.fields.model_copy(update={"snapshot": None})
        kept = KeptAnswer(fields, answer.hits, answer.num_hits, answer.facets)
        self._memory.put(look.query, moment, kept)
        if self._redis is not None and _size(kept) <= MAX_SHARED_BYTES:
            name = _redis_name(look.query, moment)
            self._redis.put_value(RESULTS, name, _to_bytes(name, kept))

    async def _name_of(self, query: Query, prefix: str) -> str:
        digest = query.digest if query.is_quickly_hashed else await self._threads.run(lambda: query.digest)
        told = repr((self._computed_by, self._computed_also_by(query), prefix, digest))
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()

    def _computed_also_by(self, query: Query) -> str:
        return "" if query.rerank is None else self._rerankers.named(query.rerank.model).scorer.fingerprint

    def _is_kept(self, query: Query) -> bool:
        """Whether the answer depends on nothing but the query, the index's moment, and what computes it."""
        if query.explain:  # it tells how it was made, this time
            return False
        if query.rerank is None:
            return True
        # Images that an index refers to may change without it.
        return Modality.IMAGE not in self._rerankers.named(query.rerank.model).scorer.modalities

    async def _from_redis(self, redis: RedisVectors, query: str, moment: str) -> KeptAnswer | None:
        name = _redis_name(query, moment)
        value = await redis.get_value(RESULTS, name)
        kept = None if value is None else _from_bytes(name, value)
        if kept is not None:
            self._counts.result_redis_hits += 1
            self._memory.put(query, moment, kept)
        return kept


def _redis_name(query: str, moment: str) -> str:
    return hashlib.sha256(f"{query} {moment}".encode()).hexdigest()


def _size(answer: KeptAnswer) -> int:
    """Bytes that an entry takes, about."""
    return len(answer.hits) + len(answer.facets) + OVERHEAD_BYTES


def _to_bytes(name: str, answer: KeptAnswer) -> bytes:
    """An answer as Redis keeps it, with its name: that of another question is never taken for it."""
    fields = answer.fields.model_dump_json().encode()
    numbers = (len(fields), len(answer.facets), answer.num_hits)
    told = b"".join(number.to_bytes(NUMBER_BYTES, "big") for number in numbers)
    return hashlib.sha256(name.encode()).digest() + told + fields + answer.facets + answer.hits


def _from_bytes(name: str, value: bytes) -> KeptAnswer | None:
    """The answer in a value that Redis gave; `None` when it is not what `_to_bytes` wrote for this name."""
    digest = hashlib.sha256(name.encode()).digest()
    start = len(digest) + 3 * NUMBER_BYTES
    if len(value) < start or not value.startswith(digest):
        return None
    num_fields, num_facets, num_hits = (
        int.from_bytes(value[place : place + NUMBER_BYTES], "big") for place in range(len(digest), start, NUMBER_BYTES)
    )
    fields, rest = value[start : start + num_fields], value[start + num_fields :]
    try:
        kept = SearchResponse.model_validate_json(fields)
    except ValidationError:
        return None
    return KeptAnswer(kept, rest[num_facets:], num_hits, rest[:num_facets])
