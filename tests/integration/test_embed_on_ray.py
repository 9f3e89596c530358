"""An embedding job on a Ray cluster of two workers gives the shards that one process gives, also if one is killed."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from anykey.index import FaissIndex
from anykey.index.jobs.embedding_job import embed_corpus
from anykey.index.jobs.shards import read_shard
from anykey.index.jobs.transfer import load_shards
from anykey.index.settings import EmbedSettings
from tests.factories import write_jsonl
from tests.models import tiny_checkpoint

ROOT = Path(__file__).parents[2]
NUM_KEYS, SHARD_KEYS = 240, 12
NO_RAY = "Ray is not installed: pip install 'anykey[ray]'"
pytestmark = [pytest.mark.timeout(300), pytest.mark.skipif(find_spec("ray") is None, reason=NO_RAY)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def write_corpus(folder: Path) -> Path:
    rows = [{"key": f"k{number}", "text": f"text number {number}"} for number in range(NUM_KEYS)]
    return write_jsonl(folder / "c.jsonl", [*rows, {"key": "bad", "image": "none.jpg"}])


def settings_of(folder: Path, checkpoint: Path) -> EmbedSettings:
    return EmbedSettings(
        corpus=[str(folder / "c.jsonl")],
        checkpoint=str(checkpoint),
        output=str(folder / "local"),
        shard_keys=SHARD_KEYS,
    )


def start_on_ray(folder: Path, checkpoint: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "anykey.index", "embed", "--ray", "auto", "--workers", "2"]
    command += ["--corpus", str(folder / "c.jsonl"), "--checkpoint", str(checkpoint)]
    command += ["--output", str(folder / "ray"), "--shard-keys", str(SHARD_KEYS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def workers_of(process: "subprocess.Popen[str]") -> list[int]:
    """Processes of the job's cluster that embed."""
    parents, found = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if (folder / "cmdline").read_bytes().startswith(b"ray::MapWorker"):
                found.append(int(folder.name))
        except (OSError, ValueError):  # it has ended
            continue
    return [pid for pid in found if process.pid in _ancestors(pid, parents)]


def _ancestors(pid: int, parents: dict[int, int]) -> list[int]:
    ancestors = []
    while pid in parents:
        pid = parents[pid]
        ancestors.append(pid)
    return ancestors


def contents(shards: Path) -> dict[str, list[tuple[str, bytes]]]:
    """Names of shards, and the keys and vectors in each."""
    return {
        path.name: [(record.key, record.vector_D.tobytes()) for batch in read_shard(str(path)) for record in batch]  # type: ignore[union-attr]
        for path in sorted(shards.glob("*.parquet"))
    }


@pytest.mark.slow
def test_killed_worker_is_replaced_and_all_shards_are_made_once(tmp_path: Path, checkpoint: Path) -> None:
    write_corpus(tmp_path)
    embed_corpus(settings_of(tmp_path, checkpoint))
    with start_on_ray(tmp_path, checkpoint) as process:
        killed = []
        while process.poll() is None and not killed:
            time.sleep(0.02)
            if list((tmp_path / "ray").glob("*.parquet")):
                killed = workers_of(process)[:1]
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)
        num_made_before = len(list((tmp_path / "ray").glob("*.parquet")))
        out, err = process.communicate()

    assert process.returncode == 0, err
    assert killed
    assert num_made_before < NUM_KEYS / SHARD_KEYS
    assert f"{NUM_KEYS} keys in {NUM_KEYS // SHARD_KEYS} shards" in out
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    names = {path.name for path in (tmp_path / "ray").iterdir()}
    assert names == {*contents(tmp_path / "local"), "bad_rows.jsonl"}
    assert (tmp_path / "ray" / "bad_rows.jsonl").read_text() == (tmp_path / "local" / "bad_rows.jsonl").read_text()
    assert load_shards([str(tmp_path / "ray")], tmp_path / "i", lambda count: None, "float16") == NUM_KEYS
    with FaissIndex.open(tmp_path / "i") as index:
        assert index.count() == NUM_KEYS
