"""What a build holds in memory while it embeds does not grow with the number of keys."""

import gc
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.factories import build_with, write_jsonl
from tests.fakes import FakeEncoder, FakePrepared

FEW, MANY = 1_000, 4_000  # more than the page of 512 rows that a plan reads at once
MOST_BYTES_A_KEY = 20  # a list of keys' names takes 70 and more, one of their places 40


class Watching(FakeEncoder):
    """Notes the most that Python holds when it is asked for vectors."""

    most_bytes = 0

    def encode_prepared(self, prepared: Sequence[FakePrepared]) -> NDArray[np.float32]:
        self.most_bytes = max(self.most_bytes, tracemalloc.get_traced_memory()[0])
        return super().encode_prepared(prepared)


def held_bytes(output: Path, num_keys: int, text: str) -> int:
    """The most that was held while keys were embedded, or others to take their place."""
    rows = ({"key": f"key-{number:07}", "text": f"{text} {number}"} for number in range(num_keys))
    corpus, encoder = write_jsonl(output.with_suffix(".jsonl"), rows), Watching()
    gc.collect()
    tracemalloc.start()
    try:
        assert build_with(corpus, output, encoder, structure="exact", decode_threads=1).num_embedded == num_keys
        return encoder.most_bytes
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_memory_of_a_build_does_not_grow_with_the_number_of_keys(tmp_path: Path) -> None:
    held_bytes(tmp_path / "first", 100, "a")  # imports what it needs
    for text in ("new", "changed"):
        few, many = (held_bytes(tmp_path / str(number), number, text) for number in (FEW, MANY))
        assert many - few < MOST_BYTES_A_KEY * (MANY - FEW), text
