"""Writes WebDataset tar shards, reproducibly."""

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Member:
    """One file of a shard; members of one sample share the name up to the first dot."""

    name: str
    data: bytes


def write_shard(path: Path, members: Iterable[Member]) -> None:
    """Writes the members in order, with no time, user or machine in the headers."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member in members:
            header = tarfile.TarInfo(member.name)
            header.size = len(member.data)
            tar.addfile(header, io.BytesIO(member.data))
