"""WebDataset tar shards, see `sources.shards`: headers and texts are read, images stay where they are."""

import logging
from collections.abc import Iterator

from anykey.sources.corpus.copied import readable_in_parts
from anykey.sources.corpus.entry import CorpusEntry, CorpusFile, ReadOptions
from anykey.sources.corpus.sidecars import read_sample, suffix_counts, with_note_of_lines
from anykey.sources.errors import InvalidRowError, UnreadableStretchError
from anykey.sources.files.files import file_state, open_file
from anykey.sources.files.http_files import FileState
from anykey.sources.files.images import ImageStamp, member_stamp
from anykey.sources.files.locations import MemberLocation, path_of, printable
from anykey.sources.rows import RowError
from anykey.sources.shards import Member, Sample, read_contents

logger = logging.getLogger(__name__)


def read_shard(file: CorpusFile, options: ReadOptions) -> Iterator[CorpusEntry | InvalidRowError]:
    """Reads a shard's samples in the order in which they begin; their members need not be neighbours.

    `<name>.0.jpg`, `<name>.1.jpg`, ... are several images of one key. What is damaged or cut off is a bad row after the
    samples before it.

    Raises:
        SourceError: it is not a plain tar file.
        OSError: it cannot be read.
    """
    file = readable_in_parts(file)
    state = file_state(file.location)
    with open_file(file.location) as opened:
        contents = read_contents(opened, file.label, state.size_bytes, with_texts=True)
    if others := contents.others:
        logger.warning(
            "%s: left aside %d members that are no image, .txt or .json: %s",
            *(file.label, len(others), suffix_counts(others)),
        )
    prefix = f"{path_of(file.named or file.location).stem}/" if options.prefix_keys else ""
    contents.doubt()
    samples = contents.samples.values()
    rows = (_read_sample(sample, prefix, file, state, options) for sample in samples)
    yield from with_note_of_lines(rows, file.label)
    if contents.damage:
        yield UnreadableStretchError(file.label, contents.damage, num_rows=None)


def _read_sample(
    sample: Sample, prefix: str, file: CorpusFile, state: FileState, options: ReadOptions
) -> CorpusEntry | InvalidRowError:
    where = f"{file.label}: sample '{printable(sample.name)}'"
    try:
        if sample.fault:
            raise RowError(sample.fault, is_unread=sample.is_unread)
        if not sample.frames and not sample.texts:
            raise RowError(f"expected an image, .txt or .json, found {suffix_counts(sample.others)}")
        images = tuple(_image(member, file, state) for member in sample.images)
        return read_sample(f"{prefix}{sample.name}", images, sample.contents, options.columns, where)
    except RowError as error:
        return error.at(where)


def _image(member: Member, file: CorpusFile, state: FileState) -> str | ImageStamp:
    location = MemberLocation(file.absolute, member.offset, member.size_bytes, member.name)
    return member_stamp(location, state) or str(location)
