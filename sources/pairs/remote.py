"""Remote files: fetched once into a cache folder, then read like any other.

`http://` and `https://` go through httpx; `pipe:COMMAND`, as WebDataset spells it, runs a command that writes a tar
file; every other URL (`s3://`, `gs://`, `memory://`, ...) goes through fsspec and the package it asks for.

A copy's name is a digest of the URL and of what the server tells of the file's version (entity tag, time, size), so a
file that changes is fetched again. A copy is written aside and renamed, by one process at a time. What fails for a
passing reason (a lost connection, 429, 5xx) is tried again twice; a fetch goes on where it broke off, unless the file
has changed, and starts over, twice at most, where the server tells neither tag nor time, or no size.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
import httpx
from filelock import FileLock

from anykey.sources.errors import SourceError
from anykey.sources.files.cache_folder import Lease
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.waiting import call_within, run_pipe

T = TypeVar("T")

PIPE = "pipe:"
STALL_S = 60.0
PAUSES_S = (0.2, 1.0)  # before another try
MOST_BREAKS = 100  # of one file: its server is not to be waited for any longer
CHUNK_BYTES = 4 * 1024**2
# What the backends of fsspec call the things that tell one version of a file from the next.
_VERSION_KEYS = (
    "ETag",
    "etag",
    "md5Hash",
    "generation",
    "LastModified",
    "last_modified",
    "updated",
    "mtime",
    "created",
)

# What follows `://`: to the end of a name, or to the end of a word of a command.
_ADDRESS = re.compile(r"(?<=://).+", re.DOTALL)
_ADDRESSES_IN_COMMAND = re.compile(r"(?<=://)[^\s'\"]+")
_USER = re.compile(r"(?:^|(?<=://))[^/?#]*@")  # names with braces, and chained ones, hold several
_PART = re.compile(r"[\w.,{}-]+")


@dataclass(frozen=True)
class _Remote:
    """A file that can be fetched.

    Attributes:
        version: What tells this version from others; may be empty.
        num_bytes: Its size, where that is told.
        chunks: Its bytes; nothing is read before they are asked for.
    """

    version: str
    num_bytes: int | None
    chunks: Iterator[bytes]


class _PassingError(OSError):
    """A failure that may be gone in a moment."""


class _BrokenOffError(_PassingError):
    """A part of a file came, and nothing would tell whether the rest is of the same one."""


class _ChangedError(OSError):
    """Another file is where the one was that was being fetched: parts of two are no file."""


# Everything else that the libraries raise may be gone in a moment.
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError, _ChangedError)


def is_remote(name: str) -> bool:
    """Whether a name is a URL or a command instead of a path."""
    return name.startswith(PIPE) or re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name) is not None


def fetch(name: str, cache_dir: Path | None = None, stall_s: float = STALL_S) -> DataFile:
    """Fetches a remote file, unless this version of it is there.

    Args:
        name: A URL, maybe with `#` and a part of the file, or `pipe:COMMAND`.
        cache_dir: Where copies are kept; `None` for `anykey/data` in the user's cache folder.
        stall_s: The longest time in which nothing may come.

    Raises:
        SourceError: it cannot be fetched whole; the message has the URL without user, password and query.
    """
    url, part = (name, "") if name.startswith(PIPE) else _split_part(name)
    label = without_secrets(url)
    folder = cache_dir or default_cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path, lease = _tried(lambda: _copied(url, folder, stall_s), _BrokenOffError)
    except Exception as error:  # each backend raises the errors of its own library
        reason = _without_secrets_of(url, str(error)) or type(error).__name__
        raise SourceError(f"cannot fetch {label}: {reason}") from error
    return DataFile(path, part, label, lease=lease)


def without_secrets(name: str) -> str:
    """A name of data as it may be shown and published: its URLs without user, password and query.

    A query may hold a signature. The URLs in a command are cut in the same way, and the rest of it stays as it is;
    so do the names of local files.

    >>> without_secrets("https://me:secret@host/{0..9}.json?signature=secret#val")
    'https://host/{0..9}.json#val'
    >>> without_secrets("pipe:curl -H 'Token: $TOKEN' 'https://host/a.tar?signature=secret' | pv")
    "pipe:curl -H 'Token: $TOKEN' 'https://host/a.tar' | pv"
    """
    return _addresses(name).sub(lambda match: _bare(match[0]), name)


def default_cache_dir() -> Path:
    """`anykey/data` in the folder that the XDG base directory specification names for caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anykey" / "data"


def _copied(url: str, folder: Path, stall_s: float) -> tuple[Path, Lease]:
    """The copy of a file, made now unless there is one, and what keeps it there."""
    with _opener(url)(url, stall_s) as remote:
        path = folder / _file_name(url, remote.version)
        with FileLock(f"{path}.lock"):
            try:
                return path, Lease(path)
            except FileNotFoundError:
                return path, _keep(remote, path)


def _opener(url: str) -> Callable[[str, float], AbstractContextManager[_Remote]]:
    if url.startswith(PIPE):
        return _open_pipe
    return _open_http if urlsplit(url).scheme.lower() in ("http", "https") else _open_fsspec


@contextmanager
def _open_http(url: str, stall_s: float) -> Iterator[_Remote]:
    with ExitStack() as answers:
        fresh = [_tried(lambda: answers.enter_context(_get(url, 0, stall_s)))]
        told = _told(fresh[0])

        def from_byte(start: int) -> Iterator[bytes]:
            response = fresh.pop() if fresh else answers.enter_context(_get(url, start, stall_s))
            if _told(response) != told:
                raise _ChangedError("it changed while it was fetched")
            skipped = start if response.status_code == 200 else 0  # of a server that serves no parts of files
            with _passing():
                for (
                    chunk
                ) in response.iter_raw():  # as they come: what is gathered to a size is lost with the connection
                    yield chunk[skipped:]
                    skipped = max(skipped - len(chunk), 0)

        size = int(told[2]) if told[2].isdecimal() else None
        yield _Remote("|".join(told), size, _in_pieces(from_byte, size, is_versioned=any(told[:2])))


@contextmanager
def _get(url: str, start: int, stall_s: float) -> Iterator[httpx.Response]:
    """An answer whose body has not been read, from a byte on where the server serves parts of files."""
    headers = {"Accept-Encoding": "identity"}  # the bytes as they are, so that their number is the one told
    if start:
        headers["Range"] = f"bytes={start}-"
    with (
        _passing(),
        httpx.stream("GET", url, headers=headers, timeout=stall_s, follow_redirects=True) as response,
    ):
        if response.is_error:
            is_passing = response.status_code == 429 or response.status_code >= 500
            message = f"the server answered {response.status_code} {response.reason_phrase}"
            raise _PassingError(message) if is_passing else OSError(message)
        yield response


@contextmanager
def _passing() -> Iterator[None]:
    """Takes a connection that fails or breaks for a failure that may pass."""
    try:
        yield
    except httpx.TransportError as error:
        raise _PassingError(str(error) or type(error).__name__) from error


def _told(response: httpx.Response) -> list[str]:
    """What an answer tells of the file: its tag, time and size."""
    headers = response.headers
    total = headers.get("content-range", "").rpartition("/")[2] or headers.get("content-length", "")
    return [headers.get("etag", ""), headers.get("last-modified", ""), total]


@contextmanager
def _open_fsspec(url: str, stall_s: float) -> Iterator[_Remote]:
    def look_up() -> tuple[Any, str, dict[str, Any]]:
        files, path = fsspec.core.url_to_fs(url)
        return files, path, files.info(path)

    def from_byte(start: int) -> Iterator[bytes]:
        try:
            if start:
                files.invalidate_cache()
                if _version_of(call_within(stall_s, lambda: files.info(path))) != version:
                    raise _ChangedError("it changed while it was fetched")
            with call_within(stall_s, lambda: files.open(path, "rb")) as file:
                call_within(stall_s, lambda: file.seek(start))
                while chunk := call_within(stall_s, lambda: file.read(CHUNK_BYTES)):
                    yield chunk
        except _LASTING:
            raise
        except Exception as error:  # each backend raises the errors of its own library
            raise _PassingError(str(error) or type(error).__name__) from error

    files, path, info = call_within(stall_s, look_up)
    version = _version_of(info)
    size = info.get("size")
    size = size if isinstance(size, int) else None
    is_versioned = any(info.get(key) is not None for key in _VERSION_KEYS)
    yield _Remote(version, size, _in_pieces(from_byte, size, is_versioned))


def _version_of(info: dict[str, Any]) -> str:
    return "|".join(str(info[key]) for key in (*_VERSION_KEYS, "size") if info.get(key) is not None)


@contextmanager
def _open_pipe(name: str, stall_s: float) -> Iterator[_Remote]:
    chunks = run_pipe(name.removeprefix(PIPE), stall_s, CHUNK_BYTES)
    try:
        yield _Remote("", None, chunks)
    finally:
        chunks.close()  # ends the command, if it was begun


def _in_pieces(from_byte: Callable[[int], Iterator[bytes]], size: int | None, is_versioned: bool) -> Iterator[bytes]:
    """The bytes of a file, asked for again from where they break off.

    Args:
        from_byte: Gives those from a place on.
        size: How many there are, where that is told.
        is_versioned: Whether the file's tag or time is told.

    Raises:
        _BrokenOffError: they broke off where nobody tells whether the rest would be of the same file.
    """
    come, num_breaks, num_failures = 0, 0, 0
    while True:
        start = come
        try:
            for chunk in from_byte(start):
                come += len(chunk)
                yield chunk
            if size is None or come >= size:
                return
            raise _PassingError(f"{come} of {size} bytes came")
        except _PassingError as error:
            if come and (size is None or not is_versioned):
                raise _BrokenOffError(str(error)) from error
            num_breaks, num_failures = num_breaks + 1, 0 if come > start else num_failures + 1
            if num_failures > len(PAUSES_S) or num_breaks > MOST_BREAKS:
                raise
        time.sleep(PAUSES_S[max(num_failures - 1, 0)])


def _tried(call: Callable[[], T], passing: type[_PassingError] = _PassingError) -> T:
    """What a call gives, in three tries as long as it fails for a passing reason."""
    for pause_s in PAUSES_S:
        try:
            return call()
        except passing:
            time.sleep(pause_s)
    return call()


def _keep(remote: _Remote, path: Path) -> Lease:
    """Writes a file aside and renames it; the lock is held, so no one else writes there."""
    aside = path.with_name(f"{path.name}.part")
    num_bytes = 0
    try:
        with aside.open("wb") as file:
            held = Lease(aside)  # the file itself, whatever it is called
            for chunk in remote.chunks:
                num_bytes += file.write(chunk)
        if remote.num_bytes not in (None, num_bytes):
            raise OSError(f"{num_bytes} of {remote.num_bytes} bytes came")
        if num_bytes == 0:
            raise OSError("it is empty")
        aside.replace(path)
        lease = Lease(path)
        del held
        return lease
    finally:
        aside.unlink(missing_ok=True)


def _file_name(url: str, version: str) -> str:
    digest = hashlib.sha256(f"{url}\n{version}".encode()).hexdigest()[:32]
    if url.startswith(PIPE):
        return f"{digest}.tar"
    return f"{digest}{PurePosixPath(urlsplit(url).path).suffix.lower()[:16]}"


def _split_part(name: str) -> tuple[str, str]:
    url, _, part = name.partition("#")
    return url, part


def _addresses(name: str) -> re.Pattern[str]:
    return _ADDRESSES_IN_COMMAND if name.startswith(PIPE) else _ADDRESS


def _bare(address: str) -> str:
    """What follows `://`, without what may be secret; the part of the file stays if it looks like one."""
    rest, _, part = address.partition("#")
    rest = _USER.sub("", rest.partition("?")[0])
    return f"{rest}#{part}" if _PART.fullmatch(part) else rest


def _without_secrets_of(name: str, message: str) -> str:
    """A library's message without the user, password and query of a name, which some of them repeat."""
    for address in _addresses(name).findall(name):
        place, _, query = address.partition("?")
        user = place.partition("/")[0].rpartition("@")[0]
        for secret in (query, f"{user}@" if user else "", user if ":" in user else ""):
            message = message.replace(secret, "...") if secret else message
    return message
