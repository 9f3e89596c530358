"""A process that works for this one, and ends when this one does, however that comes about."""

import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from anykey.program.machine import num_cores
from anykey.program.settings import EXIT_ENVIRONMENT
from anykey.training.errors import RunFailedError


class Child:
    """`python -m MODULE` with one line on its stdin; what it says goes to a log file.

    The module must call `job` first: its stdin stays open as long as this process lives.
    """

    def __init__(self, module: str, line: str, log: Path, num_threads: int) -> None:
        """Starts the process; it computes with `num_threads`, unless the environment says how many."""
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            # Its own session: Ctrl-C reaches this process alone, which then ends its children.
            self._process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(num_threads)},
                start_new_session=True,
            )
        assert self._process.stdin is not None
        self._stdin = self._process.stdin
        with suppress(BrokenPipeError):  # it ended at once; `is_done` says why
            self._stdin.write(line + "\n")
            self._stdin.flush()

    def is_done(self) -> bool:
        """Whether it has ended well.

        Raises:
            RunFailedError: it ended otherwise; the message is the last line of its log.
        """
        code = self._process.poll()
        if code:
            lines = [f"exit code {code}", *(line for line in self._log.read_text().split("\n") if line.strip())]
            how = f"ended by signal {-code}" if code < 0 else lines[-1]
            raise RunFailedError(f"{how.removeprefix('anykey-train: error: ')}; see {self._log}")
        return code == 0

    def end(self) -> None:
        """Ends the process if it still runs, and waits for its end."""
        self._process.kill()
        self._process.wait()
        with suppress(BrokenPipeError):  # it never read its line
            self._stdin.close()


def job() -> str:
    """In the child: the line that its parent wrote. From now on this process ends when the parent does."""
    line = sys.stdin.readline()
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    return line


def threads_each(workers: int) -> int:
    """Each worker's share of the cores."""
    return max(1, num_cores() // workers)


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(EXIT_ENVIRONMENT)
