"""A corpus as a build sees it, in a fixed order: names become files, files rows, and rows a plan, images looked at."""

from collections.abc import Iterator
from functools import partial
from itertools import chain, islice

from rich.console import Console

from anykey.index.jobs.encoding import EncoderSource
from anykey.index.jobs.exported import read_if_exported
from anykey.index.jobs.plan import Plan
from anykey.index.settings import BuildSettings, EmbeddingSettings, EmbedSettings
from anykey.program.progress import progress
from anykey.sources.columns import parse_columns
from anykey.sources.corpus.entry import CorpusEntry, CorpusFile, ReadOptions
from anykey.sources.corpus.formats import format_of
from anykey.sources.corpus.mbeir import dataset_root
from anykey.sources.corpus.names import find_files
from anykey.sources.corpus.shards import read_shard
from anykey.sources.errors import InvalidRowError, SourceError, UnreachableImageError, UnreadableStretchError
from anykey.sources.files.files import reason_of
from anykey.sources.files.images import ImageStamp, stat_image
from anykey.sources.files.locations import InlineLocation, describe, is_remote, parse_location, without_secrets
from anykey.sources.files.roots import ImageRoots, OutsideRootsError, root_of
from anykey.sources.files.threads import CHUNK_SIZE, map_in_threads

__all__ = ["find_files", "read_corpus", "read_file", "roots_of"]

DEFAULT_OPTIONS = ReadOptions(read_known=read_if_exported)
PAGE_ROWS = CHUNK_SIZE
Stamped = tuple[CorpusEntry, tuple[ImageStamp, ...]]  # an entry whose images can be used, and what they are now


def roots_of(settings: EmbeddingSettings) -> ImageRoots | None:
    """Below which a build's images must lie that its index will refer to: where the corpus lies, and what is named.

    Returns:
        `None` where images are copied, or go into shards, whose images `load` decides about: they may lie anywhere.

    Raises:
        SourceError: a file of the corpus is missing, or of no known format.
    """
    if settings.images == "copy" or not isinstance(settings, BuildSettings):
        return None
    own = {root for file in find_files(settings.corpus) if (root := _root_of(file)) not in ("", "/")}
    return ImageRoots([*own, *settings.image_root], settings.max_image_bytes)


def _root_of(file: CorpusFile) -> str:
    """A shard or folder itself; what names in another file start from. Never all of this machine."""
    if file.lease:  # a copy, which may be removed before it is looked at again
        return ""
    try:
        is_shard = not file.is_folder and format_of(file).read is read_shard
    except OSError as error:
        raise SourceError(f"cannot read {file.label}: {reason_of(error)}") from error
    return root_of(file.absolute if is_shard or file.is_folder else dataset_root(file))


def read_corpus(settings: EmbeddingSettings) -> Iterator[list[Stamped | InvalidRowError]]:
    """Reads the corpus of a build, file by file, some rows at a time; a bad row comes as the error it is.

    Images on other machines are looked at in threads.

    Raises:
        SourceError: a file is missing, cannot be read, or is not what it should be.
    """
    options = ReadOptions(
        parse_columns(settings.columns), settings.prefix_keys, settings.decode_threads, read_if_exported
    )
    stamp = partial(_stamp_images, settings=settings, roots=roots_of(settings))
    rows = chain.from_iterable(map(partial(read_file, options=options), find_files(settings.corpus)))
    while page := list(islice(rows, PAGE_ROWS)):
        with_images = [row for row in page if not isinstance(row, InvalidRowError) and row.images]
        stamped = iter(list(map_in_threads(stamp, with_images, settings.decode_threads, _waits)))
        yield [row if isinstance(row, InvalidRowError) else next(stamped) if row.images else (row, ()) for row in page]


def read_file(file: CorpusFile, options: ReadOptions = DEFAULT_OPTIONS) -> Iterator[CorpusEntry | InvalidRowError]:
    """Reads one file or folder; a bad row comes as the error it is, and reading goes on.

    Where a file breaks off, the rest of it is a stretch that cannot be read.

    Raises:
        SourceError: it cannot be read, or is of no known format.
    """
    last = None
    try:
        for row in format_of(file).read(file, options):
            last = row.where
            yield row
    except OSError as error:
        if last is None:
            raise SourceError(f"cannot read {file.label}: {reason_of(error)}") from error
        yield UnreadableStretchError(
            f"{file.label}: behind {last}", f"cannot read on: {reason_of(error)}", num_rows=None
        )


def _stamp_images(
    entry: CorpusEntry, settings: EmbeddingSettings, roots: ImageRoots | None
) -> Stamped | InvalidRowError:
    """Looks at the images of a row; where they cannot be used, the row is a bad one."""
    try:
        if len(entry.images) > settings.max_images:
            raise ValueError(f"{len(entry.images)} images, at most {settings.max_images} are accepted")
        return entry, tuple([_stamp(image, settings, roots) for image in entry.images])
    except ValueError as error:
        return InvalidRowError(entry.where, str(error), entry.key)
    except OSError as error:
        return UnreachableImageError(entry.where, str(error), entry.key)


def _stamp(image: str | ImageStamp, settings: EmbeddingSettings, roots: ImageRoots | None) -> ImageStamp:
    """Raises `ValueError` with a sentence for what is no usable image, `OSError` for what cannot be read."""
    location = image.location if isinstance(image, ImageStamp) else image
    if settings.images == "reference" and isinstance(parse_location(location), InlineLocation):
        raise ValueError(
            f"the image {describe(location)} is part of the row and cannot be referred to; --images copy keeps it"
        )
    try:
        location.encode()
        if roots is not None:
            roots.require(location)
        stamp = image if isinstance(image, ImageStamp) else stat_image(image, settings.max_image_bytes, roots)
    except OutsideRootsError as error:
        raise OSError(
            f"cannot refer to image {describe(location)}: {error}; name its place with --image-root"
        ) from error
    except OSError as error:
        raise OSError(f"cannot read image {describe(location)}: {reason_of(error)}") from error
    except UnicodeEncodeError as error:
        raise ValueError(f"cannot read image {describe(location)}: its name is not UTF-8") from error
    if stamp.size_bytes > settings.max_image_bytes:
        limit = settings.max_image_bytes
        raise ValueError(f"image {describe(location)} has {stamp.size_bytes} bytes, at most {limit} are accepted")
    return stamp


def _waits(entry: CorpusEntry) -> bool:
    """Whether looking at a row's images takes another machine's answer."""
    return any(isinstance(image, str) and is_remote(image) for image in entry.images)


def read_into(plan: Plan, settings: EmbeddingSettings, source: EncoderSource, console: Console) -> None:
    """Reads the whole corpus into a plan, bad rows included.

    Raises:
        SourceError: a file cannot be read at all, `strict` met a bad row, nothing can be used, or the source of
            vectors has others than for these rows.
    """
    with progress(console, "reading the corpus", None) as advance:
        for page in read_corpus(settings):
            for row in page:
                try:
                    if isinstance(row, InvalidRowError):
                        plan.pass_over(row.num_rows if isinstance(row, UnreadableStretchError) else 1)
                        raise row
                    plan.add(*row)
                except InvalidRowError as error:
                    if settings.strict:
                        raise
                    plan.add_bad_row(error)
            advance(len(page))
    plan.end_reading()
    if plan.count() == 0:
        raise SourceError(nothing_left(plan, settings))
    source.require_rows(plan.num_rows)


def nothing_left(plan: Plan, settings: EmbeddingSettings) -> str:
    """Says that no row of a corpus can be used, and why not the first."""
    bad_rows = plan.bad_rows()
    paths = ", ".join(map(without_secrets, settings.corpus))
    first = f"; the first is {bad_rows[0]}" if bad_rows else ""
    use = "embed" if isinstance(settings, EmbedSettings) else "index"
    return f"nothing to {use} in {paths}: no usable row, {len(bad_rows)} bad rows{first}"
