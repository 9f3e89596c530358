"""What memory this process has, and what more it may take, as Linux tells; elsewhere nothing is known of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

LimitedBy = Literal["setting", "cgroup", "machine"]
KIB = 1024
ANYTHING = Path("/")  # where the files of the system begin
UNLIMITED = 2**60  # version 1 of cgroups says a number beyond this where there is no limit


@dataclass(frozen=True)
class Room:
    """A limit on memory, and what is left of it.

    Attributes:
        limited_by: `setting`, `cgroup` (a container's limit is one), or `machine`.
        limit_bytes: The limit.
        free_bytes: What may be taken before it is reached. Pages of files count as free, for the system can drop them.
    """

    limited_by: LimitedBy
    limit_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class ProcessMemory:
    """What this process has of the machine's memory.

    Attributes:
        resident_bytes: All of it, pages of files that it has mapped among it.
        own_bytes: Without those: what the system cannot drop.
    """

    resident_bytes: int
    own_bytes: int


def process_memory(system: Path = ANYTHING) -> ProcessMemory | None:
    """What this process has now; `None` where the system does not tell.

    Args:
        system: Where the system's files begin.
    """
    facts = _facts_of(system / "proc/self/status")
    if not {"VmRSS", "RssAnon", "RssShmem"} <= facts.keys():
        return None
    return ProcessMemory(facts["VmRSS"], facts["RssAnon"] + facts["RssShmem"])


def room_left(limit_bytes: int | None = None, system: Path = ANYTHING) -> Room | None:
    """The limit of which least is left; `None` where nothing is known.

    Args:
        limit_bytes: What this process may have of its own, by a setting; `None` for no such limit.
        system: Where the system's files begin.
    """
    rooms = [*_of_machine(system), *_of_cgroups(system)]
    own = process_memory(system)
    if limit_bytes is not None and own is not None:
        rooms.append(Room("setting", limit_bytes, max(0, limit_bytes - own.own_bytes)))
    return min(rooms, key=lambda room: room.free_bytes, default=None)


def _of_machine(system: Path) -> Iterator[Room]:
    facts = _facts_of(system / "proc/meminfo")
    if {"MemTotal", "MemAvailable"} <= facts.keys():
        yield Room("machine", facts["MemTotal"], facts["MemAvailable"])


def _of_cgroups(system: Path) -> Iterator[Room]:
    """Those of the groups that this process is in, and of the groups that these are in; as containers see them, too."""
    for folder, limit_name, usage_name, files in _cgroups(system):
        limit, usage = _number_in(folder / limit_name), _number_in(folder / usage_name)
        if limit is not None and usage is not None and limit < UNLIMITED:
            facts = _facts_of(folder / "memory.stat", unit=1)
            droppable = sum(facts.get(name, 0) for name in files)
            yield Room("cgroup", limit, max(0, limit - max(0, usage - droppable)))


def _cgroups(system: Path) -> Iterator[tuple[Path, str, str, tuple[str, ...]]]:
    """Folders of groups, the inner ones first, with what their limit, usage and pages of files are called."""
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    root = system / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        inner = PurePosixPath(path.lstrip("/"))
        folders = [root / each for each in (inner, *inner.parents)]
        if not controllers:
            for folder in folders:
                yield folder, "memory.max", "memory.current", ("active_file", "inactive_file")
        elif "memory" in controllers.split(","):
            for folder in folders:
                folder = root / "memory" / folder.relative_to(root)
                files = ("total_active_file", "total_inactive_file")
                yield folder, "memory.limit_in_bytes", "memory.usage_in_bytes", files


def _number_in(path: Path) -> int | None:
    """The number that a file holds; `None` if it holds none, such as `max`, or is not there."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _facts_of(path: Path, unit: int = KIB) -> dict[str, int]:
    """Numbers by their names, of lines such as `MemTotal: 17 kB`; none where there is no such file."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    words = (line.replace(":", " ").split() for line in lines)
    return {name: int(value) * unit for name, value, *_ in (each for each in words if len(each) > 1) if value.isdigit()}
