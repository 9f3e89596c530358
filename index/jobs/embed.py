"""The embedding loop: images are read and decoded in threads, ahead of the encoder's batches.

Shape legend: B = batch, D = width.
"""

import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.errors import InvalidItemError
from anykey.encoder.images import image_type
from anykey.encoder.item import Item, Modality
from anykey.encoder.protocol import Prepared
from anykey.index.hits import UNKNOWN_TYPE
from anykey.index.jobs.encoding import EncoderSource
from anykey.index.jobs.plan import PlannedEntry
from anykey.index.queries import check_vector
from anykey.index.settings import EmbeddingSettings
from anykey.index.store.records import NewImage, Record
from anykey.index.store.store_records import BuildFacts, Known, Refusal, SeenImage
from anykey.sources.errors import InvalidRowError, UnreachableImageError
from anykey.sources.files.files import reason_of
from anykey.sources.files.images import ImageReader, ImageStamp, read_image
from anykey.sources.files.locations import describe
from anykey.sources.files.roots import ImageRoots

BATCHES_AHEAD = 2  # of the encoder, in threads
PIECES_PER_THREAD = 4  # of a batch: a text takes less time than to hand it to a thread by itself
_MEDIA_TYPE, _SHA256 = attrgetter("media_type"), attrgetter("sha256")
_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True)
class ReadyKey:
    """A key with its images read; `prepared` is `None` if its vector is told, or else stored already."""

    entry: PlannedEntry
    built: BuildFacts
    images: tuple[NewImage, ...]
    prepared: Prepared | None
    vector_D: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class EmbeddedBatch:
    """What one batch of the loop gives to the store.

    Attributes:
        records: Keys to store.
        refusals: Keys that the encoder refused, to be remembered.
        bad_rows: Every row of the batch that is skipped, with its entry.
        num_embedded: How many of the keys went through the encoder.
        num_cut: How many of those have a text longer than the encoder's context, whose end is not in the vector.
        num_taken: How many have the vector that the corpus has of them.
    """

    records: list[Record]
    refusals: list[Refusal]
    bad_rows: list[tuple[PlannedEntry, InvalidRowError]]
    num_embedded: int
    num_cut: int
    num_taken: int = 0

    @property
    def num_entries(self) -> int:
        """How many entries the batch settled."""
        return len(self.records) + len(self.bad_rows)


def is_current(
    entry: PlannedEntry, known: Known | None, settings: EmbeddingSettings, roots: ImageRoots | None = None
) -> bool:
    """Whether the store holds the key as the corpus has it, or has refused it and would again.

    An image with the location, size and version of last time counts as unchanged; any other is read and its content
    compared, below the roots if there are any.
    """
    if known is None or known.payload_sha256.hex() != entry.payload_sha256:
        return False
    if known.reason is not None and known.limits != _limits(settings):
        return False
    if len(known.images) != len(entry.images):
        return False
    return all(_is_same_image(*pair, settings, roots) for pair in zip(entry.images, known.images, strict=True))


def embed(
    entries: Iterable[tuple[PlannedEntry, Known | None]],
    source: EncoderSource,
    settings: EmbeddingSettings,
    roots: ImageRoots | None = None,
) -> Iterator[EmbeddedBatch]:
    """Embeds entries in batches, in order.

    An entry whose content is known keeps its stored vector. A bad item is a bad row; its neighbours go on.

    Args:
        entries: What to embed, each with what the store knows of its key.
        source: The encoder; loaded when the first entry needs it.
        settings: Batch size, threads, limits, and what to keep of the images.
        roots: Below which images must lie; anywhere when absent.

    Yields:
        One batch after the other, to be committed before the next is asked for.

    Raises:
        EncoderError: the encoder cannot be loaded.
    """
    with ImageReader(roots) as reader:
        make_ready = partial(_make_ready, source=source, settings=settings, reader=reader)
        ahead = batches_ahead(make_ready, entries, _cost, settings.decode_threads, settings.batch_size)
        with contextlib.closing(ahead):  # its threads end before the reader does
            for batch in ahead:
                yield _embed_batch(batch, source, settings)


@dataclass(frozen=True)
class _Refused:
    """A key that cannot be embedded; `images` are known if it was the encoder who refused."""

    entry: PlannedEntry
    reason: str
    images: tuple[SeenImage, ...] | None

    def bad_row(self) -> InvalidRowError:
        kind = UnreachableImageError if self.images is None else InvalidRowError
        return kind(self.entry.where, self.reason, self.entry.key)


def _cost(task: tuple[PlannedEntry, Known | None]) -> int:
    """What an entry takes of a batch's memory: its images, or one for a text."""
    return max(1, len(task[0].images))


def batches_ahead(
    function: Callable[[_In], _Out],
    inputs: Iterable[_In],
    cost: Callable[[_In], int],
    num_threads: int,
    batch_size: int,
) -> Generator[list[_Out], None, None]:
    """Maps in threads, in order, and gives results in batches; never more than two batches ahead of the consumer.

    Args:
        function: What to do; its errors are raised here.
        inputs: What to do it with; read in the caller's thread.
        cost: What an input takes of a batch.
        num_threads: How many threads.
        batch_size: What a batch costs; an input that costs more is a batch of its own.
    """
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="prepare")
    pending: deque[list[Future[list[_Out]]]] = deque()
    try:
        for batch in _batches_of(inputs, cost, batch_size):
            size = max(1, len(batch) // (PIECES_PER_THREAD * num_threads))
            pieces = [batch[start : start + size] for start in range(0, len(batch), size)]
            pending.append([pool.submit(_map, function, piece) for piece in pieces])
            if len(pending) > BATCHES_AHEAD:
                yield _results(pending.popleft())
        while pending:
            yield _results(pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _batches_of(inputs: Iterable[_In], cost: Callable[[_In], int], batch_size: int) -> Iterator[list[_In]]:
    batch: list[_In] = []
    spent = 0
    for value in inputs:
        value_cost = cost(value)
        if batch and spent + value_cost > batch_size:
            yield batch
            batch, spent = [], 0
        batch.append(value)
        spent += value_cost
        if spent >= batch_size:
            yield batch
            batch, spent = [], 0
    if batch:
        yield batch


def _map(function: Callable[[_In], _Out], piece: list[_In]) -> list[_Out]:
    return list(map(function, piece))


def _results(pieces: list[Future[list[_Out]]]) -> list[_Out]:
    return [result for piece in pieces for result in piece.result()]


def _make_ready(
    task: tuple[PlannedEntry, Known | None], source: EncoderSource, settings: EmbeddingSettings, reader: ImageReader
) -> ReadyKey | _Refused:
    """Reads an entry's images and prepares it for the encoder; runs in a thread."""
    entry, known = task
    contents: list[bytes] = []
    seen: tuple[SeenImage, ...] = ()
    images: tuple[NewImage, ...] = ()
    if entry.images:
        try:
            contents = [_read(stamp, reader, settings) for stamp in entry.images]
        except OSError as error:
            return _Refused(entry, str(error), None)
        stored = [stamp.stored(settings.images) for stamp in entry.images]
        hashes = [hashlib.sha256(data).hexdigest() for data in contents]
        seen = tuple(map(SeenImage, stored, hashes))
        images = tuple([_to_store(*image, settings) for image in zip(stored, contents, strict=True)])
    of_text = "" if entry.text is None else hashlib.sha256(entry.text.encode()).hexdigest()
    content_sha256 = hashlib.sha256(" ".join([of_text, *map(_SHA256, seen)]).encode()).digest()  # of what is embedded
    built = BuildFacts(bytes.fromhex(entry.payload_sha256), content_sha256, seen)
    if known is not None and known.content_sha256 == content_sha256:
        return ReadyKey(entry, built, images, None)
    vector_D = None if entry.vector is None else _known_vector(entry.vector, source)
    if vector_D is not None:
        return ReadyKey(entry, built, images, None, vector_D)
    try:
        prepared = source.prepare(Item(entry.text, tuple(contents)), entry.position)
    except InvalidItemError as error:
        return _refused_by_encoder(entry, error.reason, seen)
    if UNKNOWN_TYPE in map(_MEDIA_TYPE, images):  # by a source that does not look, as `--faiss` has
        return _refused_by_encoder(entry, "it is no image that can be read", seen)
    return ReadyKey(entry, built, images, prepared)


def _refused_by_encoder(entry: PlannedEntry, reason: str, images: tuple[SeenImage, ...]) -> _Refused:
    places = ", ".join(describe(stamp.location) for stamp in entry.images)
    return _Refused(entry, f"{reason}{f': {places}' if places else ''}", images)


def _to_store(stamp: ImageStamp, data: bytes, settings: EmbeddingSettings) -> NewImage:
    """An image as it will be stored, of the type that the decoder calls it."""
    media_type = image_type(data) or UNKNOWN_TYPE
    return NewImage(media_type, None, data) if settings.images == "copy" else NewImage(media_type, stamp.location, None)


def _embed_batch(batch: list[ReadyKey | _Refused], source: EncoderSource, settings: EmbeddingSettings) -> EmbeddedBatch:
    ready = [item for item in batch if isinstance(item, ReadyKey)]
    fresh = [item.prepared for item in ready if item.prepared is not None]
    vectors = iter(source.encode(fresh) if fresh else ())
    records = [_record(item, item.vector_D if item.prepared is None else next(vectors)) for item in ready]
    refused = [item for item in batch if isinstance(item, _Refused)]
    refusals = [_refusal(item.entry, item.images, item.reason, settings) for item in refused if item.images is not None]
    bad_rows = [(item.entry, item.bad_row()) for item in refused]
    num_cut = sum([prepared.is_text_cut for prepared in fresh])
    num_taken = sum([item.vector_D is not None for item in ready])
    return EmbeddedBatch(records, refusals, bad_rows, len(fresh), num_cut, num_taken)


def _record(ready: ReadyKey, vector_D: NDArray[np.float32] | None) -> Record:
    entry = ready.entry
    with_images = Modality.IMAGE if entry.text is None else Modality.FUSED
    return Record(
        key=entry.key,
        modality=with_images if entry.images else Modality.TEXT,
        text=entry.text,
        metadata=entry.metadata,
        pools=entry.pools,
        images=ready.images,
        vector_D=vector_D,
        built=ready.built,
    )


def _known_vector(vector: bytes, source: EncoderSource) -> NDArray[np.float32] | None:
    """The vector `[D]` that the corpus has of a key; `None` if it is none that can be used."""
    try:
        return check_vector(np.frombuffer(vector, "<f4"), source.width())
    except ValueError:
        return None


def _refusal(entry: PlannedEntry, images: tuple[SeenImage, ...], reason: str, settings: EmbeddingSettings) -> Refusal:
    return Refusal(entry.key, bytes.fromhex(entry.payload_sha256), images, _limits(settings), reason)


def _read(stamp: ImageStamp, reader: ImageReader, settings: EmbeddingSettings) -> bytes:
    """Raises `OSError` with a whole sentence."""
    try:
        return reader.read(stamp.location, settings.max_image_bytes)
    except OSError as error:
        raise OSError(f"cannot read image {describe(stamp.location)}: {reason_of(error)}") from error


def _is_same_image(stamp: ImageStamp, seen: SeenImage, settings: EmbeddingSettings, roots: ImageRoots | None) -> bool:
    if stamp.stored(settings.images) == seen.stamp:
        return True
    if stamp.size_bytes != seen.stamp.size_bytes:
        return False
    is_told = stamp.has_bytes(seen.sha256)
    if is_told is not None:
        return is_told
    try:
        data = read_image(stamp.location, settings.max_image_bytes, roots)
        return hashlib.sha256(data).hexdigest() == seen.sha256
    except OSError:
        return False


def _limits(settings: EmbeddingSettings) -> str:
    return f"{settings.max_image_bytes} bytes, {settings.max_image_pixels} px, {settings.max_image_aspect:g} : 1"
