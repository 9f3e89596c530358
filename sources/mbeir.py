"""M-BEIR's rows, as an index, training and the benchmark read them: what one holds, and the form of its text.

Wei et al., "UniIR", ECCV 2024, arXiv 2311.17136.
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anykey.sources.errors import InvalidRowError
from anykey.sources.rows import RowError, text_of

POOL_FOLDER = "cand_pool"
MODALITIES = ("text", "image", "image,text", "text,image")
CANDIDATE = ("txt", "img_path", "modality")
QUERY = ("query_txt", "query_img_path", "query_modality")

Prompts = dict[tuple[str, str, str], tuple[str, ...]]  # by dataset number, query modality, candidate modality


@dataclass(frozen=True)
class Item:
    """A query or a candidate.

    Attributes:
        text: Its text as it is in the file, or `None`.
        image: Its image's path from the dataset's root, or `None`.
    """

    text: str | None
    image: str | None

    @property
    def form(self) -> str:
        """The text in M-BEIR's normal form; empty where there is none, or no letter in it."""
        return format_string(self.text)

    @property
    def modality(self) -> str:
        """In M-BEIR's words: "text", "image" or "image,text"."""
        return ",".join(name for name, part in (("image", self.image), ("text", self.text)) if part)


def read_item(row: Mapping[str, Any], fields: tuple[str, str, str], key: str | None = None) -> Item:
    """What a row holds, which decides its modality; what it says of that is only checked to be one M-BEIR knows.

    Args:
        row: The row; fields may be absent.
        fields: `CANDIDATE` or `QUERY`.
        key: The row's key, for errors.

    Raises:
        RowError: it has neither text nor image, or a field is wrong.
    """
    item = Item(text_of(row, fields[0], key), text_of(row, fields[1], key))
    if not item.form and item.image is None:
        raise RowError(f"neither text nor image: expected '{fields[0]}', '{fields[1]}', or both", key)
    declared = row.get(fields[2])
    if declared is not None and declared not in MODALITIES:
        raise RowError(f"'{fields[2]}' must be one of {', '.join(MODALITIES)}", key)
    return item


def source_of(row: Mapping[str, Any], key: str | None = None) -> dict[str, Any]:
    """A candidate's `src_content`, as metadata: M-BEIR has it as JSON inside a string; what is not stays a string.

    Raises:
        RowError: the field is no string.
    """
    source = text_of(row, "src_content", key)
    if source is None:
        return {}
    try:
        return {"src_content": json.loads(json.dumps(json.loads(source), allow_nan=False))}
    except (ValueError, RecursionError):
        return {"src_content": source}


def format_string(text: str | None) -> str:
    """M-BEIR's normal form of a text: trimmed, unquoted, with a capital first letter and an end mark.

    >>> format_string('  "two dogs" ')
    'Two dogs.'
    >>> format_string(None)
    ''
    """
    text = (text or "").replace("\r", "").strip().strip('"')
    if not text:
        return ""
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".?!" else f"{text}."


def instructed(prompts: tuple[str, ...], text: str | None) -> tuple[str, ...]:
    """A query's text behind each of its prompts; an image without a text gets the prompt alone, and is fused by it.

    >>> instructed(("Find the photo", "Show it to me!"), "two dogs")
    ('Find the photo. two dogs.', 'Show it to me! two dogs.')
    """
    return tuple(format_string(f"{format_string(prompt)} {text or ''}") for prompt in prompts)


def read_prompts(path: Path) -> Prompts:
    """`query_instructions.tsv`: modalities, dataset name, dataset number, then the prompts that are not empty.

    Raises:
        InvalidRowError: it cannot be read, or a row is too short.
    """
    prompts: Prompts = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter="\t")
            next(rows, None)
            for number, row in enumerate(rows, 2):
                found = tuple(prompt for prompt in row[4:] if prompt.strip())
                if row and not found:
                    raise InvalidRowError(str(path), f"row {number}: expected at least 5 columns, got {len(row)}")
                if row:
                    prompts[row[3], row[0], row[1]] = found
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidRowError(str(path), f"it is no readable table in UTF-8: {error}") from error
    return prompts
