"""How a collection of Milvus is named where an index directory could be: one string, its server or file and its name.

http://localhost:19530/products      on a server; https:// too
keys.db/products                     in a file of Milvus Lite, whose name ends with .db
"""

import re
from dataclasses import dataclass
from pathlib import PurePath
from urllib.parse import urlsplit

from anykey.index.milvus.connection import FILE_SUFFIX

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class CollectionAddress:
    """Where a collection is.

    Attributes:
        uri: The server, or the path of the file, as `MilvusIndex.open` takes it.
        collection: Its name there.
    """

    uri: str
    collection: str


def parse_address(index: str) -> CollectionAddress | None:
    """The collection that a string names; `None` for the path of an index directory.

    Raises:
        ValueError: it names a server or file without a collection, or is the address of something else.

    >>> parse_address("http://localhost:19530/products")
    CollectionAddress(uri='http://localhost:19530', collection='products')
    >>> parse_address("indexes/keys.db/products")
    CollectionAddress(uri='indexes/keys.db', collection='products')
    >>> parse_address("indexes/mine") is None
    True
    """
    if "://" not in index:
        return _in_file(PurePath(index))
    parts = urlsplit(index)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected a path, or the address of a collection such as http://localhost:19530/products")
    _ = parts.port  # raises where it is no number of a port
    if parts.query or parts.fragment:
        raise ValueError("expected nothing behind the name of the collection, got a query or fragment")
    if parts.username is not None or parts.password is not None:
        raise ValueError("name and password have no place in an address; the setting milvus_token takes user:password")
    return CollectionAddress(f"{parts.scheme}://{parts.netloc}", _checked(parts.path.strip("/")))


def _in_file(path: PurePath) -> CollectionAddress | None:
    file = next((part for part in (path, *path.parents) if part.name.endswith(FILE_SUFFIX)), None)
    if file is None:
        return None
    if file != path.parent:
        raise ValueError(f"expected the name of a collection behind the file of Milvus Lite, {file}/NAME, got {path}")
    return CollectionAddress(str(file), _checked(path.name))


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"expected the name of a collection behind the server or file, of letters, digits and _, got {name!r}"
        )
    return name
