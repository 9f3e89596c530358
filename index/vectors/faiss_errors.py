"""What FAISS's errors say to people."""

import re

_PLACE = re.compile(r" at \S+:\d+: (?:Error: )?")
_CONDITION = re.compile(r"'.*' failed: (.+)")  # that does not hold, and what that means


def reason_of(error: RuntimeError | MemoryError) -> str:
    """What FAISS says, without where in its source it says so."""
    said = _PLACE.split((str(error) or "out of memory").splitlines()[0])[-1]
    explained = _CONDITION.fullmatch(said)
    return explained[1] if explained else said
