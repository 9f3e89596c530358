"""Rerank as Jina, Cohere, Voyage, infinity and vLLM have it: documents in the order in which they fit a query.

A document fits by the cosine of its vector with the query's, or by a loaded cross-encoder where `model` names one.

Shape legend: N = documents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from anykey.encoder.protocol import Role
from anykey.service.access.guard import GuardedRoute
from anykey.service.answers.written import WrittenAnswer, write_json
from anykey.service.compat.cohere import CohereMeta, meta_of
from anykey.service.compat.content import item_part
from anykey.service.compat.embedding import Embedding, embed_all
from anykey.service.compat.fields import (
    STARTED_AT,
    UNDONE_OF_VLLM,
    Served,
    Undone,
    check_most_tokens,
    check_number,
    may_cut,
    read_fields,
    refuse_undone,
    served_of,
)
from anykey.service.compat.openapi import EMBED_ERRORS, body_of, dialect_errors
from anykey.service.errors import InvalidRequestError, ItemTooLargeError
from anykey.service.lifecycle import lifecycle_of, parts_of
from anykey.service.queries.query import ItemPart
from anykey.service.queries.wrong_values import shown
from anykey.service.requests.body import json_parser
from anykey.service.requests.context import REQUEST_ID, note
from anykey.service.requests.exchange import exchange
from anykey.service.requests.kept_json import check_kept
from anykey.service.searching.reranking import LoadedReranker

router = APIRouter(route_class=GuardedRoute, tags=["compat"])


UNDONE: Undone = {
    **UNDONE_OF_VLLM,
    "use_activation": ((True,), "scores are those that the model gives, true"),
    "rank_fields": ((), "a document is its text, its images or both; send what counts as its text"),
}


class DocumentsRequest(BaseModel):
    """A query and documents. Unknown fields are ignored, and null counts as absent."""

    model_config = ConfigDict(
        title="DocumentsRequest",
        json_schema_extra={
            "examples": [{"model": "anykey", "query": "a red mug", "documents": ["a mug", "a plate"], "top_n": 1}]
        },
    )

    model: StrictStr | None = Field(
        None, description="One of `rerankers` of GET /info, or a name of the served model. Absent: the latter."
    )
    query: Any = Field(None, description="An item, as for POST /v1/embeddings.")
    documents: list[Any] | None = Field(None, description="Items, as for POST /v1/embeddings.")
    top_n: StrictInt | None = Field(None, description="How many results, the best. Absent: all.")
    top_k: StrictInt | None = Field(
        None, description="Voyage's for `top_n`. A request that has it is answered under `data`, not `results`."
    )
    return_documents: StrictBool | None = Field(None, description="Whether results have the documents. Absent: no.")
    truncation: StrictBool | None = Field(
        None, description="Voyage's: whether a text beyond the model's context is cut; else it is an error."
    )
    max_tokens_per_doc: StrictInt | None = Field(
        None, description="Cohere's: not less than the model's context, where texts are cut."
    )
    truncate_prompt_tokens: StrictInt | None = Field(None, description="vLLM's: -1, as far as the model reads.")
    use_activation: Any = Field(None, description="vLLM's: only true.")
    mm_processor_kwargs: Any = Field(None, description="Refused: images are made ready as the model was trained.")
    rank_fields: Any = Field(None, description="Refused: send what counts of a document as its text.")


class RerankResult(BaseModel):
    """One document."""

    index: int = Field(description="Which of the documents, from 0.")
    relevance_score: float = Field(description="Cosine similarity, or what a cross-encoder gives; higher is better.")
    document: Any = Field(None, description="The document, where it was asked for.")


class RerankUsage(BaseModel):
    """What was computed."""

    prompt_tokens: int = Field(description="Image and text tokens of the query and all documents.")
    total_tokens: int


class RerankResponse(BaseModel):
    """The documents that fit best, best first."""

    object: str = Field(description="`rerank`.")
    id: str
    created: int
    model: str
    usage: RerankUsage
    results: list[RerankResult] | None = Field(None, description="Absent where `data` is there.")
    data: list[RerankResult] | None = Field(None, description="For clients of Voyage, which send `top_k`.")


class CohereRerankResponse(BaseModel):
    """The documents that fit best, best first, for clients of Cohere."""

    id: str
    results: list[RerankResult]
    meta: CohereMeta


@dataclass(frozen=True)
class _Asked:
    """What a request asks for.

    Attributes:
        model: How an answer names the model.
        reranker: The cross-encoder, or `None` for the cosine.
        query: What the documents are to fit.
        documents: Those.
        sent: They as they were sent.
        top: How many of them are told.
        may_cut: Whether long texts are cut.
        fields: All that was said.
    """

    model: str
    reranker: LoadedReranker | None
    query: ItemPart
    documents: tuple[ItemPart, ...]
    sent: Sequence[Any]
    top: int
    may_cut: bool
    fields: DocumentsRequest

    @property
    def is_voyage(self) -> bool:
        """Whether the answer is written for Voyage's clients."""
        return "top_k" in self.fields.model_fields_set or "truncation" in self.fields.model_fields_set


@dataclass(frozen=True)
class _Scored:
    """The documents' scores `[N]`, and what they took through the model."""

    scores_N: Sequence[float]
    num_tokens: int


@router.post(
    "/v1/rerank",
    response_model=RerankResponse,
    responses=dialect_errors(*EMBED_ERRORS),
    openapi_extra=body_of(DocumentsRequest),
)
async def v1_rerank(request: Request) -> Response:
    """Puts documents in the order in which they fit a query, for clients of Jina, Voyage and vLLM."""
    return await _rerank(request, _written)


@router.post(
    "/rerank",
    response_model=RerankResponse,
    responses=dialect_errors(*EMBED_ERRORS),
    openapi_extra=body_of(DocumentsRequest),
)
async def rerank(request: Request) -> Response:
    """Puts documents in the order in which they fit a query, for clients of infinity; the same as `POST /v1/rerank`."""
    return await _rerank(request, _written)


@router.post(
    "/v2/rerank",
    response_model=CohereRerankResponse,
    responses=dialect_errors(*EMBED_ERRORS),
    openapi_extra=body_of(DocumentsRequest),
)
async def v2_rerank(request: Request) -> Response:
    """Puts documents in the order in which they fit a query, for clients of Cohere."""
    return await _rerank(request, _written_for_cohere)


async def _rerank(request: Request, write: Callable[[str, _Asked, _Scored], bytes]) -> Response:
    served, threads = served_of(request), parts_of(request).body_threads
    request_id = str(request.scope.get(REQUEST_ID, ""))

    async def answer(asked: _Asked) -> Response:
        note(request, num_items=len(asked.documents), reranker=asked.reranker is not None)
        scored = await (_by_cosine(request, asked) if asked.reranker is None else _by_reranker(asked, asked.reranker))
        return WrittenAnswer([await threads.run(write, request_id, asked, scored)])

    parse = json_parser(request.headers, served.limits, partial(_asked, served), absent="application/json")
    return await exchange(request, threads, parse, answer, lifecycle_of(request).settings.embed_deadline_ms)


def _asked(served: Served, body: bytearray) -> _Asked:
    """What a body asks for."""
    fields, limits = read_fields(body, DocumentsRequest), served.limits
    refuse_undone(fields, UNDONE)
    reranker = served.rerankers.get(fields.model or "")
    model = _model_of(fields.model, served)
    cutting = may_cut(fields.truncation, "truncation")
    context = served.encoder.context_length if reranker is None else reranker.scorer.max_tokens
    check_most_tokens(fields.max_tokens_per_doc, context, "max_tokens_per_doc")
    if fields.query is None:
        raise InvalidRequestError("query: expected a text, an image, or both; it is absent")
    sent = fields.documents or []
    check_number(len(sent), limits.max_embed_items, "documents")
    if reranker is not None and len(sent) > limits.max_rerank_top:
        most = limits.max_rerank_top
        raise ItemTooLargeError(f"documents: {len(sent)}, at most {most} are accepted for a reranker")
    if fields.return_documents:
        check_kept(sent, "documents")
    return _Asked(
        model=model,
        reranker=reranker,
        query=item_part(fields.query, "query", limits),
        documents=tuple(item_part(value, f"documents[{number}]", limits) for number, value in enumerate(sent)),
        sent=sent,
        top=_top_of(fields, len(sent)),
        may_cut=cutting,
        fields=fields,
    )


def _model_of(name: str | None, served: Served) -> str:
    """How an answer names what scores."""
    if name in served.rerankers:
        return str(name)
    try:
        return served.model_of(name)
    except InvalidRequestError as error:
        known = ", ".join([*served.names, *served.rerankers])
        raise InvalidRequestError(f"model {shown(name)} is not served; known: {known}") from error


def _top_of(fields: DocumentsRequest, num_documents: int) -> int:
    if fields.top_n is not None and fields.top_k is not None:
        raise InvalidRequestError("expected top_n or top_k, got both")
    top = fields.top_n if fields.top_n is not None else fields.top_k
    if top is None:
        return num_documents
    if top < 1:
        name = "top_n" if fields.top_n is not None else "top_k"
        raise InvalidRequestError(f"{name} must be 1 or more, got {top}")
    return min(top, num_documents)


async def _by_cosine(request: Request, asked: _Asked) -> _Scored:
    """The cosine of each document with the query; each is embedded for what it is."""
    width = parts_of(request).encoder.width
    (query,) = await embed_all(request, [asked.query], Role.QUERY, width, may_cut=asked.may_cut)
    documents = await embed_all(request, asked.documents, Role.KEY, width, may_cut=asked.may_cut)
    return _Scored(_cosines(query, documents), sum(one.num_tokens for one in (query, *documents)))


def _cosines(query: Embedding, documents: Sequence[Embedding]) -> list[float]:
    return [float(one.vector_D @ query.vector_D) for one in documents]


async def _by_reranker(asked: _Asked, reranker: LoadedReranker) -> _Scored:
    """A cross-encoder's score of each document with the query."""
    scores, num_tokens = await reranker.score_items(asked.query, asked.documents)
    return _Scored(scores, num_tokens)


def _results(asked: _Asked, scored: _Scored) -> list[dict[str, Any]]:
    """The best documents, equal scores in the order in which they came."""
    order = sorted(range(len(asked.sent)), key=lambda number: -scored.scores_N[number])[: asked.top]
    results: list[dict[str, Any]] = [{"index": number, "relevance_score": scored.scores_N[number]} for number in order]
    if asked.fields.return_documents:
        for result in results:
            document = asked.sent[result["index"]]
            is_wrapped = isinstance(document, str) and not asked.is_voyage
            result["document"] = {"text": document} if is_wrapped else document
    return results


def _written(request_id: str, asked: _Asked, scored: _Scored) -> bytes:
    name = "data" if asked.is_voyage else "results"
    usage = {"prompt_tokens": scored.num_tokens, "total_tokens": scored.num_tokens}
    head = {"object": "rerank", "id": f"rerank-{request_id}", "created": STARTED_AT, "model": asked.model}
    return write_json({**head, "usage": usage, name: _results(asked, scored)})


def _written_for_cohere(request_id: str, asked: _Asked, scored: _Scored) -> bytes:
    return write_json({"id": request_id, "results": _results(asked, scored), "meta": meta_of(search_units=1)})
