"""What becomes of keys in a dictionary by a list of changes: the slow, obvious twin of `KeyIndex.apply`."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from anykey.index.changes import ABSENT, PRESENT, Change, Delete, Patch, Put, Status
from anykey.index.key_index import NewKey

FAILURES = {Status.INVALID, Status.PRECONDITION_FAILED}


class ChangedKeys:
    """Keys before and after a list of changes.

    Attributes:
        keys: What is stored after it, by name.
        seqs: The number of the change that stored each.
        last_seq: The number of the last change.
        statuses: What became of each change.
    """

    def __init__(self, keys: Mapping[str, NewKey], seqs: Mapping[str, int], last_seq: int) -> None:
        self.keys, self.seqs, self.last_seq = dict(keys), dict(seqs), last_seq
        self.statuses: list[Status] = []

    def apply(self, changes: Sequence[Change], *, atomic: bool = False) -> None:
        """Makes changes in their order; of all or none, each is tried first, and all are taken back."""
        before = dict(self.keys), dict(self.seqs), self.last_seq
        self.statuses = [self._apply(change) for change in changes]
        failures = [
            status in FAILURES or (status is Status.NOT_FOUND and isinstance(change, Patch))
            for status, change in zip(self.statuses, changes, strict=True)
        ]
        if atomic and any(failures):
            self.keys, self.seqs, self.last_seq = before
            made = (Status.STORED, Status.DELETED)
            self.statuses = [Status.NOT_APPLIED if status in made else status for status in self.statuses]

    def _apply(self, change: Change) -> Status:
        if not is_valid(change):
            return Status.INVALID
        found = self.seqs.get(change.key, ABSENT)
        if change.if_seq == PRESENT:
            is_met = change.key in self.keys
        else:
            is_met = change.if_seq is None or change.if_seq == found
        if not is_met:
            return Status.PRECONDITION_FAILED
        if change.key not in self.keys and not isinstance(change, Put):
            return Status.NOT_FOUND
        self.last_seq += 1
        if isinstance(change, Delete):
            del self.keys[change.key], self.seqs[change.key]
            return Status.DELETED
        self.keys[change.key] = change.new if isinstance(change, Put) else patched(self.keys[change.key], change)
        self.seqs[change.key] = self.last_seq
        return Status.STORED


def is_valid(change: Change) -> bool:
    """Whether a change has the form that an index takes."""
    metadata = change.new.metadata if isinstance(change, Put) else getattr(change, "metadata", None)
    pools = change.new.pools if isinstance(change, Put) else getattr(change, "pools", None)
    try:
        json.dumps(metadata, allow_nan=False)
    except ValueError:
        return False
    return all(pool.strip() for pool in pools or ())


def patched(key: NewKey, patch: Patch) -> NewKey:
    """A key after a patch."""
    metadata = key.metadata
    if patch.metadata is not None:
        metadata = dict(patch.metadata) if patch.overwrites else merge_patch(metadata, patch.metadata)
    return replace(key, metadata=metadata, pools=key.pools if patch.pools is None else tuple(patch.pools))


def merge_patch(target: Any, patch: Any) -> Any:
    """The algorithm of RFC 7396, section 2, word for word."""
    if isinstance(patch, Mapping):
        target = copy.deepcopy(target) if isinstance(target, Mapping) else {}
        for name, value in patch.items():
            if value is None:
                if name in target:
                    del target[name]
            else:
                target[name] = merge_patch(target.get(name), value)
        return target
    return patch
