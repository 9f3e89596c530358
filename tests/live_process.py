"""An index opened by another process, which does what it is asked line by line; and the asking side of it.

python -m tests.live_process INDEX read|write|fold USER_ID   one JSON request a line on stdin, one JSON answer on stdout
"""

import json
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from anykey.index.changes import Patch, RequestKey
from anykey.index.errors import SearchIndexError
from anykey.index.faiss_index import FaissIndex
from anykey.index.hits import StoredImage
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
        """Asks for something and gives the answer.

        Raises:
            OSError: what was asked for failed for want of room; the process goes on.
            RuntimeError: it failed otherwise, and the process ended.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def limit(self, size_bytes: int = resource.RLIM_INFINITY) -> None:
        """Lets none of its files grow beyond a size, as a full disk would."""
        self.ask("limit", size_bytes)

    def children(self) -> list[int]:
        """Process numbers of those that it has started and that still run."""
        threads = Path(f"/proc/{self.process.pid}/task").iterdir()
        return [int(pid) for thread in threads for pid in (thread / "children").read_text().split()]

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
        if kind == "failed":
            raise OSError(answer)
        if kind == "error":
            with self.process:
                self.kill()
            raise RuntimeError(answer)
        return answer


class Requests:
    """What a process can be asked: numbered keys are stored, and told by their numbers."""

    def __init__(self, index: FaissIndex) -> None:
        self._index = index

    def upsert(self, numbers: dict[str, int]) -> None:
        self._index.upsert([numbered_key(key, number) for key, number in numbers.items()])

    def upsert_large(self, key: str, size_bytes: int) -> None:
        images = (StoredImage(bytes(size_bytes), "image/png"),)
        self._index.upsert([replace(numbered_key(key, 0), images=images)] * 2)

    def delete(self, keys: Sequence[str]) -> int:
        return self._index.delete(keys)

    def patch_once(self, request: str, key: str, number: int) -> bool:
        changes = [Patch(key, {"number": number})]
        return self._index.apply(changes, request=RequestKey(request, str(number).encode())).is_repeat

    def compact(self) -> str:
        return self._index.compact().version

    def contents(self) -> dict[str, int]:
        return {stored.key: int(stored.payload.metadata["number"]) for stored in self._index.scan()}

    def best(self, number: int) -> list[str]:
        (hits,) = self._index.search(numbered_vector(number)[None], 1)
        return [hit.key for hit in hits]

    def image_of(self, key: str) -> str:
        return self._index.image(key).data.decode()

    def version(self) -> str:
        return str(self._index.info().details["version"])

    def limit(self, size_bytes: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))


def serve(index_dir: Path, mode: str) -> None:
    """Opens the index and answers until stdin ends; then closes it."""
    folding: dict[str, Any] = {"compact_after": 1, "fold_in": "process"} if mode == "fold" else {}
    with FaissIndex.open(index_dir, writable=mode != "read", **folding) as index:
        _tell("done", None)
        requests = Requests(index)
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            try:
                _tell("done", getattr(requests, name)(*arguments))
            except (OSError, sqlite3.Error) as error:
                _tell("failed", f"{type(error).__name__}: {error}")


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
    except (SearchIndexError, OSError) as error:
        _tell("error", f"{type(error).__name__}: {error}")
