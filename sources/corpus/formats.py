"""The formats of corpora, and how a file tells which is its own.

To add one, write a reader (a function from a file to its rows) and a line in `FORMATS`; see `docs/corpus.md`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from anykey.sources.corpus.csv_rows import read_csv
from anykey.sources.corpus.entry import CorpusEntry, CorpusFile, ReadOptions
from anykey.sources.corpus.folder import read_folder
from anykey.sources.corpus.jsonl import read_jsonl
from anykey.sources.corpus.shards import read_shard
from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.files.locations import path_of
from anykey.sources.kinds import CSV, JSONL, PARQUET, SHARD, Kind, head_of, kind_of

Rows = Iterator[CorpusEntry | InvalidRowError]


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        title: What it is called in messages.
        kind: How a file tells that it is of this format.
        read: Gives the rows of a file in a fixed order, bad ones as the errors they are; raises `SourceError` or
            `OSError` for a file that cannot be read.
    """

    title: str
    kind: Kind
    read: Callable[[CorpusFile, ReadOptions], Rows]


def _read_parquet(file: CorpusFile, options: ReadOptions) -> Rows:
    from anykey.sources.corpus.parquet import read_parquet  # loads pyarrow, which nothing else needs

    return read_parquet(file, options)


FORMATS = [
    Format("JSONL", JSONL, read_jsonl),
    Format("CSV", CSV, read_csv),
    Format("Parquet", PARQUET, _read_parquet),
    Format("a tar shard", SHARD, read_shard),
]
FOLDER = Format("a folder of images", Kind((), lambda head: False), read_folder)


def format_of(file: CorpusFile) -> Format:
    """The format of a file: by its suffix, or else by its first bytes.

    Raises:
        SourceError: it is of none.
        OSError: it cannot be read.
    """
    if file.is_folder:
        return FOLDER
    kind = kind_of(path_of(file.location), lambda: head_of(file.location), [known.kind for known in FORMATS])
    for known in FORMATS:
        if known.kind is kind:
            return known
    expected = ", ".join(f"{known.title} ({', '.join(known.kind.suffixes)})" for known in FORMATS)
    raise SourceError(f"cannot tell the format of {file.label}: expected {expected}, or a folder")
