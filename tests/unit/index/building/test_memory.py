"""What a build and a fold hold in memory does not grow with the number of keys."""

import gc
import tracemalloc
from pathlib import Path

import pytest

from tests.factories import build_with, write_jsonl

FEW, MANY = 9_000, 13_000  # more than the two batches that folding holds
MOST_BYTES_A_KEY = 20  # a list of keys' names takes 70 and more, one of their places 40


def peak_bytes(output: Path, num_keys: int, text: str) -> int:
    """The most that Python held at once while keys were built, or others put in their place."""
    rows = ({"key": f"key-{number:07}", "text": f"{text} {number}"} for number in range(num_keys))
    corpus = write_jsonl(output.with_suffix(".jsonl"), rows)
    gc.collect()
    tracemalloc.start()
    try:
        report = build_with(corpus, output, structure="exact", decode_threads=1)
        assert report.num_embedded == num_keys
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_of_a_build_does_not_grow_with_the_number_of_keys(tmp_path: Path) -> None:
    peak_bytes(tmp_path / "first", 100, "a")  # imports what it needs
    for text in ("new", "changed"):
        few, many = (peak_bytes(tmp_path / str(number), number, text) for number in (FEW, MANY))
        assert many - few < MOST_BYTES_A_KEY * (MANY - FEW), text
