"""Statements of a lent connection stop at the deadline, and at nothing else."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from anykey.index.deadline import Deadline
from anykey.index.errors import DeadlineExceededError
from anykey.index.store.store_file import Connections
from anykey.index.store.store_reader import StoreReader
from anykey.index.store.wal import LARGE_BYTES, WriteAheadLog
from tests.live_index import make_index, new_keys

LONG = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT count(*) FROM n"


@pytest.fixture
def connections() -> Iterator[Connections]:
    with closing(Connections(lambda: sqlite3.connect(":memory:"))) as connections:
        yield connections


def test_long_statement_stops_at_the_deadline(connections: Connections) -> None:
    with pytest.raises(DeadlineExceededError), connections.lent(Deadline(0.0)) as db:
        db.execute(LONG).fetchone()
    with connections.lent() as db:
        assert db.execute(LONG).fetchone() == (100_000,)


def test_other_failure_behind_the_deadline_is_told_as_it_is(connections: Connections) -> None:
    deadline = Deadline(60)

    def fail() -> None:
        with connections.lent(deadline) as db:
            deadline.cancel()
            db.execute("SELECT 1 FROM nowhere")

    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        fail()


def test_reads_behind_what_serves_others_stop_again(tmp_path: Path) -> None:
    index_dir, deadline = make_index(tmp_path / "i", new_keys(3000)), Deadline(60)
    (path,) = (index_dir / "stores").glob("*/store.sqlite")
    counts = []

    def count() -> None:
        with closing(StoreReader(path)) as reader, reader.transaction(deadline) as transaction:
            deadline.cancel()
            with transaction.unhurried():
                counts.append(sum(transaction.count_by_modality().values()))
            counts.append(sum(transaction.count_by_modality().values()))

    with pytest.raises(DeadlineExceededError):
        count()
    assert counts == [3000]


def test_large_log_is_waited_for_no_longer_than_a_second(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "db")) as writer, closing(sqlite3.connect(tmp_path / "db")) as reader:
        writer.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM t").fetchall()
        writer.execute("INSERT INTO t VALUES (2)")
        writer.commit()
        (tmp_path / "large-wal").touch()
        os.truncate(tmp_path / "large-wal", 8 * LARGE_BYTES)  # a size that takes a while to come about

        start_s = time.monotonic()
        WriteAheadLog(writer, tmp_path / "large").keep_small()
        assert time.monotonic() - start_s < 5
