"""Changes of single keys, checked before the store is locked, each with its outcome."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from anykey.index.changes import ABSENT, PRESENT, Change, Delete, Outcome, Patch, Put, PutBack, Refused, Status, merged
from anykey.index.errors import InvalidKeyError
from anykey.index.store.new_keys import check_patch, dump_metadata, to_record
from anykey.index.store.records import Record

_MADE = frozenset({Status.STORED, Status.DELETED})
_FAILED = frozenset({Status.PRECONDITION_FAILED, Status.INVALID})


@dataclass(frozen=True)
class CheckedChange:
    """A change, and what was found when its form was checked.

    Attributes:
        change: The change.
        record: What a `Put` or a `PutBack` stores.
        refusal: What is wrong with it, if anything is.
    """

    change: Change
    record: Record | None = None
    refusal: str | None = None

    @classmethod
    def of(cls, change: Change, width: int) -> "CheckedChange":
        """Checks a change of an index whose vectors have so many numbers."""
        try:
            if isinstance(change, Put):
                return cls(change, to_record(change.new, width))
            if isinstance(change, PutBack):
                return cls(change, change.record)
            if isinstance(change, Refused):
                return cls(change, refusal=change.reason)
            if isinstance(change, Patch):
                check_patch(change)
            return cls(change)
        except InvalidKeyError as error:
            return cls(change, refusal=str(error))

    def before(self, found_seq: int | None) -> Outcome | None:
        """What comes of it before anything is done, given the number of the stored key; `None`: it is to be done."""
        change, found = self.change, found_seq or ABSENT
        if self.refusal is not None:
            return Outcome(change.key, Status.INVALID, reason=self.refusal)
        if not _holds(change.if_seq, found):
            return Outcome(change.key, Status.PRECONDITION_FAILED, found, reason=_mismatch(change, found))
        if found == ABSENT and not isinstance(change, Put | PutBack):
            return Outcome(change.key, Status.NOT_FOUND, reason=f"no key {change.key!r} in the index")
        return None


def patched(metadata: str, patch: Patch) -> str:
    """Metadata after a patch, as JSON.

    Args:
        metadata: What is stored, as JSON.
        patch: The change.

    Raises:
        InvalidKeyError: what comes of it is nested too deeply.
    """
    if patch.metadata is None:
        return metadata
    try:
        return dump_metadata(dict(patch.metadata) if patch.overwrites else merged(json.loads(metadata), patch.metadata))
    except RecursionError as error:
        raise InvalidKeyError(f"key {patch.key!r} cannot be changed: its metadata are nested too deeply") from error


def is_refused(outcomes: Sequence[Outcome], changes: Sequence[Change]) -> bool:
    """Whether one of the changes could not be made; a key that was to be deleted and is not there is no such case."""
    return any(
        outcome.status in _FAILED or (outcome.status is Status.NOT_FOUND and not isinstance(change, Delete))
        for outcome, change in zip(outcomes, changes, strict=True)
    )


def taken_back(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes of changes that were made and taken back, since others of the same list could not be made."""
    reason = "another change of the same request failed, and all or none were asked for"
    return [
        replace(outcome, status=Status.NOT_APPLIED, seq=None, is_new=False, reason=reason, earlier=None)
        if outcome.status in _MADE
        else outcome
        for outcome in outcomes
    ]


def _holds(if_seq: int | None, found: int) -> bool:
    return if_seq is None or if_seq == found or (if_seq == PRESENT and found != ABSENT)


def _mismatch(change: Change, found: int) -> str:
    is_there = f"it was stored by change {found}" if found else "there is no such key"
    expected = {ABSENT: "no such key", PRESENT: "a stored key"}.get(change.if_seq or 0, f"change {change.if_seq}")
    return f"key {change.key!r}: expected {expected}, but {is_there}"
