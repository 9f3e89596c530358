"""WebDataset tar shards, read by position.

A shard is indexed once by its headers; after that any sample costs one seek. That gives exact epochs, any
order, and any number of workers without duplicated or dropped samples, which streaming shards does not.
"""

import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from webdataset.tariterators import base_plus_ext

from training.errors import InvalidPairsError, InvalidRowError
from training.pairs import Pair
from training.sources.rows import captions_of

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
TEXT_EXTENSIONS = ("json", "txt")


@dataclass
class _Sample:
    """Where a sample's members lie in the tar file: extension to (offset, length)."""

    name: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)


class Shard:
    """One tar file of samples `<name>.jpg|jpeg|png|webp` beside `<name>.json` or `<name>.txt`.

    The JSON holds `captions` (list), or `caption` or `text` (string); each line of a `.txt` is a caption.
    """

    def __init__(self, path: Path) -> None:
        """Indexes the tar file.

        Raises:
            InvalidPairsError: it cannot be read, or is no tar file.
        """
        self._path = path
        self._samples = _index(path)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, position: int) -> Pair:
        """Reads one pair.

        Raises:
            InvalidRowError: the sample lacks an image or a caption.
        """
        sample = self._samples[position]
        where = f"{self._path}: sample '{sample.name}'"
        image = next((name for name in IMAGE_EXTENSIONS if name in sample.members), None)
        text = next((name for name in TEXT_EXTENSIONS if name in sample.members), None)
        if image is None or text is None:
            found = ", ".join(sample.members) or "nothing"
            raise InvalidRowError(where, f"expected an image and a .json or .txt, found {found}")
        return Pair(sample.name, self._read(sample, image), self._captions(sample, text, where), where)

    def _captions(self, sample: _Sample, extension: str, where: str) -> tuple[str, ...]:
        try:
            text = self._read(sample, extension).decode("utf-8")
            return captions_of(json.loads(text) if extension == "json" else {"captions": text.split("\n")})
        except ValueError as error:
            raise InvalidRowError(where, str(error)) from error

    def _read(self, sample: _Sample, extension: str) -> bytes:
        offset, length = sample.members[extension]
        with self._path.open("rb") as file:  # no handle is kept: threads and processes would share its position
            file.seek(offset)
            return file.read(length)


def _index(path: Path) -> list[_Sample]:
    samples: dict[str, _Sample] = {}
    try:
        if path.stat().st_size % tarfile.BLOCKSIZE:  # tarfile itself takes a header cut in two for the end
            raise tarfile.ReadError("cut short")
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name, extension = base_plus_ext(member.name)
                if member.isfile() and name and not name.endswith("/"):  # else it is a hidden file
                    sample = samples.setdefault(name, _Sample(name))
                    sample.members[extension.lower()] = (member.offset_data, member.size)
    except (OSError, tarfile.TarError) as error:
        raise InvalidPairsError(f"{path} is no readable tar file: {error}") from error
    return list(samples.values())
