"""How every AnyKey command ends when it is interrupted: quietly, with exit code 130, at whatever moment.

It is loaded before all else, so it loads next to nothing itself.
"""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import update_wrapper
from types import CodeType, FrameType
from typing import NoReturn

EXIT_INTERRUPTED = 128 + signal.SIGINT  # as shells have it
GRACE_S = 1.5
_LOADER = "<frozen importlib._bootstrap>"  # where frames of an import statement are


def quiet_when_interrupted(prog: str) -> Callable[[Callable[[list[str] | None], int]], Callable[..., int]]:
    """Makes a program's `main` one that Ctrl-C ends with one line instead of a traceback.

    `main` loads what it needs when it is called, not at the top of its module. While it runs, the signal is raised as
    `KeyboardInterrupt`, so that work is put in order; what takes longer than `GRACE_S`, such as a thread that waits for
    another machine, is not waited for. The signal ends the process at once while a module is loaded (torch and others
    swallow the exception there at times, and go on), and when `main` has returned. A signal that is ignored stays so,
    as shells have it for jobs in the background.

    Args:
        prog: Program name, as a person types it.

    Returns:
        What makes `main(argv)` such a function, whose `argv` may be left out. Given one, it is a part of somebody
        else's process, and leaves the signal alone.
    """
    return lambda main: _Program(prog, main)


class _Program:
    """A program's `main`, and what the signal does while it runs and after."""

    def __init__(self, prog: str, main: Callable[[list[str] | None], int]) -> None:
        update_wrapper(self, main)
        self._prog = prog
        self._main = main
        self._is_interrupted = False
        self._is_told = False

    def __call__(self, argv: list[str] | None = None) -> int:
        if argv is not None:
            return self._main(argv)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)
            atexit.register(self._leave_out_the_rest)  # the first to be registered is the last to be called
        try:
            return self._main(None)
        except BaseException as error:  # what becomes of an interrupt on its way here is not always one
            if not self._is_interrupted and not isinstance(error, KeyboardInterrupt):
                raise
            self._tell()
            return EXIT_INTERRUPTED

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        running = _running(frame)
        if self._main.__code__ not in running or any(code.co_filename == _LOADER for code in running):
            self._end()
        self._is_interrupted = True
        last_moment = threading.Timer(GRACE_S, self._end)
        last_moment.daemon = True
        last_moment.start()
        if not _cancel_tasks():
            raise KeyboardInterrupt

    def _leave_out_the_rest(self) -> None:
        """Takes no modules down after an interrupt: some wait for processes then, and our timer no longer runs."""
        if self._is_interrupted:
            self._end()

    def _tell(self) -> None:
        if not self._is_told:
            self._is_told = True
            with suppress(OSError):
                os.write(2, f"{self._prog}: error: interrupted\n".encode())

    def _end(self) -> NoReturn:
        """Ends the process, of which nothing more is waited for."""
        self._tell()
        end_at_once(EXIT_INTERRUPTED)


def end_at_once(exit_code: int) -> NoReturn:
    """Ends the process with what it has printed, and waits neither for threads nor for modules to be taken down."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed, or in the midst of another write
            stream.flush()
    os._exit(exit_code)


def _cancel_tasks() -> bool:
    """Cancels the tasks of asyncio that run here, if any: raised within one, an interrupt would be logged as lost."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return False
    loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
    return True


def _running(frame: FrameType | None) -> list[CodeType]:
    """The code of a frame and of all that called it."""
    running = []
    while frame is not None:
        running.append(frame.f_code)
        frame = frame.f_back
    return running
