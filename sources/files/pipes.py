"""Commands whose output is read like a file, for no longer than they go on writing."""

import os
import selectors
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator
from typing import IO


def run_pipe(command: str, stall_s: float, chunk_bytes: int) -> Generator[bytes, None, None]:
    """What a shell command writes, in chunks; a failure anywhere in a pipeline counts, where there is a bash.

    Closing the generator ends the command and all that it started.

    Raises:
        OSError: the command fails; the message has the last line of what it said.
        TimeoutError: nothing comes for `stall_s` seconds.
    """
    bash = shutil.which("bash")
    arguments = [bash, "-o", "pipefail", "-c", command] if bash else ["/bin/sh", "-c", command]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, start_new_session=True
        )
        try:
            output = process.stdout
            assert output is not None
            while chunk := _read(output, stall_s, chunk_bytes):
                yield chunk
            code = process.wait(stall_s)
            if code != 0:
                raise OSError(f"the command ended with {code}: {_last_line(said)}")
        finally:
            _end(process)


def _read(output: IO[bytes], stall_s: float, num_bytes: int) -> bytes:
    """The next bytes, at most so many; none at the end."""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        if not selector.select(stall_s):
            raise TimeoutError(f"nothing came for {stall_s:g} s")
    return os.read(output.fileno(), num_bytes)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a command's whole process group, unless it has ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _last_line(said: IO[bytes]) -> str:
    said.seek(0)
    lines = said.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
