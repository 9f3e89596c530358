"""JSON files of datasets that hold one list or one object, whose wrong rows are named by file and number."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anykey.benchmark.errors import DatasetFormatError


@dataclass(frozen=True)
class JsonRow:
    """One object of a file's list, or one inside such an object.

    Attributes:
        path: The file.
        name: What errors call it, such as "row 3".
        fields: What it holds.
    """

    path: Path
    name: str
    fields: Mapping[str, Any]

    def text(self, field: str) -> str:
        """A string that is not blank, without white space around it.

        Raises:
            DatasetFormatError: it is missing, or something else.
        """
        return self._string(self.fields.get(field), field)

    def texts(self, field: str) -> list[str]:
        """A list of strings, as they are.

        Raises:
            DatasetFormatError: it is missing, or something else.
        """
        values = self.fields.get(field)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self.error(f"{field} must be a list of strings, got {_short(values)}")
        return values

    def number(self, field: str) -> int:
        """A whole number.

        Raises:
            DatasetFormatError: it is missing, or something else.
        """
        value = self.fields.get(field)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(f"{field} must be a whole number, got {_short(value)}")
        return value

    def object(self, field: str) -> "JsonRow":
        """The object of a field.

        Raises:
            DatasetFormatError: it is missing, or something else.
        """
        value = self.fields.get(field)
        if not isinstance(value, dict):
            raise self.error(f"{field} must be an object, got {_short(value)}")
        return JsonRow(self.path, f"{self.name}: {field}", value)

    def error(self, reason: str) -> DatasetFormatError:
        """What is wrong with it, and where it stands."""
        return DatasetFormatError(self.path, None, f"{self.name}: {reason}")

    def _string(self, value: Any, field: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"{field} must be a string that is not blank, got {_short(value)}")
        return value.strip()


def read_rows(path: Path) -> list[JsonRow]:
    """The objects of a file that holds a list of them, numbered from 1.

    Raises:
        DatasetFormatError: the file is missing or holds something else.
    """
    values: list[Any] = _read(path, list, "a list")
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise DatasetFormatError(path, None, f"row {number} must be an object, got {_short(value)}")
    return [JsonRow(path, f"row {number}", value) for number, value in enumerate(values, start=1)]


def read_object(path: Path) -> JsonRow:
    """The object that a file holds.

    Raises:
        DatasetFormatError: the file is missing or holds something else.
    """
    return JsonRow(path, "the object", _read(path, dict, "an object"))


def read_names(path: Path) -> list[str]:
    """The strings of a file that holds a list of them, each once.

    Raises:
        DatasetFormatError: the file is missing or holds something else, or a string is blank or comes twice.
    """
    values: list[Any] = _read(path, list, "a list")
    known: set[str] = set()
    for number, value in enumerate(values, start=1):
        if not isinstance(value, str) or not value.strip():
            raise DatasetFormatError(path, None, f"row {number} must be a name, got {_short(value)}")
        if value in known:
            raise DatasetFormatError(path, None, f"row {number}: '{value}' comes a second time")
        known.add(value)
    return values


def _read(path: Path, kind: type, words: str) -> Any:
    """The file's value, of one kind; without halves of characters, which nothing could be sent or written with."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except FileNotFoundError:
        raise DatasetFormatError(path, None, "the file does not exist") from None
    except json.JSONDecodeError as error:
        raise DatasetFormatError(path, error.lineno, f"not JSON: {error.msg}") from error
    except RecursionError as error:
        raise DatasetFormatError(path, None, "not standard JSON: nested too deeply") from error
    except ValueError as error:
        raise DatasetFormatError(path, None, f"not standard JSON in UTF-8: {error}") from error
    if not isinstance(value, kind):
        raise DatasetFormatError(path, None, f"expected {words}, got {_short(value)}")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
