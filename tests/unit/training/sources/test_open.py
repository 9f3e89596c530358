"""Names become files in a known order, and a name without a file is an error that names it."""

import os
from pathlib import Path

import pytest

from tests.drawn_pairs import drawn_pairs, write_manifest, write_shard, write_tar
from training.errors import InvalidPairsError, NoPairsError
from training.sources import expand, open_pairs
from training.sources.rows import captions_of


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for number in range(12):
        (tmp_path / f"train-{number:05}.tar").touch()
    (tmp_path / "notes.txt").touch()
    return tmp_path


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_braces_expand_with_leading_zeros(shards: Path) -> None:
    assert names(expand([f"{shards}/train-{{00008..00011}}.tar"])) == [f"train-{n:05}.tar" for n in (8, 9, 10, 11)]
    assert names(expand([f"{shards}/train-{{00003,00001}}.tar"])) == ["train-00003.tar", "train-00001.tar"]


def test_stars_expand_sorted(shards: Path) -> None:
    assert names(expand([f"{shards}/train-*.tar"])) == [f"train-{n:05}.tar" for n in range(12)]
    assert names(expand([f"{shards}/train-0000*.tar"])) == [f"train-{n:05}.tar" for n in range(10)]


def test_patterns_match_in_any_part_of_a_name_and_a_file_of_that_very_name_wins(shards: Path) -> None:
    assert names(expand([f"{shards.parent}/{shards.name[:-1]}?/train-0000[12].tar"])) == [
        "train-00001.tar",
        "train-00002.tar",
    ]
    (shards / "odd[1].tar").touch()
    assert names(expand([f"{shards}/odd[1].tar"])) == ["odd[1].tar"]


def test_names_keep_their_order_and_may_repeat(shards: Path) -> None:
    given = [f"{shards}/train-00002.tar", f"{shards}/train-00001.tar", f"{shards}/train-00002.tar"]
    assert [str(path) for path in expand(given)] == given


@pytest.mark.parametrize("pattern", ["absent.tar", "absent-*.tar", "train-{00010..00013}.tar", "nowhere/*.tar"])
def test_a_pattern_without_a_file_is_named(shards: Path, pattern: str) -> None:
    with pytest.raises(NoPairsError, match=r"no file '.*(absent|00012|nowhere)"):
        expand([f"{shards}/{pattern}"])


def test_a_directory_is_no_file(shards: Path) -> None:
    with pytest.raises(NoPairsError):
        expand([str(shards)])


def test_unbalanced_braces_are_refused(shards: Path) -> None:
    with pytest.raises(InvalidPairsError, match="unbalanced braces"):
        expand([f"{shards}/train-{{0..9.tar"])


def test_no_names_are_refused() -> None:
    with pytest.raises(NoPairsError, match="no data named"):
        expand([])


def test_sources_follow_one_another(tmp_path: Path) -> None:
    pairs = drawn_pairs(7)
    write_shard(tmp_path / "a.tar", pairs[:3])
    write_manifest(tmp_path / "b.jsonl", pairs[3:5])
    write_shard(tmp_path / "c.tar", pairs[5:])
    source = open_pairs([str(tmp_path / name) for name in ("a.tar", "b.jsonl", "c.tar")])
    assert [source[n].name for n in range(len(source))] == [pair.name for pair in pairs]
    with pytest.raises(IndexError):
        source[7]


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("a,b")
    with pytest.raises(InvalidPairsError, match=r"pairs\.csv: expected a \.tar shard or a \.jsonl manifest"):
        open_pairs([str(tmp_path / "pairs.csv")])


def test_files_without_pairs_are_refused_by_name(tmp_path: Path) -> None:
    write_tar(tmp_path / "empty.tar", [])
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(NoPairsError, match=r"no pairs in .*empty\.tar, .*empty\.jsonl"):
        open_pairs([str(tmp_path / "empty.tar"), str(tmp_path / "empty.jsonl")])


@pytest.mark.parametrize(
    ("row", "captions"),
    [
        ({"captions": ["one", " two\n"]}, ("one", "two")),
        ({"captions": ["one", "", "  "]}, ("one",)),
        ({"caption": "one"}, ("one",)),
        ({"text": "one"}, ("one",)),
        ({"captions": [], "caption": "one"}, ("one",)),
        ({"captions": ["many"], "caption": "one"}, ("many",)),
        ({"captions": "one"}, ("one",)),
    ],
)
def test_captions_are_found_under_three_names(row: dict[str, object], captions: tuple[str, ...]) -> None:
    assert captions_of(row) == captions


@pytest.mark.parametrize(
    "row", [{}, [], "text", None, 3, {"captions": [1]}, {"caption": ""}, {"text": [" "]}, {"text": {"a": 1}}]
)
def test_a_row_without_captions_is_refused(row: object) -> None:
    with pytest.raises(ValueError, match="expected an object with non-empty 'captions', 'caption' or 'text'"):
        captions_of(row)


def test_relative_names_are_relative_to_where_the_program_runs(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shards)
    assert expand(["train-00000.tar"]) == [Path("train-00000.tar")]
    assert os.path.samefile(expand(["train-00000.tar"])[0], shards / "train-00000.tar")
