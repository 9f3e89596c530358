"""The way to a Milvus server, or to Milvus Lite in a file of this machine; failures in this package's words.

Milvus Lite serves a file from threads of this process. It does not take changes of one collection from several threads
at once, nor keep searches apart from the moment when it moves records from memory into files; so calls to it take
turns. A server answers as many at once as it likes.
"""

import errno
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from anykey.index.deadline import NEVER, Deadline
from anykey.index.errors import IndexLockedError, IndexNotFoundError, IndexUnavailableError
from anykey.program.extras import require_library
from anykey.program.locks import holder_of
from anykey.sources.files.locations import without_secrets

FILE_SUFFIX = ".db"
SHORTEST_CALL_S = 0.001
_LOG_WHAT_IS_RAISED = ("pymilvus", "milvus_lite.adapter", "milvus_lite.server_manager")  # as well, with tracebacks


@dataclass
class _ServedFile:
    """A file that Milvus Lite serves in this process."""

    turns: threading.RLock = field(default_factory=threading.RLock)
    num_connections: int = 0


_served: dict[str, _ServedFile] = {}
_served_lock = threading.Lock()


class Connection:
    """One client; safe for use from several threads.

    Attributes:
        where: The server or the file, for messages; without credentials.
        file: The file of Milvus Lite; `None` for a server.
        is_lite: Whether Milvus Lite answers, in this process or as a server.
    """

    def __init__(
        self, uri: str, token: str | None = None, timeout_s: float = 60.0, *, may_create: bool = False
    ) -> None:
        """Connects.

        Args:
            uri: `http://host:19530` or the like, or a path that ends with `.db`.
            token: Credentials for the server, such as `user:password`.
            timeout_s: Longest time that one call may take, in seconds.
            may_create: Makes the file if it does not exist.

        Raises:
            MissingLibraryError: pymilvus or, for a file, Milvus Lite is not installed.
            IndexNotFoundError: there is no such file.
            IndexLockedError: another process has the file open.
            IndexUnavailableError: the server cannot be reached or lets nobody in, or the address is none.
            OSError: the file cannot be made, or is none of Milvus Lite.
        """
        require_library("pymilvus", "milvus", "MilvusIndex")
        from pymilvus import MilvusClient

        for name in _LOG_WHAT_IS_RAISED:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.where = without_secrets(uri)
        self._timeout_s = timeout_s
        self._file = _file_of(uri)
        self.file = None if self._file is None else Path(self._file)
        self._turns: threading.RLock | None = None
        if self._file is not None:
            self._turns = _take(self._file, may_create)
        try:
            with self._turn(NEVER), self._told():
                self._client = MilvusClient(self._file or uri, token=token or "", timeout=timeout_s)
                self.version: str = self._client.get_server_version(timeout=timeout_s)
        except BaseException:
            self._release_file()
            raise
        self.is_lite = self.version.startswith("milvus_lite")
        self._is_open = True

    def call(self, method: str, *, timeout_s: float | None = None, deadline: Deadline = NEVER, **arguments: Any) -> Any:
        """Calls a method of the client.

        Args:
            method: Its name.
            timeout_s: Longest time that it may take, in seconds; as for every call when absent.
            deadline: Until when what it gives is wanted.
            arguments: What it is given.

        Raises:
            DeadlineExceededError: what it gives is no longer wanted.
            IndexUnavailableError: it failed; says where and how.
        """
        with self._turn(deadline):
            left_s = min(timeout_s or self._timeout_s, max(deadline.seconds_left, SHORTEST_CALL_S))
            try:
                with self._told():
                    return getattr(self._client, method)(**arguments, timeout=left_s)
            except IndexUnavailableError:
                deadline.check()
                raise

    def close(self) -> None:
        """Closes the client, and the file if no other connection of this process has it open; may be repeated."""
        with _served_lock:
            was_open, self._is_open = self._is_open, False
        if was_open:
            self._client.close()
            self._release_file()

    def _turn(self, deadline: Deadline) -> AbstractContextManager[Any]:
        """Waits for its turn, where calls take turns, as long as the answer is wanted."""
        deadline.check()
        return nullcontext() if self._turns is None else deadline.held(self._turns)

    def _release_file(self) -> None:
        if self._file is not None:
            _give_back(self._file)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns the client's complaints into ours."""
        from grpc import FutureTimeoutError, RpcError
        from pymilvus.exceptions import MilvusException

        try:
            yield
        except MilvusException as error:
            raise IndexUnavailableError(f"Milvus at {self.where}: {error.message}") from error
        except (RpcError, FutureTimeoutError) as error:  # the client lets some of its transport's through
            raise IndexUnavailableError(f"Milvus at {self.where}: {_reason(error)}") from error


def _reason(error: Any) -> str:
    """What a failed call says about itself; the whole text of one is a page."""
    return f"{error.code().name}: {error.details()}" if hasattr(error, "code") else type(error).__name__


def is_file(uri: str) -> bool:
    """Whether the address is that of a file for Milvus Lite."""
    return "://" not in uri and uri.endswith(FILE_SUFFIX)


def _file_of(uri: str) -> str | None:
    """The file's absolute path; `None` for a server."""
    if is_file(uri):
        return str(Path(uri).absolute())
    if urlsplit(uri).scheme not in ("http", "https", "tcp", "unix"):
        raise IndexUnavailableError(
            f"expected the address of a Milvus server, such as http://localhost:19530, or a path that ends with "
            f"{FILE_SUFFIX}, got {without_secrets(uri)!r}"
        )
    return None


def _take(path: str, may_create: bool) -> threading.RLock:
    """Counts one more connection to the file, after a look at whether it can be opened; gives its lock."""
    require_library("milvus_lite", "milvus-lite", "MilvusIndex")
    with _served_lock:
        if path not in _served:
            _check_file(Path(path), may_create)
        served = _served.setdefault(path, _ServedFile())
        served.num_connections += 1
        return served.turns


def _check_file(path: Path, may_create: bool) -> None:
    """Milvus Lite only logs why it cannot open a file, a folder in fact, so its reasons are looked for first."""
    if may_create:
        path.mkdir(parents=True, exist_ok=True)
    elif not path.exists():
        raise IndexNotFoundError(f"there is no Milvus Lite file {path}")
    elif not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is not what Milvus Lite makes, which is a folder", str(path))
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "Milvus Lite cannot write to it", str(path))
    lock = path / "LOCK"
    if lock.exists():
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise IndexLockedError(f"Milvus Lite file {path} is open in {holder_of(file.fileno())}") from error


def _give_back(path: str) -> None:
    """Counts one connection less; after the last one, Milvus Lite closes the file."""
    from milvus_lite.server_manager import server_manager_instance

    with _served_lock:
        _served[path].num_connections -= 1
        if not _served[path].num_connections:
            del _served[path]
            server_manager_instance.release_server(path)
