"""Releases: an encoder and an index that belong together, numbered, one of them current.

    CURRENT              number of the current release, replaced in one step
    <n>/release.json     what the release is: its encoder, and where both are
    <n>/checkpoint/      the checkpoint, unless the release refers to one elsewhere
    <n>/index/           the index, unless the release refers to one elsewhere

A reader holds a shared lock on the folder of the release that it has open, so that nobody deletes it under the reader.
What publishes them is `anykey.index.jobs.releasing`.
"""

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from anykey.index.errors import IndexCorruptError, InvalidReleaseError, ReleaseNotFoundError
from anykey.index.store.manifest import EncoderFacts, read_whole
from anykey.index.store.versions import CURRENT_NAME, numbered, read_number, stamp_of
from anykey.program.locks import try_lock

RELEASE_NAME = "release.json"
FORMAT_VERSION = 1


class Release(BaseModel):
    """What a release says of itself.

    Attributes:
        format_version: Of the file.
        number: Its name, a decimal number.
        created_at: When it was published, ISO 8601, UTC.
        note: What whoever published it said of it.
        checkpoint: Where the encoder is: a path within the release's folder, or a source elsewhere.
        index: Where the index is: a path within the release's folder, or an index directory or collection elsewhere.
        is_checkpoint_inside: Whether the checkpoint is in the release's folder.
        is_index_inside: Whether the index is.
        fusion: How the encoder adds image and text features, if not as its checkpoint has it.
        width: How many numbers of a vector are kept, if not as its checkpoint has it.
        encoder: The encoder that made the vectors, which the checkpoint must be.
        num_keys: Number of keys of the index, when the release was published.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    number: str
    created_at: str
    note: str = ""
    checkpoint: str
    index: str
    is_checkpoint_inside: bool
    is_index_inside: bool
    fusion: str | None = None
    width: int | None = None
    encoder: EncoderFacts
    num_keys: int


@dataclass(frozen=True)
class OpenRelease:
    """A release whose folder nobody deletes until `close` is called.

    Attributes:
        facts: What it says of itself.
        folder: Its folder.
        lock_fd: Holds the lock.
    """

    facts: Release
    folder: Path
    lock_fd: int

    @property
    def checkpoint(self) -> str:
        """Where its encoder is."""
        return str(self.folder / self.facts.checkpoint) if self.facts.is_checkpoint_inside else self.facts.checkpoint

    @property
    def index(self) -> str:
        """Where its index is."""
        return str(self.folder / self.facts.index) if self.facts.is_index_inside else self.facts.index

    def close(self) -> None:
        """Lets others delete it."""
        os.close(self.lock_fd)


@dataclass(frozen=True)
class ReleaseDirectory:
    """A directory of releases by its path; it need not exist."""

    path: Path

    def names(self) -> list[str]:
        """Names of the releases that exist, oldest first."""
        return numbered(self.path)

    def folder(self, name: str) -> Path:
        """The folder of a release."""
        return self.path / name

    def current(self) -> str | None:
        """Name of the current release, or `None` before the first.

        Raises:
            InvalidReleaseError: `CURRENT` holds no release's name.
        """
        try:
            return read_number(self.path / CURRENT_NAME, "release")
        except IndexCorruptError as error:
            raise InvalidReleaseError(
                f"{error.path} is damaged: {error.reason}; `anykey-index rollback --to` a release makes it anew"
            ) from error

    def stamp(self) -> tuple[int, ...]:
        """What changes whenever another release becomes the current one, or the same one is published again; cheap."""
        current = self.path / CURRENT_NAME
        while True:
            stamp, of_release = stamp_of(current), tuple[int, ...]()
            with contextlib.suppress(InvalidReleaseError, OSError):
                of_release = stamp_of(self.folder(self.current() or "") / RELEASE_NAME)
            if stamp_of(current) == stamp:  # else the release was that of before
                return (*stamp, *of_release)

    def read(self, name: str) -> Release:
        """What a release says of itself.

        Raises:
            InvalidReleaseError: it is missing or damaged, or of another format.
        """
        path = self.folder(name) / RELEASE_NAME
        try:
            facts = Release.model_validate_json(read_whole(path))
        except FileNotFoundError as error:
            raise InvalidReleaseError(f"release {name} of {self.path} is damaged: {path} is missing") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise InvalidReleaseError(f"{path} is damaged, or of a later version: {field} {first['msg']}") from error
        if (facts.format_version, facts.number) != (FORMAT_VERSION, name):
            raise InvalidReleaseError(
                f"{path} is of release {facts.number} in format {facts.format_version}; expected {name} in "
                f"{FORMAT_VERSION}"
            )
        return facts

    def open(self, named: str | None = None) -> OpenRelease:
        """A release, kept from being deleted until it is closed.

        Args:
            named: Its name; the current one when absent.

        Raises:
            ReleaseNotFoundError: none is published there.
            InvalidReleaseError: it is missing or damaged.
        """
        while True:
            name = named or self.current()
            if name is None:
                raise ReleaseNotFoundError(
                    f"no release at {self.path}; publish one with "
                    f"`anykey-index release --checkpoint CHECKPOINT --index INDEX --releases {self.path}`"
                )
            try:
                fd = os.open(self.folder(name), os.O_RDONLY | os.O_DIRECTORY)
            except (FileNotFoundError, NotADirectoryError) as error:
                if named is None and self.current() != name:
                    continue  # whoever publishes was faster: look again
                raise InvalidReleaseError(f"release {name} of {self.path} is missing") from error
            try:
                if try_lock(fd, fcntl.LOCK_SH) and self.folder(name).is_dir():
                    return OpenRelease(self.read(name), self.folder(name), fd)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
