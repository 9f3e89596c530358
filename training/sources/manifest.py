"""A JSONL manifest of pairs: `{"image": "photos/1.jpg", "captions": ["...", "..."]}`, one to a line."""

import json
from pathlib import Path

from training.errors import InvalidPairsError, InvalidRowError
from training.pairs import Pair
from training.sources.rows import captions_of


class Manifest:
    """Pairs named in a JSONL file; image paths are relative to the file.

    A row holds `image` and `captions` (list), or `caption` or `text` (string), and maybe a `name`.
    """

    def __init__(self, path: Path) -> None:
        """Reads the lines; they are parsed one by one later.

        Raises:
            InvalidPairsError: the file cannot be read.
        """
        self._path = path
        try:
            lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines(): captions may hold U+2028
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidPairsError(f"cannot read {path} as UTF-8 JSONL: {error}") from error
        self._lines = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, position: int) -> Pair:
        """Parses one row.

        Raises:
            InvalidRowError: not JSON, or without an image or a caption.
        """
        number, line = self._lines[position]
        where = f"{self._path}:{number}"
        try:
            row = json.loads(line)
            captions = captions_of(row)
        except ValueError as error:
            raise InvalidRowError(where, str(error)) from error
        image = row.get("image")
        if not isinstance(image, str) or not image:
            raise InvalidRowError(where, "expected 'image', a path relative to the manifest")
        return Pair(str(row.get("name", image)), self._path.parent / image, captions, where)
