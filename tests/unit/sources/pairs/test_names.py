"""Names become files in a known order, and a name without a file is an error that names it."""

import json
import os
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.pairs import open_pairs
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.names import find_files
from tests.drawn_pairs import expand


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


@pytest.mark.parametrize(
    "pattern", ["absent.tar", "absent-*.tar", "train-{00010..00013}.tar", "nowhere/*.tar", "absent.json#train"]
)
def test_a_pattern_without_a_file_is_named(shards: Path, pattern: str) -> None:
    with pytest.raises(SourceError, match=r"(absent|00012|nowhere).* does not exist"):
        expand([f"{shards}/{pattern}"])


def test_a_folder_is_found_by_its_name_and_by_no_pattern(shards: Path) -> None:
    (shards / "photos").mkdir()
    assert expand([str(shards / "photos")]) == [shards / "photos"]
    assert "photos" not in names(expand([f"{shards}/*"]))
    with pytest.raises(SourceError, match="does not exist"):
        expand([f"{shards}/pho*"])


def test_what_follows_the_last_hash_is_a_part_unless_it_belongs_to_the_name(shards: Path) -> None:
    (shards / "set#1.json").touch()
    assert find_files(f"{shards}/set#1.json") == [DataFile(shards / "set#1.json")]
    assert find_files(f"{shards}/set#1.json#train") == [DataFile(shards / "set#1.json", "train")]
    assert find_files(f"{shards}/set#?.json") == [DataFile(shards / "set#1.json")]
    two_parts = [DataFile(shards / "set#1.json", part) for part in ("train", "val")]
    assert find_files(f"{shards}/set#1.json#{{train,val}}") == two_parts


def test_unbalanced_braces_are_refused(shards: Path) -> None:
    with pytest.raises(SourceError, match="unbalanced braces"):
        expand([f"{shards}/train-{{0..9.tar"])


@pytest.mark.parametrize("given", [[], [""]])
def test_no_names_are_refused(given: list[str]) -> None:
    with pytest.raises(SourceError, match=r"no data named|an empty name does not exist"):
        open_pairs(given)


def test_relative_names_are_relative_to_where_the_program_runs(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shards)
    assert expand(["train-00000.tar"]) == [Path("train-00000.tar")]
    assert os.path.samefile(expand(["train-00000.tar"])[0], shards / "train-00000.tar")


def test_names_may_hold_any_letters(tmp_path: Path) -> None:
    path = tmp_path / "f\u00fcr \u65e5\u672c.tar"
    path.touch()
    assert expand([str(path)]) == [path]


def test_names_too_long_for_a_file_are_names_without_one(tmp_path: Path) -> None:
    for name in ("x" * 300, f"{'x' * 300}/*.tar"):
        with pytest.raises(SourceError, match="does not exist"):
            open_pairs([name])
    row = {"image": f"{'x' * 300}.jpg", "conversations": [{"from": "gpt", "value": "one"}]}
    (tmp_path / "llava.json").write_text(json.dumps([row]))
    with pytest.raises(InvalidRowError, match="there is no image"):
        open_pairs([str(tmp_path / "llava.json")])[0]


def test_suffixes_of_an_index_are_training_s(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_text('{"text": "one"}\n')
    parquet.write_table(pyarrow.table({"text": ["two"]}), tmp_path / "b.pq")
    pairs = open_pairs([str(tmp_path / "a.ndjson"), str(tmp_path / "b.pq")])
    assert [pairs[row].captions for row in range(2)] == [("one",), ("two",)]


def test_a_file_url_is_the_path_it_is(tmp_path: Path) -> None:
    (tmp_path / "a b.jsonl").write_text("")
    assert find_files(f"file://{tmp_path}/a%20b.jsonl") == [DataFile(tmp_path / "a b.jsonl")]
