"""Protects changes over HTTP while `tune` and `build` have the index: told, refused, and taken afterwards."""

import json
import subprocess
import sys
from pathlib import Path

import httpx

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from anykey.index.store.versions import IndexDirectory
from tests.fakes import FakeEncoder
from tests.live_index import ENCODER, make_index, new_keys
from tests.serving import build_real_index, serving, stored, until

ROOT = Path(__file__).parents[2]
BUILD = """
import sys
from pathlib import Path
from rich.console import Console
from anykey.index.jobs.build import build_index
from anykey.index.settings import BuildSettings
from tests.fakes import FakeEncoder
from tests.serving import ReadyEncoder

class Waiting(FakeEncoder):
    def encode_prepared(self, prepared):
        print("embedding", flush=True)
        sys.stdin.readline()
        return super().encode_prepared(prepared)

settings = BuildSettings(corpus=[Path(sys.argv[1])], checkpoint="given", output=Path(sys.argv[2]), strict=True)
build_index(settings, ReadyEncoder(Waiting()), Console(quiet=True))
"""


def put(client: httpx.Client, key: str = "mine") -> httpx.Response:
    return client.put(f"/keys/{key}", json={"text": "a key of a client"})


def check_refused(client: httpx.Client, process: "subprocess.Popen[str]", job: str) -> None:
    """Makes sure that a change is refused because of a process that does this job, and that searches go on."""
    answer = put(client, "tried")
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], answer.headers["retry-after"]) == (409, "index_locked", "1")
    assert str(process.pid) in error["message"]
    assert job in error["message"]
    assert client.post("/search", json={"text": "text", "k": 1}).status_code == 200


def holder_of(directory: Path) -> int | None:
    """Number of the process that has the index's lock."""
    holder = IndexDirectory(directory).writer()
    return None if holder is None else holder.pid


def version_of(client: httpx.Client) -> str:
    found: str = client.get("/info").json()["index"]["version"]
    return found


def test_changes_are_refused_while_the_index_is_tuned_and_go_on_afterwards(tmp_path: Path) -> None:
    directory = make_index(tmp_path / "index", new_keys(2500))
    encoder = FakeEncoder(name=ENCODER.name, fingerprint=ENCODER.fingerprint)
    with FaissIndex.open(directory) as index, serving(encoder, index, writable=True, writer_idle_s=0.05) as client:
        before = version_of(client)
        command = [sys.executable, "-m", "anykey.index", "tune", "--index", str(directory), "--forget"]
        process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.DEVNULL)
        until(lambda: holder_of(directory) == process.pid, "the tuning has the lock", 120.0)
        check_refused(client, process, "tune")
        assert process.wait(120) == 0
        until(lambda: put(client).status_code == 200, "changes go on")
        until(lambda: version_of(client) != before, "the version that was tuned answers")
        assert client.get("/keys/mine").status_code == 200


def test_changes_are_refused_while_the_index_is_built_and_go_on_afterwards(tmp_path: Path) -> None:
    directory = build_real_index(tmp_path, FakeEncoder(), [stored("kept", Item(text="text"))])
    corpus = tmp_path / "more.jsonl"
    rows = [{"key": "kept", "text": "text"}, {"key": "built", "text": "a key of the corpus"}]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (
        FaissIndex.open(directory) as index,
        serving(FakeEncoder(), index, writable=True, writer_idle_s=0.05) as client,
    ):
        process = subprocess.Popen(
            [sys.executable, "-c", BUILD, str(corpus), str(directory)],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "embedding\n"
        check_refused(client, process, "build")
        assert client.get("/keys/built").status_code == 404
        process.communicate("go on\n" * 9, timeout=60)
        assert process.returncode == 0
        until(lambda: put(client).status_code == 200, "changes go on")
        assert client.get("/keys/built").status_code == 200
        assert {key["key"] for key in client.get("/keys").json()["keys"]} == {"kept", "built", "mine"}
