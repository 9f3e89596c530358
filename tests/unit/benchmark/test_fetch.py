"""Datasets are fetched from a hub that speaks Hugging Face's routes, and what came is compared with its listing."""

import copy
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from anykey.benchmark.__main__ import main
from anykey.benchmark.datasets import READERS
from tests.guards.checkout import ROOT
from tests.http_handlers import handled

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXT, PARQUET, ZIP = b"query_id\tcorpus_id\tscore\n", b"PAR1" * 500, b"PK" * 70_000
MMEB = {"TIGER-Lab/MMEB-eval": {"README.md": b"# MMEB", "CIRR/test.parquet": PARQUET, "images.zip": ZIP}}
MIXBENCH = {"mixed-modality-search/MixBench25": {"MSCOCO/qrels/qrels.tsv": TEXT, "MSCOCO/corpus.parquet": PARQUET}}


class FakeHub:
    """Repositories by name, each with its files.

    Attributes:
        repositories: What is served.
        lies: Names of files whose listed digests are others than their contents'.
        sent: Names of the files that were sent.
        url: Its address.
    """

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        self.repositories = repositories
        self.lies: set[str] = set()
        self.sent: list[str] = []
        self.url = ""

    def listed(self, repository: str) -> list[dict[str, Any]]:
        """Names, sizes and digests; what has more than 1,000 bytes counts as large."""
        rows = []
        for name, data in self.repositories[repository].items():
            blob, sha256 = hashlib.sha1(b"blob %d\0" % len(data) + data), hashlib.sha256(data)
            if name in self.lies:
                blob, sha256 = hashlib.sha1(), hashlib.sha256()
            large = {"lfs": {"oid": sha256.hexdigest(), "sha256": sha256.hexdigest(), "size": len(data)}}
            row = {"path": name, "rfilename": name, "type": "file", "size": len(data)}
            row |= {"oid": blob.hexdigest(), "blobId": blob.hexdigest()}
            rows.append(row | ({"lfs": {**large["lfs"], "pointerSize": 130}} if len(data) > 1000 else {}))
        return rows

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        if match := re.fullmatch(r"/api/datasets/([\w.-]+/[\w.-]+)(/revision/\w+|/tree/\w+)?", path):
            if match[1] not in self.repositories:
                return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
            rows = self.listed(match[1])
            info = {"id": match[1], "sha": COMMIT, "siblings": rows, "private": False, "tags": [], "downloads": 0}
            body: Any = rows if "/tree/" in path else info
            return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()
        match = re.fullmatch(rf"/datasets/([\w.-]+/[\w.-]+)/resolve/{COMMIT}/(.+)", path)
        assert match, path
        data = self.repositories[match[1]][match[2]]
        self.sent.append(match[2])
        (row,) = (row for row in self.listed(match[1]) if row["path"] == match[2])
        return 200, {"ETag": f'"{row.get("lfs", row)["oid"]}"', "X-Repo-Commit": COMMIT}, data


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serves on a free port of 127.0.0.1 until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, data = hub.answer(self.path.partition("?")[0])
            self._send(status, headers, data)

        def do_HEAD(self) -> None:
            num_sent = len(hub.sent)
            status, headers, data = hub.answer(self.path.partition("?")[0])
            del hub.sent[num_sent:]
            self._send(status, headers, data, with_body=False)

        def _send(self, status: int, headers: dict[str, str], data: bytes, with_body: bool = True) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with handled(Handler) as hub.url:
        yield hub


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


RUNNER = """
import contextlib, io, json, sys
from anykey.benchmark.__main__ import main
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(json.loads(line))
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


class Fetcher:
    """Runs the command in a process of its own, since the library reads its environment when it is loaded."""

    def __init__(self, url: str, home: Path) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "ANYKEY_"))}
        environment = {**kept, "HF_ENDPOINT": url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
        command = [sys.executable, "-c", RUNNER]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, name: str, output: Path) -> Done:
        """Fetches a dataset."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(["fetch", name, "--output", str(output)]), file=self._process.stdin, flush=True)
        return Done(*json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    """A hub that lacks WebVid-CoVR."""
    with serving(FakeHub(copy.deepcopy({**MIXBENCH, **MMEB}))) as hub:
        yield hub


@pytest.fixture(scope="module")
def fetch(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fetcher]:
    fetcher = Fetcher(hub.url, tmp_path_factory.mktemp("home"))
    yield fetcher
    fetcher.close()


def last_line(done: Done) -> str:
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_what_is_fetched_is_what_the_hub_lists_and_is_fetched_once(
    hub: FakeHub, fetch: Fetcher, tmp_path: Path
) -> None:
    output = tmp_path / "mixbench"
    (files,) = MIXBENCH.values()
    hub.sent.clear()
    done = fetch("mixbench", output)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"2 files of mixed-modality-search/MixBench25 (commit {COMMIT}): {output}/MixBench25"
    ]
    assert {name: (output / "MixBench25" / name).read_bytes() for name in files} == files
    assert sorted(hub.sent) == sorted(files)
    (output / "MixBench25/MSCOCO/corpus.parquet").unlink()
    hub.sent.clear()
    assert fetch("mixbench", output).returncode == 0
    assert hub.sent == ["MSCOCO/corpus.parquet"], "what is there is not fetched again"
    hub.lies = {"MSCOCO/qrels/qrels.tsv"}
    other = fetch("mixbench", tmp_path / "other")
    hub.lies = set()
    assert other.returncode == 1
    assert re.search(
        r"error: 1 of 2 files are not as the hub lists them: .*qrels\.tsv has other contents; remove", last_line(other)
    )


def test_only_what_is_needed_is_fetched_and_the_other_steps_are_told(
    hub: FakeHub, fetch: Fetcher, tmp_path: Path
) -> None:
    output = tmp_path / "mmeb"
    done = fetch("mmeb", output)
    data = hub.repositories["TIGER-Lab/MMEB-eval"].pop("images.zip")
    later = fetch("mmeb", tmp_path / "later")
    hub.repositories["TIGER-Lab/MMEB-eval"]["images.zip"] = data
    assert done.returncode == 2, done.stderr
    assert done.stdout.splitlines()[-1] == f"  1. unzip {output}/MMEB-eval/images.zip -d {output}/MMEB-eval/eval_images"
    assert (output / "MMEB-eval/images.zip").read_bytes() == ZIP
    assert not (output / "MMEB-eval/README.md").exists()
    assert later.returncode == 1
    assert f"{hub.url}/datasets/TIGER-Lab/MMEB-eval has no file 'images.zip' any more" in last_line(later)


def test_a_hub_that_does_not_answer_or_lacks_the_dataset_is_one_line(
    hub: FakeHub, fetch: Fetcher, tmp_path: Path
) -> None:
    lacking = fetch("covr", tmp_path / "covr")
    with socket.socket() as held:  # bound and not listening: connections are refused
        held.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{held.getsockname()[1]}"
        fetcher = Fetcher(nobody, tmp_path / "home")
        silent = fetcher("covr", tmp_path / "covr")
        fetcher.close()
    page = "datasets/lucas-ventura/WebVid-CoVR"
    assert (lacking.returncode, silent.returncode) == (1, 1)
    gone = f"anykey-bench fetch: error: {hub.url}/{page} does not exist, or is shown only to"
    assert last_line(lacking).startswith(gone)
    assert last_line(silent).startswith(f"anykey-bench fetch: error: cannot fetch {nobody}/{page}: ")
    assert len(silent.stderr.splitlines()) == 1


def test_what_may_not_be_fetched_is_told_step_by_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cirr", "fashioniq", "beir", "karpathy", "trec"):
        assert main(["fetch", name, "--output", str(tmp_path / name)]) == 2
        said = capsys.readouterr().out
        assert said.startswith("Left to do by hand")
        assert f"{tmp_path}/{name}" in said
        assert "DIR" not in said
    assert main(["fetch", "imagenet", "--output", str(tmp_path)]) == 2
    assert "there is no dataset 'imagenet', expected one of mbeir, cirr" in capsys.readouterr().err


def test_every_dataset_says_how_it_is_come_by() -> None:
    assert [name for name, reader in READERS.items() if not (reader.card.hub or reader.card.by_hand)] == []
