"""Texts that lie beside images in a folder or a shard: `1.json` and `1.txt` beside `1.jpg`."""

from collections.abc import Mapping
from typing import Any

from anykey.sources.columns import Columns, is_blank
from anykey.sources.rows import RowError, parse_object

TEXT_SUFFIXES = frozenset(("txt", "json"))
MAX_TEXT_BYTES = 16 * 2**20
_NAMES = ("captions", "caption")  # what else the text is called there; a `title` may be anything's


def merge_sidecars(texts: Mapping[str, bytes], columns: Columns) -> tuple[dict[str, Any], bool]:
    """The row that the files beside an image are: what the `.json` holds, and the `.txt` where that has no text.

    Args:
        texts: Content of the `txt` and the `json`, where there are such files.
        columns: What the fields of the JSON are called.

    Returns:
        The row, its text or captions under the name that `columns` says, and whether these are the `.txt`.

    Raises:
        RowError: the JSON is not an object, or the text is not UTF-8.
    """
    row = parse_object(texts["json"], ".json") if "json" in texts else {}
    if not is_blank(row.get(columns.text)):
        return row, False
    caption = next((name for name in _NAMES if not is_blank(row.get(name))), None)
    if caption is not None:
        row[columns.text] = row.pop(caption)
    elif "txt" in texts:
        row[columns.text] = _decode(texts["txt"])
        return row, True
    return row, False


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise RowError(f".txt: not UTF-8 (byte {error.start})") from error
