"""What users think of hits."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from anykey.service.access.guard import GuardedRoute
from anykey.service.errors import IndexUnavailableError, InvalidRequestError, NotFoundError
from anykey.service.lifecycle import lifecycle_of
from anykey.service.openapi import error_responses
from anykey.service.operations.records import CURRENT
from anykey.service.queries.strict_json import parse_json
from anykey.service.queries.wrong_values import shown, wrong_value
from anykey.service.requests.body import json_parser
from anykey.service.requests.exchange import exchange

MAX_KEY_CHARS = 4096
FEEDBACK_ERRORS = (
    "invalid_request",
    "not_found",
    "item_too_large",
    "unsupported_media_type",
    "overloaded",
    "internal",
    "index_unavailable",
    "deadline_exceeded",
)

router = APIRouter(route_class=GuardedRoute)


class Feedback(BaseModel):
    """What somebody thinks of a hit of an answer."""

    model_config = ConfigDict(
        extra="forbid",
        title="Feedback",
        strict=True,
        json_schema_extra={
            "examples": [{"query_id": "9f86d081884c7d659a2feaa0c55ad015", "key": "sku-7", "judgement": "good"}]
        },
    )

    query_id: str = Field(pattern=r"^[0-9a-f]{32}$", description="The `query_id` of the answer.")
    key: str = Field(min_length=1, max_length=MAX_KEY_CHARS, description="The key of the hit.")
    judgement: Literal["good", "bad"] = Field(description="Whether it is what was looked for.")


BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": Feedback.model_json_schema()}}}}


@router.post(
    "/feedback",
    response_model=Feedback,
    responses=error_responses(*FEEDBACK_ERRORS),
    openapi_extra=BODY,
    tags=["search"],
)
async def give_feedback(request: Request) -> Response:
    """Takes what a user thinks of a hit, beside the log of queries; of several about the same hit the last counts.

    The answer is what was taken. Where no query log is kept, this is refused.
    """
    lifecycle = lifecycle_of(request)
    log = lifecycle.query_log
    if log is None:
        raise NotFoundError("no feedback is kept here: this service writes no query log")
    threads = lifecycle.resources.body_threads

    async def answer(feedback: Feedback) -> Response:
        record = CURRENT.get()
        is_kept = await threads.run(log.judge, feedback.query_id, feedback.key, feedback.judgement, record)
        if not is_kept:
            raise IndexUnavailableError("the feedback cannot be written now; retry later")
        return Response(feedback.model_dump_json(), media_type="application/json")

    parse = json_parser(request.headers, lifecycle.limits, _read)
    return await exchange(request, threads, parse, answer, lifecycle.settings.request_deadline_ms)


def _read(body: bytes | bytearray) -> Feedback:
    try:
        return Feedback.model_validate(parse_json(body, "the body"))
    except ValidationError as error:
        raise InvalidRequestError(_sentence(error.errors(include_url=False)[0])) from error


def _sentence(detail: ErrorDetails) -> str:
    where = ".".join(map(str, detail["loc"])) or "the body"
    if detail["type"] == "extra_forbidden":
        return f"unknown field {shown(detail['loc'][-1])}; known are query_id, key and judgement"
    if detail["type"] == "string_pattern_mismatch":
        return f"{where} must be the query_id of an answer, 32 of the digits 0-9 and a-f"
    if detail["type"] in ("string_too_short", "string_too_long"):
        return f"{where} must have 1 to {MAX_KEY_CHARS} characters, got {len(detail['input'])}"
    return wrong_value(where, detail)
