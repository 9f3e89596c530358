"""A command is read to its end, or ended with all that it started."""

import time
from pathlib import Path

from anykey.sources.files.pipes import run_pipe


def test_a_command_s_bytes_come_in_order() -> None:
    data = b"".join(run_pipe("for i in $(seq 20000); do echo $i; done", 10, 4096))
    assert data.split() == [b"%d" % number for number in range(1, 20001)]


def test_closing_ends_the_command_and_all_that_it_started(tmp_path: Path) -> None:
    command = f"(sleep 60; touch {tmp_path}/late) & echo $!; wait"
    chunks = run_pipe(command, 10, 4096)
    child = int(next(chunks))
    chunks.close()
    for _ in range(500):
        if not is_running(child):
            break
        time.sleep(0.01)
    assert not is_running(child)


def is_running(process: int) -> bool:
    """Whether it is there and no zombie that waits to be buried."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
