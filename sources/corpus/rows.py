"""From the values of one row to an entry: what all formats have in common."""

from collections.abc import Mapping
from typing import Any

from anykey.sources.columns import NOTHING, Columns
from anykey.sources.corpus.entry import CorpusEntry
from anykey.sources.files.images import ImageStamp
from anykey.sources.files.locations import join
from anykey.sources.rows import RowError, kind_of, parse_object, strings_in, text_of


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
    text, pool = lines_of(row, columns.text, key), row.get(columns.pool)
    if images is None:
        image = row.get(columns.image)
        images = () if image is None else tuple([join(folder, name) for name in _strings(image, columns.image, key)])
    if text is None and not images:
        expected = "".join(f"'{name}', " for name in (columns.text, columns.image) if name != NOTHING)
        raise RowError(f"neither text nor image: expected {expected}or both", key)
    pools = () if pool is None else tuple(sorted(set(_strings(pool, columns.pool, key))))
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


def gather_texts(row: Mapping[str, Any], columns: Columns) -> Mapping[str, Any]:
    """A table's row with the captions of all its columns as one list, which are the lines of its text."""
    if not columns.numbered:
        return row
    values = [row.get(name) for name in (columns.text, *columns.numbered)]
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    return {**row, columns.text: texts}


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


def lines_of(row: Mapping[str, Any], name: str, key: str) -> str | None:
    """A field that holds a text, null, or a list of texts, such as captions, which are the lines of one.

    Raises:
        RowError: it holds something else.
    """
    value = row.get(name)
    if value is None or isinstance(value, str):
        return value if value and value.strip() else None
    if not isinstance(value, list):
        return text_of(row, name, key)
    try:
        return "\n".join(strings_in(value)) or None
    except ValueError as error:
        raise RowError(f"'{name}' must be a string, a list of strings or null, got {error} in it", key) from error


def _strings(value: Any, name: str, key: str) -> list[str]:
    """A field that holds one string or a list of them; blank strings and nulls count as absent.

    Raises:
        RowError: it holds something else.
    """
    try:
        return strings_in(value)
    except ValueError as error:
        raise RowError(f"'{name}' must be a string or a list of strings, got {error} in it", key) from error
