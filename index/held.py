"""What an open index holds, and where: so that an operator knows what takes memory, and what only may."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Place(StrEnum):
    """Where something is."""

    MAPPED = "mapped"  # in a file, of which the system keeps in memory what is used, as far as there is room
    MEMORY = "memory"  # in this process's memory
    GPU = "gpu"  # in the memory of GPUs
    DISK = "disk"  # in a file that is read piece by piece


@dataclass(frozen=True)
class Held:
    """One thing that an open index holds.

    Attributes:
        name: `vectors`, `structure` (of the search), `gpu_structure`, `positions` (which key is where in the files),
            `fields` (what filters look at), `store` (keys, payload and what words are found by, with its log), or
            `recent` (keys that no version covers yet).
        num_bytes: How much it is; about, for `gpu_structure` and `recent`.
        place: Where it is.
    """

    name: str
    num_bytes: int
    place: Place


def file_bytes(*paths: Path) -> int:
    """Bytes of the files that are there."""
    sizes = []
    for path in paths:
        try:
            sizes.append(path.stat().st_size)
        except OSError:  # as of a log, which comes and goes
            sizes.append(0)
    return sum(sizes)
