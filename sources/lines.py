"""Text files by line: indexed once, then each line costs one seek, whatever the file's size.

Lines end at line feeds alone: texts may hold U+2028, at which `splitlines` would cut. Those that hold white space and
byte order marks alone are blank, and are passed over.
"""

from array import array
from collections.abc import Iterator
from pathlib import Path

from anykey.sources.errors import SourceError

BLANK = b" \t\r\n\v\f\xef\xbb\xbf"  # strips a line that is blank to nothing


def scan_lines(path: Path, label: str) -> Iterator[tuple[int, int, bytes]]:
    """Line number from 1, byte offset and bytes of every line that is not blank.

    Args:
        path: Where the file lies.
        label: What messages call it.

    Raises:
        SourceError: it cannot be read.
    """
    offset = 0
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip(BLANK):
                    yield number, offset, line
                offset += len(line)
    except OSError as error:
        raise SourceError(f"cannot read {label}: {error}") from error


class Lines:
    """The lines of a file that are not blank, by position."""

    def __init__(self, path: Path, label: str) -> None:
        """Finds where the lines begin; see `scan_lines` for arguments and errors."""
        self._path = path
        self._numbers, self._offsets = array("q"), array("q")
        for number, offset, _ in scan_lines(path, label):
            self._numbers.append(number)
            self._offsets.append(offset)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, position: int) -> tuple[int, bytes]:
        """Line number from 1, and the line."""
        return self._numbers[position], read_line(self._path, self._offsets[position])


def read_line(path: Path, offset: int) -> bytes:
    """The line of a file that begins at a byte, without its line feed."""
    with path.open("rb") as file:  # no handle is kept: threads and processes would share its position
        file.seek(offset)
        return file.readline().removesuffix(b"\n")
