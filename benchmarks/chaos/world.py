"""What is broken: a service over an index that changes, and the Redis beside it, each a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from anykey.encoder.fusion import Fusion
from anykey.encoder.towers.architecture import build, read_architecture
from anykey.encoder.towers.checkpoint import save_checkpoint
from benchmarks.service_servers import free_port

NUM_KEYS = 2_000
START_S = 600.0  # a machine that others use, too, takes minutes to load the libraries
CHECK_S = "0.5"  # how often the service looks at its index, and how long it leaves a failing Redis alone


def text_of(number: int) -> str:
    """The text of a key that never changes."""
    return f"scene {number} of {number * 7919 % 9973}"


def key_of(number: int) -> str:
    """The key of that text."""
    return f"scene-{number}"


class World:
    """A checkpoint with random weights, an index of drawn texts, Redis, and the service.

    Attributes:
        index_dir: The index.
        url: Where the service listens.
        log: What the service logs, of all its lives.
    """

    def __init__(self, folder: Path) -> None:
        """Makes checkpoint and index; nothing runs yet."""
        self.folder = folder
        self.index_dir = folder / "index"
        self.log = folder / "service.log"
        self._checkpoint = folder / "checkpoint"
        self._port, self._redis_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._service: subprocess.Popen[bytes] | None = None
        self._redis: subprocess.Popen[bytes] | None = None
        self._make()

    def _make(self) -> None:
        torch.manual_seed(0)
        architecture = read_architecture("anykey-tiny")
        save_checkpoint(self._checkpoint, architecture, build(architecture).state_dict(), Fusion.RAW, {})
        corpus = self.folder / "corpus.jsonl"
        rows = [json.dumps({"key": key_of(n), "text": text_of(n), "metadata": {"n": n}}) for n in range(NUM_KEYS)]
        corpus.write_text("\n".join(rows) + "\n", encoding="utf-8")
        build_index = ["-m", "anykey.index", "build", "--corpus", str(corpus), "--checkpoint", str(self._checkpoint)]
        command = [sys.executable, *build_index, "--output", str(self.index_dir), "--device", "cpu"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def start_redis(self) -> None:
        """Starts Redis, empty; does nothing while it runs."""
        if self._redis is None or self._redis.poll() is not None:
            command = ["redis-server", "--port", str(self._redis_port), "--bind", "127.0.0.1", "--save", ""]
            self._redis = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def signal_redis(self, number: signal.Signals) -> None:
        """Sends Redis a signal."""
        assert self._redis is not None
        self._redis.send_signal(number)
        if number == signal.SIGKILL:
            self._redis.wait()

    def tell_redis(self, *command: str) -> None:
        """Gives Redis a command."""
        redis = ["redis-cli", "-p", str(self._redis_port), *command]
        subprocess.run(redis, check=True, stdout=subprocess.DEVNULL)

    def start(
        self,
        program: Sequence[str] = ("-m", "anykey.service"),
        environment: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        """Starts the service and waits until it answers searches.

        Raises:
            RuntimeError: it ended, or was not ready in time.
        """
        served = ["--checkpoint", str(self._checkpoint), "--index", str(self.index_dir), "--port", str(self._port)]
        served += ["--redis-url", f"redis://127.0.0.1:{self._redis_port}", "--redis-pause-s", CHECK_S]
        served += ["--check-index-s", CHECK_S, "--writable", "--backend", "torch", "--device", "cpu"]
        ours = {name: value for name, value in os.environ.items() if not name.startswith("ANYKEY_")}
        with self.log.open("ab") as log:
            self._service = subprocess.Popen(
                [sys.executable, *program, *served, "--log-level", "info", *flags],
                env={**ours, "OMP_NUM_THREADS": "1", **(environment or {})},
                stdout=log,
                stderr=log,
            )
        self.wait_until_ready()

    def wait_until_ready(self, within_s: float = START_S) -> float:
        """Waits until the service answers searches; gives back how long that took, in seconds.

        Raises:
            RuntimeError: it ended, or was not ready in time.
        """
        begin_s = time.monotonic()
        while time.monotonic() < begin_s + within_s:
            with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(self.url + "/readyz", timeout=2):
                return time.monotonic() - begin_s
            if self.service.poll() is not None:
                raise RuntimeError(f"the service ended with {self.service.returncode}; its log is {self.log}")
            time.sleep(0.02)
        raise RuntimeError(f"the service was not ready within {within_s:g} s; its log is {self.log}")

    @property
    def service(self) -> "subprocess.Popen[bytes]":
        """The service's process, that of its last life."""
        assert self._service is not None
        return self._service

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends the service by a signal; gives its exit code back."""
        self.service.send_signal(number)
        return self.service.wait(60)

    def close(self) -> None:
        """Ends all processes."""
        for process in (self._service, self._redis):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()

    def resident_bytes(self) -> int:
        """What the service has in memory now; 0 while it does not run."""
        with suppress(OSError, StopIteration):
            lines = Path(f"/proc/{self.service.pid}/status").read_text().splitlines()
            return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])
        return 0

    def unforeseen(self) -> list[str]:
        """Messages of the log that report a fault of ours: `request_failed`, or a traceback outside the log."""
        found = []
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            if '"request_failed"' in line or line.startswith("Traceback"):
                found.append(line[:2000])
        return found
