"""Work in a process of its own that is killed with SIGKILL as soon as a file is there, or says something."""

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

LONGEST_S = 120
CONTEXT = get_context("forkserver")  # which loads once what all of the processes need
CONTEXT.set_forkserver_preload(["anykey.index.publish.writer", "tests.factories", "tests.live_index"])


def killed_once(path: Path, work: Callable[..., object], *arguments: Any, content: bytes | None = None) -> None:
    """Does some work until a path exists; the process is killed at its next step in the file system.

    Args:
        path: The file or folder.
        work: What is done: a function at the top of a module.
        arguments: Of the work.
        content: What the file must say before the process is killed; anything when absent.
    """
    process = CONTEXT.Process(target=_work, args=(path, content, work, arguments))
    process.start()
    process.join(LONGEST_S)
    assert process.exitcode == -signal.SIGKILL, f"it was not killed, but ended with {process.exitcode}"


def _work(path: Path, content: bytes | None, work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    is_looking = False

    def look(event: str, _: tuple[Any, ...]) -> None:
        nonlocal is_looking
        if is_looking or event not in ("open", "os.rename", "os.remove", "shutil.rmtree"):
            return
        is_looking = True  # to read the file is a step too
        if path.exists() and (content is None or path.read_bytes() == content):
            os.kill(os.getpid(), signal.SIGKILL)
        is_looking = False

    sys.addaudithook(look)
    work(*arguments)
