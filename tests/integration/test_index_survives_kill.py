"""A build killed with SIGKILL goes on where it was: nothing lost, nothing half-done, nothing embedded twice."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from anykey.encoder.item import Item
from anykey.index import FaissIndex
from anykey.index.jobs.transfer import export_shards
from anykey.index.key_index import NewKey
from anykey.index.publish.directory import WritableDirectory
from tests.corpora import as_parquet, as_shards, small_rows
from tests.factories import build_with, mixed_corpus, reembed_with
from tests.fakes import FakeEncoder
from tests.killing import BATCH_SIZE
from tests.unit.index.jobs.test_build import contents

ROOT = Path(__file__).parents[2]


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "tests.killing", *map(str, arguments)]


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the child forks


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("corpus_format", ["jsonl", "shards", "parquet"])
def test_killed_build_is_resumed_and_embeds_every_key_exactly_once(tmp_path: Path, corpus_format: str) -> None:
    writers = {
        "jsonl": lambda folder: mixed_corpus(folder, 18),
        "shards": lambda folder: as_shards(small_rows(18), folder),
        "parquet": lambda folder: as_parquet(small_rows(18), folder, is_inline=True),
    }
    corpus, log = writers[corpus_format](tmp_path), tmp_path / "log"
    arguments = command("after-batches", corpus, tmp_path / "i", log, "3")
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
    assert process.returncode == -9
    assert WritableDirectory(tmp_path / "i").current() is None
    encoder = FakeEncoder()

    report = build_with(corpus, tmp_path / "i", encoder, batch_size=BATCH_SIZE)

    assert len(log.read_text().splitlines()) == 3 * BATCH_SIZE
    assert report.num_embedded == sum(encoder.batches) == 18 - 3 * BATCH_SIZE
    build_with(corpus, tmp_path / "fresh")
    assert contents(tmp_path / "i") == contents(tmp_path / "fresh")


def old_index(corpus: Path, output: Path, has_live_keys: bool) -> None:
    """An index of the first four keys of the corpus; with two live keys more, one that was changed, and one gone."""
    lines = corpus.read_text().splitlines(keepends=True)
    corpus.write_text("".join(lines[:4]))
    build_with(corpus, output)
    corpus.write_text("".join(lines))
    if has_live_keys:
        with FaissIndex.open(output, writable=True) as index:
            index.upsert([live_key("live-0"), live_key("key-0")])
            index.compact()
            index.upsert([live_key("live-1")])
            index.delete(["key-3"])


def live_key(name: str) -> NewKey:
    return NewKey(name, FakeEncoder().encode([Item("stored live")])[0], "stored live")


def check_sweep(tmp_path: Path, kind: str, stride: int) -> None:
    """Kills builds over nothing, over an old version, or over one with live keys, and looks at what became of each."""
    corpus = mixed_corpus(tmp_path / "corpus", 6)
    old = None if kind == "nothing" else tmp_path / "old"
    if old:
        old_index(corpus, old, kind == "live keys")
    build_with(corpus, tmp_path / "fresh")
    if kind == "live keys":
        with FaissIndex.open(tmp_path / "fresh", writable=True) as index:
            index.upsert([live_key("live-0"), live_key("live-1")])
            index.delete(["key-3"])  # which the corpus names: it stays deleted
    expected = contents(tmp_path / "fresh")
    killed = tmp_path / "killed"
    killed.mkdir()

    subprocess.run(command("sweep", corpus, old or "-", killed, str(stride)), cwd=ROOT, check=True)

    outputs = [path for path in killed.iterdir() if path.is_dir()]
    assert len(outputs) > 60 / stride
    most_embedded = {"nothing": 6, "old": 2, "live keys": 3}[kind] + BATCH_SIZE  # and the batch that was not committed
    for output in outputs:
        assert contents(output) == expected, output
        assert len(Path(f"{output}.log").read_text().splitlines()) <= most_embedded, output
        assert sorted(os.listdir(output)) == [".lock", "CURRENT", "stores", "versions"], output
        (store,) = (output / "stores").iterdir()
        assert os.listdir(store) == ["store.sqlite"], output
    seen = {Path(f"{output}.seen").read_text() for output in outputs}
    assert seen == {"nothing": {"0", "6"}, "old": {"4", "6"}, "live keys": {"5", "7"}}[kind]  # never part of a build


@pytest.mark.usefixtures("one_thread")
def test_build_killed_at_any_step_is_finished_by_the_next(tmp_path: Path) -> None:
    check_sweep(tmp_path, "live keys", stride=13)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", ["nothing", "old", "live keys"])
def test_build_killed_at_every_step_is_finished_by_the_next(tmp_path: Path, kind: str) -> None:
    check_sweep(tmp_path, kind, stride=1)


def check_reembedding_sweep(tmp_path: Path, stride: int) -> None:
    """Kills new embeddings of seven keys, two of them live, and looks at what became of each."""
    corpus, old = mixed_corpus(tmp_path / "corpus", 6), tmp_path / "old"
    old_index(corpus, old, has_live_keys=True)
    shutil.copytree(old, tmp_path / "fresh")
    reembed_with(tmp_path / "fresh", FakeEncoder("another"))
    expected = contents(tmp_path / "fresh")
    killed = tmp_path / "killed"
    killed.mkdir()

    subprocess.run(command("sweep-reembeddings", old, killed, str(stride)), cwd=ROOT, check=True)

    outputs = [path for path in killed.iterdir() if path.is_dir()]
    assert len(outputs) > 50 / stride
    for output in outputs:
        assert contents(output) == expected, output
        assert len(Path(f"{output}.log").read_text().splitlines()) <= 5 + BATCH_SIZE, output
        assert sorted(os.listdir(output)) == [".lock", "CURRENT", "stores", "versions"], output
    seen = {Path(f"{output}.seen").read_text() for output in outputs}
    assert seen == {"fake 5", "another 5"}  # never part of it


@pytest.mark.usefixtures("one_thread")
def test_reembedding_killed_at_any_step_is_finished_by_the_next(tmp_path: Path) -> None:
    check_reembedding_sweep(tmp_path, stride=13)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("one_thread")
def test_reembedding_killed_at_every_step_is_finished_by_the_next(tmp_path: Path) -> None:
    check_reembedding_sweep(tmp_path, stride=1)


def check_load_sweep(tmp_path: Path, kind: str, stride: int) -> None:
    """Kills loads of six keys into nothing, or into an index of four of them, and looks at what became of each."""
    corpus = mixed_corpus(tmp_path / "corpus", 6)
    old = None if kind == "nothing" else tmp_path / "old"
    if old:
        old_index(corpus, old, has_live_keys=False)
    build_with(corpus, tmp_path / "fresh")
    export_shards(tmp_path / "fresh", tmp_path / "shards", lambda count: None)
    killed = tmp_path / "killed"
    killed.mkdir()

    arguments = command("sweep-loads", tmp_path / "shards", old or "-", killed, str(stride))
    subprocess.run(arguments, cwd=ROOT, check=True)

    outputs = [path for path in killed.iterdir() if path.is_dir()]
    assert len(outputs) > 20 / stride
    for output in outputs:
        assert contents(output) == contents(tmp_path / "fresh"), output
        assert sorted(os.listdir(output)) == [".lock", "CURRENT", "stores", "versions"], output
        (store,) = (output / "stores").iterdir()
        assert os.listdir(store) == ["store.sqlite"], output
    seen = {Path(f"{output}.seen").read_text() for output in outputs}
    assert seen == {"nothing": {"0", "6"}, "old": {"4", "6"}}[kind]  # never part of a load


@pytest.mark.usefixtures("one_thread")
def test_load_killed_at_any_step_is_finished_by_the_next(tmp_path: Path) -> None:
    check_load_sweep(tmp_path, "old", stride=13)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", ["nothing", "old"])
def test_load_killed_at_every_step_is_finished_by_the_next(tmp_path: Path, kind: str) -> None:
    check_load_sweep(tmp_path, kind, stride=1)
