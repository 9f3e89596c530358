"""How vectors are kept, and what an approximate search is asked to keep to: memory, recall and latency."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, TypeAdapter, ValidationError

VectorType = Literal["float32", "float16"]  # of the exact vectors
DEFAULT_RECALL = 0.98

_UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_DURATION = re.compile(rf"\s*([0-9]*\.?[0-9]+)\s*({'|'.join(_UNITS_MS)})\s*", re.ASCII)
_BYTES: TypeAdapter[ByteSize] = TypeAdapter(ByteSize)


def parse_bytes(value: Any) -> int:
    """Reads an amount of memory.

    Raises:
        ValueError: it is none, or not above 0.

    >>> parse_bytes("4GiB"), parse_bytes("500MB")
    (4294967296, 500000000)
    """
    try:
        num_bytes = 0 if isinstance(value, bool) else int(_BYTES.validate_python(value))
    except ValidationError:
        num_bytes = 0
    if num_bytes <= 0:
        raise ValueError(f"expected an amount of memory such as 4GiB or 500MB, got {value!r}")
    return num_bytes


def parse_milliseconds(value: Any) -> float:
    """Reads a duration; a bare number is milliseconds.

    Raises:
        ValueError: it is none, or not above 0.

    >>> parse_milliseconds("10ms"), parse_milliseconds("0.5s"), parse_milliseconds(2)
    (10.0, 500.0, 2.0)
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        milliseconds = float(value)
    else:
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        milliseconds = float(match[1]) * _UNITS_MS[match[2]] if match else 0.0
    if not 0 < milliseconds < float("inf"):
        raise ValueError(f"expected a duration such as 10ms or 0.5s, got {value!r}")
    return milliseconds


def parse_recall(value: Any) -> float:
    """Reads a share above 0 and at most 1.

    Raises:
        ValueError: it is none.
    """
    try:
        recall = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        recall = float("nan")
    if not 0 < recall <= 1:
        raise ValueError(f"expected a recall above 0 and at most 1, such as 0.98, got {value!r}")
    return recall


# For settings: `--memory 4GiB --recall 0.98 --latency 10ms`
MemoryBytes = Annotated[int, BeforeValidator(parse_bytes)]
LatencyMs = Annotated[float, BeforeValidator(parse_milliseconds)]
Recall = Annotated[float, BeforeValidator(parse_recall)]


class Targets(BaseModel):
    """What to keep to; where not all of it can be had, memory goes before recall, recall before latency.

    Attributes:
        memory_bytes: Most bytes that searches keep in memory; no bound when absent.
        recall: Least recall@10 against exact search.
        latency_ms: Most milliseconds that the typical (median) query alone takes; as fast as can be when absent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory_bytes: MemoryBytes | None = None
    recall: Recall = Field(DEFAULT_RECALL)
    latency_ms: LatencyMs | None = None
