"""Keys of a request to what became of them: embedded, stored by the one writer, and told one by one."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from anykey.index.changes import Applied, Delete, Outcome, Patch, Put, Refused, RequestKey, Status
from anykey.index.key_index import Scope
from anykey.service.errors import (
    STATUS_BY_TYPE,
    InvalidRequestError,
    NotFoundError,
    PreconditionFailedError,
    ServiceError,
    from_type,
)
from anykey.service.keys.changes import KeysToDelete, KeysToStore, KeyToStore, RefusedKey
from anykey.service.keys.embedding import KeyEmbedder
from anykey.service.keys.schemas import ErrorSummary, KeyOutcome
from anykey.service.keys.undoing import UndoableChanges
from anykey.service.keys.writer import KeyWriter

FIRST_TO_RETRY = 429  # statuses from here on tell of the service, not of what was sent
REPLAYED = {"idempotency-replayed": "true"}  # a header of an answer to an earlier request
MADE = frozenset({Status.STORED, Status.DELETED})


@dataclass(frozen=True)
class ReadyChange:
    """A key on its way into the index.

    Attributes:
        change: What the index is asked for.
        is_text_cut: Whether the end of its text is not in its vector; `None` where no text was embedded.
    """

    change: Put | Refused
    is_text_cut: bool | None = None


@dataclass(frozen=True)
class StoredKeys:
    """What became of the keys of a request.

    Attributes:
        outcomes: One for each key, in their order.
        seq: Number of the index's last change right after them.
        is_repeat: Whether this is the answer to an earlier request.
    """

    outcomes: tuple[KeyOutcome, ...]
    seq: int | None
    is_repeat: bool


class KeyStorer:
    """Stores and deletes what requests say; belongs to one event loop, and owns none of its parts."""

    def __init__(
        self,
        embedder: KeyEmbedder,
        writer: KeyWriter,
        undoable: UndoableChanges,
        *,
        deadline_s: float,
        release: str | None = None,
    ) -> None:
        """Joins the parts.

        Args:
            embedder: Makes the vectors.
            writer: Changes the index.
            undoable: Keeps what is asked to be undoable.
            deadline_s: Longest time that a key may wait for its vector.
            release: Name of the release that is changed; `None` where there are none.
        """
        self.writer = writer
        self.release = release
        self._embedder = embedder
        self._undoable = undoable
        self._deadline_s = deadline_s

    @property
    def undo_s(self) -> float | None:
        """How long a change can be undone; `None` where none can be."""
        return self._undoable.keep_s or None if self.writer.puts_back else None

    async def store(self, wanted: KeysToStore, request: RequestKey | None) -> StoredKeys:
        """Stores keys.

        Args:
            wanted: What is to be stored.
            request: By what the request is known, if it may be repeated.

        Raises:
            ServiceError: nothing was stored: this service may not, the only key or, where all or none are wanted, one
                of the keys cannot be, or the service is at fault and the request is to be repeated.
        """
        async with self.writer.held():
            applied = None if request is None else await self.writer.remembered(request)
            ready: list[ReadyChange] = []
            if applied is None:
                ready = await self._ready(wanted.keys)
                if wanted.atomic or request is not None:
                    _require_service(ready)
                changes = [each.change for each in ready]
                applied = await self.writer.apply(changes, atomic=wanted.atomic, request=request)
        stored = _told(wanted, applied, ready, self.release)
        keeps = [isinstance(key, KeyToStore) and key.keeps_earlier for key in wanted.keys]
        return replace(stored, outcomes=tuple(map(self._with_undo, stored.outcomes, applied.outcomes, keeps)))

    async def change(self, change: Patch | Delete, request: RequestKey | None) -> tuple[KeyOutcome, bool]:
        """Patches or deletes one key; gives what became of it, and whether that is the answer to an earlier request.

        Raises:
            ServiceError: nothing was changed.
        """
        async with self.writer.held():
            applied = await self.writer.apply([change], request=request)
        outcome = _required(told(applied.outcomes[0], release=self.release), applied.is_repeat)
        return self._with_undo(outcome, applied.outcomes[0], change.keeps_earlier), applied.is_repeat

    async def undo(self, seq: int, request: RequestKey | None) -> tuple[KeyOutcome, bool]:
        """Takes a change back: its key is again as it was before, with all that a build knows of it.

        Raises:
            ServiceError: nothing was changed, as where the change is not kept, or another one of its key came since.
        """
        async with self.writer.held():
            earlier = None if request is None else await self.writer.remembered(request)
            applied = earlier or await self.writer.apply([self._undoable.undo_of(seq)], request=request)
        outcome = _required(told(applied.outcomes[0], release=self.release), applied.is_repeat)
        self._undoable.done(seq)
        return outcome, applied.is_repeat

    async def delete(self, wanted: KeysToDelete, request: RequestKey | None) -> Applied:
        """Deletes keys by their names or their scope, all or nothing where the engine can, or counts them.

        Raises:
            ServiceError: nothing was deleted.
        """
        async with self.writer.held():
            if wanted.keys is None:
                return await self.writer.delete_scope(wanted.scope, dry_run=wanted.dry_run, request=request)
            if wanted.dry_run:
                return await self.writer.delete_scope(Scope(within=frozenset(wanted.keys)), dry_run=True, request=None)
            return await self.writer.apply([Delete(key) for key in dict.fromkeys(wanted.keys)], request=request)

    def _with_undo(self, outcome: KeyOutcome, made: Outcome, keeps: bool) -> KeyOutcome:
        """The outcome with for how long it can be taken back."""
        return outcome.model_copy(update={"undo_s": self._undoable.note(made, keeps)})

    async def embed(self, key: KeyToStore | RefusedKey) -> ReadyChange:
        """One key with its vector, or with why it has none."""
        if isinstance(key, RefusedKey):
            return ReadyChange(_refused(key.key, key.error))
        try:
            embedded = await self._embedder.embed(key, time.monotonic() + self._deadline_s)
        except ServiceError as error:
            return ReadyChange(_refused(key.key, _placed(error, key.where)))
        return ReadyChange(Put(embedded.new, key.if_seq, key.keeps_earlier), embedded.is_text_cut)

    async def _ready(self, keys: Sequence[KeyToStore | RefusedKey]) -> list[ReadyChange]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.embed(key)) for key in keys]
        return [task.result() for task in tasks]


def _required(outcome: KeyOutcome, is_repeat: bool) -> KeyOutcome:
    """The outcome of a change that was made; raises why it was not."""
    if outcome.error is not None:
        raise _remembered(from_type(outcome.error.type, outcome.error.message), is_repeat)
    return outcome


def _remembered(error: ServiceError, is_repeat: bool) -> ServiceError:
    """The error, which says so where it is the answer to an earlier request."""
    error.headers = REPLAYED if is_repeat else {}
    return error


def told(outcome: Outcome, is_text_cut: bool | None = None, release: str | None = None) -> KeyOutcome:
    """What a client is told of one change of a release."""
    is_made = outcome.status in MADE
    return KeyOutcome(
        key=outcome.key or None,
        status=str(outcome.status) if is_made else "failed",
        seq=outcome.seq if is_made else None,
        is_new=outcome.is_new,
        text_cut=is_text_cut if is_made else None,
        error=None if is_made else _summary(outcome),
        release=release if is_made else None,
    )


def _told(wanted: KeysToStore, applied: Applied, ready: Sequence[ReadyChange], release: str | None) -> StoredKeys:
    """What became of the keys; raises where a client is told of the whole request instead."""
    cuts = [each.is_text_cut for each in ready] or [None] * len(applied.outcomes)
    outcomes = tuple(told(outcome, is_cut, release) for outcome, is_cut in zip(applied.outcomes, cuts, strict=True))
    if wanted.atomic or not wanted.is_list:
        for key, outcome, each in zip(wanted.keys, outcomes, applied.outcomes, strict=True):
            if outcome.error is not None and each.status is not Status.NOT_APPLIED:
                nothing = "; nothing was stored" if wanted.is_list else ""
                error = from_type(outcome.error.type, outcome.error.message + nothing)
                raise _remembered(_placed(error, getattr(key, "where", "")), applied.is_repeat)
    return StoredKeys(outcomes, applied.seq, applied.is_repeat)


def _require_service(ready: Sequence[ReadyChange]) -> None:
    """Raises what is the service's fault: a request that is done whole, or remembered, is better repeated."""
    for each in ready:
        if isinstance(each.change, Refused):
            name, message = _split(each.change.reason)
            if STATUS_BY_TYPE[name] >= FIRST_TO_RETRY:
                raise from_type(name, message)


def _refused(key: str | None, error: ServiceError) -> Refused:
    """A change that holds its place among the others, and remembers the error with them."""
    return Refused(key or "", f"{error.type}: {error.message}")


def _summary(outcome: Outcome) -> ErrorSummary:
    reason = outcome.reason or ""
    if outcome.status is Status.INVALID:
        name, message = _split(reason)
        return ErrorSummary(type=name, message=message)
    kinds: dict[Status, type[ServiceError]] = {
        Status.NOT_FOUND: NotFoundError,
        Status.PRECONDITION_FAILED: PreconditionFailedError,
    }
    kind = kinds.get(outcome.status, InvalidRequestError)
    return ErrorSummary(type=kind.type, message="no such key" if kind is NotFoundError else reason)


def _split(reason: str) -> tuple[str, str]:
    """The type and the message of what was refused here, or of what the index says."""
    name, _, message = reason.partition(": ")
    return (name, message) if name in STATUS_BY_TYPE else (InvalidRequestError.type, reason)


def _placed(error: ServiceError, where: str) -> ServiceError:
    """The same error with the place in the request that it is about."""
    if not where or error.message.startswith(where):
        return error
    return type(error)(f"{where}: {error.message}")
