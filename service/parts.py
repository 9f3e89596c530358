"""Everything between HTTP and the index: made in order, checked, and closed in reverse."""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoder.errors import CheckpointNotFoundError, EncoderError
from encoder.images import ImageLimits
from index.errors import EncoderMismatchError, IndexNotFoundError, KeyIndexError
from service.batcher import Batcher
from service.cache import CacheCounters, MemoryCache, RedisVectors, VectorCache, connect
from service.errors import StartupError
from service.searcher import QueryEncoder, SearchableIndex, Searcher
from service.settings import ServiceSettings
from service.threads import BoundedThreads

MAKE_CHECKPOINT = "train one with `make train` or `anykey-train`, or name one with --checkpoint or ANYKEY_CHECKPOINT"


@dataclass(frozen=True)
class Parts:
    """What the routes use once the service is ready.

    Attributes:
        encoder: The loaded encoder.
        index: The open index version.
        searcher: Answers queries.
        batcher: The searcher's; readiness asks whether its worker lives.
        cache: The searcher's.
        decode_threads: Also parse bodies.
        search_threads: Also look keys up.
    """

    encoder: QueryEncoder
    index: SearchableIndex
    searcher: Searcher
    batcher: Batcher[Any]
    cache: VectorCache
    decode_threads: BoundedThreads
    search_threads: BoundedThreads


def load_index(settings: ServiceSettings) -> SearchableIndex:
    """Opens the published index version.

    Raises:
        StartupError: missing, damaged or of another format; says how to make one.
    """
    from index.faiss_index import FaissIndex

    try:
        index: SearchableIndex = FaissIndex.open(
            settings.index, device=settings.search_device, gpu_memory_bytes=settings.search_gpu_memory_mib * 2**20
        )
    except IndexNotFoundError as error:
        raise StartupError(f"{error}, or name one with --index or ANYKEY_INDEX") from error
    except (KeyIndexError, OSError) as error:
        raise StartupError(str(error)) from error
    return index


def load_encoder(settings: ServiceSettings) -> QueryEncoder:
    """Loads the encoder, with the service's image limits.

    Raises:
        StartupError: missing, damaged, or the device is not to be had; says how to make a checkpoint.
    """
    if _is_missing_path(settings.checkpoint):  # known in milliseconds; loading torch takes seconds
        raise StartupError(f"there is no checkpoint at {settings.checkpoint}; {MAKE_CHECKPOINT}")
    from encoder.fusion import Fusion
    from encoder.model import Encoder

    fusion = Fusion(settings.fusion) if settings.fusion else None
    limits = ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
    try:
        return Encoder.load(settings.checkpoint, settings.device, settings.precision, limits, fusion)
    except CheckpointNotFoundError as error:
        raise StartupError(f"{error}; {MAKE_CHECKPOINT}") from error
    except (EncoderError, OSError) as error:
        raise StartupError(str(error)) from error


def _is_missing_path(source: str) -> bool:
    """Whether the source can only be a path, not `ARCHITECTURE/TAG` or `ARCHITECTURE@FILE`, and nothing is there."""
    is_path = Path(source).is_absolute() or source.startswith(".") or source.count("/") > 1
    return is_path and "@" not in source and not Path(source).exists()


def check_match(encoder: QueryEncoder, index: SearchableIndex) -> None:
    """Makes sure that the encoder's vectors may be searched in the index.

    Raises:
        StartupError: they differ in fingerprint, width or fusion; says both values.
    """
    try:
        index.manifest.check_encoder(encoder.fingerprint, encoder.width, encoder.fusion)
    except EncoderMismatchError as error:
        raise StartupError(
            f"{error}; serve the checkpoint and fusion the index was built with, or build the index again"
        ) from error


async def open_parts(
    settings: ServiceSettings, encoder: QueryEncoder, index: SearchableIndex, stack: AsyncExitStack
) -> Parts:
    """Starts everything a request needs, and leaves on `stack` what closes it, in reverse order.

    Closing drains: the batcher encodes what is queued, for `drain_ms` at most, while the threads still work.

    Args:
        settings: The service's settings.
        encoder: Matches the index.
        index: Open; stays open when the stack is closed.
        stack: Receives the closing calls.

    Raises:
        StartupError: the Redis URL is no Redis URL.
    """
    counts = CacheCounters()
    redis = None
    if settings.redis_url is not None:
        timeout_s = settings.redis_timeout_ms / 1000
        redis = RedisVectors(
            connect(settings.redis_url.get_secret_value(), timeout_s),
            ttl_s=settings.cache_ttl_s,
            timeout_s=timeout_s,
            pause_s=settings.redis_pause_s,
            counters=counts,
        )
    cache = VectorCache(MemoryCache(settings.cache_entries, settings.cache_ttl_s), redis, counts, encoder.width)
    stack.push_async_callback(cache.close)
    decode_threads = BoundedThreads("decode", settings.decode_threads, settings.max_queue_items)
    stack.push_async_callback(asyncio.to_thread, decode_threads.close)
    search_threads = BoundedThreads("search", settings.search_threads, settings.max_queue_items)
    stack.push_async_callback(asyncio.to_thread, search_threads.close)
    batcher: Batcher[Any] = Batcher(
        encoder,
        max_batch_items=settings.max_batch_items,
        max_wait_s=settings.max_wait_ms / 1000,
        max_queue_items=settings.max_queue_items,
        clock=time.monotonic,
    )
    stack.push_async_callback(asyncio.to_thread, batcher.close, settings.drain_ms / 1000)
    searcher = Searcher(
        encoder,
        index,
        batcher,
        cache,
        decode_threads=decode_threads,
        search_threads=search_threads,
        deadline_s=settings.request_deadline_ms / 1000,
    )
    return Parts(encoder, index, searcher, batcher, cache, decode_threads, search_threads)
