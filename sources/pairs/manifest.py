"""A JSONL manifest of pairs: `{"image": "photos/1.jpg", "captions": ["...", "..."]}`, one to a line."""

from dataclasses import replace
from typing import Any

from anykey.sources.columns import Columns, is_blank
from anykey.sources.errors import InvalidRowError
from anykey.sources.lines import Lines
from anykey.sources.pairs.columns import not_fetched, unfetched
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.pair import Pair, Side
from anykey.sources.pairs.rows import side_of, table_pair
from anykey.sources.rows import parse_object


class Manifest:
    """Pairs named in a JSONL file; image paths are relative to the file.

    A row holds an image and a text or captions, or one half alone, under any of the names that columns of tables may
    have; maybe a `name`, a `group`, a `query` and a list of `negatives`, which are objects with `image`, with `text` or
    `texts`, or both.
    """

    def __init__(self, file: DataFile) -> None:
        """Finds the lines; they are parsed one by one later.

        Raises:
            SourceError: the file cannot be read.
        """
        self._file = file
        self._lines = Lines(file.path, file.label)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, position: int) -> Pair:
        """Parses one row.

        Raises:
            InvalidRowError: not a JSON object in UTF-8, or not such a row.
        """
        number, line = self._lines[position]
        where = f"{self._file.label}:{number}"
        try:
            row = parse_object(line)
            columns = self._columns_of(row)
            if is_blank(row.get(columns.image)) and (
                url := unfetched([name for name, value in row.items() if not is_blank(value)], columns)
            ):
                raise ValueError(not_fetched(url))
            pair = table_pair(row, columns, self._file, where)
            return replace(pair, query=self._query(row), negatives=self._negatives(row))
        except ValueError as error:
            raise InvalidRowError(where, str(error)) from error

    def _columns_of(self, row: dict[str, Any]) -> Columns:
        columns = self._file.columns.in_row(row)
        return replace(columns, key="name") if columns.key == "key" and "key" not in row else columns

    def _query(self, row: dict[str, Any]) -> Side | None:
        value = row.get("query")
        return None if value is None else side_of(value, self._file, "query")

    def _negatives(self, row: dict[str, Any]) -> tuple[Side, ...]:
        values = row.get("negatives")
        if values is not None and not isinstance(values, list):
            raise ValueError("expected 'negatives', a list of objects")
        return tuple(side_of(value, self._file, "negatives") for value in values or [])
