"""What is remembered of filters is bounded, in number and in bytes, whatever conditions come."""

import numpy as np
from numpy.typing import NDArray

from anykey.index.filtering.conditions import And, Condition, Equals, Exists, In, Not, Or, Range
from anykey.index.filtering.evaluation import (
    LARGEST_SHARE,
    MOST_BYTES,
    MOST_CONDITION_BYTES,
    MOST_ENTRIES,
    Remembered,
    name_of,
)


def positions_remembered() -> Remembered[NDArray[np.int64]]:
    return Remembered(lambda positions: positions.nbytes)


def name(condition: Condition) -> bytes:
    found = name_of(None, None, condition)
    assert found is not None
    return found


def test_number_of_entries_is_bounded_though_they_are_empty() -> None:
    remembered, nothing = positions_remembered(), np.empty(0, np.int64)
    names = [name(Equals(("a",), number)) for number in range(MOST_ENTRIES + 100)]
    for each in names:
        remembered.put(each, nothing)

    assert len(remembered) == MOST_ENTRIES
    assert remembered.get(names[0]) is None
    assert remembered.get(names[-1]) is nothing


def test_bytes_are_bounded_and_what_was_asked_for_last_is_kept() -> None:
    remembered = positions_remembered()
    many = np.zeros(MOST_BYTES // LARGEST_SHARE // 8 - 1000, np.int64)
    names = [name(Equals(("a",), number)) for number in range(10)]
    for each in names:
        remembered.put(each, many)
        remembered.get(names[0])
        assert remembered.num_bytes <= MOST_BYTES

    assert [remembered.get(each) is not None for each in names] == [True, *[False] * 6, *[True] * 3]
    remembered.put(names[0], many)
    assert remembered.num_bytes <= MOST_BYTES


def test_positions_that_would_fill_it_are_not_remembered() -> None:
    remembered = positions_remembered()
    remembered.put(b"all", np.zeros(MOST_BYTES // LARGEST_SHARE // 8 + 1, np.int64))
    assert len(remembered) == remembered.num_bytes == 0


def test_large_conditions_have_no_name() -> None:
    long = "x" * 1000
    values = tuple(f"{long}{number}" for number in range(MOST_CONDITION_BYTES // 1000 + 1))
    for large in (
        In(("a",), values),
        Not(In(("a",), values)),
        Or(tuple(Equals(("a",), value) for value in values)),
        And((Exists((long,)), *(Range((long, str(number)), gte=1) for number in range(50)))),
    ):
        assert name_of(None, None, large) is None
    assert name_of(None, None, In(("a",), tuple(range(1000)))) is not None


def test_names_are_those_of_what_is_asked_for() -> None:
    assert name(In(("a",), (1, 2))) == name(In(("a",), (2.0, 1, 1)))
    assert name(Equals(("a",), 1)) != name(Equals(("a",), True))
    assert name(Equals(("a",), "1")) != name(Equals(("a",), 1))
    different = [
        name_of(*filters)
        for filters in [
            (["text"], None, None),
            (["text", "image"], None, None),
            ([], None, None),
            (None, "text", None),
            (None, "null", None),
            (None, None, Equals(("text",), "text")),
            (["text"], "text", Equals(("text",), "text")),
        ]
    ]
    assert len(set(different)) == len(different)
    assert name_of(["text", "image"], None, None) == name_of(["image", "text", "text"], None, None)
