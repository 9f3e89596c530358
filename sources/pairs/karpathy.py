"""Karpathy's caption splits of COCO and Flickr8k/30k: `dataset_coco.json`, `dataset_flickr8k.json`.

One object with `images`, a list of `{"filename", "filepath", "split", "sentences": [{"raw"}, ...]}`; Flickr has no
`filepath`. Karpathy and Fei-Fei, CVPR 2015, arXiv 1412.2306.
"""

from typing import Any

from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.pairs.file import DataFile, first_that_exists
from anykey.sources.pairs.json_rows import JsonRows, first_element
from anykey.sources.pairs.pair import Pair
from anykey.sources.pairs.rows import clean_texts

DEFAULT_SPLITS = ("train", "restval")  # what papers train on; Flickr has no restval


class KarpathyRows:
    """The images of some splits, each with all its sentences.

    Images lie below the file's folder, in the folder that `filepath` names or at its top. The splits follow `#` in the
    file's name, with commas between them: `dataset_coco.json#val`.
    """

    def __init__(self, file: DataFile) -> None:
        """Finds the rows.

        Raises:
            SourceError: the file cannot be read, or has no image in the splits.
        """
        self._file = file
        splits = tuple(file.part.split(",")) if file.part else DEFAULT_SPLITS
        seen: set[str] = set()

        def is_wanted(row: Any) -> bool:
            split = row.get("split") if isinstance(row, dict) else None
            seen.update([split] if isinstance(split, str) else [])
            return split in splits or not isinstance(split, str)  # without a split: a bad row, which is listed

        self._rows = JsonRows(file, "images", is_wanted)
        missing = [split for split in splits if split not in seen]
        if missing and (file.part or len(missing) == len(splits)):
            raise SourceError(
                f"{file.label} has no image in split '{missing[0]}': it has {', '.join(sorted(seen)) or 'none'}"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> Pair:
        """Reads one image's row.

        Raises:
            InvalidRowError: it has no such image, no split or no sentence.
        """
        where = self._rows.where(position)
        row = self._rows[position]
        try:
            if not isinstance(row.get("split"), str):
                raise ValueError("expected 'split', a string")
            return self._pair(row, where)
        except ValueError as error:
            raise InvalidRowError(where, str(error)) from error

    def _pair(self, row: dict[str, Any], where: str) -> Pair:
        name, folder = row.get("filename"), row.get("filepath") or ""
        if not isinstance(name, str) or not name or not isinstance(folder, str):
            raise ValueError("expected 'filename' and maybe 'filepath', strings")
        image = first_that_exists(self._file.folder, (f"{folder}/{name}", name) if folder else (name,))
        return Pair(name, image, _sentences(row.get("sentences")), where)


def is_karpathy(file: DataFile) -> bool:
    """Whether a JSON file looks like one of Karpathy's."""
    row = first_element(file, "images")
    return isinstance(row, dict) and "sentences" in row


def _sentences(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError("expected 'sentences', a list of objects with 'raw'")
    texts = clean_texts([item.get("raw", "") for item in value])
    if not texts:
        raise ValueError("expected 'sentences' with a non-empty 'raw'")
    return texts
