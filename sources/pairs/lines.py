"""Text files by line: indexed once, then each line costs one seek, whatever the file's size."""

from array import array
from collections.abc import Iterator
from pathlib import Path

from anykey.sources.errors import SourceError
from anykey.sources.pairs.file import DataFile


def scan_lines(file: DataFile, kind: str) -> Iterator[tuple[int, int, str]]:
    """Line number from 1, byte offset and text of every line that is not blank.

    Lines end at line feeds alone: captions may hold U+2028, at which `splitlines` would cut.

    Args:
        file: A UTF-8 file.
        kind: What it should be, for messages.

    Raises:
        SourceError: it cannot be read, or is not UTF-8.
    """
    offset = number = 0
    try:
        with file.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                text = _text(line)
                if text.strip():
                    yield number, offset, text
                offset += len(line)
    except UnicodeDecodeError as error:
        raise SourceError(f"cannot read {file.label} as UTF-8 {kind}: line {number}: {error}") from error
    except OSError as error:
        raise SourceError(f"cannot read {file.label} as UTF-8 {kind}: {error}") from error


class Lines:
    """The lines of a file that are not blank, by position."""

    def __init__(self, file: DataFile, kind: str) -> None:
        """Finds where the lines begin; see `scan_lines` for arguments and errors."""
        self._path = file.path
        self._numbers, self._offsets = array("q"), array("q")
        for number, offset, _ in scan_lines(file, kind):
            self._numbers.append(number)
            self._offsets.append(offset)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, position: int) -> tuple[int, str]:
        """Line number from 1, and the line."""
        return self._numbers[position], read_line(self._path, self._offsets[position])


def read_line(path: Path, offset: int) -> str:
    """The line of a UTF-8 file that begins at a byte, without its line feed."""
    with path.open("rb") as file:  # no handle is kept: threads and processes would share its position
        file.seek(offset)
        return _text(file.readline().removesuffix(b"\n"))


def _text(line: bytes) -> str:
    """A line without a byte order mark, which stands at the beginning of a file, and of each that was joined to it."""
    return line.decode("utf-8-sig")
