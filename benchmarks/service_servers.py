"""The services that are measured: ours and others', each a process of its own with the same weights and keys."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.encoder_speed import ARCHITECTURE
from benchmarks.service_inputs import ServiceInputs

START_S = 600.0
CACHE = "cache"  # what services remember, in the folder of their logs
OFFLINE = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "DO_NOT_TRACK": "1"}
OURS, CLIP_RETRIEVAL, INFINITY = "AnyKey", "clip-retrieval", "infinity"


@dataclass(frozen=True)
class Server:
    """A running service.

    Attributes:
        name: What the page calls it.
        url: Where it listens.
        pid: Its process.
    """

    name: str
    url: str
    pid: int

    def memory_bytes(self) -> int:
        """What it has in memory now and shares with nobody, and what it maps of files."""
        line = next(line for line in Path(f"/proc/{self.pid}/status").read_text().splitlines() if "VmRSS" in line)
        return 1024 * int(line.split()[1])

    def processor_s(self) -> float:
        """Processor time that it has taken so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def our_command(inputs: ServiceInputs, port: int) -> list[str | Path]:
    """As a user starts it."""
    served = ["--checkpoint", inputs.checkpoint, "--index", inputs.index, "--port", str(port)]
    return [Path(".venv/bin/anykey-serve").absolute(), *served, "--log-level", "warning", "--device", "cpu"]


def clip_retrieval_command(inputs: ServiceInputs, peers: Path, port: int) -> list[str | Path]:
    """Its back end without what it would fetch over the network."""
    model = f"open_clip:{ARCHITECTURE}/{inputs.open_clip}"
    command: list[str | Path] = [peers / "clip-retrieval" / "bin" / "clip-retrieval", "back", "--port", str(port)]
    command += ["--indices_paths", inputs.indices_paths, "--clip_model", model, "--use_jit", "False"]
    without = ("enable_mclip_option", "provide_safety_model", "provide_violence_detector")
    for flag in (*without, "provide_aesthetic_embeddings"):
        command += [f"--{flag}", "False"]
    return [*command, "--columns_to_return", '["url","caption"]']


def infinity_command(inputs: ServiceInputs, peers: Path, port: int) -> list[str | Path]:
    """Its server on the CPU."""
    command: list[str | Path] = [peers / "infinity" / "bin" / "infinity_emb", "v2", "--model-id", inputs.checkpoint]
    command += ["--engine", "torch", "--device", "cpu", "--port", str(port), "--host", "127.0.0.1"]
    return [*command, "--no-model-warmup", "--log-level", "warning"]


@contextmanager
def serving(name: str, command: Sequence[str | Path], port: int, ready: str, log: Path) -> Iterator[Server]:
    """A service that answers, ended with the block.

    Args:
        name: What the page calls it.
        command: What starts it.
        port: Where it will listen.
        ready: An address that is answered with 200 once it is ready.
        log: Where its output goes.

    Raises:
        RuntimeError: it ended, or was not ready in time; says where its output is.
    """
    environment = {**os.environ, **OFFLINE, "XDG_CACHE_HOME": str(log.parent / CACHE), "PYTHONWARNINGS": "ignore"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(map(str, command)), env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    server = Server(name, f"http://127.0.0.1:{port}", process.pid)
    try:
        _wait_until_ready(process, server.url + ready, log)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    give_up_s = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > give_up_s:
                raise RuntimeError(f"{process.args} is not ready: {error}; its output is in {log}") from error
            time.sleep(0.2)
