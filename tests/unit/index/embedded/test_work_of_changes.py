"""What a live change costs, counted in statements to SQLite, which are as many on a busy machine."""

import cProfile
from collections.abc import Callable
from pathlib import Path

import pytest

from anykey.index import FaissIndex
from tests.killed_writers import numbered_key
from tests.live_index import make_index

NUM_KEYS = 40


def upsert(index: FaissIndex, number: int) -> None:
    index.upsert([numbered_key(f"new-{number}", number)])


def delete(index: FaissIndex, number: int) -> None:
    index.delete([f"k{number}"])


@pytest.mark.parametrize("change", [upsert, delete])
def test_a_change_of_one_key_costs_few_statements(tmp_path: Path, change: Callable[[FaissIndex, int], None]) -> None:
    index_dir = make_index(tmp_path / "i", [])
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        index.upsert([numbered_key(f"k{number}", number) for number in range(NUM_KEYS)])
        change(index, 0)  # imports and caches
        with cProfile.Profile() as profile:
            for number in range(1, NUM_KEYS):
                change(index, number)

    statements = sum(entry.callcount for entry in profile.getstats() if "execute" in str(entry.code)) / (NUM_KEYS - 1)
    assert statements <= 11
