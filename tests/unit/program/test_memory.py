"""Protects what is told of memory: of this process as it is, and of limits wherever a system or container has them."""

import subprocess
import sys
from pathlib import Path

import pytest

from anykey.program.memory import Room, process_memory, room_left

MIB = 2**20
MEMINFO = "MemTotal: 8192 kB\nMemFree: 100 kB\nMemAvailable: 4096 kB\n"
STATUS = "Name:\tpython\nVmRSS:\t    3072 kB\nRssAnon:\t 1024 kB\nRssFile:\t 1536 kB\nRssShmem:\t  512 kB\n"


def machine(folder: Path, cgroup: str, **files: str) -> Path:
    """A system whose files say this; `__` stands for a folder in their names."""
    said = {"proc__meminfo": MEMINFO, "proc__self__status": STATUS, "proc__self__cgroup": cgroup, **files}
    for name, content in said.items():
        path = folder / name.replace("__", "/").replace("-", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def group(path: str, limit: str, usage: int, file_pages: int, version: int = 2) -> dict[str, str]:
    names = ("memory-max", "memory-current") if version == 2 else ("memory-limit_in_bytes", "memory-usage_in_bytes")
    prefix = "" if version == 2 else "total_"
    stat = f"anon {usage - file_pages}\n{prefix}active_file {file_pages}\n{prefix}inactive_file 0\n"
    place = f"sys__fs__cgroup{'' if version == 2 else '__memory'}{path}"
    return {f"{place}__{names[0]}": limit, f"{place}__{names[1]}": str(usage), f"{place}__memory-stat": stat}


TAKES = """
import numpy as np
from anykey.program.memory import process_memory
before = process_memory()
ballast = np.ones(64 * 2**20, np.uint8)
after = process_memory()
assert 0 < before.own_bytes <= before.resident_bytes
print(after.own_bytes - before.own_bytes)
"""


def test_what_a_process_takes_is_in_what_is_told() -> None:
    """In a process of its own: one that ran other tests has freed memory, of which the ballast would be made."""
    done = subprocess.run([sys.executable, "-c", TAKES], capture_output=True, text=True, timeout=60, check=True)
    assert 64 * MIB * 0.9 < int(done.stdout) < 64 * MIB * 1.5


def test_this_machine_has_room_and_no_more_than_it_has_memory() -> None:
    room = room_left()
    assert room is not None
    assert 0 < room.free_bytes <= room.limit_bytes


@pytest.mark.parametrize("inner", ["/", "/pod/box"])
def test_a_container_is_limited_by_its_own_group_or_one_around_it(tmp_path: Path, inner: str) -> None:
    files = group("", str(2 * MIB), MIB, 256 * 1024)  # as the root, or in a container
    if inner != "/":
        files |= group("__pod__box", "max", MIB, 0)
    system = machine(tmp_path, f"0::{inner}\n", **files)
    assert room_left(system=system) == Room("cgroup", 2 * MIB, MIB + 256 * 1024)


def test_of_several_limits_the_one_counts_that_is_reached_first(tmp_path: Path) -> None:
    files = group("__pod", str(4 * MIB), 3 * MIB, 0) | group("__pod__box", str(3 * MIB), MIB, 0)
    system = machine(tmp_path, "0::/pod/box\n", **files)
    assert room_left(system=system) == Room("cgroup", 4 * MIB, MIB)
    assert room_left(MIB * 2, system) == Room("setting", 2 * MIB, 2 * MIB - 1536 * 1024)
    assert room_left(MIB, system) == Room("setting", MIB, 0)


def test_the_first_version_of_groups_is_read_too(tmp_path: Path) -> None:
    unlimited = str(0x7FFFFFFFFFFFF000)
    lines = "5:devices:/\n4:cpu,memory:/docker/box\n0::/\n"
    files = group("", unlimited, MIB, 0, version=1) | group("__docker__box", str(2 * MIB), MIB, MIB, version=1)
    assert room_left(system=machine(tmp_path, lines, **files)) == Room("cgroup", 2 * MIB, 2 * MIB)


def test_without_any_group_the_machine_is_the_limit(tmp_path: Path) -> None:
    assert room_left(system=machine(tmp_path, "")) == Room("machine", 8 * MIB, 4 * MIB)


def test_a_system_that_tells_nothing_has_no_limits(tmp_path: Path) -> None:
    assert process_memory(tmp_path) is None
    assert room_left(system=tmp_path) is None
    assert room_left(MIB, tmp_path) is None
