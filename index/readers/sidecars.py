"""Samples: images, a text and a JSON object that share a name, in a folder or a tar shard."""

from collections import Counter
from collections.abc import Iterable, Mapping

from index.readers.columns import Columns
from index.readers.entry import CorpusEntry
from index.readers.rows import RowError, gather_metadata, parse_object, read_row
from index.sources.images import ImageStamp

_DECODED = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
_NOT_DECODED = ("heic", "heif", "jxl", "jp2", "dng", "cr2", "nef", "arw", "svg")  # bad rows, not passed over
IMAGE_SUFFIXES = frozenset((*_DECODED, *_NOT_DECODED))
TEXT_SUFFIXES = frozenset(("txt", "json"))
MAX_TEXT_BYTES = 16 * 2**20
CAPTION = "caption"  # what img2dataset, and training data, call the text


def read_sample(
    name: str, images: tuple[str | ImageStamp, ...], texts: Mapping[str, bytes], columns: Columns, where: str
) -> CorpusEntry:
    """Makes an entry of a sample.

    Args:
        name: The sample's name: its key, unless the JSON says another.
        images: Its images.
        texts: Content of its `txt` and `json`, where there are such files.
        columns: What the fields of the JSON are called.
        where: The sample's place.

    Raises:
        RowError: the JSON is no object or has a field of a wrong type, the text is no UTF-8, or there is neither text
            nor image.
    """
    row = parse_object(texts["json"], ".json") if "json" in texts else {}
    if row.get(columns.text) is None and isinstance(row.get(CAPTION), str):
        row[columns.text] = row.pop(CAPTION)
    if row.get(columns.text) is None and "txt" in texts:
        row[columns.text] = _decode(texts["txt"])
    if row.get(columns.key) is None:
        row[columns.key] = name
    try:
        name.encode()
    except UnicodeEncodeError:
        raise RowError("its name is not UTF-8") from None
    return read_row(gather_metadata(row, columns), columns, "", where, images)


def suffix_counts(suffixes: Iterable[str]) -> str:
    """How often each suffix occurs, for messages, the most frequent first.

    >>> suffix_counts(["md", "db", "md", ""])
    '.md (2), .db (1), no suffix (1)'
    """
    counts = Counter(f".{suffix}" if suffix else "no suffix" for suffix in suffixes)
    return ", ".join(f"{suffix} ({count:,})" for suffix, count in counts.most_common(10))


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise RowError(f".txt: not UTF-8 (byte {error.start})") from error
