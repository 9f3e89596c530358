"""Several processes on one index: one writes, the others see it at once, and need no right to write."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from anykey.index import FaissIndex
from anykey.index.errors import IndexLockedError
from tests.factories import build_with, write_jsonl
from tests.fakes import FakeEncoder
from tests.killed_writers import assert_clean, contents_of, numbered_key
from tests.live_index import make_index
from tests.live_process import NOBODY, Process

OLD = {f"k{number}": number for number in range(5)}


@pytest.fixture
def index_dir(tmp_path: Path) -> Path:
    return make_index(tmp_path / "i", [numbered_key(key, number) for key, number in OLD.items()])


def test_reader_sees_at_once_what_another_process_changes(index_dir: Path) -> None:
    with Process(index_dir, "write") as writer, Process(index_dir) as reader, FaissIndex.open(index_dir) as here:
        for round_number in range(5):
            new, number = f"new-{round_number}", 100 + round_number
            writer.ask("upsert", {new: number})
            assert reader.ask("best", number) == [new]
            assert reader.ask("image_of", new) == f"image {number} " * 50
            assert here.get(new).payload.metadata == {"number": number}
            writer.ask("upsert", {new: 200 + round_number})
            assert reader.ask("best", 200 + round_number) == [new]
            assert writer.ask("delete", [new]) == 1
            assert reader.ask("contents") == OLD
            assert here.count() == len(OLD)


def test_reader_follows_across_compaction(index_dir: Path) -> None:
    expected = dict(OLD)
    with Process(index_dir, "write") as writer, Process(index_dir) as reader:
        for number in range(10, 14):
            writer.ask("upsert", {"k0": number, f"new-{number}": number + 100})
            expected |= {"k0": number, f"new-{number}": number + 100}
            assert reader.ask("contents") == expected
            version = writer.ask("compact")
            assert reader.ask("version") == version
            assert reader.ask("best", number) == ["k0"]
            assert reader.ask("contents") == expected
    assert contents_of(index_dir) == expected
    assert sorted(os.listdir(index_dir / "versions")) == ["5", "6"]


def test_old_versions_and_removals_go_while_a_writer_stays_open(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True) as index:
        for number in range(10, 15):
            index.upsert([numbered_key("k0", number)])
            version = int(index.compact().version)
            assert index.get("k0").payload.metadata == {"number": number}
        assert sorted(os.listdir(index_dir / "versions")) == [str(version - 1), str(version)]


def test_reader_follows_across_a_build(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"key": "a", "text": "one", "metadata": {"number": 1}}])
    build_with(corpus, tmp_path / "i")
    with Process(tmp_path / "i") as reader:
        assert reader.ask("contents") == {"a": 1}
        with FaissIndex.open(tmp_path / "i", writable=True) as index:
            index.upsert([numbered_key("live", 2)])
        assert reader.ask("contents") == {"a": 1, "live": 2}
        with corpus.open("a") as file:
            file.write(json.dumps({"key": "b", "text": "two", "metadata": {"number": 3}}) + "\n")

        report = build_with(corpus, tmp_path / "i", FakeEncoder())

        assert reader.ask("contents") == {"a": 1, "b": 3, "live": 2}
        assert reader.ask("version") == report.manifest.version


def test_second_writer_is_refused_and_told_who_writes(index_dir: Path) -> None:
    with Process(index_dir, "write") as writer:
        message = f"is being written by process {writer.process.pid} on .* since .*: an index has one writer at a time"
        with pytest.raises(IndexLockedError, match=message):
            FaissIndex.open(index_dir, writable=True)
        with pytest.raises(RuntimeError, match=f"IndexLockedError.*{message}"):
            Process(index_dir, "write")
        writer.ask("upsert", {"new": 9})
        writer.kill()
    with Process(index_dir, "write") as writer:
        assert writer.ask("contents") == {**OLD, "new": 9}


@pytest.mark.slow
def test_writer_goes_on_where_another_stopped_while_a_reader_stays(index_dir: Path) -> None:
    expected = dict(OLD)
    with Process(index_dir) as reader:
        for number in range(20, 24):
            with Process(index_dir, "write") as writer:
                writer.ask("upsert", {"new": number})
                expected["new"] = number
                assert reader.ask("contents") == expected
                if number % 2:
                    writer.kill()
            assert reader.ask("contents") == expected
    with FaissIndex.open(index_dir, writable=True) as index:
        index.compact()
    assert_clean(index_dir)


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that everybody may read and only root may write to."""
    path = Path(tempfile.mkdtemp(prefix="anykey-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.slow
@pytest.mark.parametrize("end", ["killed", "closed", "open"])
def test_reader_needs_no_right_to_write(open_dir: Path, end: str) -> None:
    index_dir = make_index(open_dir / "i", [numbered_key(key, number) for key, number in OLD.items()])
    with Process(index_dir, "read", NOBODY) as before, Process(index_dir, "write") as writer:
        writer.ask("upsert", {"new": 9})
        assert before.ask("contents") == {**OLD, "new": 9}
        if end == "closed":
            writer.__exit__(None, None, None)
        elif end == "killed":
            writer.kill()
        expected = {**OLD, "new": 9}
        with Process(index_dir, "read", NOBODY) as after:
            assert after.ask("contents") == before.ask("contents") == expected
            assert after.ask("best", 9) == ["new"]
            with contextlib.nullcontext(writer) if end == "open" else Process(index_dir, "write") as another:
                another.ask("upsert", {"newer": 10})
                expected["newer"] = 10
                assert after.ask("contents") == before.ask("contents") == expected
                version = another.ask("compact")
                assert after.ask("version") == before.ask("version") == version
                another.ask("upsert", {"newest": 11})
                expected["newest"] = 11
            assert after.ask("contents") == before.ask("contents") == expected
            assert after.ask("best", 11) == ["newest"]
        with Process(index_dir, "read", NOBODY) as last:
            assert last.ask("contents") == expected


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_writer_needs_the_right_to_write(open_dir: Path) -> None:
    index_dir = make_index(open_dir / "i", [numbered_key(key, number) for key, number in OLD.items()])

    with pytest.raises(RuntimeError, match=r"PermissionError.*\.lock"):
        Process(index_dir, "write", NOBODY)
    assert contents_of(index_dir) == OLD


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    "name", ["CURRENT", "versions/1/manifest.json", "versions/1/rows.npy", "versions/1/fields.sqlite", "store.sqlite"]
)
def test_file_that_may_not_be_read_is_named_and_not_called_damaged(open_dir: Path, name: str) -> None:
    index_dir = make_index(open_dir / "i", [])
    (path,) = index_dir.rglob(name)
    path.chmod(0o600)

    with pytest.raises(RuntimeError, match=f"PermissionError.*Permission denied.*{path.name}"):
        Process(index_dir, "read", NOBODY)
