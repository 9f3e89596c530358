"""A JSONL manifest of pairs: `{"image": "photos/1.jpg", "captions": ["...", "..."]}`, one to a line."""

import json
import re
from contextlib import suppress
from dataclasses import replace
from typing import Any

from anykey.sources.errors import InvalidRowError
from anykey.sources.pairs.columns import IMAGE_COLUMNS, TEXT_COLUMNS, not_fetched, url_among
from anykey.sources.pairs.file import DataFile, image_path
from anykey.sources.pairs.lines import Lines
from anykey.sources.pairs.pair import Pair, Side
from anykey.sources.pairs.rows import captions_of, name_of, pair_of, parse_json, says_nothing, side_of

_STRING = r'"(?:[^"\\]|\\.)*"'
_NAMED = re.compile(rf'"(?:{"|".join(IMAGE_COLUMNS)})"\s*:\s*({_STRING})')


class Manifest:
    """Pairs named in a JSONL file; image paths are relative to the file.

    A row holds `image`, and `captions` (list), or `caption` or `text` (string), or one half alone, under any of the
    names that columns of tables may have; maybe a `name`, a `group`, a `query` and a list of `negatives`, which are
    objects with `image`, with `text` or `texts`, or both.
    """

    def __init__(self, file: DataFile) -> None:
        """Finds the lines; they are parsed one by one later.

        Raises:
            SourceError: the file cannot be read, or is not UTF-8.
        """
        self._file = file
        self._lines = Lines(file, "JSONL")

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, position: int) -> Pair:
        """Parses one row.

        Raises:
            InvalidRowError: not JSON, or not such a row.
        """
        number, line = self._lines[position]
        where = f"{self._file.label}:{number}"
        try:
            row = parse_json(line)
            pair = self._pair(row, where)
            group = row.get("group")
            return replace(
                pair,
                query=self._query(row),
                negatives=self._negatives(row),
                group=None if group is None else str(group),
            )
        except ValueError as error:
            raise InvalidRowError(where, str(error)) from error

    def names_at(self, position: int) -> list[str] | None:
        """What a row calls its image, be the row bad; `None` where that cannot be told."""
        _, line = self._lines[position]
        try:
            image = _image(parse_json(line))
        except ValueError:
            return _names_in(line) or None
        return [image] if isinstance(image, str) else []

    def _pair(self, row: Any, where: str) -> Pair:
        fields = row if isinstance(row, dict) else {}
        image = _image(row)
        url = url_among(name for name, value in fields.items() if value is not None)
        if image is None and url:
            raise ValueError(not_fetched(url))
        captions = () if image is not None and says_nothing(row, TEXT_COLUMNS) else captions_of(row, TEXT_COLUMNS)
        if image is None:
            return pair_of(name_of(fields, "name", where), None, captions, where)
        if not isinstance(image, str) or not image:
            raise ValueError("expected 'image', a path relative to the manifest")
        return pair_of(name_of(fields, "name", image), image_path(self._file.folder, image), captions, where)

    def _query(self, row: dict[str, Any]) -> Side | None:
        value = row.get("query")
        return None if value is None else side_of(value, self._file, "query")

    def _negatives(self, row: dict[str, Any]) -> tuple[Side, ...]:
        values = row.get("negatives")
        if values is not None and not isinstance(values, list):
            raise ValueError("expected 'negatives', a list of objects")
        return tuple(side_of(value, self._file, "negatives") for value in values or [])


def _image(row: Any) -> Any:
    """The value of the first field of a row that names an image."""
    fields = row if isinstance(row, dict) else {}
    return next((fields[name] for name in IMAGE_COLUMNS if fields.get(name) is not None), None)


def _names_in(line: str) -> list[str]:
    """The names of images in a line that is no JSON as a whole."""
    names = []
    for match in _NAMED.finditer(line):
        with suppress(ValueError):
            names.append(json.loads(match[1]))
    return names
