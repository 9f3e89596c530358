"""WebDataset tar shards: which members belong to one sample, and where a shard is damaged.

Shards must be plain: a compressed tar file has no positions.
"""

import re
import tarfile
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from anykey.sources.errors import SourceError
from anykey.sources.files.files import reason_of
from anykey.sources.files.locations import printable
from anykey.sources.sidecars import MAX_TEXT_BYTES, TEXT_SUFFIXES
from anykey.sources.suffixes import IMAGE_SUFFIXES

_FRAME = re.compile(r"(?:(\d+)\.)?(\w+)")
MAX_END_BYTES = 2 * tarfile.RECORDSIZE  # two blocks of zeros, and what fills the last record
READ_BYTES = 2**16
MAX_HEADER_BYTES = 2**20  # of a long name, or of what else a header has in blocks of its own


def split_name(member: str) -> tuple[str, str]:
    """A member's name, cut at the first dot of its last part as WebDataset does: the sample's name, and the suffix.

    >>> split_name("cats/1.seg.png")
    ('cats/1', 'seg.png')
    """
    folder, slash, last = member.rpartition("/")
    name, _, suffix = last.partition(".")
    return f"{folder}{slash}{name}", suffix


@dataclass(frozen=True)
class Member:
    """A file in a tar file: `size_bytes` bytes from byte `offset`."""

    name: str
    offset: int
    size_bytes: int


@dataclass
class Sample:
    """What belongs to one name; the case of suffixes does not count.

    Attributes:
        name: The name.
        frames: Its images by number: `<name>.0.jpg`, `<name>.1.jpg`, ...; 0 for one without.
        texts: Its `txt` and `json`.
        contents: What these hold, where that was asked for.
        others: The suffixes of all else that it has.
        suffixes: Those of all that it has, in the order of the members.
        fault: Why it cannot be used; empty if nothing is wrong.
        is_unread: Whether that is because it could not be read whole.
    """

    name: str
    frames: list[tuple[int, Member]] = field(default_factory=list)
    texts: dict[str, Member] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    suffixes: dict[str, None] = field(default_factory=dict)
    fault: str = ""
    is_unread: bool = False

    @property
    def images(self) -> list[Member]:
        """Its images in the order of their numbers."""
        return [member for _, member in sorted(self.frames, key=lambda frame: frame[0])]


@dataclass
class Contents:
    """What a shard holds.

    Attributes:
        samples: Its samples by name, in the order in which they begin.
        damage: What keeps the rest of the shard from being read; empty if nothing does.
        is_mixed: Whether members of one sample lie between those of another.
    """

    samples: dict[str, Sample] = field(default_factory=dict)
    damage: str = ""
    is_mixed: bool = False

    @property
    def others(self) -> list[str]:
        """The suffixes of the members that are left aside, without being a bad row for that."""
        samples = self.samples.values()
        return [suffix for sample in samples if sample.frames or sample.texts for suffix in sample.others]

    def doubt(self) -> None:
        """Where the shard is damaged, marks the samples that may lack members: the last, or any if they are mixed.

        One that has as many members as the largest is taken for whole; of a single one nobody can tell.
        """
        samples = list(self.samples.values()) if self.damage else []
        most = max((len(sample.suffixes) for sample in samples), default=0)
        for sample in samples if self.is_mixed else samples[-1:]:
            if len(sample.suffixes) < most or len(samples) == 1:
                sample.fault, sample.is_unread = "it may lack members, as the shard is damaged behind it", True


class _Headers:
    """A file from which headers are read: where one says that it has so many bytes, no memory is taken for them.

    `tarfile` reads what a long name or its like says to have in one piece, and knows no limit.
    """

    def __init__(self, opened: BinaryIO) -> None:
        self._opened = opened
        self.tell, self.seek = opened.tell, opened.seek

    def read(self, size_bytes: int) -> bytes:
        if size_bytes > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header says to have {size_bytes} bytes, at most {MAX_HEADER_BYTES} are read")
        return self._opened.read(size_bytes)


def read_contents(opened: BinaryIO, label: str, size_bytes: int | None, with_texts: bool = False) -> Contents:
    """Reads all headers of an open shard.

    Args:
        opened: The shard.
        label: What messages call it.
        size_bytes: Its size, where that is told.
        with_texts: Whether the texts are read on the way.

    Raises:
        SourceError: it is not a plain tar file.
    """
    try:
        headers = cast(BinaryIO, _Headers(opened))
        tar = tarfile.open(fileobj=headers, mode="r:")  # noqa: SIM115 - the caller closes the file
    except (tarfile.TarError, ValueError) as error:
        raise SourceError(f"{label} is no readable tar file (plain, not compressed): {error}") from error
    contents = Contents()
    last = "its beginning"
    try:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it would keep them all
            if size_bytes is not None and member.offset_data + member.size > size_bytes:
                raise tarfile.ReadError("it is cut short")
            if not member.isdir():
                _add(contents, member, opened if with_texts else None)
            last = f"'{printable(member.name)}'"
        contents.damage = _damage_at(opened, tar.offset, last)
    except (tarfile.TarError, ValueError) as error:
        contents.damage = f"what follows {last} is lost: {error}"
    except OSError as error:
        contents.damage = f"what follows {last} cannot be read: {reason_of(error)}"
    return contents


def _add(contents: Contents, info: tarfile.TarInfo, opened: BinaryIO | None) -> None:
    name, suffix = split_name(info.name)
    if name.endswith("/") or not name:
        return  # a hidden file
    contents.is_mixed |= name in contents.samples and name != next(reversed(contents.samples))
    sample = contents.samples.setdefault(name, Sample(name))
    if suffix.lower() in sample.suffixes:
        sample.fault = f"member '{printable(info.name)}' is there twice"
    sample.suffixes[suffix.lower()] = None
    frame = _FRAME.fullmatch(suffix.lower())
    kind = frame[2] if frame else ""
    member = Member(info.name, info.offset_data, info.size)
    if not info.isfile():
        sample.others.append(f"{suffix} link")
        if kind in IMAGE_SUFFIXES | TEXT_SUFFIXES:  # without it, half of the sample would be lost
            sample.fault = f"member '{printable(info.name)}' is a link: expected a file"
    elif frame and kind in IMAGE_SUFFIXES:
        sample.frames.append((int(frame[1] or 0), member))
    elif kind in TEXT_SUFFIXES and kind == suffix.lower():
        _add_text(sample, kind, member, opened)
    else:
        sample.others.append(suffix)


def _add_text(sample: Sample, kind: str, member: Member, opened: BinaryIO | None) -> None:
    if member.size_bytes > MAX_TEXT_BYTES:
        sample.fault = f".{kind} has {member.size_bytes} bytes, at most {MAX_TEXT_BYTES} are read"
        sample.is_unread = kind == "json"  # which may name the key
        return
    sample.texts[kind] = member
    if opened is not None:
        opened.seek(member.offset)
        sample.contents[kind] = opened.read(member.size_bytes)


def _damage_at(opened: BinaryIO, offset: int, last: str) -> str:
    """What is wrong where a tar file ends: `tarfile` takes a broken header, or none, for the mark of the end."""
    opened.seek(offset)
    block = opened.read(tarfile.BLOCKSIZE)
    if block and not block.strip(b"\0"):
        return _damage_behind(opened, offset, last)
    fault = "it is cut short" if len(block) < tarfile.BLOCKSIZE else f"the header at byte {offset} is damaged"
    return f"what follows {last} is lost: {fault}"


def _damage_behind(opened: BinaryIO, offset: int, last: str) -> str:
    """What is wrong behind the mark of the end: zeros fill a tar file's last record, and more are where others were."""
    most = offset + MAX_END_BYTES
    while chunk := opened.read(READ_BYTES):
        if chunk.strip(b"\0"):
            return f"what follows {last} is lost: from byte {offset} on there are zeros, and more behind them"
        if opened.tell() > most:
            return f"what follows {last} is lost: from byte {offset} on there are more zeros than end a tar file"
    return ""
