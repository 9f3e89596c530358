"""Requests that schemathesis makes of the OpenAPI document find no failure, and no answer it does not describe."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from tests.fakes import FakeEncoder
from tests.service_inputs import png
from tests.serving import build_real_index, serving, stored

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A service whose keys may be changed; one of them has a name that is drawn often."""
    encoder = FakeEncoder()
    keys = [
        stored("0", Item(text="a red mug", images=(png(),)), ("shop",), price=3),
        stored("note", Item(text="hello")),
    ]
    with (
        FaissIndex.open(build_real_index(tmp_path, encoder, keys)) as index,
        serving(encoder, index, writable=True) as client,
    ):
        yield str(client.base_url)


def generated(url: str, folder: Path, *options: str) -> int:
    """Runs schemathesis against a service; gives how many requests it sent, all of which have to pass."""
    program = Path(sys.executable).with_name("schemathesis")
    command = [str(program), "run", f"{url}/openapi.json", "--checks", ",".join(CHECKS)]
    command += ["--continue-on-failure", "--no-shrink", "--suppress-health-check", "all", "--request-timeout", "60"]
    done = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    counted = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert counted is not None, done.stdout[-2000:]
    assert counted[1] == counted[2]
    return int(counted[1])


def test_some_requests_of_each_kind_are_answered_as_described(url: str, tmp_path: Path) -> None:
    few = (
        "--phases",
        "examples,fuzzing",
        "--max-examples",
        "3",
        "--seed",
        "1",
        "--exclude-path-regex",
        "^/indexes/.+/",
    )
    assert generated(url, tmp_path, *few) >= 60


@pytest.mark.slow
def test_thousands_of_requests_are_answered_as_described(url: str, tmp_path: Path) -> None:
    assert generated(url, tmp_path, "--phases", "examples,coverage,fuzzing", "--max-examples", "60") >= 5000
