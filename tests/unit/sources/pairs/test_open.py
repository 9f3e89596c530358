"""Names become one source of pairs, which knows what each name brought; unreadable data are refused by name."""

import json
import os
from pathlib import Path

import pytest

from anykey.sources.errors import NoPairsError, SourceError
from anykey.sources.pairs import open_pairs, source_states
from anykey.sources.pairs.concatenated import ConcatenatedPairs
from tests.drawn_pairs import drawn_pairs, write_manifest, write_shard, write_tar


def test_sources_follow_one_another(tmp_path: Path) -> None:
    pairs = drawn_pairs(7)
    write_shard(tmp_path / "a.tar", pairs[:3])
    write_manifest(tmp_path / "b.jsonl", pairs[3:5])
    write_shard(tmp_path / "c.tar", pairs[5:])
    source = open_pairs([str(tmp_path / name) for name in ("a.tar", "b.jsonl", "c.tar")])
    assert [source[n].name for n in range(len(source))] == [pair.name for pair in pairs]


def test_lengths_are_summed_over_the_files_of_each_name(tmp_path: Path) -> None:
    for number, count in enumerate((3, 2, 4)):
        write_shard(tmp_path / f"{number}.tar", drawn_pairs(count))
    write_tar(tmp_path / "empty.tar", [])
    source = open_pairs([f"{tmp_path}/{{0,2,empty}}.tar", f"{tmp_path}/1.tar"])
    assert (source.lengths, len(source)) == ([7, 2], 9)


def test_every_position_is_found_as_in_a_plain_list() -> None:
    lists = [list("abc"), [], list("de"), [], list("f")]
    joined = ConcatenatedPairs(lists)  # type: ignore[arg-type]
    assert [joined[n] for n in range(len(joined))] == [letter for letters in lists for letter in letters]
    for position in (-1, 6):
        with pytest.raises(IndexError):
            joined[position]


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.zip").write_text("a,b")
    with pytest.raises(SourceError, match=r"cannot read pairs from .*pairs\.zip: expected .*a \.tar shard, "):
        open_pairs([str(tmp_path / "pairs.zip")])


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "[1]", '{"images": [{"file_name": "a.jpg"}]}', '[{"text": 1}]', "\xff", "[" * 100_000]
)
def test_json_of_another_kind_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "pairs.json").write_text(content, encoding="latin-1")
    with pytest.raises(SourceError, match=r"cannot read pairs from .*pairs\.json: expected .*Karpathy's \.json"):
        open_pairs([str(tmp_path / "pairs.json")])


def test_a_part_that_means_nothing_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", drawn_pairs(1))
    with pytest.raises(SourceError, match=r"a\.tar: '#train' means nothing for a \.tar shard"):
        open_pairs([f"{tmp_path}/a.tar#train"])


def test_files_without_pairs_are_refused_by_name(tmp_path: Path) -> None:
    write_tar(tmp_path / "empty.tar", [])
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(NoPairsError, match=r"no pairs in .*empty\.tar, .*empty\.jsonl"):
        open_pairs([f"{tmp_path}/empty.{{tar,jsonl}}"])


def test_a_name_without_pairs_is_refused_beside_one_that_has_some(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", drawn_pairs(2))
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(NoPairsError, match=r"no pairs in [^,]*empty\.jsonl$"):
        open_pairs([str(tmp_path / "a.tar"), str(tmp_path / "empty.jsonl")])


def test_states_change_with_each_file_that_the_pairs_depend_on(tmp_path: Path) -> None:
    pairs = drawn_pairs(2)
    shard, folder = write_shard(tmp_path / "a.tar", pairs), tmp_path / "photos"
    folder.mkdir()
    (folder / "1.png").write_bytes(pairs[0].image)
    (folder / "1.txt").write_text("one")
    (tmp_path / "k.json").write_text(json.dumps({"images": [{"split": "train", "sentences": []}]}))
    given = [str(shard), str(folder), f"{tmp_path}/k.json#train"]
    before = source_states(given)
    assert before == source_states(given)
    assert before != source_states([*given[:2], f"{tmp_path}/k.json"])
    for path in (shard, folder / "1.png", folder / "1.txt", tmp_path / "k.json"):
        os.utime(path, ns=(0, 0))
        after = source_states(given)
        assert len(set(after) - set(before)) == 1
        before = after
    (folder / "2.txt").write_text("two")
    assert len(source_states(given)) == len(before) + 1
