"""WebDataset tar shards, read by position.

A shard is indexed once by its headers; after that any sample costs one seek. That gives exact epochs, any
order, and any number of workers without duplicated or dropped samples, which streaming shards does not.
"""

from typing import NamedTuple

from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.files.locations import printable
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.pair import Pair
from anykey.sources.pairs.rows import pair_of, sidecar_captions
from anykey.sources.shards import Sample, read_contents


class _Place(NamedTuple):
    """Where a pair lies: offset and length of its image and texts; `fault` says why it is not a pair."""

    name: str
    fault: str
    image: tuple[int, int] | None
    texts: dict[str, tuple[int, int]]


class Shard:
    """One tar file of samples `<name>.jpg`, or another image, beside `<name>.json`, `<name>.txt` or both.

    The JSON holds `text`, `captions` or `caption`; where it has none, each line of the `.txt` is a caption. A sample
    that holds an image and nothing else, or texts and nothing else, is that half of a pair.
    """

    def __init__(self, file: DataFile) -> None:
        """Indexes the tar file.

        Raises:
            SourceError: it cannot be read, or is not a tar file.
        """
        self._file = file
        self._samples = _index(file)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, position: int) -> Pair:
        """Reads one pair.

        Raises:
            InvalidRowError: the sample holds other things, or neither image nor caption.
        """
        name, fault, span, spans = self._samples[position]
        where = f"{self._file.label}: sample '{printable(name)}'"
        if fault:
            raise InvalidRowError(where, fault)
        try:
            image = self._read(*span) if span else None
            captions = sidecar_captions({kind: self._read(*text) for kind, text in spans.items()}, self._file.columns)
            return pair_of(name, image, captions, where)
        except ValueError as error:
            raise InvalidRowError(where, str(error)) from error

    def _read(self, offset: int, size_bytes: int) -> bytes:
        with self._file.path.open("rb") as file:  # no handle is kept: threads and processes would share its position
            file.seek(offset)
            return file.read(size_bytes)


def _fault_of(sample: Sample) -> str:
    """Why a sample is not a pair; empty for a pair, and for what is plainly one half of it.

    With anything beside a half, the other one may be there under a wrong name.
    """
    found = ", ".join(suffix or "no suffix" for suffix in sample.suffixes)
    if sample.fault:
        return sample.fault
    if len(sample.frames) > 1:
        return f"expected one image, found {found}"
    is_whole = bool(sample.frames) and bool(sample.texts)
    return f"expected an image and a .json or .txt, found {found}" if sample.others and not is_whole else ""


def _place_of(sample: Sample) -> _Place:
    spans = [(image.offset, image.size_bytes) for image in sample.images[:1]]
    texts = {kind: (member.offset, member.size_bytes) for kind, member in sample.texts.items()}
    return _Place(sample.name, _fault_of(sample), spans[0] if spans else None, texts)


def _index(file: DataFile) -> list[_Place]:
    try:
        with file.path.open("rb") as opened:
            contents = read_contents(opened, file.label, file.path.stat().st_size)
    except OSError as error:
        raise SourceError(f"cannot read {file.label}: {error}") from error
    if contents.damage:
        raise SourceError(f"{file.label} is no readable tar file: {contents.damage}")
    return [_place_of(sample) for sample in contents.samples.values()]
