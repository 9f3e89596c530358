"""What searching is in every dialect: queries to the hits of `POST /search`, and an answer written off the loop."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response

from anykey.service.answers.answering import Answer, Asker, answer, answer_all
from anykey.service.answers.schemas import SearchResponse
from anykey.service.answers.written import WrittenAnswer
from anykey.service.errors import ServiceError
from anykey.service.lifecycle import lifecycle_of, parts_of
from anykey.service.queries.query import Query
from anykey.service.requests.address import prefix_of
from anykey.service.requests.body import json_parser
from anykey.service.requests.context import REQUEST_ID, note
from anykey.service.requests.exchange import exchange

SEARCH_ERRORS = (
    "invalid_request",
    "not_found",
    "item_too_large",
    "unsupported_media_type",
    "undecodable_image",
    "unsupported_modality",
    "overloaded",
    "internal",
    "not_ready",
    "too_many_connections",
    "index_unavailable",
    "deadline_exceeded",
)


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        fields: The answer of `POST /search` but for its hits.
        hits: These, as JSON gives them.
        started_s: When the request began, on the clock of `time.monotonic`.
    """

    fields: SearchResponse
    hits: Sequence[dict[str, Any]]
    started_s: float


@dataclass(frozen=True)
class Searches:
    """What a request asks for, in whichever dialect.

    Attributes:
        queries: What to search for.
        write: The answer for what each query found; called in a thread.
    """

    queries: tuple[Query, ...]
    write: Callable[[Sequence[Found]], bytes]


async def answer_searches(request: Request, read: Callable[[bytearray], Searches], *parameters: str) -> Response:
    """Answers a request that searches, once or more often; with JSON, also where nobody says that it is.

    Args:
        request: The request; its body has not been read.
        read: What the body asks for; called in a thread.
        parameters: Names of what the address may have beside the body.

    Raises:
        ServiceError: as `read`, or a query cannot be answered.
    """
    started_s = time.monotonic()
    lifecycle, parts = lifecycle_of(request), parts_of(request)
    deadline_ms = lifecycle.settings.request_deadline_ms
    asker = Asker(prefix_of(request), str(request.scope.get(REQUEST_ID, "")))

    async def answer_them(asked: Searches) -> Response:
        note(request, num_queries=len(asked.queries))
        if len(asked.queries) == 1:
            answers: Sequence[Answer | ServiceError] = [await answer(parts, asked.queries[0], asker)]
        else:
            answers = await answer_all(parts, asked.queries, asker, deadline_ms / 1000)
        found = []
        for number, one in enumerate(answers):
            if isinstance(one, ServiceError):
                where = f"searches[{number}]"
                raise one if one.message.startswith(where) else type(one)(f"{where}: {one.message}")
            found.append(one)
        note(request, num_hits=sum(one.num_hits for one in found))
        return WrittenAnswer([await parts.body_threads.run(_written, asked, found, started_s)])

    parse = json_parser(request.headers, lifecycle.limits, read, absent="application/json")
    return await exchange(
        request, parts.body_threads, parse, answer_them, 2 * deadline_ms, *parameters, admission=parts.admission
    )


def _written(asked: Searches, answers: Sequence[Answer], started_s: float) -> bytes:
    return asked.write([Found(one.fields, json.loads(b"[" + one.hits + b"]"), started_s) for one in answers])
