"""The health check, which the images run."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (503, 1), (None, 1)])
def test_health_check_passes_only_when_the_service_is_ready(status: int | None, exit_code: int) -> None:
    class Readiness(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if status and self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stays quiet."""

    with HTTPServer(("127.0.0.1", 0), Readiness) as server:
        port = server.server_address[1]
        if status is None:
            server.server_close()
        else:
            threading.Thread(target=server.handle_request, daemon=True).start()
        assert health({"ANYKEY_PORT": str(port)}) == exit_code


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, ("127.0.0.1", 8000)),
        ({"ANYKEY_PORT": "tcp://10.96.0.12:8000", "ANYKEY_HOST": ""}, ("127.0.0.1", 8000)),
        ({"ANYKEY_PORT": "", "ANYKEY_HOST": "0.0.0.0"}, ("127.0.0.1", 8000)),
        ({"ANYKEY_PORT": "9000", "ANYKEY_HOST": "[::]"}, ("127.0.0.1", 9000)),
        ({"ANYKEY_PORT": "9000", "ANYKEY_HOST": "::1"}, ("::1", 9000)),
    ],
    ids=str,
)
def test_health_check_asks_where_the_service_listens(environment: dict[str, str], address: tuple[str, int]) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'docker')!r}); import healthcheck; print(healthcheck.address())"
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment_with(environment), capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == str(address)


def environment_with(settings: dict[str, str]) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if not name.startswith("ANYKEY_")}, **settings}


def health(settings: dict[str, str]) -> int:
    """Exit code of the health check of a container with these settings."""
    command = [sys.executable, str(ROOT / "docker/healthcheck.py")]
    return subprocess.run(command, env=environment_with(settings), check=False).returncode
