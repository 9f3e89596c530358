"""M-BEIR's candidates by their ids: found once in the pool files, read one by one.

Pools have millions of rows. Of each the index keeps the id, the place and whether there is an image: 19 bytes.
"""

import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anykey.sources.errors import SourceError
from anykey.sources.lines import read_line, scan_lines
from anykey.sources.pairs.file import image_path
from anykey.sources.pairs.mbeir_prompts import format_string
from anykey.sources.pairs.rows import clean_texts
from anykey.sources.rows import parse_object

_ID = re.compile(r"(\d{1,6}):(\d{1,12})")
_IDS_PER_DATASET = 10**12


@dataclass(frozen=True)
class Entry:
    """A query or a candidate.

    Attributes:
        text: Its text as it is in the file, or `None`.
        image: Its image's path, or `None`.
    """

    text: str | None
    image: Path | None

    @property
    def form(self) -> str:
        """The text in M-BEIR's normal form; empty where there is no text, or no letter in it."""
        return format_string(self.text)

    @property
    def modality(self) -> str:
        """In M-BEIR's words: "text", "image" or "image,text"."""
        return ",".join(name for name, part in (("image", self.image), ("text", self.text)) if part)


def read_entry(row: Mapping[str, Any], root: Path, text_key: str, image_key: str, modality_key: str) -> Entry:
    """The query or candidate of a row; keys may be absent.

    Raises:
        ValueError: it has neither text nor image, or not what it says it has.
    """
    text, image = row.get(text_key), row.get(image_key)
    for name, part in ((text_key, text), (image_key, image)):
        if part is not None and not isinstance(part, str):
            raise ValueError(f"expected '{name}' to be a string or null, got {type(part).__name__}")
    clean_texts([text or ""])
    entry = Entry(text or None, image_path(root, image) if image else None)
    if entry.image is None and not entry.form:
        raise ValueError(f"expected '{text_key}' or '{image_key}', found neither")
    declared = row.get(modality_key)
    if declared is not None and declared not in (entry.modality, ",".join(reversed(entry.modality.split(",")))):
        raise ValueError(f"'{modality_key}' is '{declared}', but the row holds {entry.modality}")
    return entry


class CandidatePool:
    """The candidates of some pool files. An id in several files means the same candidate: the first file's is read."""

    def __init__(self, root: Path, paths: Sequence[Path]) -> None:
        """Scans the files.

        Args:
            root: Image paths are relative to it.
            paths: JSONL files of candidates.

        Raises:
            SourceError: a file cannot be read, a row is no candidate, or a file holds an id twice.
        """
        self._root = root
        self._paths = list(paths)
        columns = [_scan(number, path) for number, path in enumerate(paths)]
        self._ids, self._files, self._offsets, self._has_image = (
            np.concatenate([column[kind] for column in columns]) for kind in range(4)
        )
        order = np.argsort(self._ids, kind="stable")  # equal ids stay in the order of the files
        self._ids, self._files = self._ids[order], self._files[order]
        self._offsets, self._has_image = self._offsets[order], self._has_image[order]

    def __len__(self) -> int:
        return len(np.unique(self._ids))

    def has_image(self, did: object) -> bool | None:
        """Whether a candidate has an image; `None` where there is no such candidate."""
        place = self._place(did)
        return None if place is None else bool(self._has_image[place])

    def __getitem__(self, did: object) -> Entry:
        """Reads one candidate; raises `ValueError` when there is none, or its row is wrong."""
        place = self._place(did)
        if place is None:
            raise ValueError(f"candidate {did!r} is in none of {', '.join(path.name for path in self._paths)}")
        row = parse_object(read_line(self._paths[self._files[place]], int(self._offsets[place])))
        try:
            return read_entry(row, self._root, "txt", "img_path", "modality")
        except ValueError as error:
            raise ValueError(f"candidate {did}: {error}") from error

    def _place(self, did: object) -> int | None:
        number = id_number(did)
        if number is None:
            return None
        place = int(np.searchsorted(self._ids, number))
        return place if place < len(self._ids) and self._ids[place] == number else None


def id_number(value: object) -> int | None:
    """One whole number for each id "dataset:number"; `None` for what is no such id."""
    match = _ID.fullmatch(value) if isinstance(value, str) else None
    return int(match[1]) * _IDS_PER_DATASET + int(match[2]) if match else None


def _scan(number: int, path: Path) -> tuple[Any, Any, Any, Any]:
    """Id, file number, byte offset and whether there is an image, of each row of one file."""
    ids, offsets, has_image = array("q"), array("q"), array("b")
    for line, offset, text in scan_lines(path, str(path)):
        try:
            row = parse_object(text)
        except ValueError as error:
            raise SourceError(f"{path}:{line}: {error}") from error
        found = id_number(row.get("did")) if isinstance(row, dict) else None
        if found is None:
            raise SourceError(f"{path}:{line}: expected an object with a 'did' such as '9:1'")
        ids.append(found)
        offsets.append(offset)
        has_image.append(bool(row.get("img_path")))
    _refuse_repeats(np.array(ids, dtype=np.int64), path)
    files = np.full(len(ids), number, dtype=np.int16)
    return np.array(ids, dtype=np.int64), files, np.array(offsets, dtype=np.int64), np.array(has_image, dtype=bool)


def _refuse_repeats(ids: Any, path: Path) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        first = divmod(int(values[counts > 1][0]), _IDS_PER_DATASET)
        raise SourceError(f"{path}: did '{first[0]}:{first[1]}' comes a second time")
