"""An index opened by another process, which does what it is asked line by line; and the asking side of it.

python -m tests.live_process INDEX read|write USER_ID     one JSON request a line on stdin, one JSON answer on stdout
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from index.errors import KeyIndexError
from index.faiss_index import FaissIndex
from index.key_index import Scope
from tests.killed_writers import numbered_key, numbered_vector

ROOT = Path(__file__).parents[1]
NOBODY = 65534


class Process:
    """Another process that has an index open.

    Attributes:
        process: The process.
    """

    def __init__(self, index_dir: Path, mode: str = "read", user_id: int | None = None) -> None:
        """Starts it; raises `RuntimeError` with what the index says if it cannot be opened."""
        arguments = [str(index_dir), mode, str(os.getuid() if user_id is None else user_id)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.live_process", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def ask(self, name: str, *arguments: Any) -> Any:
        """Asks for something and gives the answer; raises `RuntimeError` with what went wrong."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def kill(self) -> None:
        """Ends it with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        kind, answer = json.loads(self.process.stdout.readline() or '["error", "it died"]')
        if kind == "error":
            with self.process:
                self.kill()
            raise RuntimeError(answer)
        return answer


def requests(index: FaissIndex) -> dict[str, Callable[..., Any]]:
    """What can be asked of a process: numbered keys are stored, and told by their numbers."""

    def upsert(numbers: dict[str, int]) -> None:
        index.upsert([numbered_key(key, number) for key, number in numbers.items()])

    def contents() -> dict[str, int]:
        return {stored.key: int(stored.payload.metadata["number"]) for stored in index.scan()}

    def best(number: int) -> list[str]:
        (hits,) = index.search(numbered_vector(number)[None], 1)
        return [hit.key for hit in hits]

    def image_of(key: str) -> str:
        return index.image(key).data.decode()

    def version() -> str:
        return str(index.info().details["version"])

    def count(pool: str) -> int:
        return index.count(Scope(pool=pool))

    def delete(keys: Sequence[str]) -> int:
        return index.delete(keys)

    def compact() -> str:
        return index.compact().version

    return {
        function.__name__: function for function in (upsert, contents, best, image_of, version, count, delete, compact)
    }


def serve(index_dir: Path, mode: str) -> None:
    """Opens the index and answers until stdin ends; then closes it."""
    with FaissIndex.open(index_dir, writable=mode == "write") as index:
        _tell("done", None)
        functions = requests(index)
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            _tell("done", functions[name](*arguments))


def _tell(kind: str, answer: Any) -> None:
    sys.stdout.write(json.dumps([kind, answer]) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if int(sys.argv[3]) != os.getuid():
        os.setgroups([])
        os.setgid(int(sys.argv[3]))
        os.setuid(int(sys.argv[3]))
    try:
        serve(Path(sys.argv[1]), sys.argv[2])
    except (KeyIndexError, OSError) as error:
        _tell("error", f"{type(error).__name__}: {error}")
