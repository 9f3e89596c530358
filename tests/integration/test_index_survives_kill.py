"""A build killed with SIGKILL goes on where it was: nothing lost, nothing half-done, nothing embedded twice."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from index.versions import IndexDirectory
from tests.corpora import as_parquet, as_shards, small_rows
from tests.factories import build_with, mixed_corpus
from tests.fakes import FakeEncoder
from tests.killing import BATCH_SIZE
from tests.unit.index.test_build import contents

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
    assert IndexDirectory(tmp_path / "i").current() is None
    encoder = FakeEncoder()

    report = build_with(corpus, tmp_path / "i", encoder, batch_size=BATCH_SIZE)

    assert len(log.read_text().splitlines()) == 3 * BATCH_SIZE
    assert report.num_embedded == sum(encoder.batches) == 18 - 3 * BATCH_SIZE
    build_with(corpus, tmp_path / "fresh")
    assert contents(tmp_path / "i") == contents(tmp_path / "fresh")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("has_old_version", [False, True])
def test_build_killed_at_any_file_operation_is_finished_by_the_next(tmp_path: Path, has_old_version: bool) -> None:
    corpus = mixed_corpus(tmp_path / "corpus", 6)
    old = tmp_path / "old" if has_old_version else None
    if old:
        lines = corpus.read_text().splitlines(keepends=True)
        corpus.write_text("".join(lines[:4]))
        build_with(corpus, old)
        corpus.write_text("".join(lines))
    build_with(corpus, tmp_path / "fresh")
    expected = contents(tmp_path / "fresh")
    killed = tmp_path / "killed"
    killed.mkdir()

    subprocess.run(command("sweep", corpus, old or "-", killed), cwd=ROOT, check=True)

    outputs = [path for path in killed.iterdir() if path.is_dir()]
    assert len(outputs) > 20
    for output in outputs:
        assert contents(output) == expected, output
        embedded = len(Path(f"{output}.log").read_text().splitlines())
        assert embedded <= (2 if old else 6) + BATCH_SIZE, output  # at most the batch that was not committed yet
        assert sorted(os.listdir(output)) == [".lock", "CURRENT", "versions"], output
    seen = {Path(f"{output}.seen").read_text() for output in outputs}
    assert seen == ({"4", "6"} if old else {"0", "6"})  # the old version or the new one, never part of one
