"""What every reader gives: one checked row of a corpus."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anykey.program.cache_folder import Lease
from anykey.sources.columns import Columns
from anykey.sources.files.images import ImageStamp
from anykey.sources.files.locations import parent, scheme_of, without_secrets

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

    from anykey.sources.errors import InvalidRowError


@dataclass(frozen=True)
class KnownVector:
    """The vector of a row that was embedded before.

    Attributes:
        data: Its numbers, little-endian float32.
        encoder: What is known of the encoder that made it, in the words of whoever reads such rows.
    """

    data: bytes
    encoder: Any


@dataclass(frozen=True)
class CorpusEntry:
    """One row of a corpus, checked for its form; its images need not have been looked at.

    Attributes:
        key: The key's name.
        text: Its text, or `None`; never blank.
        images: Where its images are, see `sources.files.locations`; as stamps where the reader knows size and version.
        where: The row's place, such as `file:line`, without secrets.
        metadata: The row's metadata, a JSON object.
        pools: Names of the pools that the row puts it in, sorted.
        vector: Its vector, where the corpus has it.
        may_repeat: Whether other files may list the same key again, to put it in their pools too (M-BEIR).
    """

    key: str
    text: str | None
    images: tuple[str | ImageStamp, ...]
    where: str
    metadata: dict[str, Any] = field(default_factory=dict)
    pools: tuple[str, ...] = ()
    may_repeat: bool = False
    vector: KnownVector | None = None


@dataclass(frozen=True)
class CorpusFile:
    """A file or folder to be read.

    Attributes:
        location: A path or URL.
        is_folder: Whether it is a folder of images and texts.
        named: What it is a copy of; empty for what is read where it is.
        lease: Keeps the copy.
    """

    location: str
    is_folder: bool = False
    named: str = ""
    lease: Lease | None = field(default=None, compare=False, repr=False)

    @cached_property
    def label(self) -> str:
        """What messages call it."""
        return without_secrets(self.named or self.location)

    @cached_property
    def absolute(self) -> str:
        """The location, wherever the program is started."""
        return self.location if scheme_of(self.location) else str(Path(self.location).absolute())

    @cached_property
    def folder(self) -> str:
        """What relative names in it start from."""
        return parent(self.named or self.location)


@dataclass(frozen=True)
class ReadOptions:
    """What the user says of how a corpus is to be read.

    Attributes:
        columns: What the fields of a row are called.
        prefix_keys: Whether the keys of a shard or folder begin with its name.
        num_threads: Threads that read small remote files.
        read_known: Gives the rows of a Parquet file that its caller knows to be more than a table, as those that an
            index exported; `None` for any other file.
    """

    columns: Columns = field(default_factory=Columns)
    prefix_keys: bool = False
    num_threads: int = 1
    read_known: "Callable[[ParquetFile, CorpusFile], Iterator[CorpusEntry | InvalidRowError] | None] | None" = None
