"""What the rows of several formats have in common: captions, and the rule for rows that lack one half.

A row may say plainly that it has no image or no text, by leaving both its names and its nulls out. An empty text is no
such statement: it is a mistake.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from anykey.sources.pairs.file import DataFile, image_path
from anykey.sources.pairs.pair import Pair, Side

CAPTION_NAMES = ("captions", "caption", "text")


def parse_json(text: str | bytes) -> Any:
    """Decodes JSON from anywhere; a byte order mark before it does not count.

    Raises:
        ValueError: it is not UTF-8, no JSON, or nested too deeply.
    """
    try:
        return json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def clean_texts(values: Sequence[object]) -> tuple[str, ...]:
    """The texts that are not empty, stripped.

    Raises:
        ValueError: a value is no text, or holds half a character (a lone surrogate), which no tokenizer takes.
    """
    texts = []
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"expected a text, got {type(value).__name__}")
        value.encode("utf-8")
        texts.append(value.strip())
    return tuple(text for text in texts if text)


def captions_of(value: object, names: Sequence[str] = CAPTION_NAMES) -> tuple[str, ...]:
    """The captions in a JSON row: `captions` (list), or `caption` or `text` (string).

    Args:
        value: A decoded JSON value.
        names: What they may be called, in order.

    Returns:
        The non-empty captions, stripped; at least one.

    Raises:
        ValueError: there are none; the message says what was expected.
    """
    if isinstance(value, dict):
        found: object = next((value[name] for name in names if value.get(name)), [])
        listed = [found] if isinstance(found, str) else found
        if isinstance(listed, list) and all(isinstance(text, str) for text in listed):
            captions = clean_texts(listed)
            if captions:
                return captions
    raise ValueError("expected an object with non-empty 'captions', 'caption' or 'text'")


def sidecar_captions(data: bytes | None, text: bytes | None) -> tuple[str, ...]:
    """The captions in the files beside an image: in its `.json`, or in its `.txt` where the `.json` has none.

    Args:
        data: What its `.json` holds; `None` where there is none.
        text: What its `.txt` holds, in which each line is a caption.

    Raises:
        ValueError: there are none, or one of the files is no UTF-8 or no JSON object.
    """
    row = None if data is None else parse_json(data)
    if text is not None and (data is None or is_blank(row)):
        row = {"captions": text.decode("utf-8-sig").split("\n")}
    return captions_of(row)


def is_blank(row: object) -> bool:
    """Whether a JSON object has no caption under any of their names, be they absent, null or empty."""
    return isinstance(row, dict) and not any(
        value.strip() if isinstance(value, str) else value for value in map(row.get, CAPTION_NAMES)
    )


def name_of(row: Mapping[str, Any], key: str, otherwise: str) -> str:
    """What a row is called in messages: its field of that key, where it has one that is not null."""
    value = row.get(key)
    return otherwise if value is None else str(value)


def says_nothing(row: object, names: Sequence[str] = CAPTION_NAMES) -> bool:
    """Whether a JSON row is plainly without a caption: an object in which all their names are absent or null."""
    return isinstance(row, dict) and all(row.get(name) is None for name in names)


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


def pair_of(name: str, image: Any, captions: tuple[str, ...], where: str) -> Pair:
    """A pair that has at least one half.

    Raises:
        ValueError: it has neither.
    """
    if image is None and not captions:
        raise ValueError("expected an image, a caption or both, found neither")
    return Pair(name, image, captions, where)
