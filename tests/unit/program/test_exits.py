"""Ctrl-C ends each command with one line and exit code 130, at whatever moment it comes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anykey.program.exits import EXIT_INTERRUPTED, quiet_when_interrupted

# What stands for a library in whose loading the signal comes: as torch at times does, it loses the exception.
LOSES_AN_INTERRUPT = """
import signal
try:
    signal.raise_signal(signal.SIGINT)
except BaseException:
    pass
"""

WORKS = """
import signal
import sys
from anykey.program.exits import quiet_when_interrupted

@quiet_when_interrupted("fleet")
def main(argv):
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        print("put in order")
    return 0

sys.exit(main())
"""

WAITS = """
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from anykey.program.exits import quiet_when_interrupted

class Slow:
    def __del__(self):
        time.sleep(600)

@quiet_when_interrupted("fleet")
def main(argv):
    if waits_at == "the end":
        sys.slow = Slow()
        signal.raise_signal(signal.SIGINT)
    with ThreadPoolExecutor() as pool:
        pool.submit(time.sleep, 600)
        signal.raise_signal(signal.SIGINT)
    return 0

sys.exit(main())
"""

ASKS = """
import asyncio
import signal
import sys
from anykey.program.exits import quiet_when_interrupted

async def ask(number):
    if number == 1:
        await asyncio.sleep(0)
        signal.raise_signal(signal.SIGINT)
    await asyncio.sleep(600)

async def ask_all():
    asking = [asyncio.create_task(ask(number)) for number in range(3)]
    try:
        await asyncio.wait(asking)
    finally:
        print("put in order")

@quiet_when_interrupted("fleet")
def main(argv):
    asyncio.run(ask_all())
    return 0

sys.exit(main())
"""

ENDS = """
import atexit
import signal
import sys
from anykey.benchmark.__main__ import main

sys.argv = ["anykey-bench", "--version"]
atexit.register(signal.raise_signal, signal.SIGINT)
sys.exit(main())
"""


def ended(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


SCRIPTS = Path(sys.executable).parent


@pytest.mark.parametrize(
    ("prog", "start", "library"),
    [
        ("anykey-train", f"{SCRIPTS}/anykey-train --help", "pydantic"),
        ("anykey-train", "-m anykey.training --data none --output none", "torch"),
        ("anykey-index", f"{SCRIPTS}/anykey-index --help", "pydantic"),
        ("anykey-index", "-m anykey.index info --index none", "faiss"),
        ("anykey-serve", f"{SCRIPTS}/anykey-serve --help", "pydantic"),
        ("anykey-serve", "-m anykey.service --checkpoint none --index none", "fastapi"),
        ("anykey-bench", f"{SCRIPTS}/anykey-bench --help", "pydantic"),
        ("anykey-bench", "-m anykey.benchmark quality", "httpx"),
        ("anykey-encoder", "-m anykey.encoder info none", "torch"),
    ],
)
def test_an_interrupt_while_modules_load_ends_the_command(prog: str, start: str, library: str, tmp_path: Path) -> None:
    (tmp_path / f"{library}.py").write_text(LOSES_AN_INTERRUPT)
    done = ended([sys.executable, *start.split(" ")], PYTHONPATH=str(tmp_path))
    assert (done.stderr, done.stdout) == (f"{prog}: error: interrupted\n", "")
    assert done.returncode == EXIT_INTERRUPTED


def test_an_interrupt_lets_work_be_put_in_order() -> None:
    done = ended([sys.executable, "-c", WORKS])
    assert (done.returncode, done.stdout, done.stderr) == (130, "put in order\n", "fleet: error: interrupted\n")


def test_an_interrupt_cancels_tasks() -> None:
    done = ended([sys.executable, "-c", ASKS])
    assert (done.returncode, done.stdout, done.stderr) == (130, "put in order\n", "fleet: error: interrupted\n")


@pytest.mark.parametrize("waits_at", ["work", "the end"])
def test_an_interrupt_does_not_wait_for_long(waits_at: str) -> None:
    done = ended([sys.executable, "-c", f"waits_at = {waits_at!r}{WAITS}"])
    assert (done.returncode, done.stderr) == (130, "fleet: error: interrupted\n")


def test_an_interrupt_after_the_work_ends_as_quietly() -> None:
    done = ended([sys.executable, "-c", ENDS])
    assert (done.returncode, done.stderr) == (130, "anykey-bench: error: interrupted\n")
    assert done.stdout.startswith("anykey-bench ")


def test_a_signal_that_is_ignored_stays_so() -> None:
    code = f"import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{WORKS}"
    done = ended([sys.executable, "-c", code])
    assert (done.returncode, done.stdout, done.stderr) == (0, "put in order\n", "")


def test_one_who_calls_the_command_keeps_the_signal() -> None:
    @quiet_when_interrupted("fleet")
    def main(argv: list[str] | None) -> int:
        signal.raise_signal(signal.SIGINT)
        return 0

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            main([])
    finally:
        signal.signal(signal.SIGINT, before)
