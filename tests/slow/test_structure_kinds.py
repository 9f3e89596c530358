"""No name that may be asked for ends the process, whatever its numbers, the width and the number of vectors."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anykey.index.vectors.structure_kinds import LINKS, LISTS

pytestmark = pytest.mark.slow

links = st.sampled_from([*LINKS, 3, 32]) | st.integers(*LINKS)
lists = st.integers(LISTS[0], 80) | st.sampled_from([LISTS[1], 4096])
parts = st.integers(1, 96)
codes = st.sampled_from(["Flat", "SQ8", "RaBitQ", "RaBitQfs"]) | st.builds(
    "PQ{}{}".format, parts, st.sampled_from(["", "x4fs"])
)
names = (
    st.just("SQ8")
    | st.builds("HNSW{}".format, links)
    | st.builds("IVF{},{}".format, lists, codes)
    | st.builds("IVF{}_HNSW{},{}".format, lists, links, codes)
)


class Builder:
    """A process that builds structures, and another when FAISS has ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def build(self, factory: str, width: int, count: int) -> str:
        """How it went; how the process ended, if it did."""
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "tests.slow.build_structures"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([factory, width, count]) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip() or f"ended with {self._process.wait(60)}"

    def stop(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    """One for all names."""
    builder = Builder()
    yield builder
    builder.stop()


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(factory=names, width=st.integers(1, 96), count=st.sampled_from([1, 2, 15, 16, 300]))
def test_no_structure_of_a_kind_ends_the_process(builder: Builder, factory: str, width: int, count: int) -> None:
    assert builder.build(factory, width, count) in ("refused", "untrainable", "found")
