"""Everything between HTTP and one index: made in order, checked, and closed in reverse."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from anykey.encoder.errors import CheckpointNotFoundError, EncoderError
from anykey.encoder.images import ImageLimits
from anykey.encoder.protocol import ItemEncoder, Prepared
from anykey.index.errors import EncoderMismatchError, IndexNotFoundError, SearchIndexError
from anykey.index.key_index import Held, IndexInfo
from anykey.index.milvus.address import CollectionAddress, parse_address
from anykey.program.extras import MissingLibraryError
from anykey.program.machine import num_cores
from anykey.service.answers.kept import ResultCache
from anykey.service.concurrency.shared_call import SharedCall
from anykey.service.concurrency.threads import BoundedThreads
from anykey.service.embedding.batcher import Batcher
from anykey.service.embedding.cache import VectorCache
from anykey.service.embedding.items_embedder import ItemsEmbedder
from anykey.service.embedding.query_embedder import ItemEmbedder, QueryEmbedder
from anykey.service.errors import StartupError
from anykey.service.indexes.recent_queries import RecentQueries
from anykey.service.indexes.resources import LoadedEncoder, Resources
from anykey.service.indexes.watch import IndexWatch
from anykey.service.keys.embedding import KeyEmbedder
from anykey.service.keys.storing import KeyStorer
from anykey.service.keys.undoing import UndoableChanges
from anykey.service.keys.writer import KeyWriter
from anykey.service.operations.audit import IndexAudit
from anykey.service.requests.admission import Admission
from anykey.service.searching.lookups import Lookups
from anykey.service.searching.pace import SearchPace
from anykey.service.searching.reranking import LoadedReranker, Rerankers
from anykey.service.searching.searcher import IndexSearcher, SearchableIndex
from anykey.service.settings import ServiceSettings

MIN_MILVUS_TIMEOUT_S = 1.0
MAX_CHECK_S = 15.0  # more than all questions of a check may take together, by their own limits
INFO_KEPT_S = 1.0
MAX_HELD_S = 2.0
MAKE_CHECKPOINT = "train one with `make train` or `anykey-train`, or name one with --checkpoint or ANYKEY_CHECKPOINT"


@dataclass(frozen=True)
class Parts:
    """What the routes use once an index is ready.

    Attributes:
        encoder: The loaded encoder.
        index: The open index.
        watch: Whether the index answers; every call of it goes through here.
        facts: What the index is at this moment, for all who ask at once.
        held: What is held of it in this process.
        embedder: Gives queries their vectors.
        items_embedder: Gives vectors to who asks for nothing else.
        searcher: Finds the keys for a vector.
        pace: How many searches share a call of the index.
        rerankers: Put the best of them into another order.
        lookups: Look keys and images up.
        batcher: The embedder's; readiness asks whether its workers live.
        cache: The embedder's.
        decode_threads: Decode images of queries.
        body_threads: Parse the bodies of requests and write those of answers.
        admission: Lets requests in that the encoder may be needed for.
        storer: Stores, changes and deletes keys.
        change_threads: Parse bodies with keys, and decode their images.
        results: Answers that are kept.
        recent: The latest queries, for warming another release with; routes add those that they answered.
        release: Name of the release that all this is of; `None` where there are none.
    """

    encoder: ItemEncoder
    index: SearchableIndex
    watch: IndexWatch
    facts: SharedCall[IndexInfo]
    held: SharedCall[list[Held]]
    embedder: QueryEmbedder
    items_embedder: ItemsEmbedder
    searcher: IndexSearcher
    pace: SearchPace
    rerankers: Rerankers
    lookups: Lookups
    batcher: Batcher[Prepared]
    cache: VectorCache
    decode_threads: BoundedThreads
    body_threads: BoundedThreads
    admission: Admission
    storer: KeyStorer
    change_threads: BoundedThreads
    results: ResultCache
    recent: RecentQueries
    release: str | None


def load_index(settings: ServiceSettings) -> SearchableIndex:
    """Opens the published version of an index directory, or a collection of Milvus.

    Raises:
        StartupError: missing, damaged, out of reach or of another format, or a library is missing; says what to do.
    """
    address = parse_address(settings.index)
    try:
        return _open_directory(settings) if address is None else _open_collection(settings, address)
    except IndexNotFoundError as error:
        raise StartupError(f"{error}, or name one with --index or ANYKEY_INDEX") from error
    except (SearchIndexError, MissingLibraryError, OSError) as error:
        raise StartupError(str(error)) from error


def _open_directory(settings: ServiceSettings) -> SearchableIndex:
    from anykey.index.faiss_index import FaissIndex
    from anykey.index.search.kept_moments import Keeping

    gpu_memory_bytes = settings.search_gpu_memory_mib * 2**20
    return FaissIndex.open(
        Path(settings.index),
        device=settings.search_device,
        gpu_memory_bytes=gpu_memory_bytes,
        image_roots=settings.image_root,
        keeping=Keeping(settings.snapshot_s, settings.max_snapshots),
        compact_after=settings.fold_after,
        job="changes over HTTP",
        fold_in="process",
        search_cores=max(1, num_cores() // settings.search_threads),  # the encoder's work, and other searches, go on
    )


def _open_collection(settings: ServiceSettings, address: CollectionAddress) -> SearchableIndex:
    from anykey.index.milvus_index import MilvusIndex

    token = None if settings.milvus_token is None else settings.milvus_token.get_secret_value()
    # Half of a request's time, so that a server that hangs is told from a request that is late.
    timeout_s = max(settings.request_deadline_ms / 2000, MIN_MILVUS_TIMEOUT_S)
    index = MilvusIndex.open(
        address.uri, address.collection, token=token, timeout_s=timeout_s, image_roots=settings.image_root
    )
    # The client logs each failure with a page of its own, contents of requests among it; what matters is in our errors.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    return index


def load_encoder(settings: ServiceSettings) -> ItemEncoder:
    """Loads the encoder, with the service's image limits.

    Raises:
        StartupError: missing, damaged, or the device is not to be had; says how to make a checkpoint.
    """
    if _is_missing_path(settings.checkpoint):  # known in milliseconds; loading torch takes seconds
        raise StartupError(f"there is no checkpoint at {settings.checkpoint}; {MAKE_CHECKPOINT}")
    from anykey.encoder.model import Encoder

    try:
        return Encoder.configured(settings, ImageLimits.of(settings))
    except CheckpointNotFoundError as error:
        raise StartupError(f"{error}; {MAKE_CHECKPOINT}") from error
    except (EncoderError, OSError) as error:
        raise StartupError(str(error)) from error


def _is_missing_path(source: str) -> bool:
    """Whether the source can only be a path, not `ARCHITECTURE/TAG` or `ARCHITECTURE@FILE`, and nothing is there."""
    is_path = Path(source).is_absolute() or source.startswith(".") or source.count("/") > 1
    return is_path and "@" not in source and not Path(source).exists()


def check_match(encoder: ItemEncoder, index: SearchableIndex) -> None:
    """Makes sure that the encoder's vectors may be searched in the index.

    Raises:
        StartupError: they differ in fingerprint, width or fusion; says both values.
    """
    try:
        index.encoder.check(encoder.fingerprint, encoder.width, encoder.fusion)
    except EncoderMismatchError as error:
        raise StartupError(
            f"{error}; serve the checkpoint, fusion and width the index was built with, or build the index again"
        ) from error


async def open_parts(
    settings: ServiceSettings,
    resources: Resources,
    loaded: LoadedEncoder,
    index: SearchableIndex,
    stack: AsyncExitStack,
    recent: RecentQueries,
    name: str,
    release: str | None,
) -> Parts:
    """Starts everything that a request to one index needs, and leaves on `stack` what closes it, in reverse order.

    Args:
        settings: The index's settings.
        resources: What it shares with other indexes.
        loaded: The encoder, which matches the index.
        index: Open; stays open when the stack is closed.
        stack: Receives the closing calls.
        recent: Receives the latest queries.
        name: The index's.
        release: Name of the release that all this is of.
    """
    encoder, batcher, cache = loaded.encoder, loaded.batcher, resources.vectors(loaded.encoder.width)
    deadline_s = settings.request_deadline_ms / 1000
    search_threads = BoundedThreads("search", settings.search_threads, settings.max_queue_items)
    stack.push_async_callback(asyncio.to_thread, search_threads.close)
    watch = IndexWatch(index.check, every_s=settings.check_index_s, deadline_s=MAX_CHECK_S)
    await stack.enter_async_context(watch.running())
    facts = SharedCall("info", lambda: watch.call(index.info), deadline_s=deadline_s, keep_s=INFO_KEPT_S)
    stack.push_async_callback(asyncio.to_thread, facts.close)
    held = SharedCall("held", index.held, deadline_s=MAX_HELD_S, keep_s=INFO_KEPT_S)
    stack.push_async_callback(asyncio.to_thread, held.close)
    items = ItemEmbedder(
        encoder,
        batcher,
        cache,
        threads=resources.decode_threads,
        deadline_s=deadline_s,
        key_threads=resources.change_threads,
        hash_threads=resources.body_threads,
        max_later_decodes=settings.decode_threads,
    )
    pace, searcher = await _open_searcher(settings, index, watch, search_threads, stack)
    embedder = QueryEmbedder(items, searcher.stored)
    items_embedder = ItemsEmbedder(
        embedder,
        turns=loaded.later_turns,
        max_items=settings.max_embed_queue,
        deadline_s=settings.embed_deadline_ms / 1000,
    )
    lookups = _lookups_of(resources, index, watch, search_threads, deadline_s)
    rerankers = _rerankers_of(resources, lookups, deadline_s, settings.max_images)
    computed_by = f"{release} {encoder.fingerprint} {encoder.backend} {encoder.precision}"
    return Parts(
        encoder=encoder,
        index=index,
        watch=watch,
        facts=facts,
        held=held,
        embedder=embedder,
        items_embedder=items_embedder,
        searcher=searcher,
        pace=pace,
        rerankers=rerankers,
        lookups=lookups,
        batcher=batcher,
        cache=cache,
        decode_threads=resources.decode_threads,
        body_threads=resources.body_threads,
        admission=Admission(batcher, resources.body_threads, deadline_s, resources.pressure, resources.refusal_pace),
        storer=await _open_storer(settings, resources, loaded, index, watch, stack, name, release, facts.forget),
        change_threads=resources.change_threads,
        results=resources.results(searcher, rerankers, computed_by),
        recent=recent,
        release=release,
    )


async def _open_searcher(
    settings: ServiceSettings,
    index: SearchableIndex,
    watch: IndexWatch,
    search_threads: BoundedThreads,
    stack: AsyncExitStack,
) -> tuple[SearchPace, IndexSearcher]:
    """What searches an index, once it is measured how many searches pay to share a call of it."""
    pace = SearchPace(index, num_threads=settings.search_threads, most_together=settings.max_batch_searches)
    stack.push_async_callback(asyncio.to_thread, pace.close)
    await asyncio.to_thread(pace.measure)
    searcher = IndexSearcher(
        index,
        watch,
        threads=search_threads,
        num_threads=settings.search_threads,
        max_waiting=settings.max_queue_items + settings.search_threads,  # as many are about to be taken by free threads
        most_together=pace.most_together,
        deadline_s=settings.request_deadline_ms / 1000,
    )
    return pace, searcher


async def _open_storer(
    settings: ServiceSettings,
    resources: Resources,
    loaded: LoadedEncoder,
    index: SearchableIndex,
    watch: IndexWatch,
    stack: AsyncExitStack,
    name: str,
    release: str | None,
    on_change: Callable[[], None],
) -> KeyStorer:
    """What changes keys, and calls `on_change` when it has; `stack` ends it."""
    deadline_s = settings.change_deadline_ms / 1000
    writer = KeyWriter(
        index,
        watch,
        is_writable=settings.writable,
        idle_s=settings.writer_idle_s,
        deadline_s=deadline_s,
        max_waiting=settings.max_queue_items,
        audit=None if resources.audit is None else IndexAudit(resources.audit, name, release),
        on_change=on_change,
    )
    await stack.enter_async_context(writer.running())
    embedder = KeyEmbedder(loaded.encoder, loaded.batcher, turns=loaded.later_turns, threads=resources.change_threads)
    undoable = UndoableChanges(settings.undo_s, settings.undo_bytes)
    return KeyStorer(embedder, writer, undoable, deadline_s=deadline_s, release=release)


def _lookups_of(
    resources: Resources, index: SearchableIndex, watch: IndexWatch, search_threads: BoundedThreads, deadline_s: float
) -> Lookups:
    return Lookups(
        index,
        watch,
        search_threads=search_threads,
        image_threads=resources.image_threads,
        thumbnails=resources.thumbnails,
        deadline_s=deadline_s,
    )


def _rerankers_of(resources: Resources, lookups: Lookups, deadline_s: float, max_images: int) -> Rerankers:
    return Rerankers(
        LoadedReranker(
            scorer,
            batcher,
            lookups=lookups,
            threads=resources.decode_threads,
            deadline_s=deadline_s,
            max_images=max_images,
        )
        for scorer, batcher in resources.rerankers
    )
