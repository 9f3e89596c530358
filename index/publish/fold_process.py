"""Folding in a process of its own, at low priority and on half of the cores, so that searches go on as ever.

The child reads the store and writes the files of the next version into `folding/`, and no more. The parent, which goes
on committing, makes a version of them and announces it, as it does with what it folds itself. So readers see nothing of
it if the child ends, at whatever time. The child has the index's lock together with its parent, until both have ended:
if the parent is killed, the next writer waits until the child has ended, too, before it clears `folding/` away.

    python -m anykey.index.publish.fold_process     one request as a line of JSON on stdin, answers as lines on stdout

The child ends with its parent: stdin closes, and on Linux the kernel kills it.
"""

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from anykey.index.errors import FoldFailedError, IndexCorruptError, InvalidStructureError
from anykey.index.publish.directory import WritableDirectory
from anykey.index.publish.folding import derive, provenance_of
from anykey.index.store.manifest import FoldOptions, Manifest
from anykey.index.store.versions import open_published
from anykey.index.vectors.structures import GpuUse
from anykey.program.files import sync_all
from anykey.program.machine import num_cores
from anykey.program.progress import Report

KILLED_WITH_PARENT = 1  # PR_SET_PDEATHSIG
LOW_PRIORITY = 10  # a tenth of what a search gets; of less, nothing would come on a machine that is always busy
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoldRequest:
    """What a child is asked for.

    Attributes:
        index_dir: The index directory, whose published version tells where its keys come from.
        options: How the next version is derived.
        gpu: GPUs that help.
    """

    index_dir: Path
    options: FoldOptions
    gpu: GpuUse

    def line(self) -> str:
        """As one line of JSON."""
        options = self.options.model_dump(mode="json")
        facts = [str(self.index_dir.absolute()), options, list(self.gpu.gpus), self.gpu.temporary_bytes]
        return json.dumps(facts) + "\n"

    @classmethod
    def of(cls, line: str) -> "FoldRequest":
        """What a line says."""
        index_dir, options, gpus, temporary_bytes = json.loads(line)
        gpu = GpuUse(tuple(gpus), temporary_bytes)
        return cls(Path(index_dir), FoldOptions.model_validate(options), gpu)


class FoldProcess:
    """Derives versions in a child process; for one thread at a time, but for `stop`."""

    def __init__(self, lock_fd: int) -> None:
        """Starts nothing yet.

        Args:
            lock_fd: The file that is locked for writing, which the child keeps open.
        """
        self._lock_fd = lock_fd
        self._child: subprocess.Popen[str] | None = None
        self._guard = threading.Lock()
        self._is_stopped = False

    @property
    def pid(self) -> int | None:
        """The child's process number, while there is one."""
        child = self._child
        return None if child is None else child.pid

    def derive(self, directory: WritableDirectory, options: FoldOptions, report: Report, gpu: GpuUse) -> Manifest:
        """Writes the files of the next version into `folding/`; gives what it says about itself.

        Raises:
            FoldFailedError: the child was killed or stopped, or failed in a way that nobody foresaw.
            IndexCorruptError, InvalidStructureError, OSError: as `folding.fold`.
        """
        with self._child_of(FoldRequest(directory.path, options, gpu)) as answers:
            for line in answers:
                kind, *facts = json.loads(line)
                if kind == "step":
                    report(*facts)
                elif kind == "log":
                    logging.getLogger(facts[0]).log(facts[1], "%s", facts[2])
                elif kind == "manifest":
                    return Manifest.model_validate(facts[0])
                else:
                    raise _error_of(kind, *facts)
        raise FoldFailedError("the process that makes the next version ended before it was done")

    def stop(self) -> None:
        """Ends the child, if there is one, and starts no other."""
        with self._guard:
            self._is_stopped = True
            if self._child is not None:
                self._child.kill()

    @contextmanager
    def _child_of(self, request: FoldRequest) -> Iterator[IO[str]]:
        """A child that works on a request, for the length of the block; gives its answers."""
        with self._guard:
            if self._is_stopped:
                raise FoldFailedError("the index is being closed")
            child = self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "anykey.index.publish.fold_process"],  # nothing of where it is started
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[self._lock_fd],
                env={**os.environ, **_surroundings()},
                text=True,
                process_group=0,  # what ends the parent's group is the parent's, who decides
            )
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            with suppress(BrokenPipeError):  # it has ended, which its lack of an answer tells
                child.stdin.write(request.line())
                child.stdin.flush()
            yield child.stdout
        finally:
            child.kill()
            child.wait()
            with self._guard:
                self._child = None
            for pipe in filter(None, (child.stdin, child.stdout)):
                with suppress(OSError):
                    pipe.close()


def _surroundings() -> dict[str, str]:
    """What a child's environment has beside its parent's: it finds the same modules, and leaves cores to searches."""
    path = os.pathsep.join(filter(None, sys.path))
    return {"OMP_NUM_THREADS": str(max(1, num_cores() // 2)), "PYTHONPATH": path}


class _Teller(logging.Handler):
    """Tells the parent of steps, and of what is logged."""

    def __init__(self, answers: IO[str]) -> None:
        super().__init__()
        self._answers = answers

    def tell(self, kind: str, *facts: Any) -> None:
        """Writes one answer."""
        self._answers.write(json.dumps([kind, *facts]) + "\n")
        self._answers.flush()

    def step(self, step: str, done: int, total: int) -> None:
        """Tells how far the search structure is."""
        self.tell("step", step, done, total)

    def emit(self, record: logging.LogRecord) -> None:
        """Hands on what is logged."""
        self.tell("log", record.name, record.levelno, record.getMessage())


def main() -> int:
    """Folds as stdin says."""
    teller = _Teller(os.fdopen(os.dup(sys.stdout.fileno()), "w"))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no answer
    logging.basicConfig(level=logging.INFO, handlers=[teller])
    _end_with_parent()
    os.nice(LOW_PRIORITY)
    request = FoldRequest.of(sys.stdin.readline())
    threading.Thread(target=_watch_parent, daemon=True).start()
    try:
        manifest = _fold(request, teller.step)
    except Exception as error:  # whatever it is, the parent is told
        teller.tell(*_told(error))
        return 1
    teller.tell("manifest", manifest.model_dump(mode="json"))
    return 0


def _fold(request: FoldRequest, report: Report) -> Manifest:
    directory = WritableDirectory(request.index_dir)
    version = open_published(directory.path)
    version.release()  # the parent deletes none meanwhile
    provenance = provenance_of(version.manifest, version.path)
    manifest = derive(directory, version.store_path, provenance, request.options, report, request.gpu)
    sync_all(directory.folding_dir)  # or it would be left to the parent
    return manifest


def _end_with_parent() -> None:
    """Lets the kernel kill this process when its parent ends, where it can."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(KILLED_WITH_PARENT, signal.SIGKILL)


def _watch_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _told(error: Exception) -> tuple[Any, ...]:
    """An error as an answer."""
    if isinstance(error, IndexCorruptError):
        return "corrupt", str(error.path), error.reason
    if isinstance(error, InvalidStructureError):
        return "structure", str(error)
    if isinstance(error, OSError):
        return "os", [*error.args[:2], *([str(error.filename)] if error.filename is not None else [])]
    return "failed", f"{type(error).__name__}: {error}"


def _error_of(kind: str, *facts: Any) -> Exception:
    """What `_told` was given."""
    if kind == "corrupt":
        return IndexCorruptError(Path(facts[0]), facts[1])
    if kind == "structure":
        return InvalidStructureError(facts[0])
    if kind == "os":
        return OSError(*facts[0])
    return FoldFailedError(f"the next version cannot be made: {facts[0]}")


if __name__ == "__main__":
    sys.exit(main())
