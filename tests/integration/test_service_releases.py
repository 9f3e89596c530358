"""Processes under load while releases come and go: no failed answer, and none that is of two releases."""

import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from anykey.index.jobs.build import build_index
from anykey.index.jobs.releasing import publish_release, roll_back_release
from anykey.index.settings import BuildSettings, ReleaseSettings
from tests.integration.test_service_process import lines_until, start
from tests.models import tiny_checkpoint
from tests.serving import PLAIN, WAIT_S, until

NUM_CLIENTS = 4
LOAD_S = 60.0  # longest wait for a release on a busy machine


def make(folder: Path, seed: int, releases: Path) -> ReleaseSettings:
    """A checkpoint with weights of this seed, and an index that it built, whose keys say which one."""
    folder.mkdir()
    checkpoint = tiny_checkpoint(folder, seed)
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"key": f"{seed}-{n}", "text": f"text number {n}"}) + "\n" for n in range(50)))
    settings = BuildSettings(corpus=[corpus], checkpoint=str(checkpoint), output=folder / "index", device="cpu")
    build_index(settings, console=Console(quiet=True))
    return ReleaseSettings(checkpoint=str(checkpoint), index=str(folder / "index"), releases=releases, keep=10)


@contextmanager
def process(*flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A service that is ready, and its address."""
    command = [
        "anykey.service",
        "--port",
        "0",
        "--device",
        "cpu",
        "--backend",
        "torch",
        "--check-index-s",
        "0.1",
        *flags,
    ]
    running = start(*command)
    try:
        port = lines_until(running, "event", "listening")["port"]
        lines_until(running, "event", "ready")
        threading.Thread(target=running.communicate, daemon=True).start()  # or it waits until somebody reads its log
        yield running, f"http://127.0.0.1:{port}"
    finally:
        running.kill()
        running.wait(WAIT_S)


class Clients:
    """Clients that search without pause.

    Attributes:
        answers: How many answers there were of each release, with its fingerprint and the release of the keys.
        failures: What was no answer.
    """

    def __init__(self, address: str) -> None:
        self.answers: Counter[tuple[str, str, str]] = Counter()
        self.failures: list[object] = []
        self._address = address
        self._is_done = threading.Event()
        self._threads = [threading.Thread(target=self._search, args=(number,)) for number in range(NUM_CLIENTS)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        for thread in self._threads:
            thread.join(WAIT_S)

    def _search(self, number: int) -> None:
        with httpx.Client(base_url=self._address, timeout=WAIT_S, trust_env=False, verify=PLAIN) as client:
            for count in range(1_000_000):
                if self._is_done.is_set():
                    return
                self._ask(client, f"text number {count % 20} of client {number}")

    def _ask(self, client: httpx.Client, text: str) -> None:
        try:
            answer = client.post("/search", json={"text": text, "k": 3})
        except httpx.HTTPError as error:
            self.failures.append(error)
            return
        if answer.status_code != 200:
            self.failures.append(answer.text)
            return
        found = answer.json()
        (of_keys,) = {hit["key"].partition("-")[0] for hit in found["hits"]}
        self.answers[found["release"], found["model_fingerprint"], of_keys] += 1


def release_of(address: str) -> Any:
    return httpx.get(f"{address}/indexes", trust_env=False, verify=PLAIN).json()["indexes"][0]["release"]


def problems_of(address: str) -> Any:
    return httpx.get(f"{address}/readyz", trust_env=False, verify=PLAIN).json()["problems"]


@pytest.fixture
def made(tmp_path: Path) -> tuple[ReleaseSettings, ReleaseSettings]:
    """Two pairs of encoder and index, neither of which fits to the other's."""
    return make(tmp_path / "first", 1, tmp_path / "releases"), make(tmp_path / "second", 2, tmp_path / "releases")


def test_releases_switch_under_load_without_a_failed_or_a_mixed_answer(
    made: tuple[ReleaseSettings, ReleaseSettings],
) -> None:
    first, second = made
    seed_of = {publish_release(first)[0].number: "1"}
    with process("--release", str(first.releases)) as (running, address), Clients(address) as clients:
        seed_of[publish_release(second)[0].number] = "2"
        until(lambda: release_of(address) == "2", "the switch", LOAD_S)
        (first.releases / "7").mkdir()
        (first.releases / "CURRENT").write_text("7\n")  # a damaged one in between
        until(lambda: bool(problems_of(address)), "it is told", LOAD_S)
        roll_back_release(first.releases, "1")
        until(lambda: release_of(address) == "1", "the way back", LOAD_S)
        num_before = sum(clients.answers.values())
        until(lambda: sum(clients.answers.values()) > num_before + NUM_CLIENTS, "answers of it", LOAD_S)
        maps = Path(f"/proc/{running.pid}/maps")
        until(lambda: f"{first.releases}/2/" not in maps.read_text(), "what is not served takes no memory", LOAD_S)
        mapped = maps.read_text()
    assert clients.failures == []
    assert {release for release, _, _ in clients.answers} == {"1", "2"}
    fingerprints: dict[str, str] = {}
    for release, fingerprint, of_keys in clients.answers:
        assert of_keys == seed_of[release], "hits are of the release that is named"
        assert fingerprints.setdefault(release, fingerprint) == fingerprint, "and so is the encoder"
    assert len(set(fingerprints.values())) == 2
    assert f"{first.releases}/1/" in mapped


@pytest.mark.slow
def test_a_swap_refuses_for_a_while_and_mixes_nothing(made: tuple[ReleaseSettings, ReleaseSettings]) -> None:
    first, second = made
    publish_release(first)
    with (
        process("--release", str(first.releases), "--release-switch", "swap") as (_, address),
        Clients(address) as clients,
    ):
        publish_release(second)
        until(lambda: release_of(address) == "2", "the swap", LOAD_S)
        time.sleep(0.2)
    assert all("is being loaded, and memory holds one" in str(failure) for failure in clients.failures)
    assert clients.failures
    assert {(release, of_keys) for release, _, of_keys in clients.answers} <= {("1", "1"), ("2", "2")}
