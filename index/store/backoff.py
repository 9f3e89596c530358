"""Ever longer pauses between tries of what keeps failing, and what is said of it meanwhile."""

import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict

from anykey.index.errors import SearchIndexError

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0


class BackOff:
    """When something that failed may be tried again: after a second, two, four, ..., five minutes."""

    def __init__(self, longest_s: float = LONGEST_PAUSE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._longest_s = longest_s
        self._clock = clock
        self._next_s = float("-inf")
        self.num_failures = 0

    @property
    def is_due(self) -> bool:
        """Whether it may be tried now."""
        return self._clock() >= self._next_s

    def failed(self) -> float:
        """Notes one more failure; gives the seconds until it may be tried again."""
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(self.num_failures, 30), self._longest_s)
        self.num_failures += 1
        self._next_s = self._clock() + pause_s
        return pause_s

    def succeeded(self) -> None:
        """Forgets the failures."""
        self.num_failures, self._next_s = 0, float("-inf")


FAILURE_NAME, NO_FAILURE = "fold_failure", "null"  # in the store


class FoldFailure(BaseModel):
    """The last of some failures to make a new version in the background, as every process is told of it.

    Attributes:
        at: When, ISO 8601, UTC.
        kind: What it was, in a few words that name no files.
        reason: What was said of it.
        num_failures: How often in a row.
        next_try_at: When it is tried again, ISO 8601, UTC, if its writer is still there then.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: str
    kind: str
    reason: str
    num_failures: int
    next_try_at: str

    @classmethod
    def of(cls, error: Exception, num_failures: int, pause_s: float) -> "FoldFailure":
        """What is said of a failure now."""
        now = datetime.now(UTC)
        reason = str(error) if isinstance(error, SearchIndexError | OSError) else f"{type(error).__name__}: {error}"
        return cls(
            at=now.isoformat(timespec="seconds"),
            kind=_kind_of(error),
            reason=reason,
            num_failures=num_failures,
            next_try_at=(now + timedelta(seconds=pause_s)).isoformat(timespec="seconds"),
        )

    @classmethod
    def noted(cls, meta: Mapping[str, Any]) -> "FoldFailure | None":
        """What a writer, of whichever process, has noted in a store."""
        told = meta.get(FAILURE_NAME, NO_FAILURE)
        return None if told == NO_FAILURE else cls.model_validate_json(told)


def _kind_of(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return type(error).__name__
