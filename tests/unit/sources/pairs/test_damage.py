"""Whatever happens to a file's bytes, it is refused by name, or every position is a pair or a bad row."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anykey.sources.errors import SourceError
from anykey.sources.pairs import open_pairs
from anykey.sources.pairs.pair import Pair
from tests.drawn_pairs import DrawnPair, drawn_pairs, read_all, write_shard

FEW = [DrawnPair(pair.name, b"image " * 20, pair.captions) for pair in drawn_pairs(4)]


def whole_file(folder: Path, name: str) -> bytes:
    """A sound file of a format, with its images beside it."""
    for pair in FEW:
        (folder / f"{pair.name}.png").write_bytes(pair.image)
    if name == "a.tar":
        return write_shard(folder / "whole", FEW).read_bytes()
    if name == "a.jsonl":
        return "".join(json.dumps({"image": f"{p.name}.png", "captions": p.captions}) + "\n" for p in FEW).encode()
    if name == "a.csv":
        return "".join(["image,text\r\n", *(f'{p.name}.png,"{p.captions[1]}"\r\n' for p in FEW)]).encode()
    if name == "karpathy.json":
        rows = [
            {"filename": f"{p.name}.png", "split": "train", "sentences": [{"raw": p.captions[0]}, {"raw": "\u65e5"}]}
            for p in FEW
        ]
        return json.dumps({"images": rows}, ensure_ascii=False).encode()
    turns = [[{"from": "human", "value": "?"}, {"from": "gpt", "value": pair.captions[0]}] for pair in FEW]
    return json.dumps(
        [{"image": f"{p.name}.png", "conversations": t} for p, t in zip(FEW, turns, strict=True)]
    ).encode()


@pytest.mark.parametrize("name", ["a.tar", "a.jsonl", "a.csv", "karpathy.json", "llava.json"])
def test_a_sound_file_holds_all_pairs(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(whole_file(tmp_path, name))
    assert all(isinstance(row, Pair) for row in read_all(open_pairs([str(tmp_path / name)])))
    assert len(open_pairs([str(tmp_path / name)])) == 4


@pytest.mark.parametrize("name", ["a.tar", "a.jsonl", "a.csv", "karpathy.json", "llava.json"])
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_damaged_file_never_ends_in_another_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    content = bytearray(whole_file(folder, name))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        with_what = data.draw(st.binary(max_size=3) | st.sampled_from([b'"', b"\n", b"\\", b"[", b"{", b"\0", b"\r"]))
        content[place : place + data.draw(st.integers(0, 3))] = with_what
    (folder / name).write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    with suppress(SourceError):
        source = open_pairs([str(folder / name)])
        assert len(read_all(source)) == len(source)
