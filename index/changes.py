"""Changes of keys, one by one or many at once, and what became of each.

A list of changes is applied in its order, and a later one sees what an earlier one did. Each has an outcome of its own.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from anykey.index.errors import InvalidKeyError, UnsupportedError
from anykey.index.key_index import NewKey
from anykey.index.queries import require_names

if TYPE_CHECKING:  # records are of one engine
    from anykey.index.store.records import Record

ABSENT = 0  # as `if_seq`: only if there is no such key; changes are numbered from 1
PRESENT = -1  # as `if_seq`: only if there is such a key, whichever change stored it


@dataclass(frozen=True)
class Put:
    """Stores a key in place of whatever has its name.

    Attributes:
        new: The key.
        if_seq: The number of the change that must have stored what has its name, `ABSENT` or `PRESENT`; `None`: any.
        keeps_earlier: Whether its outcome gives what was there before, for `PutBack`.
    """

    new: NewKey
    if_seq: int | None = None
    keeps_earlier: bool = False

    @property
    def key(self) -> str:
        """Its name."""
        return self.new.key


@dataclass(frozen=True)
class Patch:
    """Changes metadata and pools of a key that is stored, and leaves its vector, text and images as they are.

    Attributes:
        key: Its name.
        metadata: Merged into its metadata as RFC 7396 says: objects are merged name by name, `None` removes a name, and
            any other value is stored in place of the one that is there. `None`: the metadata stay.
        pools: The pools it is in from now on. `None`: the pools stay.
        overwrites: Whether `metadata` are stored in place of those that are there, not merged into them.
        if_seq: As for `Put`.
        keeps_earlier: As for `Put`.
    """

    key: str
    metadata: Mapping[str, Any] | None = None
    pools: Collection[str] | None = None
    overwrites: bool = False
    if_seq: int | None = None
    keeps_earlier: bool = False

    def __post_init__(self) -> None:
        try:
            if self.pools is not None:
                require_names(self.pools, "its pools")
            if not isinstance(self.metadata, Mapping | None):
                raise TypeError(f"expected metadata to be an object, got {type(self.metadata).__name__}")
            if self.metadata is None and self.pools is None:
                raise TypeError("expected metadata or pools to change, got neither")
        except TypeError as error:
            raise InvalidKeyError(f"key {self.key!r} cannot be changed: {error}") from error


@dataclass(frozen=True)
class Delete:
    """Deletes a key, if it is there.

    Attributes:
        key: Its name.
        if_seq: As for `Put`.
        keeps_earlier: As for `Put`.
    """

    key: str
    if_seq: int | None = None
    keeps_earlier: bool = False


@dataclass(frozen=True)
class PutBack:
    """Stores a key again exactly as it was before a change, with all that a build remembers of it.

    Attributes:
        record: What the outcome of that change gave as `earlier`.
        if_seq: As for `Put`.
    """

    record: "Record"
    if_seq: int | None = None
    keeps_earlier: bool = False

    @property
    def key(self) -> str:
        """Its name."""
        return self.record.key


@dataclass(frozen=True)
class Refused:
    """Holds the place of a change that cannot be made, so that its refusal is told, and remembered, with the others.

    Attributes:
        key: The key's name; empty where nobody knows it.
        reason: Why, for its outcome.
    """

    key: str
    reason: str
    if_seq: None = None
    keeps_earlier: bool = False


Change = Put | Patch | Delete | PutBack | Refused


class Status(StrEnum):
    """What became of a change."""

    STORED = "stored"
    DELETED = "deleted"
    NOT_FOUND = "not_found"
    PRECONDITION_FAILED = "precondition_failed"
    INVALID = "invalid"
    NOT_APPLIED = "not_applied"


@dataclass(frozen=True)
class Outcome:
    """What became of one change.

    Attributes:
        key: The key's name.
        status: `stored` and `deleted`: it was made. `not_found`: there is no such key to delete or patch.
            `precondition_failed`: `if_seq` does not hold. `invalid`: the key cannot be stored like that. `not_applied`:
            nothing is wrong with it, but another change of the same list failed, and all or none were asked for.
        seq: The number of the change, where it was made. Where a precondition failed, the number of the change that
            stored what is there, or `ABSENT`. `None` otherwise, and where the engine does not number changes.
        is_new: Of a key that was stored: whether there was none of its name before.
        reason: Why it was not made, in a sentence.
        earlier: What was stored under its name before, where the change keeps it, and it can be read whole.
    """

    key: str
    status: Status
    seq: int | None = None
    is_new: bool = False
    reason: str | None = None
    earlier: "Record | None" = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Applied:
    """What became of a request for changes.

    Attributes:
        outcomes: One per change, in their order; none for keys that were deleted by their scope.
        num_deleted: How many keys were deleted, or would be.
        seq: Number of the index's last change right after it; `None` where the engine does not number changes.
        is_repeat: Whether it is the answer to an earlier request with the same idempotency key; nothing was done now.
    """

    outcomes: tuple[Outcome, ...] = ()
    num_deleted: int = 0
    seq: int | None = None
    is_repeat: bool = False


@dataclass(frozen=True)
class RequestKey:
    """By what a repeated request is known, so that it is answered again and not done twice.

    Attributes:
        name: The idempotency key, which the client chose.
        digest: Of all that the request says; another request under the same name is refused.
    """

    name: str
    digest: bytes


@dataclass(frozen=True)
class Capabilities:
    """What an engine promises of changes, beside making them.

    Attributes:
        numbers_changes: Stored keys have a `seq`, and a change may depend on it (`if_seq`).
        is_atomic: A list of changes can be applied all or nothing.
        remembers_requests: A request with a `RequestKey` is done once.
        puts_back: A change can give what was there before (`keeps_earlier`), and a `PutBack` stores it again.
    """

    numbers_changes: bool
    is_atomic: bool
    remembers_requests: bool
    puts_back: bool

    def require(self, engine: str, changes: Collection[Change], *, atomic: bool, request: RequestKey | None) -> None:
        """Makes sure that the engine promises all that is asked of it.

        Raises:
            UnsupportedError: it does not; says what.
        """
        if not self.numbers_changes and any(change.if_seq is not None for change in changes):
            raise UnsupportedError(f"{engine} does not number changes, so none can depend on a key's sequence number")
        if not self.puts_back and any(change.keeps_earlier or isinstance(change, PutBack) for change in changes):
            raise UnsupportedError(f"{engine} does not keep what was there before a change, so none can be undone")
        if atomic and not self.is_atomic:
            raise UnsupportedError(f"{engine} has no transactions, so changes cannot be applied all or nothing")
        if request is not None and not self.remembers_requests:
            raise UnsupportedError(f"{engine} cannot remember idempotency keys; leave the key out")


def merged(value: Any, patch: Any) -> Any:
    """A JSON value after a merge patch, as RFC 7396 says; neither argument is changed."""
    if not isinstance(patch, Mapping):
        return patch
    names = dict(value) if isinstance(value, Mapping) else {}
    for name, inner in patch.items():
        if inner is None:
            names.pop(name, None)
        else:
            names[name] = merged(names.get(name), inner)
    return names
