"""WebDataset tar shards, read in order: samples of `<name>.jpg`, `<name>.txt` and `<name>.json`, all or any of them.

Only headers and texts are read; an image stays where it is, and its location says which bytes of the shard it is.
"""

import logging
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from anykey.sources.corpus.entry import CorpusEntry, CorpusFile, ReadOptions
from anykey.sources.corpus.sidecars import read_sample, suffix_counts, with_note_of_lines
from anykey.sources.errors import InvalidRowError, SourceError, UnreadableStretchError
from anykey.sources.files.files import file_state, open_file, reason_of
from anykey.sources.files.http_files import FileState
from anykey.sources.files.images import ImageStamp, member_stamp
from anykey.sources.files.locations import MemberLocation, path_of, printable
from anykey.sources.rows import RowError
from anykey.sources.sidecars import MAX_TEXT_BYTES, TEXT_SUFFIXES
from anykey.sources.suffixes import IMAGE_SUFFIXES

_FRAME = re.compile(r"(?:(\d+)\.)?(\w+)")
MAX_END_BYTES = 2 * tarfile.RECORDSIZE  # two blocks of zeros, and what fills the last record
READ_BYTES = 2**16
logger = logging.getLogger(__name__)


def read_shard(file: CorpusFile, options: ReadOptions) -> Iterator[CorpusEntry | InvalidRowError]:
    """Reads a shard's samples in the order in which they begin; their members need not be neighbours.

    `<name>.0.jpg`, `<name>.1.jpg`, ... are several images of one key. What is damaged or cut off is a bad row after the
    samples before it.

    Raises:
        SourceError: it is no plain tar file, or lies on a server that serves no parts of files.
        OSError: it cannot be read.
    """
    state = file_state(file.location)
    if not state.has_ranges:
        raise SourceError(
            f"{file.label}: expected a server that serves parts of files (range requests), "
            "as a shard's images are read one by one; fetch the shard first"
        )
    with open_file(file.location) as opened:
        contents = _read_contents(opened, file, state)
    if others := contents.others:
        logger.warning(
            "%s: left aside %d members that are no image, .txt or .json: %s",
            *(file.label, len(others), suffix_counts(others)),
        )
    prefix = f"{path_of(file.location).stem}/" if options.prefix_keys else ""
    contents.doubt()
    samples = contents.samples.values()
    yield from with_note_of_lines((_read_sample(sample, prefix, file, options) for sample in samples), file.label)
    if contents.damage:
        yield UnreadableStretchError(file.label, contents.damage, num_rows=None)


def split_name(member: str) -> tuple[str, str]:
    """A member's name, cut at the first dot of its last part as WebDataset does: the sample's name, and the suffix.

    >>> split_name("cats/1.seg.png")
    ('cats/1', 'seg.png')
    """
    folder, slash, last = member.rpartition("/")
    name, _, suffix = last.partition(".")
    return f"{folder}{slash}{name}", suffix


@dataclass
class _Sample:
    """What belongs to one name; `fault` says why it cannot be a row, `is_unread` whether it could not be read whole."""

    name: str
    frames: list[tuple[int, str | ImageStamp]] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    suffixes: set[str] = field(default_factory=set)
    fault: str = ""
    is_unread: bool = False


@dataclass
class _Contents:
    """What a shard holds.

    Attributes:
        samples: Its samples by name, in the order in which they begin.
        damage: What keeps the rest of the shard from being read; empty if nothing does.
        is_mixed: Whether members of one sample lie between those of another.
    """

    samples: dict[str, _Sample] = field(default_factory=dict)
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


def _read_contents(opened: BinaryIO, file: CorpusFile, state: FileState) -> _Contents:
    """Reads all headers, and the texts."""
    try:
        tar = tarfile.open(fileobj=opened, mode="r:")  # noqa: SIM115 - the caller closes the file
    except (tarfile.TarError, ValueError) as error:
        raise SourceError(f"{file.label} is no readable tar file (plain, not compressed): {error}") from error
    contents = _Contents()
    last = "its beginning"
    try:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it would keep them all
            if state.size_bytes is not None and member.offset_data + member.size > state.size_bytes:
                raise tarfile.ReadError("it is cut short")
            if not member.isdir():
                _add(contents, member, opened, file, state)
            last = f"'{printable(member.name)}'"
        contents.damage = _damage_at(opened, tar.offset, last)
    except (tarfile.TarError, ValueError) as error:
        contents.damage = f"what follows {last} is lost: {error}"
    except OSError as error:
        contents.damage = f"what follows {last} cannot be read: {reason_of(error)}"
    return contents


def _add(contents: _Contents, member: tarfile.TarInfo, opened: BinaryIO, file: CorpusFile, state: FileState) -> None:
    name, suffix = split_name(member.name)
    if name.endswith("/") or not name:
        return  # a hidden file
    contents.is_mixed |= name in contents.samples and name != next(reversed(contents.samples))
    sample = contents.samples.setdefault(name, _Sample(name))
    if suffix in sample.suffixes:
        sample.fault = f"member '{printable(member.name)}' is there twice"
    sample.suffixes.add(suffix)
    frame = _FRAME.fullmatch(suffix.lower())
    kind = frame[2] if frame else ""
    if not member.isfile():
        sample.others.append(f"{suffix} link")
        if kind in IMAGE_SUFFIXES | TEXT_SUFFIXES:  # without it, half of the sample would be lost
            sample.fault = f"member '{printable(member.name)}' is a link: expected a file"
    elif frame and kind in IMAGE_SUFFIXES:
        location = MemberLocation(file.absolute, member.offset_data, member.size, member.name)
        sample.frames.append((int(frame[1] or 0), member_stamp(location, state) or str(location)))
    elif kind in TEXT_SUFFIXES and kind == suffix.lower():
        if member.size > MAX_TEXT_BYTES:
            sample.fault = f".{kind} has {member.size} bytes, at most {MAX_TEXT_BYTES} are read"
            sample.is_unread = kind == "json"  # which may name the key
            return
        opened.seek(member.offset_data)
        sample.texts[kind] = opened.read(member.size)
    else:
        sample.others.append(suffix)


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


def _read_sample(sample: _Sample, prefix: str, file: CorpusFile, options: ReadOptions) -> CorpusEntry | InvalidRowError:
    where = f"{file.label}: sample '{printable(sample.name)}'"
    try:
        if sample.fault:
            raise RowError(sample.fault, is_unread=sample.is_unread)
        if not sample.frames and not sample.texts:
            raise RowError(f"expected an image, .txt or .json, found {suffix_counts(sample.others)}")
        images = tuple(image for _, image in sorted(sample.frames, key=lambda frame: frame[0]))
        return read_sample(f"{prefix}{sample.name}", images, sample.texts, options.columns, where)
    except RowError as error:
        return error.at(where)
