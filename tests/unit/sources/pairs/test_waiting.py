"""Work without an end of its own is given up in time, and leaves no process behind."""

import time
from pathlib import Path
from threading import Event

import pytest

from anykey.sources.pairs.waiting import call_within, run_pipe


def test_a_result_or_an_error_comes_through() -> None:
    assert call_within(10, lambda: 3) == 3
    with pytest.raises(KeyError, match="gone"):
        call_within(10, lambda: {}["gone"])
    with pytest.raises(TimeoutError, match="my own"):
        call_within(10, raise_timeout)


def raise_timeout() -> None:
    raise TimeoutError("my own")


def test_a_call_that_does_not_end_is_given_up() -> None:
    release = Event()
    with pytest.raises(TimeoutError, match=r"nothing came for 0\.05 s"):
        call_within(0.05, release.wait)
    release.set()


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
