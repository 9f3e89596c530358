"""The service as a program of its own over an index directory, with an encoder that takes no time to load; its client.

python -m tests.changing_server --index DIRECTORY [--writable] ...
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from anykey.program.settings import load_settings
from anykey.service.server import serve
from anykey.service.settings import ServiceSettings
from tests.fakes import FakeEncoder
from tests.serving import WAIT_S, until

ROOT = Path(__file__).parents[1]
START_S = 300.0  # a second, mostly; on a machine whose cores others have, minutes


class ServiceProcess:
    """A process that serves an index.

    Attributes:
        client: Asks it.
    """

    def __init__(self, index_dir: Path, *flags: str) -> None:
        """Starts it, and waits until it answers; one that does not is ended."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANYKEY_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.changing_server", "--index", str(index_dir), "--port", "0", *flags],
            cwd=ROOT,
            env=environment | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=self._log,  # no pipe: one that nobody reads is full some time, and the service waits for it
        )
        try:
            self.client = httpx.Client(
                base_url=f"http://127.0.0.1:{self._port()}", timeout=WAIT_S, trust_env=False, follow_redirects=False
            )
            until(self._is_ready, "the service is ready", START_S)
        except BaseException:
            self._end()
            raise

    def kill(self) -> None:
        """Ends it with SIGKILL."""
        self._end()
        self.client.close()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def _is_ready(self) -> bool:
        time.sleep(0.05)
        return self.client.get("/readyz").status_code == 200

    def _port(self) -> int:
        found: list[int] = []

        def is_listening() -> bool:
            time.sleep(0.05)  # the process needs the cores more
            assert self._process.poll() is None, "the process ended without listening"
            # Its place in the file is that of the process, too, which writes there: nobody else may move it.
            log = os.pread(self._log.fileno(), 2**20, 0)
            lines = [json.loads(line) for line in log.splitlines(keepends=True) if line.endswith(b"}\n")]
            found.extend(line["port"] for line in lines if line.get("event") == "listening")
            return bool(found)

        until(is_listening, "the service listens", START_S)
        return found[0]


@contextmanager
def service_process(index_dir: Path, *flags: str) -> Iterator[ServiceProcess]:
    """A process that serves an index, killed at the end."""
    process = ServiceProcess(index_dir, *flags)
    try:
        yield process
    finally:
        process.kill()


def main() -> int:
    """Serves until a signal comes."""
    settings = load_settings(ServiceSettings, "changing-server", sys.argv[1:])
    return serve(settings, encoder=FakeEncoder())


if __name__ == "__main__":
    raise SystemExit(main())
