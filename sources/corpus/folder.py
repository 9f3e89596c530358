"""Folders of images and texts: `cats/1.jpg`, and beside it `cats/1.txt`, `cats/1.json`, both or none."""

import logging
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import PurePosixPath

from anykey.sources.corpus.entry import CorpusEntry, CorpusFile, ReadOptions
from anykey.sources.corpus.image_tables import image_tables, plain_location, read_image_table
from anykey.sources.corpus.sidecars import read_sample, suffix_counts, with_note_of_lines
from anykey.sources.errors import InvalidRowError, SourceError, UnreadableStretchError
from anykey.sources.files.files import FoundFile, files_below, read_file, reason_of
from anykey.sources.files.images import ImageStamp, file_stamp
from anykey.sources.files.locations import path_of, printable, scheme_of, without_secrets
from anykey.sources.files.threads import map_in_threads
from anykey.sources.kinds import PARQUET
from anykey.sources.rows import RowError
from anykey.sources.sidecars import MAX_TEXT_BYTES, TEXT_SUFFIXES
from anykey.sources.suffixes import IMAGE_SUFFIXES

logger = logging.getLogger(__name__)


def read_folder(folder: CorpusFile, options: ReadOptions) -> Iterator[CorpusEntry | InvalidRowError]:
    """Reads all that is below a folder, sorted by path; hidden files and links to folders are left aside.

    A key is the path from the folder without suffix. Two images of one name are two rows of one key. Tables that name
    images come first. A folder without images and texts is its Parquet files, sorted by their paths as plain strings,
    in which order autofaiss and clip-retrieval read them.

    Raises:
        SourceError: there is nothing of the kind in it.
        OSError: nothing of it can be read.
    """
    unread: list[OSError] = []
    files = files_below(folder.location, unread.append)
    if unread and not files:
        raise unread[0]
    prefix = f"{path_of(folder.absolute).name}/" if options.prefix_keys else ""
    named: set[str] = set()
    doubts: set[PurePosixPath] = set()
    tables = image_tables(files, named, doubts)
    for location, table in tables.items():
        yield from with_note_of_lines(read_image_table(table, prefix, options), printable(without_secrets(location)))
    samples, others = _group([file for file in files if not _is_done(file, tables, named)])
    doubtful = {sample.name for sample in samples if not doubts.isdisjoint(PurePosixPath(sample.name).parents)}
    for sample in (sample for sample in samples if sample.name in doubtful):  # a table may say more than they do
        where = printable(without_secrets((sample.images or list(sample.texts.values()))[0].location))
        yield UnreadableStretchError(where, "a table that may name it cannot be read whole")
    if samples or tables:
        plain = [sample for sample in samples if sample.name not in doubtful]
        yield from _read_samples(folder, plain, others, prefix, options)
    else:
        yield from _read_parts(folder, files, options)
    for error in unread:
        where = printable(without_secrets(error.filename or folder.location))
        yield UnreadableStretchError(where, f"the folder cannot be listed: {reason_of(error)}", num_rows=None)


def _read_samples(
    folder: CorpusFile, samples: list["_Sample"], others: list[str], prefix: str, options: ReadOptions
) -> Iterator[CorpusEntry | InvalidRowError]:
    """Reads the samples of a folder, elsewhere in threads."""
    if others:
        logger.warning(
            "%s: left aside %d files that are no image, .txt or .json: %s",
            *(folder.label, len(others), suffix_counts(others)),
        )

    def read(sample: _Sample) -> list[CorpusEntry | InvalidRowError]:
        return _read_sample(sample, prefix, options)

    groups = map_in_threads(read, samples, options.num_threads if scheme_of(folder.location) else 1)
    yield from with_note_of_lines(chain.from_iterable(groups), folder.label)


def _is_done(file: FoundFile, tables: Mapping[str, object], named: Container[str]) -> bool:
    return file.location in tables or plain_location(file.location) in named


def _read_parts(
    folder: CorpusFile, files: list[FoundFile], options: ReadOptions
) -> Iterator[CorpusEntry | InvalidRowError]:
    """Reads the Parquet files of a folder that holds nothing else of use."""
    parts = sorted(file.location for file in files if path_of(file.name).suffix.lower() in PARQUET.suffixes)
    others = [_split(file.name)[1] for file in files if file.location not in set(parts)]
    if not parts:
        raise SourceError(
            f"corpus folder {folder.label}: expected images, .txt, .json or .parquet in it, or M-BEIR's "
            f"cand_pool/local/*.jsonl; found {suffix_counts(others) or 'nothing'}. Files of other formats are named "
            f"one by one, or by a pattern such as {folder.label}/*.tar"
        )
    if others:
        logger.warning("%s: left aside %d files: %s", folder.label, len(others), suffix_counts(others))
    from anykey.sources.corpus.parquet import read_parquet  # loads pyarrow, which nothing else needs

    for part in parts:
        yield from read_parquet(CorpusFile(part), options)


@dataclass
class _Sample:
    name: str
    images: list[FoundFile] = field(default_factory=list)
    texts: dict[str, FoundFile] = field(default_factory=dict)


def _group(files: list[FoundFile]) -> tuple[list[_Sample], list[str]]:
    """The samples in the order of their first files, and the suffixes of all other files."""
    samples: dict[str, _Sample] = {}
    others = []
    for file in files:
        name, suffix = _split(file.name)
        if suffix not in IMAGE_SUFFIXES | TEXT_SUFFIXES:
            others.append(suffix)
            continue
        sample = samples.setdefault(name, _Sample(name))
        if suffix in IMAGE_SUFFIXES:
            sample.images.append(file)
        else:
            sample.texts[suffix] = file
    return list(samples.values()), others


def _split(name: str) -> tuple[str, str]:
    path = path_of(name)
    return str(path.with_suffix("")), path.suffix.lower().removeprefix(".")


def _read_sample(sample: _Sample, prefix: str, options: ReadOptions) -> list[CorpusEntry | InvalidRowError]:
    """One row an image, or one for texts alone."""
    rows: list[CorpusEntry | InvalidRowError] = []
    for file in sample.images or list(sample.texts.values())[:1]:
        where = printable(without_secrets(file.location))
        images = (_image(file),) if sample.images else ()
        try:
            texts = {suffix: _read_text(text) for suffix, text in sample.texts.items()}
            rows.append(read_sample(f"{prefix}{sample.name}", images, texts, options.columns, where))
        except RowError as error:
            rows.append(error.at(where))
    return rows


def _image(file: FoundFile) -> str | ImageStamp:
    return (file_stamp(file.location, file.state) if file.state else None) or file.location


def _read_text(file: FoundFile) -> bytes:
    try:
        return read_file(file.location, max_bytes=MAX_TEXT_BYTES)
    except OSError as error:
        raise RowError(f"cannot read {path_of(file.name).name}: {reason_of(error)}", is_unread=True) from error
