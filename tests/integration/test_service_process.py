"""The service as a process: SIGTERM drains, a taken port and missing files end it with one clear line."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.service.server import listen
from anykey.service.settings import ServiceSettings
from tests.fakes import FakeEncoder
from tests.serving import WAIT_S, build_real_index, counters, port_of, stored, until

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**{k: v for k, v in os.environ.items() if not k.startswith("ANYKEY_")}, "OMP_NUM_THREADS": "1"}


def start(*command: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=ENVIRONMENT | variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_until(process: subprocess.Popen[str], name: str, value: str) -> dict[str, Any]:
    """Reads the log up to the line with this field."""
    assert process.stderr is not None
    for text in process.stderr:
        line: dict[str, Any] = json.loads(text)
        if value in str(line.get(name, "")):
            return line
    raise AssertionError(f"the process ended without logging {name} {value}")


@pytest.fixture
def gated() -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """A service whose encoder waits for a line on standard input, and a client of it."""
    process = start("tests.integration.gated_server")
    try:
        port = lines_until(process, "event", "listening")["port"]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S, trust_env=False) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_drains_and_loses_nothing(
    gated: tuple[subprocess.Popen[str], httpx.Client], number: signal.Signals
) -> None:
    process, client = gated

    def ask(n: int) -> httpx.Response:
        return httpx.post(f"{client.base_url}/search", json={"text": f"query {n}"}, timeout=WAIT_S, trust_env=False)

    with ThreadPoolExecutor(10) as pool:
        answers = [pool.submit(ask, n) for n in range(10)]

        until(lambda: counters(client, "batcher")["queued"] == 9, "one is being encoded, the others wait")
        process.send_signal(number)
        lines_until(process, "message", "Shutting down")
        with pytest.raises(httpx.ConnectError):
            ask(99)
        assert not any(answer.done() for answer in answers), "the gate is closed, so nothing can be answered yet"
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        assert [answer.result().status_code for answer in answers] == [200] * 10
    lines_until(process, "event", "stopped")
    assert process.wait(WAIT_S) == 0


def test_an_idle_service_stops_at_once(gated: tuple[subprocess.Popen[str], httpx.Client]) -> None:
    process, _ = gated
    lines_until(process, "event", "ready")
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == 0


LOADS_FOR_LONG = """
import sys
import time
sys.stderr.write('{"event": "loading"}' + chr(10))
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_model_loads_ends_the_service(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "open_clip.py").write_text(LOADS_FOR_LONG)  # what loading torch and a large checkpoint stand for
    index = build_real_index(tmp_path, FakeEncoder(), [stored("note", Item(text="a note"))])
    arguments = ("--port", "0", "--index", str(index), "--checkpoint", str(tmp_path))
    process = start("anykey.service", *arguments, PYTHONPATH=str(tmp_path))
    try:
        lines_until(process, "event", "loading")
        process.send_signal(number)
        lines_until(process, "event", "stopped")
        assert process.wait(2) == 0
    finally:
        process.kill()
        process.communicate()


def fails(*arguments: str) -> tuple[int, str]:
    """Exit code and last line on stderr of the service started with these arguments."""
    process = start("service", *arguments)
    _, stderr = process.communicate(timeout=WAIT_S * 3)
    lines = stderr.strip().splitlines()
    assert not any(line.startswith("Traceback") for line in lines), stderr
    assert "faiss.loader" not in stderr, "which builds FAISS is without is no news"
    assert [line for line in lines if not line.startswith("{")] == lines[-1:], "one line besides the log"
    return process.returncode, lines[-1]


def test_a_port_in_use_is_one_clear_line() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = port_of(taken)
        code, line = fails("--port", str(port))
    assert code == 1
    assert line.startswith(f"anykey-serve: error: port {port} on 127.0.0.1 is in use; choose another with --port")


def test_a_missing_index_says_how_to_make_one(tmp_path: Path) -> None:
    code, line = fails("--port", "0", "--index", str(tmp_path / "nowhere"))
    assert code == 1
    assert "nowhere" in line
    assert "anykey-index build" in line


def test_a_missing_checkpoint_says_how_to_make_one(tmp_path: Path) -> None:
    index = build_real_index(tmp_path, FakeEncoder(), [stored("note", Item(text="a note"))])
    code, line = fails("--port", "0", "--index", str(index), "--checkpoint", str(tmp_path / "gone"))
    assert code == 1
    assert "gone" in line
    assert "make train" in line


def test_a_wrong_setting_is_named() -> None:
    code, line = fails("--max-k", "0")
    assert code == 2
    assert "max_k" in line


def test_a_host_that_is_not_ours_is_one_clear_line() -> None:
    code, line = fails("--host", "192.0.2.1", "--port", "0")
    assert code == 1
    assert "cannot listen on 192.0.2.1" in line


HAS_IPV6 = socket.has_dualstack_ipv6()
BOTH = ("127.0.0.1", "[::1]") if HAS_IPV6 else ("127.0.0.1",)


@pytest.mark.parametrize(
    ("host", "shown", "reached"),
    [
        pytest.param("localhost", "localhost", BOTH, marks=pytest.mark.slow),
        pytest.param("::", "[::]", BOTH, marks=pytest.mark.skipif(not HAS_IPV6, reason="there is no IPv6 here")),
        pytest.param("0.0.0.0", "0.0.0.0", ("127.0.0.1",), marks=pytest.mark.slow),
    ],
)
def test_every_address_of_the_host_is_served(host: str, shown: str, reached: tuple[str, ...]) -> None:
    """Amid the variables that Kubernetes sets for a Service named `anykey`, and others set to nothing."""
    variables = {"ANYKEY_PORT": "tcp://10.96.0.12:8000", "ANYKEY_SERVICE_HOST": "10.96.0.12", "ANYKEY_FUSION": ""}
    process = start(
        "tests.integration.gated_server", "--host", host, "--allow-anonymous", WEB_CONCURRENCY="", **variables
    )
    try:
        line = lines_until(process, "event", "listening")
        assert line["message"] == f"listening on http://{shown}:{line['port']}"
        for address in reached:
            answer = httpx.get(f"http://{address}:{line['port']}/livez", timeout=WAIT_S, trust_env=False)
            assert answer.status_code == 200
    finally:
        process.kill()
        process.communicate()


def test_an_idle_connection_is_kept_as_long_as_the_setting_says() -> None:
    process = start("tests.integration.gated_server", "--keep-alive-s", "1")
    try:
        port = lines_until(process, "event", "listening")["port"]
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(10_000)
            started_s = time.monotonic()
            assert connection.recv(10) == b"", "the service closes what is idle"
            assert 0.5 < time.monotonic() - started_s < 4.5
    finally:
        process.kill()
        process.communicate()
    assert ServiceSettings().keep_alive_s > 60, "proxies keep theirs for a minute"


def test_the_port_can_be_used_again_at_once() -> None:
    with listen("127.0.0.1", 0) as first:
        port = port_of(first)
        with socket.create_connection(("127.0.0.1", port)):
            first.accept()[0].close()
    with listen("127.0.0.1", port) as second:
        assert port_of(second) == port
