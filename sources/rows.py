"""What one row is, before anybody knows what for: a JSON object, and what is wrong with one that is none."""

import json
from collections.abc import Mapping
from typing import Any

from anykey.sources.errors import InvalidRowError, UnreachableImageError, UnreadableStretchError


class RowError(ValueError):
    """What is wrong with a row, before its place is known.

    Attributes:
        reason: What was expected, and what came.
        key: The row's key, when it has a usable one.
        is_unread: Whether it could not be read; one that was read and is wrong could.
    """

    def __init__(self, reason: str, key: str | None = None, *, is_unread: bool = False) -> None:
        self.reason = reason
        self.key = key
        self.is_unread = is_unread
        super().__init__(reason)

    def at(self, where: str) -> InvalidRowError:
        """The bad row that stands at a place."""
        if self.is_unread and self.key is not None:
            return UnreachableImageError(where, self.reason, self.key)
        if self.is_unread:
            return UnreadableStretchError(where, self.reason)
        return InvalidRowError(where, self.reason, self.key)


def parse_object(text: str | bytes, name: str = "") -> dict[str, Any]:
    """Decodes a JSON object that can be written back as UTF-8 JSON.

    Args:
        text: The JSON; bytes, which are all that there is of a row, may begin with a byte order mark.
        name: What messages call it; a whole row has none.

    Raises:
        RowError: it is something else.
    """
    head = f"{name}: " if name else ""
    holds_key = isinstance(text, bytes)
    try:
        source = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        row = _DECODER.decode(source)
        _ENCODER.encode(row).encode()
    except UnicodeDecodeError as error:
        raise RowError(f"{head}not UTF-8 (byte {error.start})", is_unread=holds_key) from error
    except json.JSONDecodeError as error:
        raise RowError(f"{head}not JSON ({error.msg}, column {error.colno})", is_unread=holds_key) from error
    except _RepeatedFieldError as error:
        raise RowError(f"{head}field '{_shorten(str(error))}' is there twice", is_unread=holds_key) from error
    except RecursionError as error:
        raise RowError(f"{head}not standard JSON (nested too deeply)") from error
    except ValueError as error:  # NaN, infinity, lone surrogates, giant numbers
        raise RowError(f"{head}not standard JSON ({type(error).__name__}: {_shorten(str(error))})") from error
    if not isinstance(row, dict):
        raise RowError(f"{head}expected a JSON object, got {kind_of(row)}")
    return row


class _RepeatedFieldError(ValueError):
    """A field that an object has twice, which JSON's readers take for one of the two, each as it likes."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedFieldError(next(name for name in names if names.count(name) > 1))
    return found


# `json.loads` and `json.dumps` would make one for each row.
_DECODER = json.JSONDecoder(object_pairs_hook=_without_repeats)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def text_of(row: Mapping[str, Any], name: str, key: str | None = None) -> str | None:
    """A field that holds a text or null; a blank text counts as absent.

    Raises:
        RowError: it holds something else.
    """
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise RowError(f"'{name}' must be a string or null, got {kind_of(value)}", key)
    return value if value and value.strip() else None


def strings_in(value: Any) -> list[str]:
    """What a field holds that is a string, null, or a list of such; blank strings count as absent.

    Raises:
        ValueError: it holds something else, whose kind is the message.
    """
    if value is None:
        return []
    values = value if isinstance(value, list) else (value,)
    for item in values:
        if not (item is None or isinstance(item, str)):
            raise ValueError(kind_of(item))
    return [item for item in values if item and item.strip()]


def kind_of(value: Any) -> str:
    """JSON's name of a value's type; Python's where JSON has none."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "a boolean"
    kinds = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object", bytes: "bytes"}
    return kinds.get(type(value), type(value).__name__)


def _shorten(text: str, max_chars: int = 80) -> str:
    return text if len(text) <= max_chars else text[:max_chars] + "..."
