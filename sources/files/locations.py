"""Where bytes are, as strings: an absolute path, a URL, a member of a tar file, or an image inside a Parquet row.

/data/photos/1.jpg
s3://bucket/photos/1.jpg
tar:/data/shards/0.tar!1536+20480!cats/1.jpg       20480 bytes from byte 1536
parquet:https://host/a.parquet!17:0!image          row 17 (from 1), the first image in its column `image`
"""

import hashlib
import os
import posixpath
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
PIPE = "pipe:"  # what a command begins with whose output is read
# What follows `://`: to the end of a name, or to the end of a word of a command.
_ADDRESS = re.compile(r"(?<=://).+", re.DOTALL)
_ADDRESSES_IN_COMMAND = re.compile(r"(?<=://)[^\s'\"]+")
_USER = re.compile(r"(?:^|(?<=://))[^/?#]*@")  # names with braces, and chained ones, hold several
_HTTP = re.compile(r"https?\}?://", re.IGNORECASE)
_PART = re.compile(r"[\w.,{}-]+")  # of a file, behind `#`
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LOOSE = re.compile(r"/\.?(?:/|$)")  # what `Path` leaves out of a path: `//`, `/./`, and a slash at the end
# No file is so large, or has so many rows, that more digits say where something in it is.
_MEMBER = re.compile(r"tar:(?P<file>.*?)!(?P<offset>\d{1,18})\+(?P<size>\d{1,18})!(?P<name>.*)", re.DOTALL)
_INLINE = re.compile(r"parquet:(?P<file>.*?)!(?P<row>\d{1,18}):(?P<position>\d{1,18})!(?P<column>.*)", re.DOTALL)


@dataclass(frozen=True)
class MemberLocation:
    """A member of a plain tar file: `size_bytes` bytes from byte `offset`."""

    file: str
    offset: int
    size_bytes: int
    name: str

    def __str__(self) -> str:
        return f"tar:{self.file}!{self.offset}+{self.size_bytes}!{self.name}"


@dataclass(frozen=True)
class InlineLocation:
    """An image that a row of a Parquet file holds: rows count from 1, the images of a row from 0."""

    file: str
    row: int
    position: int
    column: str

    def __str__(self) -> str:
        return f"parquet:{self.file}!{self.row}:{self.position}!{self.column}"


def parse_location(location: str) -> MemberLocation | InlineLocation | None:
    """The parts of a location inside another file; `None` for a file of its own.

    >>> parse_location("tar:/a.tar!512+3!b.txt")
    MemberLocation(file='/a.tar', offset=512, size_bytes=3, name='b.txt')
    """
    if match := _MEMBER.fullmatch(location):
        return MemberLocation(match["file"], int(match["offset"]), int(match["size"]), match["name"])
    if match := _INLINE.fullmatch(location):
        return InlineLocation(match["file"], int(match["row"]), int(match["position"]), match["column"])
    return None


def scheme_of(location: str) -> str:
    """The scheme of a URL in lower case; empty for a local path.

    >>> scheme_of("S3://bucket/a"), scheme_of("a/b")
    ('s3', '')
    """
    match = _SCHEME.match(location)
    return match[1].lower() if match else ""


def is_remote(location: str) -> bool:
    """Whether reading it, or the file it is a part of, may take a network."""
    if "://" not in location:  # as in the names of most images, of which there are many
        return False
    inner = parse_location(location)
    return bool(scheme_of(inner.file if inner else location))


def normal_location(name: str) -> str:
    """A path or URL as a user writes it; `file://` becomes the path it is.

    >>> normal_location("file:///data/a%20b.jsonl")
    '/data/a b.jsonl'
    """
    return url2pathname(urlsplit(name).path) if scheme_of(name) == "file" else name


def join(folder: str, name: str) -> str:
    """The location that a name means, seen from a folder; URLs and absolute paths stand for themselves.

    >>> join("s3://bucket/data", "../images/1.jpg"), join("https://host/data", "a b.jpg")
    ('s3://bucket/images/1.jpg', 'https://host/data/a%20b.jpg')
    """
    if scheme_of(name):
        return normal_location(name)
    if name.startswith("/") or not scheme_of(folder):
        path = os.path.join(folder, name)
        is_plain = path.startswith("/") and not _LOOSE.search(path)
        return path if is_plain else str(Path(path))  # which takes ten times as long
    head, path = _split_url(folder)
    name = quote(name) if _is_http(folder) else name
    return f"{head}/{posixpath.normpath(f'/{path}/{name}').lstrip('/')}"


def parent(location: str) -> str:
    """The folder that a file is in; a local one is made absolute.

    >>> parent("https://host/data/a.jsonl?signature=x"), parent("s3://bucket/a.jsonl")
    ('https://host/data', 's3://bucket')
    """
    if not scheme_of(location):
        return str(Path(location).absolute().parent)
    head, path = _split_url(location)
    return f"{head}/{path.rpartition('/')[0]}".rstrip("/")


def path_of(location: str) -> PurePosixPath:
    """The path part, for looking at names and suffixes."""
    return PurePosixPath(f"/{_split_url(location)[1]}" if scheme_of(location) else location)


def without_secrets(name: str) -> str:
    """A location, or a name of data, as it may be shown and published: its URLs without user, password and query.

    A query may hold a signature. The URLs in a command are cut in the same way, and the rest of it stays as it is;
    so do the names of local files.

    >>> without_secrets("https://me:secret@host/{0..9}.json?signature=secret#val")
    'https://host/{0..9}.json#val'
    >>> without_secrets("pipe:curl -H 'Token: $TOKEN' 'https://host/a.tar?signature=secret' | pv")
    "pipe:curl -H 'Token: $TOKEN' 'https://host/a.tar' | pv"
    """
    if "://" not in name and not name.startswith(("tar:", "parquet:")):
        return name
    inner = parse_location(name)
    if inner is not None:
        return str(replace(inner, file=without_secrets(inner.file)))
    bare = _bare_page if _HTTP.search(name) else _bare
    return _addresses_in(name).sub(lambda match: bare(match[0]), name)


def hide_secrets(message: str, name: str) -> str:
    """A library's message without the user, password and query of a name, which some of them repeat."""
    inner = parse_location(name)
    name = name if inner is None else inner.file
    for address in _addresses_in(name).findall(name):
        place, _, query = address.partition("?")
        user = place.partition("/")[0].rpartition("@")[0]
        for secret in (query, f"{user}@" if user else "", user if ":" in user else ""):
            message = message.replace(secret, "...") if secret else message
    return message


def public_location(location: str) -> str:
    """A location for an index that may be given away: what is secret in it is replaced by a digest of the whole."""
    public = without_secrets(location)
    return public if public == location else f"{public}#{hashlib.sha256(location.encode()).hexdigest()[:16]}"


def describe(location: str) -> str:
    """What messages call a location.

    >>> describe("tar:/a.tar!512+3!b.jpg")
    "'b.jpg' in /a.tar"
    """
    inner = parse_location(location)
    if isinstance(inner, MemberLocation):
        return printable(f"'{inner.name}' in {without_secrets(inner.file)}")
    if isinstance(inner, InlineLocation):
        return f"in column '{inner.column}'"
    return printable(without_secrets(location))


def printable(name: str) -> str:
    r"""A name that can be stored as UTF-8, in one line: stray bytes of a file name and what ends lines are escaped.

    >>> printable(os.fsdecode(b"caf\xe9.jpg"))
    'caf\\udce9.jpg'
    >>> print(printable("cat.jpg\nINFO all is well"))
    cat.jpg\nINFO all is well
    """
    line = _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], os.fspath(name))
    return line.encode("utf-8", "backslashreplace").decode()


def _addresses_in(name: str) -> re.Pattern[str]:
    return _ADDRESSES_IN_COMMAND if name.startswith(PIPE) else _ADDRESS


def _bare(address: str) -> str:
    """What follows `://`, without what may be secret."""
    return _USER.sub("", address.partition("?")[0])


def _bare_page(address: str) -> str:
    """The same over HTTP, where `#` ends the path; what follows it stays if it looks like the part of a file."""
    place, _, part = address.partition("#")
    return f"{_bare(place)}#{part}" if _PART.fullmatch(part) else _bare(place)


def _split_url(url: str) -> tuple[str, str]:
    """Scheme and host, and the path without the slash before it; what HTTP has behind the path is left out."""
    head, _, rest = url.partition("://")
    if _is_http(url):
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, _, path = rest.partition("/")
    return f"{head}://{host}", path


def _is_http(url: str) -> bool:
    return scheme_of(url) in ("http", "https")
