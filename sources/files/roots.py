"""Roots: the folders, files and URLs below which images may be read that an index only refers to.

A reference may come from anybody, in a shard or a snapshot, and names any file of this machine or any address that it
can reach. So it is followed only below a root, which never comes with it. What counts is where it really leads: links,
`..` and redirects are followed first, or refused.
"""

import os
import posixpath
import re
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

import httpx

from anykey.sources.files.fetching import fetch
from anykey.sources.files.http_files import UrlRefusedError
from anykey.sources.files.locations import (
    InlineLocation,
    MemberLocation,
    normal_location,
    parse_location,
    scheme_of,
    without_secrets,
)
from anykey.sources.files.tar_members import member_of

MAX_IMAGE_BYTES = 20 * 2**20
FETCH_S = 60.0
_O_PATH = getattr(os, "O_PATH", os.O_RDONLY)
# Schemes before whose host stands who asks; before that of any other stands a part of the place: `abfss://container@host`.
_LOGIN_SCHEMES = frozenset(
    ("http", "https", "ftp", "ftps", "sftp", "ssh", "smb", "hdfs", "arrow_hdfs", "webhdfs", "webdav", "webdavs", "gist")
)


class OutsideRootsError(UrlRefusedError):
    """A location is below no root."""


class ImageRoots:
    """Some roots, and how large an image below them may be.

    Attributes:
        roots: Paths and URLs, sorted.
        max_bytes: Larger images are not read.
    """

    def __init__(self, roots: Iterable[str] = (), max_bytes: int = MAX_IMAGE_BYTES) -> None:
        """Names roots as `root_of` gives them."""
        self.roots = tuple(sorted(set(roots)))
        self.max_bytes = max_bytes

    def require(self, location: str) -> None:
        """Returns if a location, as `sources.files.locations` has them, is below a root at this moment.

        Raises:
            OutsideRootsError: it is below none, or part of a Parquet file's row.
        """
        if not isinstance(location, str):  # a store that others made may hold anything
            raise OutsideRootsError("it is no text")
        inner = parse_location(location)
        if isinstance(inner, InlineLocation):
            raise OutsideRootsError("it is part of a row, which cannot be referred to")
        self._root_over(location if inner is None else inner.file)

    def require_redirect(self, url: str) -> None:
        """Returns if a URL that a redirect names is below a root.

        Raises:
            OutsideRootsError: it is below none.
        """
        try:
            self._root_over(url)
        except OutsideRootsError as error:
            where = without_secrets(url)
            raise OutsideRootsError(f"it leads on to {where}, below no URL that images may be read from") from error

    def read(self, location: str, timeout_s: float = FETCH_S) -> bytes:
        """Reads an image.

        Args:
            location: Where it is.
            timeout_s: Longest time that fetching it from another machine may take.

        Raises:
            OutsideRootsError: it is below no root, or a redirect leaves them.
            TimeoutError: it took longer.
            OSError: it cannot be read, or is too large.
        """
        self.require(location)
        inner = parse_location(location)
        if not isinstance(inner, MemberLocation):
            return self._read(location, timeout_s)
        return member_of(inner, lambda file, start, size: self._read(file, timeout_s, (start, size)), self.max_bytes)

    def _read(self, location: str, timeout_s: float, span: tuple[int, int] | None = None) -> bytes:
        max_bytes = self.max_bytes + (0 if span is None else tarfile.BLOCKSIZE)
        if scheme_of(location):
            return fetch(location, self.require_redirect, max_bytes, timeout_s, span)
        return _read_below(self._root_over(location), location, max_bytes, span)

    def _root_over(self, location: str) -> str:
        for root in self.roots:
            if _is_url_below(location, root) if scheme_of(location) else _is_path_below(location, root):
                return root
        raise OutsideRootsError("it is below no folder or URL that images may be read from")


def roots_named(names: Iterable[str], max_bytes: int = MAX_IMAGE_BYTES) -> ImageRoots:
    """Roots as somebody names them; raises as `root_of` does."""
    return ImageRoots(map(root_of, names), max_bytes)


def root_of(name: str) -> str:
    """A root as it is kept: an absolute path, or a URL without query, and without the user who asks and a password.

    Raises:
        ValueError: it is neither.

    >>> root_of("https://me:secret@host/photos/"), root_of("file:///data")
    ('https://host/photos', '/data')
    >>> root_of("abfss://container@host/photos")
    'abfss://container@host/photos'
    """
    location = normal_location(name)
    if not location.strip():
        raise ValueError("expected a folder, a file or a URL that images may be read from, got nothing")
    if not scheme_of(location):
        return str(Path(location).absolute())
    root = without_secrets(location) if _has_login(location) else location.partition("?")[0]
    if _place_of(root) is None:
        raise ValueError(f"expected a folder or a plain URL that images may be read from, got {root!a}")
    return root.rstrip("/")


def _has_login(url: str) -> bool:
    """Whether what a URL has before its host is who asks, and no part of the place."""
    return scheme_of(url) in _LOGIN_SCHEMES


def _is_path_below(path: str, root: str) -> bool:
    """Whether a path is a root or below it once all links are followed."""
    if scheme_of(root) or not os.path.isabs(path):
        return False
    try:
        real, base = os.path.realpath(path), os.path.realpath(root)
    except ValueError:  # a zero byte
        return False
    return real == base or real.startswith(base.rstrip("/") + "/")


def _is_url_below(url: str, root: str) -> bool:
    """Whether a URL is a root or below it, however a server may take its path."""
    place, base = _place_of(url), _place_of(root)
    if place is None or base is None or place[0] != base[0]:
        return False
    return place[1] == base[1] or place[1].startswith(base[1].rstrip("/") + "/")


def _place_of(url: str) -> tuple[tuple[str, str, int | None], str] | None:
    """Scheme, host and port of a URL, and its path; `None` where what it means is not plain."""
    scheme = scheme_of(url)
    if not scheme or "::" in url or any(ord(char) < 32 for char in url):
        return None
    if scheme not in ("http", "https"):
        host, _, path = url.partition("://")[2].partition("/")
        host = host.rpartition("@")[2] if _has_login(url) else host
        return None if _climbs(path) else ((scheme, host, None), f"/{path}".rstrip("/"))
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return None
    path = unquote(parsed.path)  # some servers decode twice
    if not parsed.host or _climbs(path) or _climbs(re.split(r"[?#]", url, maxsplit=1)[0]):
        return None
    port = parsed.port or {"http": 80, "https": 443}[scheme]
    return (scheme, parsed.host, port), path.rstrip("/")


def _climbs(path: str) -> bool:
    """Whether a path may mean another one than it says."""
    return "\\" in path or any(part in (".", "..") for part in unquote(path).split("/"))


def _read_below(root: str, path: str, max_bytes: int, span: tuple[int, int] | None) -> bytes:
    """Reads a file below a folder, or that is the root itself; a link that is put in its way meanwhile is refused."""
    start, size_bytes = span or (0, max_bytes + 1)
    fd = _open_below(os.path.realpath(root), os.path.realpath(path))
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError("it is no file")
        with os.fdopen(fd, "rb", closefd=False) as file:
            file.seek(start)
            data = file.read(size_bytes)
    finally:
        os.close(fd)
    if len(data) > max_bytes:
        raise OSError(f"it has more than {max_bytes} bytes")
    if span is not None and len(data) != size_bytes:
        raise OSError(f"expected {size_bytes} bytes from byte {start}, got {len(data)}")
    return data


def _open_below(base: str, path: str) -> int:
    """Opens a file name by name from its root, following no links: both paths are real ones."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # opening a pipe would wait for somebody to write to it
    names = [name for name in posixpath.relpath(path, base).split("/") if name != "."]
    if ".." in names:
        raise OutsideRootsError("it has been moved meanwhile")
    if not names:
        return os.open(base, flags)
    folder = os.open(base, _O_PATH | os.O_DIRECTORY)
    try:
        for name in names[:-1]:
            inner = os.open(name, _O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(names[-1], flags, dir_fd=folder)
    finally:
        os.close(folder)
