"""A lock keeps others out and names who has it."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from anykey.program.locks import holder_of, try_lock

HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_held_folder_is_refused_and_its_holder_named(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert not try_lock(fd, fcntl.LOCK_EX)
        assert holder_of(fd) == f"process {holder.pid}"
        holder.kill()
    assert try_lock(fd, fcntl.LOCK_EX)
    os.close(fd)


def test_who_cannot_be_told_is_another_process(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    assert holder_of(fd) == "another process"  # nobody has it
    os.close(fd)
