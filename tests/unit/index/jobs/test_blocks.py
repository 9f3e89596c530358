"""Blocks of an embedding job travel as plain data: what another has put in their place is refused, never run."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from anykey.index.errors import EmbeddingFailedError
from anykey.index.jobs.blocks import Block, dump_block, load_block
from anykey.index.jobs.plan import PlannedEntry
from anykey.sources.files.images import ImageStamp


def block() -> Block:
    image = ImageStamp("/data/caf\u00e9.jpg", 12, "1700")
    entries = (
        PlannedEntry(1, "a", "c.jsonl:1", "a\x00b \u2028", '{"n": 1}', ("p", "q"), (image, image), "ab" * 32),
        PlannedEntry(2, "b", "c.jsonl:2", None, "{}", (), (image,), "cd" * 32),
    )
    return Block(3, entries, "abc", has_shard=True)


class _RunsWhenRead:
    """What a pickle of it does to whoever loads it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def test_block_comes_back_as_it_was() -> None:
    assert load_block(dump_block(block())) == block()


def test_pickle_in_a_blocks_place_is_refused_and_not_run(tmp_path: Path) -> None:
    from anykey.index.jobs.ray_job import read_posted

    trace = tmp_path / "it-ran"
    (tmp_path / "00000").write_bytes(pickle.dumps(_RunsWhenRead(trace)))

    with pytest.raises(EmbeddingFailedError, match="00000 is not what the job wrote there"):
        read_posted(str(tmp_path / "00000"))
    assert not trace.exists()


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"number": "1", "entries": [], "digest": "d"}', b"\xff"])
def test_other_data_is_no_block(data: bytes) -> None:
    with pytest.raises(EmbeddingFailedError, match="expected a block of keys as JSON"):
        load_block(data)
