"""Postings find the keys that `matches` finds, in every row, and name their file when it is damaged."""

import itertools
import json
import random
import sqlite3
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anykey.index.deadline import NEVER
from anykey.index.errors import IndexCorruptError
from anykey.index.filtering.conditions import And, Condition, Equals, Exists, In, Not, Or, Range, matches
from anykey.index.filtering.facets import FieldCounter, Source, ValueFacet
from anykey.index.filtering.postings import (
    CHUNK,
    POSITION_BYTES,
    SCHEMA,
    Posted,
    Postings,
    posted_terms,
    write_postings,
)
from anykey.index.filtering.terms import column_of, is_dated, is_instant, strings_beside
from tests.unit.index.filter_cases import BEYOND, DATES, NEAR_DATES, WITHIN, cases

COLOURS = ("red", "green", "blue")


@contextmanager
def posted(folder: Path, rows: list[Posted], **options: Any) -> Iterator[Postings]:
    """The rows' postings, open."""
    assert write_postings(folder / "fields.sqlite", iter(rows), **options) == len(rows)
    with closing(Postings(folder / "fields.sqlite")) as postings:
        yield postings


def row(found: dict[str, Any], modality: str = "text", pools: tuple[str, ...] = ()) -> Posted:
    return modality, pools, found


def drawn_rows(num_rows: int) -> list[Posted]:
    """Rows with a value that is rare, one that is common, one of its own, and a list."""
    draw = random.Random(num_rows)
    return [
        row(
            {
                "brand": f"b{draw.randrange(300)}",
                "colour": draw.choice(COLOURS),
                "size": {"width": draw.random()},
                "tags": [draw.randrange(9), draw.randrange(9)],
            },
            draw.choice(["text", "image", "fused"]),
            ("even",) if number % 2 == 0 else ("odd", "shop"),
        )
        for number in range(num_rows)
    ]


SOME_CONDITIONS: list[Condition] = [
    Equals(("brand",), "b7"),
    Equals(("colour",), "red"),
    In(("brand",), tuple(f"b{number}" for number in range(0, 300, 50))),
    In(("tags",), (1, 2)),
    Range(("size", "width"), gte=0.1, lt=0.11),
    Range(("size", "width"), gt=0.1),
    Range(("tags",), gte=2, lte=7),
    Range(("brand",), lt="b2"),
    Exists(("size",)),
    Not(Equals(("colour",), "red")),
    And((Equals(("colour",), "red"), Not(Equals(("tags",), 3)), Range(("size", "width"), lt=0.5))),
    Or((Equals(("brand",), "b7"), Not(Exists(("size",))), Equals(("tags",), 8))),
    And((Not(Equals(("tags",), 3)), Not(Equals(("tags",), 4)))),
]


@settings(max_examples=35, deadline=None)
@given(cases(), st.sampled_from([1, 2000, 2**20]))
def test_postings_of_this_schema_and_the_former_agree_with_matches_on_every_row(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[list[Any], list[Condition]], memory_bytes: int
) -> None:
    rows, wanted = case
    folder, keys = tmp_path_factory.mktemp("postings"), [row(each) for each in rows]
    as_former(folder / "former.sqlite", keys)
    with (
        posted(folder, keys, memory_bytes=memory_bytes) as postings,
        closing(Postings(folder / "former.sqlite")) as former,
    ):
        for condition in wanted:
            expected = [position for position, each in enumerate(rows) if matches(condition, each)]
            positions = postings.positions(condition)
            assert positions.dtype == np.int64
            assert positions.tolist() == former.positions(condition).tolist() == expected, condition


@pytest.mark.parametrize("value", [*WITHIN, *BEYOND])
def test_every_comparison_of_every_kind_of_value_agrees_with_matches(tmp_path: Path, value: Any) -> None:
    rows = [{"a": value}, {"a": [None, value]}, {"a": True}, {"a": 1}, {"a": "b"}]
    compared = [*(Equals(("a",), each) for each in WITHIN)]
    bounded = [
        Range(("a",), **{name: each})
        for name in ("gt", "gte", "lt", "lte")
        for each in WITHIN
        if not isinstance(each, bool)
    ]
    with posted(tmp_path, [row(each) for each in rows]) as postings:
        for condition in [*compared, *bounded]:
            expected = [position for position, each in enumerate(rows) if matches(condition, each)]
            assert postings.positions(condition).tolist() == expected, condition


@pytest.mark.parametrize(
    ("num_rows", "conditions"),
    [(4000, SOME_CONDITIONS), (CHUNK + 3000, [Exists(("size",)), Not(Equals(("colour",), "red"))])],  # all over chunks
)
def test_postings_over_many_chunks_and_runs_agree_with_matches(
    tmp_path: Path, num_rows: int, conditions: list[Condition]
) -> None:
    rows = drawn_rows(num_rows)
    with posted(tmp_path, rows, memory_bytes=2**20) as postings:
        for condition in conditions:
            expected = [position for position, (_, _, found) in enumerate(rows) if matches(condition, found)]
            assert postings.positions(condition).tolist() == expected, condition


def test_thousands_of_values_are_found_wherever_they_lie(tmp_path: Path) -> None:
    rows = [row({"n": number}) for number in range(2 * CHUNK)]
    with posted(tmp_path, rows) as postings:
        wanted = (*range(0, 2 * CHUNK, 5), -1, 10**9)
        assert postings.positions(In(("n",), wanted)).tolist() == list(range(0, 2 * CHUNK, 5))


def test_file_is_the_same_whatever_memory_it_was_written_in(tmp_path: Path) -> None:
    rows = drawn_rows(500)
    files = [tmp_path / str(memory_bytes) for memory_bytes in (1, 10_000, 2**26)]
    for file in files:
        write_postings(file, rows, memory_bytes=int(file.name))
    assert len({file.read_bytes() for file in files}) == 1
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_a_term_that_all_keys_have_is_held_in_memory_once(tmp_path: Path) -> None:
    num_keys = 300_000  # so many that what other threads allocate meanwhile is little beside them
    tracemalloc.start()
    try:
        assert write_postings(tmp_path / "f", (("text", (), {}) for _ in range(num_keys))) == num_keys
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 1.9 * POSITION_BYTES * num_keys


def test_modalities_and_pools_have_postings_of_their_own(tmp_path: Path) -> None:
    rows = [
        row({"modality": "image", "a": "shop"}, "text", ("shop",)),
        row({}, "image", ("shop", "b\ud800")),
        row({}, "image", ()),
        row({}, "fused", ("p" * 2000,)),
    ]
    with posted(tmp_path, rows) as postings:
        by_modality = {name: postings.positions_of_modality(name).tolist() for name in ("text", "image", "fused", "x")}
        assert by_modality == {"text": [0], "image": [1, 2], "fused": [3], "x": []}
        assert postings.positions_of_pool("shop").tolist() == [0, 1]
        assert postings.positions_of_pool("p" * 2000).tolist() == [3]
        assert postings.positions_of_pool("p" * 1999).tolist() == []
        assert postings.num_positions == 4


def test_no_keys_are_no_trouble(tmp_path: Path) -> None:
    with posted(tmp_path, []) as postings:
        assert postings.num_positions == 0
        for condition in (Exists(("a",)), Not(Exists(("a",))), Range(("a",), gt=1)):
            assert postings.positions(condition).tolist() == []


def test_answer_belongs_to_the_caller(tmp_path: Path) -> None:
    with posted(tmp_path, [row({"a": 1}), row({"a": 1})]) as postings:
        for condition in (Equals(("a",), 1), Not(Equals(("a",), 2))):
            postings.positions(condition)[:] = 7
            assert postings.positions(condition).tolist() == [0, 1]


def test_threads_read_at_once(tmp_path: Path) -> None:
    rows = drawn_rows(3000)
    with posted(tmp_path, rows) as postings:
        expected = [postings.positions(condition).tolist() for condition in SOME_CONDITIONS]
        together = threading.Barrier(4)

        def read() -> list[list[int]]:
            together.wait()
            return [postings.positions(condition).tolist() for condition in SOME_CONDITIONS]

        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(read) for _ in range(4)]
        assert all(answer.result() == expected for answer in answers)


def test_reading_leaves_no_trace_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "fields.sqlite"
    write_postings(path, drawn_rows(10))
    content = path.read_bytes()
    path.chmod(0o400)
    postings = Postings(path)
    postings.positions(Exists(("tags",)))
    postings.close()
    postings.close()
    assert [each.name for each in tmp_path.iterdir()] == ["fields.sqlite"]
    assert path.read_bytes() == content


def test_writing_starts_anew_after_one_that_failed(tmp_path: Path) -> None:
    path = tmp_path / "fields.sqlite"

    def broken() -> Iterator[Posted]:
        yield row({"a": "old"})
        raise OSError("the store is gone")

    with pytest.raises(OSError, match="the store is gone"):
        write_postings(path, broken(), memory_bytes=1)
    assert not (tmp_path / "fields.sqlite.runs").exists()

    path.write_bytes(b"half a file")
    (tmp_path / "fields.sqlite.runs").write_bytes(b"of a process that was killed")
    with posted(tmp_path, [row({"a": "new"})]) as postings:
        assert postings.positions(Exists(("a",))).tolist() == [0]
        assert postings.positions(Equals(("a",), "old")).tolist() == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a database" * 5000),
        lambda path: path.write_bytes(path.read_bytes()[:20_000]),
        lambda path: _change(path, "PRAGMA user_version = 3"),
        lambda path: _change(path, "PRAGMA application_id = 7"),
        lambda path: _change(path, "DROP TABLE facts"),
        lambda path: _change(path, "DELETE FROM facts"),
        lambda path: _change(path, "UPDATE facts SET num_positions = 'many'"),
        lambda path: _change(path, "UPDATE facts SET num_positions = num_postings + 1"),
        lambda path: _change(path, "UPDATE facts SET num_postings = num_postings + 100000"),
    ],
)
def test_what_holds_no_postings_is_refused_by_name(tmp_path: Path, spoil: Any) -> None:
    path = tmp_path / "fields.sqlite"
    write_postings(path, drawn_rows(100))
    spoil(path)
    with pytest.raises(IndexCorruptError) as error:
        Postings(path)
    assert error.value.path == path


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE terms",
        "DELETE FROM chunks WHERE number = 1; INSERT INTO chunks VALUES (1, zeroblob(8))",
        "UPDATE chunks SET positions = 'text'",
        "UPDATE chunks SET positions = CAST(replace(hex(zeroblob(32768)), '0', 'z') AS BLOB) WHERE number = 0",
        "UPDATE terms SET start = 'text'",
        "UPDATE terms SET start = stop",
        "UPDATE terms SET start = -1",
        "UPDATE terms SET stop = stop + 1000000",
    ],
)
def test_damage_met_while_reading_is_told_by_name(tmp_path: Path, change: str) -> None:
    path = tmp_path / "fields.sqlite"
    write_postings(path, [row({"a": number % 2}) for number in range(CHUNK)])
    _change(path, change)
    both = And((Range(("a",), gte=0), Exists(("a",))))
    with closing(Postings(path)) as postings:
        with pytest.raises(IndexCorruptError) as error:
            postings.positions(both)
        with suppress(IndexCorruptError):  # counting does not look at all of it
            counted(postings)
    assert error.value.path == path


@pytest.mark.parametrize(
    "term",
    [
        b"",
        b"no kind",
        b"a\xff\xfen\x00",
        b"a\xff\xfe\xff",
        b"a\xff\xfei12",
        b"\x80\xff\xfes",
        b"a\xff\xfei9999999:00000.",
    ],
)
def test_a_term_that_is_none_is_told_where_values_are_counted(tmp_path: Path, term: bytes) -> None:
    path = tmp_path / "fields.sqlite"
    write_postings(path, [row({"a": number}) for number in range(3)])
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE terms SET term = ? WHERE start = (SELECT min(start) FROM terms)", (term,))
    with closing(Postings(path)) as postings, pytest.raises(IndexCorruptError) as error:
        counted(postings)
    assert error.value.path == path


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_damaged_file_never_ends_in_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damage") / "fields.sqlite"
    write_postings(path, drawn_rows(60))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 199) | st.integers(0, len(content) - 1))
        content[place : place + 8] = data.draw(st.binary(min_size=1, max_size=8))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        with closing(Postings(path)) as postings:
            answers = [postings.positions(condition).tolist() for condition in SOME_CONDITIONS]
            num_positions = postings.num_positions
            counts = counted(postings)
    except IndexCorruptError as error:
        assert error.path == path  # noqa: PT017
        return
    for positions in answers:
        assert all(low < high for low, high in itertools.pairwise(positions))
        assert not positions or (positions[0] >= 0 and positions[-1] < num_positions)
    assert all(0 < num_keys <= num_positions for num_keys in counts)


def counted(postings: Postings) -> list[int]:
    """How many keys have each of the values that are told of, which can be written as JSON."""
    with postings.reading() as reading:
        counter = FieldCounter([Source(reading, np.ones(postings.num_positions, np.bool_))], NEVER)
        page = counter.fields(None, 100)
        told = [*page.fields, *(counter.count(ValueFacet((name,), 100)) for name in ("brand", "colour", "tags"))]
    values = [value for one in told for value in one.values]
    json.dumps([value for value, _ in values], allow_nan=False)
    return [num_keys for _, num_keys in values]


def _change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(statement)


def as_former(path: Path, rows: list[Posted]) -> None:
    """Writes postings as the former schema has them: dates among the other strings."""
    found: dict[bytes, list[int]] = {}
    for position, each in enumerate(rows):
        for term in posted_terms(each):
            if not is_instant(term):
                name, value = column_of(term)
                former = strings_beside(name) + value if is_dated(term) else term
                found.setdefault(former, []).append(position)
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(SCHEMA.replace("user_version = 2", "user_version = 1"))
        ends = list(itertools.accumulate((len(found[term]) for term in sorted(found)), initial=0))
        spans = [(term, *ends[number : number + 2]) for number, term in enumerate(sorted(found))]
        db.executemany("INSERT INTO terms VALUES (?, ?, ?)", spans)
        positions = np.array([position for term in sorted(found) for position in found[term]], "<u4").tobytes()
        chunks = [positions[start : start + 4 * CHUNK] for start in range(0, len(positions), 4 * CHUNK)]
        db.executemany("INSERT INTO chunks VALUES (?, ?)", enumerate(chunks))
        db.execute("INSERT INTO facts VALUES (?, ?)", (len(rows), ends[-1]))


@pytest.mark.parametrize("value", DATES)
def test_dates_of_the_former_schema_compare_as_moments(tmp_path: Path, value: str) -> None:
    rows = [{"a": each} for each in [*DATES, *NEAR_DATES, "b", 1]] + [{"a": [value, "b"]}, {}]
    as_former(tmp_path / "fields.sqlite", [row(each) for each in rows])
    wanted: list[Condition] = [Equals(("a",), value), In(("a",), (value, "b", 1)), Range(("a",), gt="2024-07")]
    wanted += [Range(("a",), **{name: value}) for name in ("gt", "gte", "lt", "lte")]
    with closing(Postings(tmp_path / "fields.sqlite")) as postings:
        for condition in wanted:
            expected = [position for position, each in enumerate(rows) if matches(condition, each)]
            assert postings.positions(condition).tolist() == expected, condition
