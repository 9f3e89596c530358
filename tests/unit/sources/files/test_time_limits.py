"""A server that goes silent, or lets bytes trickle, is not waited for beyond a limit, whatever the backend."""

import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from anykey.sources.files.fetching import fetch
from anykey.sources.files.files import file_state, open_file, read_file
from anykey.sources.files.time_limits import LateError, in_time
from tests.site import Site

BODY = bytes(range(256)) * 40
LIMIT_S = 0.2


class _SilentFiles(MemoryFileSystem):
    """A backend that is not asynchronous, such as SFTP's, and whose server says nothing from some moment on."""

    protocol = "silent"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    num_silences: ClassVar[int] = 0
    is_over: ClassVar[threading.Event] = threading.Event()
    instances: ClassVar[set[int]] = set()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return f"/{path.removeprefix('silent://').strip('/')}".rstrip("/")

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        self.instances.add(id(self))
        self._wait()
        return super()._open(path, mode, **options)

    def info(self, path: str, **options: Any) -> Any:
        self._wait()
        return super().info(path, **options)

    def _wait(self) -> None:
        if _SilentFiles.num_silences > 0:
            _SilentFiles.num_silences -= 1
            self.is_over.wait()


@pytest.fixture
def silent() -> Iterator[type[_SilentFiles]]:
    fsspec.register_implementation("silent", _SilentFiles, clobber=True)
    _SilentFiles.is_over.clear()
    _SilentFiles.instances.clear()
    _SilentFiles().pipe("/f", BODY)
    yield _SilentFiles
    _SilentFiles.num_silences = 0
    _SilentFiles.is_over.set()


def test_server_that_stays_silent_is_given_up(silent: type[_SilentFiles]) -> None:
    reads: list[Callable[[], object]] = [
        partial(read_file, "silent://f", limit_s=LIMIT_S),
        partial(file_state, "silent://f", limit_s=LIMIT_S),
        partial(fetch, "silent://f", print, len(BODY), LIMIT_S),
    ]
    silent.num_silences = sys.maxsize  # a call that was given up before it began may yet take one away
    for read in reads:
        with pytest.raises(OSError, match=r"no answer within 0\.2 s"):
            read()


def test_server_that_was_silent_is_asked_again_over_another_connection(silent: type[_SilentFiles]) -> None:
    with open_file("silent://f", LIMIT_S) as file:
        assert file.read(10) == BODY[:10]
    silent.instances.clear()
    silent.num_silences = 1

    assert read_file("silent://f", limit_s=5 * LIMIT_S) == BODY
    assert len(silent.instances) == 2


def test_server_that_trickles_is_given_up(site: Site) -> None:
    site.pages["/f"] = BODY
    site.trickles = True

    for read in (read_file, lambda url, limit_s: open_file(url, limit_s).read()):
        with pytest.raises(OSError, match=r"\d+ bytes in 0\.2 s are too few|no answer within 0\.2 s"):
            read(site.url("/f"), limit_s=LIMIT_S)


def test_a_call_that_fails_by_itself_fails_as_it_does() -> None:
    def fail() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own") as raised:
        in_time(fail)
    assert not isinstance(raised.value, LateError)


def test_calls_of_one_thread_are_made_in_one_other_until_one_is_late() -> None:
    is_over = threading.Event()
    first = in_time(threading.get_ident)

    assert in_time(threading.get_ident) == first != threading.get_ident()
    with pytest.raises(LateError):
        in_time(is_over.wait, 0.01)
    assert in_time(threading.get_ident) != first
    is_over.set()
