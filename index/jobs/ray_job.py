"""An embedding job on Ray: the same blocks, embedded by workers that may be on other machines.

A worker that dies is started again and its block embedded again, which is safe, as a shard appears whole or not at all.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from pydantic import TypeAdapter

from anykey.encoder.errors import EncoderError
from anykey.index.errors import EmbeddingFailedError, SearchIndexError
from anykey.index.jobs.blocks import Block, dump_block, load_block
from anykey.index.jobs.embedding_job import Embedded, embed_block
from anykey.index.jobs.imported import source_of
from anykey.index.settings import EmbedSettings
from anykey.program.extras import require_library
from anykey.sources.errors import SourceError
from anykey.sources.files.files import file_system
from anykey.sources.files.locations import without_secrets

_OUTCOME: TypeAdapter[Embedded | str] = TypeAdapter(Embedded | str)
WORK_FOLDER = ".work"  # beside the shards: the blocks, for the workers to fetch


class _Worker:
    """Embeds blocks with an encoder that it loads once."""

    def __init__(self, settings: EmbedSettings) -> None:
        self._settings = settings
        self._source = source_of(settings)

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        """Embeds the block of a task; an error that says what to do is handed on instead of ending the worker."""
        try:
            embedded = embed_block(read_posted(task["block"]), self._settings, self._source)
        except (SearchIndexError, SourceError, EncoderError, OSError) as error:
            return {"outcome": _OUTCOME.dump_json(str(error))}
        return {"outcome": _OUTCOME.dump_json(embedded)}


def read_posted(location: str) -> Block:
    """Reads a block that was posted for the workers, from a folder that others may write to as well.

    Raises:
        EmbeddingFailedError: the file is no block; names it.
        OSError: it cannot be read.
    """
    with fsspec.open(location, "rb") as file:
        data = file.read()
    try:
        return load_block(data)
    except EmbeddingFailedError as error:
        raise EmbeddingFailedError(f"{without_secrets(location)} is not what the job wrote there: {error}") from error


def run_on_ray(blocks: Iterable[Block], settings: EmbedSettings) -> Iterator[Embedded]:
    """Embeds blocks on a Ray cluster, as a Ray Data job of `settings.workers` workers; gives each when it is done.

    Raises:
        MissingLibraryError: Ray is not installed.
        EmbeddingFailedError: a block cannot be embedded; says why.
    """
    ray = _start_ray(settings)
    with _posted(blocks, settings) as tasks:
        if not tasks:
            return
        dataset = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map(
            _Worker,
            fn_constructor_args=(settings,),
            compute=ray.data.ActorPoolStrategy(size=min(settings.workers, len(tasks))),
            num_cpus=settings.worker_cpus,
            num_gpus=settings.worker_gpus,
        )
        for row in dataset.iter_rows():
            outcome = _OUTCOME.validate_json(row["outcome"])
            if isinstance(outcome, str):
                raise EmbeddingFailedError(outcome)
            yield outcome


@contextmanager
def _posted(blocks: Iterable[Block], settings: EmbedSettings) -> Iterator[list[dict[str, str]]]:
    """Writes blocks where workers can fetch them, so that no message holds a corpus; gives a task for each."""
    files, folder = file_system(f"{settings.output.rstrip('/')}/{WORK_FOLDER}")
    files.makedirs(folder, exist_ok=True)
    tasks = []
    try:
        for block in blocks:
            path = f"{folder}/{block.number:05}"
            with files.open(path, "wb") as file:
                file.write(dump_block(block))
            tasks.append({"block": files.unstrip_protocol(path)})
        yield tasks
    finally:
        files.rm(folder, recursive=True)


def _start_ray(settings: EmbedSettings) -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = os.environ.get("RAY_USAGE_STATS_ENABLED") or "0"  # or Ray tells its makers
    require_library("ray.data", "ray", "--ray")
    import ray
    import ray.data

    if not ray.is_initialized():
        address = None if settings.ray == "auto" else settings.ray
        ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray
