"""Samples: images, a text and a JSON object that share a name, in a folder or a tar shard."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from anykey.sources.columns import Columns
from anykey.sources.corpus.entry import CorpusEntry
from anykey.sources.corpus.rows import gather_metadata, read_row
from anykey.sources.errors import InvalidRowError
from anykey.sources.files.images import ImageStamp
from anykey.sources.rows import RowError
from anykey.sources.sidecars import merge_sidecars

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
        RowError: the JSON is not an object or has a field of a wrong type, the text is not UTF-8, or there is
            neither text nor image.
    """
    row = merge_sidecars(texts, columns)[0]
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
