"""A Milvus Lite server in a process of its own, which a test may stop, kill and start again."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.guards.checkout import ROOT

START_S = 30.0
SERVING = """
import sys
from milvus_lite.adapter.grpc.server import run_server

run_server(sys.argv[1], "127.0.0.1", int(sys.argv[2]))
"""


class MilvusServer:
    """Serves one file on one port of this machine.

    Attributes:
        uri: Its address.
    """

    def __init__(self, path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port: int = free.getsockname()[1]
        self._path = path
        self.uri = f"http://127.0.0.1:{self._port}"
        self.process = self._start()

    def restart(self) -> None:
        """Starts it again, on the same port; returns when it listens."""
        self.process = self._start()

    def kill(self) -> None:
        """Ends it, without a word."""
        self.process.kill()
        self.process.communicate()

    def halt(self) -> None:
        """Stops it where it is; returns when its last thread has stopped, which takes a while on a busy machine."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", SERVING, str(self._path), str(self._port)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        give_up_s = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port)).close()
            except ConnectionRefusedError:
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < give_up_s, "the server never listened"
                time.sleep(0.01)
            else:
                return process


@contextmanager
def milvus_server(path: Path) -> Iterator[MilvusServer]:
    """A server for the length of the block."""
    server = MilvusServer(path)
    try:
        yield server
    finally:
        server.kill()
