"""The elements of an array in a JSON file, by position: found once, parsed one by one.

Annotation files are one array of a hundred thousand objects or more; as Python objects they would take ten times the
file's size.
"""

import json
import re
from array import array
from collections.abc import Callable, Iterator
from typing import Any

from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.pairs.file import DataFile
from anykey.sources.rows import parse_object

_BOM = b"\xef\xbb\xbf".decode("latin-1")
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class JsonRows:
    """The elements of the array that is a JSON file, or of one array in the object that it is."""

    def __init__(self, file: DataFile, key: str | None = None, keep: Callable[[Any], bool] = lambda row: True) -> None:
        """Finds the elements.

        Args:
            file: The JSON file.
            key: Name of the array in the outermost object; `None` where the file is an array.
            keep: Chooses elements. It sees texts as Latin-1: names and keys in ASCII are as they should be.

        Raises:
            SourceError: the file cannot be read, is cut short, or holds no such array.
        """
        self._file = file
        self._numbers, self._starts, self._lengths = array("q"), array("q"), array("q")
        try:
            # One character a byte, so that positions are byte offsets; the elements are decoded as UTF-8 later.
            text = file.path.read_bytes().decode("latin-1")
            for number, (row, start, end) in enumerate(_elements(text, key), 1):
                if keep(row):
                    self._numbers.append(number)
                    self._starts.append(start)
                    self._lengths.append(end - start)
        except (OSError, ValueError, RecursionError) as error:
            raise SourceError(f"cannot read {file.label} as JSON: {error}") from error

    def __len__(self) -> int:
        return len(self._starts)

    def where(self, position: int) -> str:
        """File and row, for messages; rows are counted from 1."""
        return f"{self._file.label}: row {self._numbers[position]}"

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Parses one element; raises `InvalidRowError` where it is not UTF-8 or no object."""
        with self._file.path.open("rb") as file:
            file.seek(self._starts[position])
            data = file.read(self._lengths[position])
        try:
            return parse_object(data)
        except ValueError as error:
            raise InvalidRowError(self.where(position), str(error)) from error


def first_element(file: DataFile, key: str | None = None) -> Any:
    """The first element of an array in a JSON file; `None` where there is no such array, or nothing in it."""
    try:
        text = file.path.read_bytes().decode("latin-1")
        return next((row for row, _, _ in _elements(text, key)), None)
    except (OSError, ValueError, RecursionError):
        return None


def _elements(text: str, key: str | None) -> Iterator[tuple[Any, int, int]]:
    """Value, begin and end of each element of the array."""
    start = _skip(text, len(_BOM) if text.startswith(_BOM) else 0)
    position = _expect(text, start if key is None else _find(text, start, key), "[")
    if text.startswith("]", position):
        return
    while True:
        value, end = _DECODER.raw_decode(text, position)
        yield value, position, end
        position = _skip(text, end)
        if text.startswith("]", position):
            return
        position = _expect(text, position, ",")


def _find(text: str, start: int, key: str) -> int:
    """Where the value of a key of an object begins."""
    position = _expect(text, start, "{")
    while not text.startswith("}", position):
        name, end = _DECODER.raw_decode(text, position)
        position = _expect(text, _skip(text, end), ":")
        if name == key:
            return position
        position = _skip(text, _DECODER.raw_decode(text, position)[1])
        if not text.startswith("}", position):
            position = _expect(text, position, ",")
    raise ValueError(f"expected a list '{key}' in it")


def _expect(text: str, position: int, mark: str) -> int:
    """The next position of interest behind a mark that must be there."""
    if not text.startswith(mark, position):
        raise json.JSONDecodeError(f"Expecting '{mark}'", text, position)
    return _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position
