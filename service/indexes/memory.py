"""What the service holds in memory: each index, the models that they share, what is kept, and what is left."""

import asyncio
from collections.abc import Callable

from anykey.index.key_index import Held, Place
from anykey.program.memory import process_memory, room_left
from anykey.service.indexes.named import Indexes
from anykey.service.indexes.parts import Parts
from anykey.service.indexes.resources import Resources
from anykey.service.indexes.schemas import HeldPart, IndexMemory, ModelMemory, ProcessMemory

MIB = 2**20


class MemoryAccounts:
    """Tells what is held; belongs to one event loop, and owns none of its parts."""

    def __init__(self, resources: Resources, indexes: Indexes, limit_mib: int | None) -> None:
        """Joins the parts.

        Args:
            resources: What the indexes share.
            indexes: Those that are served.
            limit_mib: What this process may have of its own, by its settings.
        """
        self._resources = resources
        self._indexes = indexes
        self._limit_bytes = None if limit_mib is None else limit_mib * MIB

    async def of_index(self, parts: Parts) -> IndexMemory | None:
        """What an index holds; `None` where it does not tell in time."""
        try:
            return _of(await parts.held.answer())
        except (TimeoutError, OSError):
            return None

    async def of_process(self, may_see: Callable[[str], bool] = lambda _: True) -> ProcessMemory:
        """What the process holds besides its indexes, and what is left; `may_see`: which indexes it may name."""
        own, room = await asyncio.to_thread(lambda: (process_memory(), room_left(self._limit_bytes)))
        resources = self._resources
        shown = [served for served in self._indexes.all() if may_see(served.name)]
        return ProcessMemory(
            encoders=[
                ModelMemory(
                    name=loaded.encoder.name,
                    fingerprint=loaded.encoder.fingerprint,
                    device=str(loaded.encoder.device),
                    weights_bytes=loaded.weights_bytes,
                    indexes=[served.name for served in shown if served.uses(loaded.encoder)],
                )
                for loaded in resources.encoders.all()
            ],
            rerankers=[
                ModelMemory(
                    name=scorer.name,
                    fingerprint=scorer.fingerprint,
                    device=scorer.device,
                    weights_bytes=num_bytes,
                    indexes=[served.name for served in shown],
                )
                for (scorer, _), num_bytes in zip(resources.rerankers, resources.reranker_bytes, strict=True)
            ],
            query_vectors=len(resources.query_vectors),
            query_vectors_bytes=resources.query_vectors.num_bytes,
            answers=len(resources.answers),
            answers_bytes=resources.answers.num_bytes,
            thumbnails=len(resources.thumbnails),
            thumbnails_bytes=resources.thumbnails.num_bytes,
            resident_bytes=None if own is None else own.resident_bytes,
            own_bytes=None if own is None else own.own_bytes,
            limited_by=None if room is None else room.limited_by,
            limit_bytes=None if room is None else room.limit_bytes,
            free_bytes=None if room is None else room.free_bytes,
        )


def counters_of(index: IndexMemory | None, process: ProcessMemory) -> dict[str, int]:
    """The same as plain numbers, without those that are not known."""
    counters = {
        "weights_bytes": sum(model.weights_bytes for model in (*process.encoders, *process.rerankers)),
        "query_vectors_bytes": process.query_vectors_bytes,
        "answers_bytes": process.answers_bytes,
        "thumbnails_bytes": process.thumbnails_bytes,
        "resident_bytes": process.resident_bytes,
        "own_bytes": process.own_bytes,
        "limit_bytes": process.limit_bytes,
        "free_bytes": process.free_bytes,
    }
    if index is not None:
        by_place = index.model_dump(exclude={"parts"})
        counters |= {f"index_{name}": value for name, value in by_place.items()}
    return {name: value for name, value in counters.items() if value is not None}


def _of(held: list[Held]) -> IndexMemory:
    by_place = {place: sum(one.num_bytes for one in held if one.place is place) for place in Place}
    return IndexMemory(
        parts=[HeldPart(name=one.name, bytes=one.num_bytes, place=one.place.value) for one in held],
        mapped_bytes=by_place[Place.MAPPED],
        memory_bytes=by_place[Place.MEMORY],
        gpu_bytes=by_place[Place.GPU],
        disk_bytes=by_place[Place.DISK],
    )
