"""Samples: images, a text and a JSON object that share a name, in a folder or a tar shard."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from anykey.sources.corpus.columns import Columns
from anykey.sources.corpus.entry import CorpusEntry
from anykey.sources.corpus.rows import RowError, gather_metadata, parse_object, read_row
from anykey.sources.errors import InvalidRowError
from anykey.sources.files.images import ImageStamp

TEXT_SUFFIXES = frozenset(("txt", "json"))
MAX_TEXT_BYTES = 16 * 2**20
CAPTIONS = ("captions", "caption")  # what training data, and img2dataset, call the text
logger = logging.getLogger(__name__)


def read_sample(
    name: str, images: tuple[str | ImageStamp, ...], texts: Mapping[str, bytes], columns: Columns, where: str
) -> CorpusEntry:
    """Makes an entry of a sample.

    Args:
        name: The sample's name: its key, unless the JSON says another.
        images: Its images.
        texts: Content of its `txt` and `json`, where there are such files; the `txt` counts where the JSON has no text.
        columns: What the fields of the JSON are called.
        where: The sample's place.

    Raises:
        RowError: the JSON is no object or has a field of a wrong type, the text is no UTF-8, or there is neither text
            nor image.
    """
    row = parse_object(texts["json"], ".json") if "json" in texts else {}
    if _is_blank(row.get(columns.text)):
        caption = next((name for name in CAPTIONS if _holds_text(row.get(name))), None)
        if caption is not None:
            row[columns.text] = row.pop(caption)
        elif "txt" in texts:
            row[columns.text] = _decode(texts["txt"])
    if row.get(columns.key) is None:
        row[columns.key] = name
    try:
        name.encode()
    except UnicodeEncodeError:
        raise RowError("its name is not UTF-8") from None
    return read_row(gather_metadata(row, columns), columns, "", where, images)


def with_note_of_lines(
    rows: Iterable[CorpusEntry | InvalidRowError], label: str
) -> Iterator[CorpusEntry | InvalidRowError]:
    """The rows as they are; at their end a note says how many texts have several lines."""
    count = 0
    for row in rows:
        count += isinstance(row, CorpusEntry) and "\n" in (row.text or "").strip()
        yield row
    if count:
        logger.warning(
            "%s: %d texts have several lines, which together are the one text of a key; training takes each line for a "
            "caption",
            *(label, count),
        )


def suffix_counts(suffixes: Iterable[str]) -> str:
    """How often each suffix occurs, for messages, the most frequent first.

    >>> suffix_counts(["md", "db", "md", ""])
    '.md (2), .db (1), no suffix (1)'
    """
    counts = Counter(f".{suffix}" if suffix else "no suffix" for suffix in suffixes)
    return ", ".join(f"{suffix} ({count:,})" for suffix, count in counts.most_common(10))


def _is_blank(value: Any) -> bool:
    """Whether a field says nothing: null, a blank string, or a list of such."""
    if isinstance(value, list):
        return all(map(_is_blank, value))
    return value is None or (isinstance(value, str) and not value.strip())


def _holds_text(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return not _is_blank(value) and all(isinstance(text, str) for text in texts)


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise RowError(f".txt: not UTF-8 (byte {error.start})") from error
