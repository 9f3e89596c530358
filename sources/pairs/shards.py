"""WebDataset tar shards, read by position.

A shard is indexed once by its headers; after that any sample costs one seek. That gives exact epochs, any
order, and any number of workers without duplicated or dropped samples, which streaming shards does not.
"""

import tarfile
from dataclasses import dataclass, field

from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.pair import Pair
from anykey.sources.pairs.rows import sidecar_captions
from anykey.sources.sidecars import TEXT_SUFFIXES
from anykey.sources.suffixes import IMAGE_SUFFIXES

_READ_BYTES = 2**16


@dataclass
class _Sample:
    """Where a sample's members lie in the tar file: suffix to (offset, length); `fault` says why it is no pair."""

    name: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    fault: str = ""


class Shard:
    """One tar file of samples `<name>.jpg`, or another image, beside `<name>.json`, `<name>.txt` or both.

    The JSON holds `captions` (list), or `caption` or `text` (string); where it has none, each line of the `.txt` is a
    caption. A sample that holds an image and nothing else, or texts and nothing else, is that half of a pair.
    """

    def __init__(self, file: DataFile) -> None:
        """Indexes the tar file.

        Raises:
            SourceError: it cannot be read, or is no tar file.
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
        images = [suffix for suffix in sample.members if suffix in IMAGE_SUFFIXES]
        has_text = bool(TEXT_SUFFIXES & sample.members.keys())
        found = ", ".join(sample.members)
        if sample.fault:
            raise InvalidRowError(where, sample.fault)
        if len(images) > 1:
            raise InvalidRowError(where, f"expected one image, found {found}")
        if not (images and has_text) and not _is_half(sample):
            raise InvalidRowError(where, f"expected an image and a .json or .txt, found {found or 'nothing'}")
        image = self._read(sample, images[0]) if images else None
        captions = self._captions(sample, where) if has_text else ()
        if image is None and not captions:
            raise InvalidRowError(where, "expected an image, a text or both, found neither")
        return Pair(sample.name, image, captions, where)

    def _captions(self, sample: _Sample, where: str) -> tuple[str, ...]:
        texts = {suffix: self._read(sample, suffix) for suffix in TEXT_SUFFIXES & sample.members.keys()}
        try:
            return sidecar_captions(texts, self._file.columns)
        except ValueError as error:
            raise InvalidRowError(where, str(error)) from error

    def _read(self, sample: _Sample, suffix: str) -> bytes:
        offset, length = sample.members[suffix]
        with self._file.path.open("rb") as file:  # no handle is kept: threads and processes would share its position
            file.seek(offset)
            return file.read(length)


def split_name(member: str) -> tuple[str, str]:
    """A member's name, cut at the first dot of its last part as WebDataset does: the sample's name, and the suffix.

    >>> split_name("cats/1.seg.png")
    ('cats/1', 'seg.png')
    """
    folder, slash, last = member.rpartition("/")
    name, _, suffix = last.partition(".")
    return f"{folder}{slash}{name}", suffix


def _is_half(sample: _Sample) -> bool:
    """Whether a sample is plainly one half: with anything beside it, the other half may be there under a wrong name."""
    found = sample.members.keys()
    return bool(found) and (found <= IMAGE_SUFFIXES or found <= TEXT_SUFFIXES)


def _index(file: DataFile) -> list[_Sample]:
    samples: dict[str, _Sample] = {}
    try:
        if file.path.stat().st_size % tarfile.BLOCKSIZE:  # tarfile itself takes a header cut in two for the end
            raise tarfile.ReadError("cut short")
        with tarfile.open(file.path, "r:") as tar:
            for member in tar:
                name, suffix = split_name(member.name)
                if not member.isdir() and suffix and name and not name.endswith("/"):  # else it is a hidden file
                    _add(samples.setdefault(name, _Sample(name)), member, suffix.lower())
            _check_end(file, tar.offset)
    except (OSError, tarfile.TarError) as error:
        raise SourceError(f"{file.label} is no readable tar file: {error}") from error
    return list(samples.values())


def _check_end(file: DataFile, offset: int) -> None:
    """Raises `tarfile.ReadError` where more than zeros follows the mark of the end: a hole, or a second tar file."""
    with file.path.open("rb") as opened:
        opened.seek(offset)
        while chunk := opened.read(_READ_BYTES):
            if chunk.strip(b"\0"):
                raise tarfile.ReadError(f"from byte {offset} on there are zeros, and more behind them")


def _add(sample: _Sample, member: tarfile.TarInfo, suffix: str) -> None:
    if not member.isfile():
        if suffix in IMAGE_SUFFIXES | TEXT_SUFFIXES:  # without it, half of the pair would be lost
            sample.fault = f"member '{member.name}' is a link: expected a file"
        return
    if suffix in sample.members:
        sample.fault = f"member '{member.name}' is there twice"
    sample.members[suffix] = (member.offset_data, member.size)
