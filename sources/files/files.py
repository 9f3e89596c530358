"""Files by location, wherever they are: on this machine, over HTTP, or at any address that fsspec knows.

Every failure is an `OSError` whose `reason_of` names no user, password or query of a URL. What is read from another
machine is waited for no longer than a limit, see `sources.files.time_limits`.
"""

import glob
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.asyn import AsyncFileSystem

from anykey.sources.files.http_files import Check, FileState, UrlRefusedError, http_state, open_http, read_http
from anykey.sources.files.locations import hide_secrets, scheme_of
from anykey.sources.files.time_limits import LIMIT_S, LISTING_S, LateError, in_time
from anykey.sources.files.tried_files import open_tried

# What the backends of fsspec call the things that tell one version of a file from the next, the surest first.
_VERSION_KEYS = (
    *("ETag", "etag", "md5Hash", "generation", "LastModified", "last_modified", "updated", "mtime"),
    *("modified", "created"),
)


@dataclass(frozen=True)
class FoundFile:
    """A file below a folder.

    Attributes:
        name: Its path from the folder, with `/`.
        location: Where it is.
        state: What the listing tells of it; `None` on this machine, where asking costs nothing.
    """

    name: str
    location: str
    state: FileState | None


def reason_of(error: OSError) -> str:
    """What an error says, without the file's name."""
    return error.strerror or str(error)


def file_system(location: str) -> tuple[Any, str]:
    """What fsspec reads and writes a location with, and the location's path there.

    Raises:
        OSError: fsspec does not know the protocol, or its library is not installed.
    """
    with _plain_errors(location):
        files, path = fsspec.core.url_to_fs(location)
        return files, path


def open_file(location: str, limit_s: float = LIMIT_S, known: FileState | None = None) -> BinaryIO:
    """Opens a file for reading, buffered; one over HTTP can be sought in where its server tells the size.

    Args:
        location: The file.
        limit_s: Longest time that each part of it may take to come from another machine.
        known: What is known of a file on another machine, by who can begin again: if nothing tells its version, it is
            not read on once it broke off.

    Raises:
        OSError: it cannot be opened; reading it raises `BrokenOffError` where it cannot be read on.
    """
    with _plain_errors(location):
        return _open(location, limit_s, known)


def file_state(location: str, check: Check | None = None, limit_s: float = LIMIT_S) -> FileState:
    """What tells cheaply whether a file is still the one that was read.

    Args:
        location: The file.
        check: Raises `UrlRefusedError` for a URL that may not be asked; called with each that a redirect names.
        limit_s: Longest time that a look at it may take.

    Raises:
        UrlRefusedError: `check` refused.
        OSError: there is no such file, or it is a folder, a pipe or a device.
    """
    with _plain_errors(location):
        if not scheme_of(location):
            return _local_state(location)
        if _is_http(location):
            return http_state(location, check, limit_s)
        info = in_time(lambda: _ask(location, "info"), limit_s)
        if info.get("type") == "directory":
            raise OSError("it is no file")
        return _state_of(info)


def read_file(
    location: str,
    start: int = 0,
    size_bytes: int | None = None,
    max_bytes: int | None = None,
    limit_s: float = LIMIT_S,
) -> bytes:
    """Reads a file, or `size_bytes` of it from byte `start`, in no more than `limit_s` a part.

    Raises:
        OSError: it cannot be read whole, or is longer than `max_bytes`.
    """
    with _plain_errors(location):
        if _is_http(location):
            return read_http(location, start, size_bytes, max_bytes, limit_s)
        with _open(location, limit_s) as file:
            file.seek(start)
            if size_bytes is None:
                data = file.read(-1 if max_bytes is None else max_bytes + 1)
            else:
                data = file.read(size_bytes)
    if size_bytes is not None and len(data) != size_bytes:
        raise OSError(f"expected {size_bytes} bytes from byte {start}, got {len(data)}")
    if max_bytes is not None and len(data) > max_bytes:
        raise OSError(f"it has more than {max_bytes} bytes")
    return data


def is_folder(location: str) -> bool:
    """Whether a location is a folder that can be listed; over HTTP there are none.

    Raises:
        OSError: the place cannot be reached.
    """
    if not scheme_of(location):
        return os.path.isdir(location)
    if _is_http(location):
        return False
    with _plain_errors(location):
        return bool(in_time(lambda: _ask(location, "isdir")))


def exists(location: str) -> bool:
    """Whether there is a file or folder.

    Raises:
        OSError: the place cannot be reached.
    """
    if not scheme_of(location):
        return os.path.exists(location)
    try:
        return is_folder(location) or bool(file_state(location))
    except FileNotFoundError:
        return False


def matches(pattern: str) -> list[str]:
    """The files that a pattern with `*`, `?` or `[...]` matches, sorted; over HTTP there is nothing to match.

    Raises:
        OSError: the place cannot be reached.
    """
    if not scheme_of(pattern):
        return [path for path in sorted(glob.glob(pattern)) if os.path.isfile(path)]
    if _is_http(pattern):
        return []
    with _plain_errors(pattern):
        files, _ = file_system(pattern)
        found = in_time(lambda: _ask(pattern, "glob", detail=True), LISTING_S)
        return [files.unstrip_protocol(name) for name in sorted(found) if found[name]["type"] == "file"]


def files_below(folder: str, on_error: Callable[[OSError], None]) -> list[FoundFile]:
    """Every file below a folder that is not hidden, sorted by path.

    Args:
        folder: Where to look.
        on_error: Told of a folder below it that cannot be listed, and passed over.

    Raises:
        OSError: a folder elsewhere cannot be read at all.
    """
    found = _remote_below(folder, on_error) if scheme_of(folder) else _local_below(folder, on_error)
    visible = (file for file in found if not any(part.startswith(".") for part in file.name.split("/")))
    return sorted(visible, key=lambda file: file.name.split("/"))


def _local_below(folder: str, on_error: Callable[[OSError], None]) -> Iterator[FoundFile]:
    root = Path(folder).absolute()
    for path, inner, names in os.walk(root, onerror=on_error):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in names:
            location = os.path.join(path, name)
            yield FoundFile(Path(location).relative_to(root).as_posix(), location, None)


def _remote_below(folder: str, on_error: Callable[[OSError], None]) -> Iterator[FoundFile]:
    def tell(error: Exception) -> None:
        on_error(OSError(hide_secrets(str(error), folder) or type(error).__name__))

    with _plain_errors(folder):
        files, path = file_system(folder)
        root = path.rstrip("/")
        for info in _walked(folder, root, tell) if _walks(files) else _found(folder, root):
            if info["type"] == "file":
                name = info["name"]
                yield FoundFile(name.removeprefix(root).lstrip("/"), files.unstrip_protocol(name), _state_of(info))


def _ask(location: str, what: str, **options: Any) -> Any:
    """Asks the file system that fsspec keeps for this thread."""
    files, path = file_system(location)
    return getattr(files, what)(path, **options)


def _found(location: str, root: str) -> Iterable[dict[str, Any]]:
    """All that is below a folder, which the file system finds in its own way."""
    listing = in_time(lambda: file_system(location)[0].find(root, detail=True), LISTING_S)
    return cast(Iterable[dict[str, Any]], listing.values())


def _walked(location: str, root: str, tell: Callable[[Exception], None]) -> Iterator[dict[str, Any]]:
    """All that is below a folder; fsspec's own way passes without a word over folders that cannot be listed."""
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            listing = in_time(partial(_listed, location, folder))
        except LateError:  # the next folder's answer would be as late
            raise
        except Exception as error:  # each backend raises the errors of its own library
            tell(error)
            continue
        pending += [
            info["name"] for info in listing if info["type"] == "directory" and info["name"].rstrip("/") != folder
        ]
        yield from listing


def _listed(location: str, folder: str) -> list[dict[str, Any]]:
    return list(file_system(location)[0].ls(folder, detail=True))


def _walks(files: Any) -> bool:
    """Whether a file system has no way of its own to find all that is below a folder, as object stores have."""
    if isinstance(files, AsyncFileSystem):
        return type(files)._find is AsyncFileSystem._find
    return type(files).find is fsspec.AbstractFileSystem.find


def _open(location: str, limit_s: float, known: FileState | None = None) -> BinaryIO:
    if not scheme_of(location):
        _refuse_pipe(location)
        return open(location, "rb")
    if _is_http(location):
        return open_http(location, limit_s, known)
    return open_tried(lambda: file_system(location), location, _state_of, limit_s, known)


def _local_state(path: str) -> FileState:
    facts = os.stat(path)
    if not stat.S_ISREG(facts.st_mode):
        raise OSError("it is no file")
    return FileState(facts.st_size, str(facts.st_mtime_ns))


def _refuse_pipe(path: str) -> None:
    """Refuses what is neither file nor folder: opening a pipe waits for somebody to write to it."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(f"{path} is neither a file nor a folder")


def _state_of(info: dict[str, Any]) -> FileState:
    size = info.get("size")
    versions = [str(info[key]) for key in _VERSION_KEYS if info.get(key) is not None]
    told = "|".join(versions if size is None else [*versions, str(size)])
    return FileState(size if isinstance(size, int) else None, versions[0] if versions else None, told=told)


def _is_http(location: str) -> bool:
    return scheme_of(location) in ("http", "https")


@contextmanager
def _plain_errors(location: str) -> Iterator[None]:
    """Turns what the libraries of the backends raise, each its own, into `OSError`."""
    try:
        yield
    except UrlRefusedError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and not scheme_of(location):
            raise
        message = hide_secrets(str(error), location) or type(error).__name__
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(message if _is_http(location) else "no such file") from error
        raise OSError(message) from error
