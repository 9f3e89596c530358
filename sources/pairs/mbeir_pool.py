"""M-BEIR's candidates by their ids: found once in the pool files, read one by one.

Pools have millions of rows. Of each the index keeps the id, the place and whether there is an image: 19 bytes.
"""

import re
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anykey.sources.columns import is_blank
from anykey.sources.errors import SourceError
from anykey.sources.lines import read_line, scan_lines
from anykey.sources.mbeir import CANDIDATE, Item, read_item
from anykey.sources.rows import parse_object

_ID = re.compile(r"(\d{1,6}):(\d{1,12})")
_IDS_PER_DATASET = 10**12


class CandidatePool:
    """The candidates of some pool files. An id in several files means the same candidate: the first file's is read."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Scans the files.

        Args:
            paths: JSONL files of candidates.

        Raises:
            SourceError: a file cannot be read, a row is not a candidate, or a file holds an id twice.
        """
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

    def __getitem__(self, did: object) -> Item:
        """Reads one candidate; raises `ValueError` when there is none, or its row is wrong."""
        place = self._place(did)
        if place is None:
            raise ValueError(f"candidate {did!r} is in none of {', '.join(path.name for path in self._paths)}")
        row = parse_object(read_line(self._paths[self._files[place]], int(self._offsets[place])))
        try:
            return read_item(row, CANDIDATE)
        except ValueError as error:
            raise ValueError(f"candidate {did}: {error}") from error

    def _place(self, did: object) -> int | None:
        number = id_number(did)
        if number is None:
            return None
        place = int(np.searchsorted(self._ids, number))
        return place if place < len(self._ids) and self._ids[place] == number else None


def id_number(value: object) -> int | None:
    """One whole number for each id "dataset:number"; `None` for what is not such an id."""
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
        has_image.append(not is_blank(row.get("img_path")))
    _refuse_repeats(np.array(ids, dtype=np.int64), path)
    files = np.full(len(ids), number, dtype=np.int16)
    return np.array(ids, dtype=np.int64), files, np.array(offsets, dtype=np.int64), np.array(has_image, dtype=bool)


def _refuse_repeats(ids: Any, path: Path) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        first = divmod(int(values[counts > 1][0]), _IDS_PER_DATASET)
        raise SourceError(f"{path}: did '{first[0]}:{first[1]}' comes a second time")
