"""Parquet files, opened wherever they are; this loads pyarrow, which other formats do not need."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import pyarrow
from pyarrow import parquet

from anykey.sources.errors import SourceError
from anykey.sources.files.files import open_file
from anykey.sources.files.inline_images import open_parquet


@contextmanager
def opened_parquet(location: str, label: str) -> Iterator[parquet.ParquetFile]:
    """A Parquet file that is open as long as the block runs.

    Args:
        location: Where it is.
        label: What messages call it.

    Raises:
        SourceError: it is not a Parquet file.
        OSError: it cannot be opened.
    """
    with open_file(location) as source:
        try:
            table = open_parquet(source)
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise SourceError(f"{label} is no readable Parquet file: {error}") from error
        with closing(table):
            yield table
