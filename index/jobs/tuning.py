"""Real queries for the choice of a search structure, from shards that `embed` wrote of them."""

import random
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np

from anykey.index.errors import InvalidStructureError
from anykey.index.faiss_index import FaissIndex
from anykey.index.jobs.shards import common_encoder, find_shards, read_shard
from anykey.index.publish.tuning.tuning import NUM_QUERIES
from anykey.index.settings import TuneSettings
from anykey.index.store.manifest import EncoderFacts, Manifest
from anykey.index.store.records import Record, TuningQueries
from anykey.index.vectors.calibration import codes_of
from anykey.program.progress import Report

SEED = 0


def tune_index(settings: TuneSettings, report: Report, advance: Callable[[int], None] = lambda count: None) -> Manifest:
    """Chooses an index's search structure with real queries, which it keeps for later choices; gives the new version's.

    Args:
        settings: The index, the shards of the queries, and the GPUs.
        report: Told of the search structure's progress.
        advance: Told how many queries have been read since it was last told.

    Raises:
        InvalidShardError: a file is no shard.
        InvalidStructureError: there is no query in the shards.
        EncoderMismatchError: the queries were embedded by another encoder than the index's keys.
        IndexLockedError: the index has a writer.
    """
    with FaissIndex.open(
        settings.index,
        writable=True,
        job="tune",
        compact_after=0,
        gpu_memory_bytes=settings.search_gpu_memory_mib * 2**20,
        fold_device=settings.search_device,
    ) as index:
        queries = None if settings.forget else read_queries(settings.queries, index.manifest.encoder, advance)
        return index.tune(queries, report)


def read_queries(
    shards: Sequence[str], encoder: EncoderFacts, advance: Callable[[int], None] = lambda count: None
) -> TuningQueries:
    """A sample of the queries in shards, the same one for the same shards.

    Args:
        shards: Parquet files, or folders of them; paths or URLs.
        encoder: The encoder that must have made them.
        advance: Told how many queries have been read since it was last told.

    Raises:
        InvalidShardError: a file is no shard.
        InvalidStructureError: there is no query in them.
        EncoderMismatchError: another encoder made them.
    """
    files = find_shards(shards)
    found = common_encoder(files)
    encoder.check(found.fingerprint, found.width, found.fusion)
    draw = random.Random(SEED)
    chosen: list[Record] = []  # a reservoir: each query is as likely to be in it as any other
    for number, record in enumerate(chain.from_iterable(chain.from_iterable(map(read_shard, files)))):
        if len(chosen) < NUM_QUERIES:
            chosen.append(record)
        elif (place := draw.randrange(number + 1)) < NUM_QUERIES:
            chosen[place] = record
        advance(1)
    if not chosen:
        raise InvalidStructureError(f"there is no query in {len(files)} shards")
    vectors_QD = np.stack([np.asarray(record.vector_D, np.float32) for record in chosen])
    return TuningQueries(vectors_QD, codes_of([record.modality for record in chosen]))
