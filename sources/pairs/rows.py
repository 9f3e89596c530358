"""What the rows of several formats have in common: captions, and pairs that need one half at least."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anykey.sources.columns import TEXT_NAMES, Columns, is_blank
from anykey.sources.images_in_rows import images_named
from anykey.sources.pairs.file import DataFile, image_path
from anykey.sources.pairs.pair import Pair, Side
from anykey.sources.rows import strings_in
from anykey.sources.sidecars import merge_sidecars


def clean_texts(values: Sequence[object]) -> tuple[str, ...]:
    """The texts that are not empty, stripped.

    Raises:
        ValueError: a value is not a text, or holds half a character (a lone surrogate), which no tokenizer takes.
    """
    texts = []
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"expected a text, got {type(value).__name__}")
        value.encode("utf-8")
        texts.append(value.strip())
    return tuple(text for text in texts if text)


def captions_in(value: object) -> tuple[str, ...]:
    """The captions that a field holds: a text, a list of texts or null; blank ones count as absent.

    Raises:
        ValueError: it holds something else.
    """
    try:
        texts = strings_in(value)
    except ValueError as error:
        raise ValueError(f"expected a text, a list of texts or null, got {error}") from error
    return clean_texts(texts)


def captions_of(value: object, names: Sequence[str] = TEXT_NAMES) -> tuple[str, ...]:
    """The captions in a JSON row, under the first name that says something.

    Args:
        value: A decoded JSON value.
        names: What they may be called, in order.

    Returns:
        The captions that are not blank, stripped; at least one.

    Raises:
        ValueError: there are none.
    """
    row = value if isinstance(value, dict) else {}
    captions = captions_in(next((row[name] for name in names if not is_blank(row.get(name))), None))
    if not captions:
        raise ValueError(f"expected an object with one of {', '.join(names)}, a text or a list of texts")
    return captions


def sidecar_captions(texts: Mapping[str, bytes], columns: Columns) -> tuple[str, ...]:
    """The captions in the files beside an image, in whose `.txt` each line is one; none where they say nothing.

    Raises:
        ValueError: one of the files is not UTF-8 or not a JSON object, or holds something else in place of a text.
    """
    row, is_plain = merge_sidecars(texts, columns)
    value = row.get(columns.text)
    return captions_in(value.split("\n") if is_plain and isinstance(value, str) else value)


def name_of(row: Mapping[str, Any], key: str, otherwise: str) -> str:
    """What a row is called in messages: its field of that key, where it has one that is not null."""
    value = row.get(key)
    return otherwise if value is None else str(value)


def table_pair(row: Mapping[str, Any], columns: Columns, file: DataFile, where: str) -> Pair:
    """The pair of a row whose fields have known names: those of a JSON object, or cells.

    Raises:
        ValueError: it has neither image nor text, or one of a wrong kind, or several images.
    """
    captions = [text for name in columns.texts(row) for text in captions_in(row[name])]
    images = [image for image in images_named(row.get(columns.image), columns.image) if image is not None]
    if len(images) > 1:
        raise ValueError(f"expected one image in '{columns.image}', got {len(images)}")
    image = images[0] if images else None
    path = image_path(file.folder, image) if isinstance(image, str) else image
    name, group = row.get(columns.key), row.get(columns.group)
    name = (image if isinstance(image, str) else where) if is_blank(name) else str(name)
    return pair_of(name, path, tuple(captions), where, None if is_blank(group) else str(group))


def side_of(value: object, file: DataFile, role: str) -> Side:
    """An item from a JSON object with `image`, with `text` or `texts`, or with both.

    Args:
        value: A decoded JSON value.
        file: The file it comes from; image paths are relative to it.
        role: What the row calls it, for messages.

    Raises:
        ValueError: it has neither, or something else.
    """
    row = value if isinstance(value, dict) else {}
    image, texts = row.get("image"), row.get("texts", row.get("text"))
    listed = [] if texts is None else [texts] if isinstance(texts, str) else texts
    if not isinstance(listed, list) or not (image is None or isinstance(image, str)):
        raise ValueError(f"expected '{role}' with 'image' (a path), 'text' (a string) or 'texts' (a list)")
    side = Side(image_path(file.folder, image) if image else None, clean_texts(listed))
    if side.image is None and not side.texts:
        raise ValueError(f"expected '{role}' with an 'image', a non-empty 'text' or 'texts'")
    return side


def pair_of(
    name: str, image: bytes | Path | None, captions: tuple[str, ...], where: str, group: str | None = None
) -> Pair:
    """A pair that has at least one half.

    Raises:
        ValueError: it has neither.
    """
    if image is None and not captions:
        raise ValueError("expected an image, a text or both, found neither")
    return Pair(name, image, captions, where, group=group)
