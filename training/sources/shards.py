"""WebDataset tar shards, read by position.

A shard is indexed once by its headers; after that any sample costs one seek. That gives exact epochs, any
order, and any number of workers without duplicated or dropped samples, which streaming shards does not.
"""

import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field

from webdataset.tariterators import base_plus_ext

from training.errors import InvalidPairsError, InvalidRowError
from training.pairs import Pair
from training.sources.file import DataFile
from training.sources.rows import captions_of, parse_json

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
TEXT_EXTENSIONS = ("json", "txt")


@dataclass
class _Sample:
    """Where a sample's members lie in the tar file: extension to (offset, length)."""

    name: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)


class Shard:
    """One tar file of samples `<name>.jpg|jpeg|png|webp` beside `<name>.json` or `<name>.txt`.

    The JSON holds `captions` (list), or `caption` or `text` (string); each line of a `.txt` is a caption. A sample that
    holds images and nothing else, or texts and nothing else, is that half of a pair.
    """

    def __init__(self, file: DataFile) -> None:
        """Indexes the tar file.

        Raises:
            InvalidPairsError: it cannot be read, or is no tar file.
        """
        self._file = file
        self._samples = _index(file)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, position: int) -> Pair:
        """Reads one pair.

        Raises:
            InvalidRowError: the sample holds other things, or no caption where one should be.
        """
        sample = self._samples[position]
        where = f"{self._file.label}: sample '{sample.name}'"
        image = next((name for name in IMAGE_EXTENSIONS if name in sample.members), None)
        text = next((name for name in TEXT_EXTENSIONS if name in sample.members), None)
        if (image is None or text is None) and not _is_half(sample.members):
            found = ", ".join(sample.members) or "nothing"
            raise InvalidRowError(where, f"expected an image and a .json or .txt, found {found}")
        data = None if image is None else self._read(sample, image)
        return Pair(sample.name, data, () if text is None else self._captions(sample, text, where), where)

    def _captions(self, sample: _Sample, extension: str, where: str) -> tuple[str, ...]:
        try:
            data = self._read(sample, extension)
            if extension == "json":
                return captions_of(parse_json(data))
            return captions_of({"captions": data.decode("utf-8").split("\n")})
        except ValueError as error:
            raise InvalidRowError(where, str(error)) from error

    def _read(self, sample: _Sample, extension: str) -> bytes:
        offset, length = sample.members[extension]
        with self._file.path.open("rb") as file:  # no handle is kept: threads and processes would share its position
            file.seek(offset)
            return file.read(length)


def _is_half(extensions: Iterable[str]) -> bool:
    """Whether a sample is plainly one half: with anything beside it, the other half may be there under a wrong name."""
    found = set(extensions)
    return bool(found) and (found <= set(IMAGE_EXTENSIONS) or found <= set(TEXT_EXTENSIONS))


def _index(file: DataFile) -> list[_Sample]:
    samples: dict[str, _Sample] = {}
    try:
        if file.path.stat().st_size % tarfile.BLOCKSIZE:  # tarfile itself takes a header cut in two for the end
            raise tarfile.ReadError("cut short")
        with tarfile.open(file.path, "r:") as tar:
            for member in tar:
                name, extension = base_plus_ext(member.name)
                if member.isfile() and name and not name.endswith("/"):  # else it is a hidden file
                    sample = samples.setdefault(name, _Sample(name))
                    sample.members[extension.lower()] = (member.offset_data, member.size)
    except (OSError, tarfile.TarError) as error:
        raise InvalidPairsError(f"{file.label} is no readable tar file: {error}") from error
    return list(samples.values())
