"""Remote files are fetched once, whole or not at all, and every failure names the URL and ends in time."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import parquet

from anykey.program.cache_folder import keep_below
from anykey.sources.errors import SourceError
from anykey.sources.files.copies import copy_file, copy_folder, default_cache_dir
from anykey.sources.pairs import open_pairs, source_states, without_secrets
from tests.drawn_pairs import drawn_pairs, write_shard
from tests.site import Site


@pytest.fixture
def shard(tmp_path: Path) -> bytes:
    return write_shard(tmp_path / "origin.tar", drawn_pairs(3)).read_bytes()


def kept(cache: Path) -> list[str]:
    """Names in the cache, but for locks."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_a_shard_is_fetched_once_and_read_like_any_other(tmp_path: Path, site: Site, shard: bytes) -> None:
    site.pages["/a/0.tar"] = site.pages["/a/1.tar"] = shard
    pairs = open_pairs([site.url("/a/{0..1}.tar")], tmp_path / "cache")
    assert [pairs[n].name for n in range(6)] == [pair.name for pair in drawn_pairs(3)] * 2
    assert pairs[4].where == f"{site.url('/a/1.tar')}: sample '{drawn_pairs(3)[1].name}'"
    copies = {path: path.stat().st_ino for path in (tmp_path / "cache").glob("*.tar")}
    open_pairs([site.url("/a/{0..1}.tar")], tmp_path / "cache")
    assert copies == {path: path.stat().st_ino for path in (tmp_path / "cache").glob("*.tar")}
    assert len(copies) == 2


def test_copies_used_longest_ago_make_room_and_those_in_use_stay(
    tmp_path: Path, site: Site, shard: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "abc":
        site.pages[f"/{name}.tar"] = shard
    cache, urls = tmp_path / "cache", {name: site.url(f"/{name}.tar") for name in "abc"}
    used = open_pairs([urls["a"]], cache)
    (first,) = kept(cache)
    open_pairs([urls["b"]], cache)
    (second,) = {*kept(cache)} - {first}
    (cache / "mine.tar").write_bytes(shard)
    for name, used_at in ((first, 0), (second, 1)):
        os.utime(cache / name, (used_at, used_at))

    open_pairs([urls["c"]], cache, 2 * len(shard))

    assert first in kept(cache)
    assert second not in kept(cache)
    assert "mine.tar" in kept(cache)
    assert f"removed 1 files ({len(shard)} bytes) from the cache {cache}" in caplog.text
    assert used[0].name == drawn_pairs(3)[0].name

    again = pickle.loads(pickle.dumps(used))  # as a process that reads images gets them
    del used
    open_pairs([urls["c"]], cache, 0)
    assert len(again) == 3
    assert first in kept(cache)
    assert f"the cache {cache} takes" in caplog.text
    del again
    open_pairs([urls["c"]], cache, len(shard))
    assert first not in kept(cache)


def test_a_copy_that_is_read_again_counts_as_used(tmp_path: Path, site: Site, shard: bytes) -> None:
    site.pages["/a.tar"] = site.pages["/b.tar"] = site.pages["/c.tar"] = shard
    for name in "ab":
        open_pairs([site.url(f"/{name}.tar")], tmp_path / "cache")
    copies = kept(tmp_path / "cache")
    for copy in copies:
        os.utime(tmp_path / "cache" / copy, (0, 0))
    open_pairs([site.url("/a.tar")], tmp_path / "cache")
    (read_again,) = (copy for copy in copies if (tmp_path / "cache" / copy).stat().st_mtime)
    open_pairs([site.url("/c.tar")], tmp_path / "cache", 2 * len(shard))
    assert read_again in kept(tmp_path / "cache")
    assert len(kept(tmp_path / "cache")) == 2


def test_a_file_that_changes_is_fetched_again(tmp_path: Path, site: Site) -> None:
    site.pages["/a.jsonl"], site.tags["/a.jsonl"] = b'{"text": "one"}', '"1"'
    states = source_states([site.url("/a.jsonl")], tmp_path)
    site.pages["/a.jsonl"], site.tags["/a.jsonl"] = b'{"text": "two"}', '"2"'
    assert open_pairs([site.url("/a.jsonl")], tmp_path)[0].captions == ("two",)
    assert states != source_states([site.url("/a.jsonl")], tmp_path)


def test_states_do_not_depend_on_when_a_file_was_fetched(tmp_path: Path, site: Site, shard: bytes) -> None:
    site.pages["/a.tar"] = shard
    first = source_states([site.url("/a.tar")], tmp_path / "one")
    assert first == source_states([site.url("/a.tar")], tmp_path / "two")


def test_redirects_are_followed_and_queries_are_no_part_of_the_suffix(tmp_path: Path, site: Site, shard: bytes) -> None:
    site.pages["/a.tar"] = shard
    assert len(open_pairs([site.url("/moved/a.tar?signature=x.json")], tmp_path)) == 3


def test_a_part_follows_the_url(tmp_path: Path, site: Site) -> None:
    site.pages["/k.json"] = b'{"images": [{"split": "val", "filename": "a.jpg", "sentences": [{"raw": "one"}]}]}'
    assert len(open_pairs([site.url("/k.json#val")], tmp_path)) == 1
    with pytest.raises(SourceError, match=r"k\.json has no image in split 'train'"):
        open_pairs([site.url("/k.json")], tmp_path)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/absent.tar", "404"),
        ("/cut/a.tar", "peer closed connection"),
        ("/empty.tar", "it is empty"),
    ],
)
def test_what_cannot_be_fetched_whole_is_not_kept(
    tmp_path: Path, site: Site, shard: bytes, path: str, reason: str
) -> None:
    site.pages |= {"/a.tar": shard, "/empty.tar": b""}
    with pytest.raises(SourceError, match=rf"cannot read {site.url(path)}: .*({reason})"):
        copy_file(site.url(path), tmp_path / "cache")
    assert kept(tmp_path / "cache") == []


def test_a_server_that_trickles_is_given_up(tmp_path: Path, site: Site, shard: bytes) -> None:
    site.pages["/a.tar"], site.trickles = shard, True
    with pytest.raises(SourceError, match=r"too few|no answer within 0\.2 s"):
        copy_file(site.url("/a.tar"), tmp_path / "cache", limit_s=0.2)
    assert kept(tmp_path / "cache") == []


@pytest.fixture
def shaky(site: Site) -> Site:
    """A server whose answers can be told to break, with a page of 3 MB."""
    site.pages["/a.tar"], site.tags["/a.tar"] = bytes(range(256)) * 12_000, '"1"'
    site.breaks_after = 1_000_000
    return site


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_fetch_that_breaks_off_goes_on_where_it_was(tmp_path: Path, shaky: Site, has_ranges: bool) -> None:
    shaky.has_ranges, shaky.num_breaks, shaky.num_failures = has_ranges, 2, 2
    assert copy_file(shaky.url("/a.tar"), tmp_path).path.read_bytes() == shaky.pages["/a.tar"]
    assert shaky.num_breaks == 0


def test_a_file_that_changed_when_it_broke_off_is_not_pieced_together(tmp_path: Path, shaky: Site) -> None:
    shaky.num_breaks, shaky.changed = 1, {"/a.tar": bytes(3_000_001)}
    with pytest.raises(SourceError, match="it changed while it was read"):
        copy_file(shaky.url("/a.tar"), tmp_path)
    assert kept(tmp_path) == []


def test_a_file_without_a_version_is_fetched_from_its_beginning_where_it_broke_off(tmp_path: Path, shaky: Site) -> None:
    shaky.tags.clear()
    shaky.pages["/a.tar"], shaky.changed = b"a" * 6_000_000, {"/a.tar": b"b" * 6_000_000}
    shaky.num_breaks, shaky.breaks_after = 2, 5_000_000
    assert copy_file(shaky.url("/a.tar"), tmp_path).path.read_bytes() == b"b" * 6_000_000
    shaky.pages["/b.tar"], shaky.num_breaks = b"c" * 6_000_000, 10**6
    shaky.requests.clear()
    with pytest.raises(SourceError, match="peer closed connection"):
        copy_file(shaky.url("/b.tar"), tmp_path)
    assert [span for _, span in shaky.requests] == ["bytes=0-0", None, None, None]


@pytest.mark.parametrize(("num_failures", "num_breaks", "most"), [(10**6, 0, 3), (0, 10**6, 150)])
def test_a_server_that_fails_for_ever_is_given_up(
    tmp_path: Path, shaky: Site, num_failures: int, num_breaks: int, most: int
) -> None:
    shaky.num_failures, shaky.num_breaks, shaky.breaks_after = num_failures, num_breaks, 1_000
    with pytest.raises(SourceError, match=r"503 Service Unavailable|peer closed connection"):
        copy_file(shaky.url("/a.tar"), tmp_path)
    assert len(shaky.requests) <= most


def test_a_server_that_is_not_there_is_named_without_secrets(tmp_path: Path, site: Site) -> None:
    url = site.url("/a.tar").replace("http://", "http://user:secret@") + "?signature=hidden"
    with pytest.raises(SourceError) as caught:
        copy_file(url, tmp_path)
    assert f"cannot read {site.url('/a.tar')}: " in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "memory://user:secret@bucket/a.tar?signature=hidden",  # its library repeats the whole address
        "pipe:echo http://user:secret@host/a.tar?signature=hidden >&2; exit 1",  # as the command does
        "http://user:secret@host/{a.tar?signature=hidden",
        "{absent.tar,http://user:secret@host/a.tar?signature=hidden}",
    ],
)
def test_every_failure_is_told_without_secrets(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_pairs([name], tmp_path)
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("https://host:8443/a-{00..09}.tar", "https://host:8443/a-{00..09}.tar"),
        ("https://user:secret@host/a.json?signature=secret#val,test", "https://host/a.json#val,test"),
        ("s3://key:secret@bucket/my photos?.tar", "s3://bucket/my photos"),
        ("s3://bucket/photo #1 of 2.jpg", "s3://bucket/photo #1 of 2.jpg"),
        ("https://host/a!b.jpg?signature=secret", "https://host/a!b.jpg"),
        ("hf://datasets/me/photos@main/a.tar", "hf://datasets/me/photos@main/a.tar"),
        ("https://host/a.tar#access_token=secret", "https://host/a.tar"),
        ("https://host/{a.json#val,b.json?signature=secret}", "https://host/{a.json"),
        ("{http,https}://user:secret@host/a.tar", "{http,https}://host/a.tar"),
        ("{https://u:secret@one/a.tar,https://u:secret@two/a.tar}", "{https://one/a.tar,https://two/a.tar}"),
        ("zip://a.csv::https://user:secret@host/a.zip", "zip://a.csv::https://host/a.zip"),
        ("photos/me@home/shard?-{0..9}.tar#val", "photos/me@home/shard?-{0..9}.tar#val"),
        ("pipe:cat a?.tar | pv", "pipe:cat a?.tar | pv"),
        (
            "pipe:curl -H \"T: $TOKEN\" 'https://user:secret@host/a?s=secret' http://host/b?s=secret | pv",
            "pipe:curl -H \"T: $TOKEN\" 'https://host/a' http://host/b | pv",
        ),
    ],
)
def test_a_name_is_shown_without_secrets(name: str, shown: str) -> None:
    assert without_secrets(name) == shown


def test_several_readers_at_once_fetch_one_copy(tmp_path: Path, site: Site, shard: bytes) -> None:
    site.pages["/a.tar"] = shard
    with ThreadPoolExecutor(8) as pool:
        files = list(pool.map(lambda _: copy_file(site.url("/a.tar"), tmp_path / "cache"), range(8)))
    assert len({file.path for file in files}) == 1
    assert kept(tmp_path / "cache") == [files[0].path.name]
    assert files[0].path.read_bytes() == shard


def test_other_protocols_go_through_fsspec(tmp_path: Path) -> None:
    pairs = drawn_pairs(4)
    columns = {"image": [pair.image for pair in pairs], "text": [pair.captions[0] for pair in pairs]}
    with fsspec.open("memory://bucket/pairs.parquet", "wb") as file:
        parquet.write_table(pa.table(columns), file)
    found = open_pairs(["memory://bucket/pairs.parquet"], tmp_path)
    assert [found[n].captions for n in range(4)] == [(pair.captions[0],) for pair in pairs]
    copies = kept(tmp_path)
    with fsspec.open("memory://bucket/pairs.parquet", "wb") as file:
        parquet.write_table(pa.table({"text": ["new"]}), file)
    assert len(open_pairs(["memory://bucket/pairs.parquet"], tmp_path)) == 1
    assert len(kept(tmp_path)) == len(copies) + 1


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("memory://absent.tar", "no such file"),
        ("nosuch://bucket/a.tar", "Protocol not known"),
    ],
)
def test_what_fsspec_cannot_do_is_said(tmp_path: Path, url: str, reason: str) -> None:
    with pytest.raises(SourceError, match=f"cannot read {url}: .*{reason}"):
        copy_file(url, tmp_path)


def test_a_command_s_output_is_a_shard(tmp_path: Path, shard: bytes) -> None:
    (tmp_path / "it's here.tar").write_bytes(shard)
    name = f'pipe:cat "{tmp_path}/it\'s here.tar"; echo x >> {tmp_path}/runs'
    for _ in range(2):
        assert len(open_pairs([name], tmp_path / "cache")) == 3
    assert (tmp_path / "runs").read_text() == "x\n"
    assert source_states([name], tmp_path / "cache")[0].endswith(f".tar# {len(shard)}")


def test_braces_expand_in_commands(tmp_path: Path, shard: bytes) -> None:
    for number in range(2):
        (tmp_path / f"{number}.tar").write_bytes(shard)
    assert open_pairs([f"pipe:cat {tmp_path}/{{0..1}}.tar"], tmp_path / "cache").lengths == [6]


@pytest.mark.parametrize(
    ("command", "limit_s", "reason"),
    [
        ("echo one >&2; echo two >&2; exit 3", 60, "the command ended with 3: two"),
        ("echo partly; false", 60, "the command ended with 1: it said nothing"),
        ("cat /nowhere/a.tar | cat", 60, "the command ended with 1: .*No such file"),
        ("true", 60, "it is empty"),
        ("echo begun; sleep 60", 0.3, "nothing came for 0.3 s"),
    ],
)
def test_a_command_that_fails_leaves_nothing(tmp_path: Path, command: str, limit_s: float, reason: str) -> None:
    with pytest.raises(SourceError, match=f"cannot read pipe:.*: {reason}"):
        copy_file(f"pipe:{command}", tmp_path, limit_s=limit_s)
    assert kept(tmp_path) == []


def test_output_that_is_no_shard_is_named_by_its_command(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="pipe:echo rubbish is no readable tar file"):
        open_pairs(["pipe:echo rubbish"], tmp_path)


def test_the_cache_lies_where_the_user_s_caches_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "anykey" / "data"
    assert copy_file("pipe:echo one").path.parent == tmp_path / "anykey" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "anykey" / "data"


def test_a_folder_is_fetched_once_and_again_when_something_in_it_changes(
    tmp_path: Path, memory: MemoryFileSystem
) -> None:
    for name in ("cats/1.jpg", "cats/1.txt", ".hidden", "../outside.txt"):
        memory.pipe(f"/set/{name}", name.encode())
    copy = copy_folder("memory://set", tmp_path)
    found = {path.relative_to(copy.path).as_posix(): path.read_bytes() for path in copy.path.rglob("*.*")}
    assert found == {"cats/1.jpg": b"cats/1.jpg", "cats/1.txt": b"cats/1.txt"}
    assert copy_folder("memory://set", tmp_path).path == copy.path
    memory.pipe("/set/cats/1.txt", b"changed")
    assert (copy_folder("memory://set", tmp_path).path / "cats/1.txt").read_bytes() == b"changed"
    assert (copy.path / "cats/1.txt").read_bytes() == b"cats/1.txt"


def test_a_folder_that_cannot_be_read_whole_is_no_copy_and_is_fetched_on(
    tmp_path: Path, memory: MemoryFileSystem
) -> None:
    for number in range(3):
        memory.pipe(f"/set/{number}.txt", b"text")
    stored = memory.store.pop("/set/2.txt")
    memory.store["/set/2.txt"] = _Unreadable(stored)
    with pytest.raises(SourceError, match=r"cannot read memory://set: .*disk"):
        copy_folder("memory://set", tmp_path)
    (part,) = kept(tmp_path)
    assert sorted(path.name for path in (tmp_path / part).glob("*.txt")) == ["0.txt", "1.txt"]
    memory.store["/set/2.txt"] = stored
    (tmp_path / part / "0.txt").write_bytes(b"from the first try")
    copy = copy_folder("memory://set", tmp_path)
    assert {path.name: path.read_bytes() for path in copy.path.glob("*.txt")} == {
        **{"0.txt": b"from the first try"},
        **{"1.txt": b"text", "2.txt": b"text"},
    }


def test_folders_used_longest_ago_make_room_as_files_do(tmp_path: Path, memory: MemoryFileSystem) -> None:
    memory.pipe("/one/a.txt", b"x" * 1000)
    memory.pipe("/two/a.txt", b"x" * 1000)
    one, two = (copy_folder(f"memory://{name}", tmp_path) for name in ("one", "two"))
    paths = one.path, two.path
    os.utime(paths[0], (0, 0))
    keep_below(tmp_path, 500)
    assert [path.exists() for path in paths] == [True, True]
    del one, two
    keep_below(tmp_path, 1500)
    assert [path.exists() for path in paths] == [False, True]
    assert kept(tmp_path) == [paths[1].name]


class _Unreadable:
    """A file of fsspec's memory whose disk fails."""

    def __init__(self, file: Any) -> None:
        self.size, self.created, self.modified, self.path = file.size, file.created, file.modified, file.path

    def seek(self, *_: object) -> int:
        return 0

    def read(self, *_: object) -> bytes:
        raise OSError("the disk fails")

    def close(self) -> None:
        """Is never open."""
