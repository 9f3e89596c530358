"""Rows of datasets' Parquet files, batch by batch; pyarrow is loaded when the first one is read."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from anykey.benchmark.errors import DatasetFormatError
from anykey.sources.errors import SourceError

BATCH_ROWS = 32  # some rows hold a thousand texts, or images


def read_parquet(
    path: Path, required: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number from 1 and these columns of every row; an optional column that is not there is absent from the rows.

    Raises:
        DatasetFormatError: the file is missing or garbled, or lacks a column.
    """
    import pyarrow

    from anykey.sources.parquet_files import opened_parquet

    number = 0
    try:
        with opened_parquet(str(path), path.name) as file:
            there = file.schema_arrow.names
            if missing := [name for name in required if name not in there]:
                raise DatasetFormatError(path, None, f"no column '{missing[0]}', there are: {', '.join(there)}")
            columns = [name for name in dict.fromkeys((*required, *optional)) if name in there]
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except FileNotFoundError:
        raise DatasetFormatError(path, None, "the file does not exist") from None
    except DatasetFormatError:
        raise
    except (SourceError, OSError, ValueError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DatasetFormatError(path, None, f"unreadable after row {number}: {reason}") from error
