"""How memory, recall and latency are spelled."""

import pytest
from pydantic import ValidationError

from anykey.index.vectors.structure_facts import DEFAULT_RECALL, Targets, parse_bytes, parse_milliseconds, parse_recall


@pytest.mark.parametrize(
    ("value", "num_bytes"),
    [("4GiB", 4 * 2**30), ("500MB", 500 * 10**6), ("1.5 kib", 1536), ("800", 800), (123, 123)],
)
def test_memory_is_read(value: object, num_bytes: int) -> None:
    assert parse_bytes(value) == num_bytes


@pytest.mark.parametrize(
    ("value", "milliseconds"), [("10ms", 10.0), ("0.5 s", 500.0), ("250us", 0.25), (7, 7.0), (0.1, 0.1)]
)
def test_latency_is_read(value: object, milliseconds: float) -> None:
    assert parse_milliseconds(value) == pytest.approx(milliseconds)


@pytest.mark.parametrize(("value", "recall"), [("0.98", 0.98), (1, 1.0), (0.5, 0.5)])
def test_recall_is_read(value: object, recall: float) -> None:
    assert parse_recall(value) == recall


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        *(("memory_bytes", value, "such as 4GiB or 500MB") for value in ("4 apples", "-1GiB", 0, "", True, [1])),
        *(("latency_ms", value, "such as 10ms or 0.5s") for value in ("10", "ms", "-1ms", 0, "1h", True, "1e400ms")),
        *(("recall", value, "above 0 and at most 1") for value in (0, 1.01, -0.5, "98%", "nan", True, None)),
    ],
)
def test_what_is_no_target_is_refused(field: str, value: object, expected: str) -> None:
    with pytest.raises(ValidationError, match=expected) as caught:
        Targets.model_validate({field: value})
    assert repr(value) in str(caught.value)


def test_without_targets_only_recall_is_asked_for() -> None:
    targets = Targets()

    assert (targets.memory_bytes, targets.recall, targets.latency_ms) == (None, DEFAULT_RECALL, None)


def test_targets_survive_a_manifest() -> None:
    targets = Targets.model_validate({"memory_bytes": "4GiB", "latency_ms": "10ms", "recall": "0.9"})

    assert Targets.model_validate_json(targets.model_dump_json()) == targets
