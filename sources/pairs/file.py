"""One file or folder that pairs are read from: as it was named, and where it lies."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from anykey.program.cache_folder import Lease
from anykey.sources.columns import Columns


@dataclass(frozen=True)
class DataFile:
    """What a reader is given.

    Attributes:
        path: Where it lies on this machine; for a remote file, where its copy lies.
        part: What follows `#` in its name, such as a split; empty for all of it.
        url: What messages call a remote file, without its secrets; empty for a local one.
        columns: What the user says that fields are called.
        lease: Keeps a remote file's copy where it is, for as long as this lives.
        root: The copy of the remote folder that it is in, or is; `None` for a file that was fetched alone.
    """

    path: Path
    part: str = ""
    url: str = ""
    columns: Columns = field(default_factory=Columns)
    lease: Lease | None = field(default=None, compare=False, repr=False)
    root: Path | None = None

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.url or str(self.path)

    @property
    def folder(self) -> Path | None:
        """Where relative paths in it begin; `None` for a file that was fetched alone: beside its copy is nothing."""
        return None if self.url and self.root is None else self.path.parent

    def within(self, path: Path) -> "DataFile":
        """A file below this folder, which is called by its own name."""
        url = f"{self.url}/{path.relative_to(self.path).as_posix()}" if self.url else ""
        return replace(self, path=path, url=url)


def image_path(folder: Path | None, name: str) -> Path:
    """The path of an image that a row names; absolute paths and `..` are followed, as the rows are the user's own.

    Raises:
        ValueError: no file can have this name, it is a URL, or it is relative and there is no folder.
    """
    if "\0" in name:
        raise ValueError(f"image name {name!r} holds a zero byte")
    os.fsencode(name)  # raises for characters that no file name can hold
    if "://" in name:
        raise ValueError(f"image {name} is a URL: expected a path, images are not fetched one by one")
    if folder is None and not Path(name).is_absolute():
        raise ValueError(
            f"image {name} is relative to a file that was fetched alone: "
            "expected an absolute path, or the folder of both to be named"
        )
    return Path(name) if folder is None else folder / name


def first_that_exists(folder: Path | None, names: tuple[str, ...]) -> Path:
    """The first of several places where an image may be.

    Raises:
        ValueError: it is in none of them.
    """
    paths = [image_path(folder, name) for name in names]
    for path in paths:
        if os.path.isfile(path):  # which is False for a name that is too long, where `Path.is_file` raises
            return path
    raise ValueError(f"there is no image {' or '.join(str(path) for path in paths)}")
