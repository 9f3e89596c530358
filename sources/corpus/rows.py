"""From the values of one row to an entry: what all formats have in common."""

import json
from collections.abc import Mapping
from typing import Any

from anykey.sources.corpus.columns import Columns
from anykey.sources.corpus.entry import CorpusEntry
from anykey.sources.errors import InvalidRowError, UnreachableImageError, UnreadableStretchError
from anykey.sources.files.images import ImageStamp
from anykey.sources.files.locations import join


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


def read_row(
    row: Mapping[str, Any],
    columns: Columns,
    folder: str,
    where: str,
    images: tuple[str | ImageStamp, ...] | None = None,
) -> CorpusEntry:
    """Makes an entry of a row.

    Args:
        row: JSON values by field; others than the five are passed over.
        columns: What the fields are called.
        folder: What relative image names start from.
        where: The row's place.
        images: The row's images, where the field `image` does not tell.

    Raises:
        RowError: a field is missing or of a wrong type, or there is neither text nor image.
    """
    key = key_of(row, columns.key)
    metadata = row.get(columns.metadata)
    if metadata is not None and not isinstance(metadata, dict):
        raise RowError(f"'{columns.metadata}' must be an object, got {kind_of(metadata)}", key)
    text = lines_of(row, columns.text, key)
    if images is None:
        images = tuple(join(folder, name) for name in names_of(row, columns.image, key))
    require_content(text, images, key, (columns.text, columns.image))
    pools = tuple(sorted(set(names_of(row, columns.pool, key))))
    return CorpusEntry(key, text, images, where, metadata or {}, pools)


def gather_metadata(row: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """The row with all its other fields in its metadata; where names meet, the `metadata` object's own value stays.

    Raises:
        RowError: `metadata` is neither an object, nor a string that holds one as JSON.
    """
    own = row.get(columns.metadata)
    own = parse_object(own, f"'{columns.metadata}'") if isinstance(own, str) and own.strip() else own or {}
    if not isinstance(own, dict):
        raise RowError(f"'{columns.metadata}' must be an object, got {kind_of(own)}")
    return {**row, columns.metadata: {**columns.others(row), **own}}


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
    except (ValueError, RecursionError) as error:  # NaN, infinity, lone surrogates, giant numbers, deep nesting
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


def key_of(row: Mapping[str, Any], name: str) -> str:
    """The row's key; a whole number becomes its decimal text.

    Raises:
        RowError: there is none, or it is neither a string nor a whole number.
    """
    value = row.get(name)
    if value is None:
        raise RowError(f"no key: expected '{name}'" + " (or 'did' in an M-BEIR candidate file)" * (name == "key"))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        found = str(value) if isinstance(value, float) else kind_of(value)
        raise RowError(f"'{name}' must be a string or a whole number, got {found}")
    if not value.strip():
        raise RowError(f"'{name}' must not be empty")
    return value


def text_of(row: Mapping[str, Any], name: str, key: str) -> str | None:
    """A field that holds a text or null; a blank text counts as absent.

    Raises:
        RowError: it holds something else.
    """
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise RowError(f"'{name}' must be a string or null, got {kind_of(value)}", key)
    return value if value and value.strip() else None


def lines_of(row: Mapping[str, Any], name: str, key: str) -> str | None:
    """A field that holds a text, null, or a list of texts, such as captions, which are the lines of one.

    Raises:
        RowError: it holds something else.
    """
    value = row.get(name)
    if not isinstance(value, list):
        return text_of(row, name, key)
    wrong = next((item for item in value if not (item is None or isinstance(item, str))), None)
    if wrong is not None:
        raise RowError(f"'{name}' must be a string, a list of strings or null, got {kind_of(wrong)} in it", key)
    return "\n".join(item for item in value if item and item.strip()) or None


def names_of(row: Mapping[str, Any], name: str, key: str) -> list[str]:
    """A field that holds one string or a list of them; blank strings and nulls count as absent.

    Raises:
        RowError: it holds something else.
    """
    value = row.get(name)
    values = value if isinstance(value, list) else [value]
    wrong = next((item for item in values if not (item is None or isinstance(item, str))), None)
    if wrong is not None:
        raise RowError(f"'{name}' must be a string or a list of strings, got {kind_of(wrong)} in it", key)
    return [item for item in values if item and item.strip()]


def require_content(text: str | None, images: tuple[str | ImageStamp, ...], key: str, names: tuple[str, str]) -> None:
    """Raises `RowError` unless there is a text or an image."""
    if text is None and not images:
        raise RowError(f"neither text nor image: expected '{names[0]}', '{names[1]}', or both", key)


def kind_of(value: Any) -> str:
    """JSON's name of a value's type; Python's where JSON has none."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "a boolean"
    kinds = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object", bytes: "bytes"}
    return kinds.get(type(value), type(value).__name__)


def _shorten(text: str, max_chars: int = 80) -> str:
    return text if len(text) <= max_chars else text[:max_chars] + "..."
