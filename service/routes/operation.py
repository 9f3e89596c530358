"""What an operator asks of one index: what is served."""

from fastapi import APIRouter, Request

from anykey.encoder.item import Modality
from anykey.program.machine import release
from anykey.service.access.callers import caller_of
from anykey.service.access.guard import GuardedRoute
from anykey.service.errors import DeadlineExceededError
from anykey.service.indexes.memory import counters_of
from anykey.service.indexes.parts import Parts
from anykey.service.indexes.schemas import (
    ChangesInfo,
    IndexInfo,
    InfoResponse,
    MemoryInfo,
    ModelInfo,
    ReleaseInfo,
    RerankerInfo,
    SearchPace,
    SearchTrial,
)
from anykey.service.indexes.serving import take
from anykey.service.lifecycle import index_of, lifecycle_of, parts_of
from anykey.service.openapi import error_responses
from anykey.service.requests.address import check_parameters

INFO_ERRORS = ("internal", "not_ready", "too_many_connections", "index_unavailable", "deadline_exceeded")

router = APIRouter(route_class=GuardedRoute)


@router.get("/info", responses=error_responses(*INFO_ERRORS), tags=["operation"])
async def info(request: Request) -> InfoResponse:
    """Says which index and which model are served, and what a request may ask for."""
    check_parameters(request)
    lifecycle = lifecycle_of(request)
    parts = parts_of(request)
    encoder = parts.encoder
    try:
        facts = await parts.facts.answer()
    except TimeoutError as error:
        raise DeadlineExceededError("the keys are still being counted; ask again") from error
    of_process = await lifecycle.memory.of_process(caller_of(request.scope).may_see)
    memory = MemoryInfo(index=await lifecycle.memory.of_index(parts), process=of_process)
    return InfoResponse(
        name="anykey",
        version=release(),
        index=IndexInfo(
            engine=facts.engine,
            version=facts.details.get("version"),
            created_at=facts.details.get("created_at"),
            num_keys=facts.num_keys,
            modalities={str(name): count for name, count in facts.modalities.items()},
            pools=facts.pools,
            fold_failure=facts.details.get("fold_failure"),
            pace=_pace(parts),
        ),
        model=ModelInfo(
            name=encoder.name,
            fingerprint=encoder.fingerprint,
            width=encoder.width,
            widths=[width for width in encoder.widths if width < encoder.width],
            fusion=str(encoder.fusion),
            context_length=encoder.context_length,
            device=str(encoder.device),
            backend=encoder.backend,
            precision=encoder.precision,
            why=encoder.why,
        ),
        release=_release(request),
        rerankers=[
            RerankerInfo(
                name=one.name,
                fingerprint=one.fingerprint,
                modalities=[modality for modality in Modality if modality in one.modalities],
                max_tokens=one.max_tokens,
                device=one.device,
            )
            for one in (reranker.scorer for reranker in parts.rerankers.all())
        ],
        limits=lifecycle.limits,
        changes=ChangesInfo(writable=parts.storer.writer.is_writable, undo_s=parts.storer.undo_s),
        memory=memory,
        counters=_counters(parts) | {"memory": _memory_counters(request, memory)},
    )


def _release(request: Request) -> ReleaseInfo:
    served = index_of(request)
    release = take(request.scope, served).release
    if release is None:
        return ReleaseInfo(number=None, created_at=None, note=None, problem=served.problem)
    facts = release.facts
    return ReleaseInfo(number=facts.number, created_at=facts.created_at, note=facts.note, problem=served.problem)


def _pace(parts: Parts) -> SearchPace:
    trials = {
        exact: SearchTrial(
            most_together=trial.most_together,
            alone_ms=trial.alone_ms,
            together_ms={str(size): ms for size, ms in trial.together_ms.items()},
        )
        for exact, trial in parts.pace.trials().items()
    }
    return SearchPace(usual=trials[False], exact=trials[True])


def _memory_counters(request: Request, memory: MemoryInfo) -> dict[str, int]:
    waiting = {"is_room_awaited": int(index_of(request).is_room_awaited)}
    return counters_of(memory.index, memory.process) | waiting


def _counters(parts: Parts) -> dict[str, dict[str, int]]:
    counters = {
        "batcher": parts.batcher.counters(),
        "cache": parts.cache.counters(),
        "results": parts.results.counters(),
        "searches": parts.searcher.counters(),
    }
    rerankers = {f"reranker {one.scorer.name}": one.batcher.counters() for one in parts.rerankers.all()}
    return counters | rerankers
