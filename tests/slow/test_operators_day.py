"""An operator's day by `docs/operations.md` alone: keys and limits, releases under load, a restored snapshot, a trace.

Everything is done by the commands that the page shows, over a service that listens to other machines.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.service_servers import free_port
from tests.models import tiny_checkpoint
from tests.serving import WAIT_S, until
from tests.unit.service.test_traces import attributes, receiver

SCRIPTS = Path(sys.executable).parent
ENVIRONMENT = {**{k: v for k, v in os.environ.items() if not k.startswith("ANYKEY_")}, "OMP_NUM_THREADS": "1"}
NUM_KEYS = 60
START_S = 600.0  # a machine that others use, too, takes minutes to load the libraries

pytestmark = pytest.mark.slow


def command(folder: Path, line: str) -> str:
    """What a command prints that succeeds; it is run in the folder."""
    name, *arguments = line.split()
    done = subprocess.run(
        [SCRIPTS / name, *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def service(folder: Path, flags: str) -> Iterator[httpx.Client]:
    """A service that other machines reach, ready to answer; its log is `service.log`."""
    port = free_port()
    line = f"--host 0.0.0.0 --port {port} --device cpu --backend torch --check-index-s 0.2 {flags}"
    with (folder / "service.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [SCRIPTS / "anykey-serve", *line.split()], cwd=folder, env=ENVIRONMENT, stderr=log, text=True
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S, trust_env=False) as client:
                until(lambda: process.poll() is not None or is_ready(client), "the service is ready", START_S)
                yield client
        finally:
            process.terminate()
            process.wait(60)


def is_ready(client: httpx.Client) -> bool:
    with suppress(httpx.TransportError):
        return client.get("/readyz").status_code == 200
    return False


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    """The lines of the log with an event."""
    lines = (folder / "service.log").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line.get("event") == name]


def new_key(folder: Path, flags: str) -> dict[str, str]:
    """The header of a new API key."""
    shown = command(folder, f"anykey-serve keys add --api-keys keys/api-keys.json {flags}")
    (key,) = (word for word in shown.split() if word.startswith("anykey_"))
    return {"authorization": f"Bearer {key}"}


def search(client: httpx.Client, text: str, headers: dict[str, str]) -> httpx.Response:
    return client.post("/search", json={"text": text, "k": 1}, headers=headers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints, an index by each, and both published, the second last."""
    folder = tmp_path_factory.mktemp("operator")
    (folder / "keys").mkdir()
    for release in (1, 2):
        (folder / f"runs-{release}").mkdir()
        tiny_checkpoint(folder / f"runs-{release}", seed=release)
        rows = [json.dumps({"key": f"{release}-{n}", "text": f"text number {n}"}) for n in range(NUM_KEYS)]
        (folder / f"corpus-{release}.jsonl").write_text("\n".join(rows), encoding="utf-8")
        made = f"--checkpoint runs-{release}/tiny --output index-{release} --device cpu --backend torch"
        command(folder, f"anykey-index build --corpus corpus-{release}.jsonl {made}")
        published = f"--checkpoint runs-{release}/tiny --index index-{release} --releases releases"
        command(folder, f"anykey-index release {published}")
    return folder


def test_keys_and_limits(folder: Path) -> None:
    shop = new_key(folder, "--name shop --scopes search")
    flags = "--checkpoint runs-1/tiny --index index-1 --api-keys keys/api-keys.json --limit-requests 5/second"
    with service(folder, flags) as client:
        assert search(client, "text number 7", {}).status_code == 401
        assert search(client, "text number 7", shop).json()["hits"][0]["key"] == "1-7"
        assert client.delete("/keys/1-7", headers=shop).status_code == 403
        answers = [search(client, "text number 7", shop) for _ in range(12)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused, "more than five a second"
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        command(folder, "anykey-serve keys revoke --api-keys keys/api-keys.json --name shop")
        until(lambda: search(client, "text number 7", shop).status_code == 401, "the key is revoked without restart")


def test_a_release_is_rolled_forward_and_back_under_load(folder: Path) -> None:
    ops = new_key(folder, "--name ops --scopes admin")
    outcomes: Counter[Any] = Counter()
    ended = threading.Event()

    def ask(client: httpx.Client) -> None:
        while not ended.is_set():
            answer = search(client, "text number 7", ops)
            outcomes[answer.status_code] += 1
            if answer.status_code == 200:
                key, release = answer.json()["hits"][0]["key"], str(answer.json()["release"])
                outcomes["of two releases"] += not key.startswith({"1": "1-"}.get(release, "2-"))

    def release_now(client: httpx.Client) -> str:
        return str(search(client, "text number 7", ops).json()["release"])

    with service(folder, "--release releases --api-keys keys/api-keys.json") as client:
        assert release_now(client) == "2"
        loads = [threading.Thread(target=ask, args=(client,)) for _ in range(3)]
        for load in loads:
            load.start()
        command(folder, "anykey-index rollback --releases releases")
        until(lambda: release_now(client) == "1", "it went back", 60)
        command(folder, "anykey-index release --checkpoint runs-2/tiny --index index-2 --releases releases")
        until(lambda: release_now(client) == "3", "and forward", 60)
        ended.set()
        for load in loads:
            load.join()
    assert outcomes[200] > 20
    assert set(+outcomes) == {200}, "no failed answer, and none that is of two releases"


def test_yesterdays_snapshot_is_restored(folder: Path) -> None:
    ops = new_key(folder, "--name importer --scopes write,search")
    shutil.copytree(folder / "index-1", folder / "index-lost")  # others search the first one
    command(folder, "anykey-index snapshot --index index-lost --output yesterday.tar")
    with service(
        folder, "--checkpoint runs-1/tiny --index index-lost --writable --api-keys keys/api-keys.json"
    ) as client:
        lost = client.post("/keys/delete", json={"filter": {"not": {"field": "none", "eq": 1}}}, headers=ops)
        assert lost.json()["num_deleted"] == NUM_KEYS, lost.text
        assert search(client, "text number 7", ops).json()["hits"] == []
    command(folder, "anykey-index restore --snapshot yesterday.tar --output restored")
    with service(folder, "--checkpoint runs-1/tiny --index restored --api-keys keys/api-keys.json") as client:
        assert search(client, "text number 7", ops).json()["hits"][0]["key"] == "1-7"


def test_a_slow_query_is_explained_by_its_trace(folder: Path) -> None:
    ops = new_key(folder, "--name reader --scopes search")
    with receiver() as (url, spans):
        flags = (
            f"--checkpoint runs-1/tiny --index index-1 --api-keys keys/api-keys.json --slow-ms 0.01 --traces-url {url}"
        )
        with service(folder, flags) as client:
            assert search(client, "text number 9", ops).status_code == 200
            until(lambda: bool(events(folder, "slow_query")), "it is logged")
        slow = events(folder, "slow_query")[0]
        until(lambda: len({span.name for span in spans}) >= 3, "its spans came")
    assert slow["stages_ms"]["encode"] > 0
    ours = [span for span in spans if span.trace_id.hex() == slow["trace_id"]]
    names = {span.name for span in ours}
    assert len(names) >= 3, names
    assert not any("text number 9" in str(attributes(span)) for span in spans)
