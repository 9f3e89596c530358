"""How every AnyKey command ends when it is interrupted: quietly, with exit code 130, at whatever moment.

`benchmark/exits.py` is this file again, byte for byte (a test compares them), as `program.py` is. It is loaded before
all else, so it loads next to nothing itself.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from types import CodeType, FrameType
from typing import NoReturn

EXIT_INTERRUPTED = 128 + signal.SIGINT  # as shells have it
_LOADER = "<frozen importlib._bootstrap>"  # where frames of an import statement are


def quiet_when_interrupted(prog: str) -> Callable[[Callable[[list[str] | None], int]], Callable[..., int]]:
    """Makes a program's `main` one that Ctrl-C ends with one line instead of a traceback.

    `main` loads what it needs when it is called, not at the top of its module. While it runs, the signal is raised as
    `KeyboardInterrupt`, so that work is put in order. It ends the process at once where that would not do: while a
    module is loaded (torch and others swallow the exception there at times, and go on), and when `main` has returned.
    A signal that is ignored stays so, as shells have it for jobs in the background.

    Args:
        prog: Program name, as a person types it.

    Returns:
        What makes `main(argv)` such a function, whose `argv` may be left out. Given one, it is a part of somebody
        else's process, and leaves the signal alone.
    """

    def decorate(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
        def interrupt(number: int, frame: FrameType | None) -> None:
            running = _running(frame)
            if main.__code__ not in running or any(code.co_filename == _LOADER for code in running):
                _end(prog)
            raise KeyboardInterrupt

        @wraps(main)
        def command(argv: list[str] | None = None) -> int:
            if argv is not None:
                return main(argv)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, interrupt)
            try:
                return main(None)
            except KeyboardInterrupt:
                _end(prog)

        return command

    return decorate


def _running(frame: FrameType | None) -> list[CodeType]:
    """The code of a frame and of all that called it."""
    running = []
    while frame is not None:
        running.append(frame.f_code)
        frame = frame.f_back
    return running


def _end(prog: str) -> NoReturn:
    """Ends the process, in which nothing is left to be put in order."""
    with suppress(Exception):  # closed, or in the midst of another write
        sys.stdout.flush()
    with suppress(OSError):
        os.write(2, f"{prog}: error: interrupted\n".encode())
    os._exit(EXIT_INTERRUPTED)
