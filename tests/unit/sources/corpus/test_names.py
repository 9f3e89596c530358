"""What a user names: braces, patterns, URLs and folders, and a sentence for what is not there."""

import sys
from pathlib import Path

import fsspec
import pytest

from anykey.sources.corpus.entry import CorpusFile
from anykey.sources.corpus.names import find_files
from anykey.sources.errors import SourceError
from tests.site import Site


def locations(*names: str | Path) -> list[str]:
    return [file.location for file in find_files([str(name) for name in names])]


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{number:02}.tar" for number in range(3)]
    for path in paths:
        path.write_bytes(b"")
    return list(map(str, paths))


def test_braces_and_patterns_stand_for_files_in_order(tmp_path: Path, shards: list[str]) -> None:
    assert locations(f"{tmp_path}/{{02,00}}.tar") == [shards[2], shards[0]]
    assert locations(f"{tmp_path}/{{00..01}}.tar") == shards[:2]
    assert locations(f"{tmp_path}/*.tar") == shards
    assert locations(f"{tmp_path}/0[12].tar", shards[0]) == [*shards[1:], shards[0]]


def test_file_of_that_very_name_is_meant(tmp_path: Path) -> None:
    for name in ("[a].csv", "a.csv"):
        (tmp_path / name).write_bytes(b"")
    assert locations(tmp_path / "[a].csv") == [f"{tmp_path}/[a].csv"]


def test_file_urls_are_paths(tmp_path: Path, shards: list[str]) -> None:
    assert locations(f"file://{shards[0]}", f"file://{tmp_path}/*.tar") == [shards[0], *shards]


def test_folders_are_folders_of_images(tmp_path: Path) -> None:
    assert find_files([str(tmp_path)]) == [CorpusFile(str(tmp_path), is_folder=True)]


def test_urls_expand_too(site: Site, memory: fsspec.AbstractFileSystem) -> None:
    for number in range(2):
        site.pages[f"/{number}.tar"] = b"x"
        memory.pipe(f"/set/{number}.tar", b"x")
    assert locations(site.url("/{0..1}.tar")) == [site.url("/0.tar"), site.url("/1.tar")]
    assert locations("memory://set/*.tar") == ["memory:///set/0.tar", "memory:///set/1.tar"]
    assert find_files(["memory://set"]) == [CorpusFile("memory://set", is_folder=True)]


def test_what_is_not_there_is_named_without_secrets(
    tmp_path: Path, site: Site, memory: fsspec.AbstractFileSystem
) -> None:
    cases = {
        str(tmp_path / "none.jsonl"): f"{tmp_path}/none.jsonl does not exist",
        f"{tmp_path}/*.tar": r"\*\.tar does not exist",
        "memory://none.jsonl": r"memory://none\.jsonl does not exist",
        site.url("/none.jsonl?signature=hidden"): r"/none\.jsonl does not exist",
        site.url("/broken/a.jsonl?signature=hidden"): r"cannot read .*a\.jsonl: the server answered 503",
        "zzz://me:hidden@host/a.jsonl": r"cannot read zzz://host/a\.jsonl: Protocol not known: zzz",
        "{a.jsonl": r"unbalanced braces in '\{a\.jsonl'",
    }
    for name, reason in cases.items():
        with pytest.raises(SourceError, match=reason) as caught:
            find_files([name])
        assert "hidden" not in str(caught.value)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ossfs", None)
    with pytest.raises(SourceError, match=r"cannot read oss://bucket/a\.jsonl: .*ossfs"):
        find_files(["oss://bucket/a.jsonl"])
