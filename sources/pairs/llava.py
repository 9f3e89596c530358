"""LLaVA's JSON files, of which LCS-558K (`blip_laion_cc_sbu_558k.json`) holds captions for pre-training.

A list of `{"id", "image", "conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}]}`. The file
`..._meta.json` beside it has `blip_caption` instead. Liu et al., NeurIPS 2023, arXiv 2304.08485.
"""

from typing import Any

from anykey.sources.errors import InvalidRowError
from anykey.sources.pairs.file import DataFile, first_that_exists
from anykey.sources.pairs.json_rows import JsonRows, first_element
from anykey.sources.pairs.pair import Pair
from anykey.sources.pairs.rows import clean_texts, name_of, pair_of

_IMAGE_TAG = "<image>"
_IMAGE_FOLDER = "images"  # where LLaVA's own recipe unpacks the archive


class LlavaRows:
    """Images with one caption each: `blip_caption`, or else the first answer, without its image tag.

    Images lie below the file's folder, or below `images` in it. A row without `image` is a text alone.
    """

    def __init__(self, file: DataFile) -> None:
        """Finds the rows.

        Raises:
            SourceError: the file cannot be read.
        """
        self._file = file
        self._rows = JsonRows(file)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> Pair:
        """Reads one row.

        Raises:
            InvalidRowError: it has no such image, or no answer.
        """
        where = self._rows.where(position)
        row = self._rows[position]
        try:
            image = row.get("image")
            if image is not None and (not isinstance(image, str) or not image):
                raise ValueError("expected 'image', a path relative to the file")
            path = first_that_exists(self._file.folder, (image, f"{_IMAGE_FOLDER}/{image}")) if image else None
            return pair_of(name_of(row, "id", image or where), path, _caption(row), where)
        except ValueError as error:
            raise InvalidRowError(where, str(error)) from error


def is_llava(file: DataFile) -> bool:
    """Whether a JSON file looks like one of LLaVA's."""
    row = first_element(file)
    return isinstance(row, dict) and ("conversations" in row or "blip_caption" in row)


def _caption(row: dict[str, Any]) -> tuple[str, ...]:
    turns = row.get("conversations")
    answers = [row["blip_caption"]] if row.get("blip_caption") else []
    if not answers and isinstance(turns, list):
        answers = [turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") == "gpt"][:1]
    texts = clean_texts([text.replace(_IMAGE_TAG, "") if isinstance(text, str) else text for text in answers])
    if not texts:
        raise ValueError("expected 'conversations' with a non-empty turn from 'gpt', or 'blip_caption'")
    return texts
