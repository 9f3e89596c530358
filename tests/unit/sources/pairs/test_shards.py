"""Shards are read by position, as `tarfile` would read them; a bad sample is one bad row, a bad file an error."""

import gzip
import json
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from webdataset.tariterators import base_plus_ext

from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.pair import Pair
from anykey.sources.pairs.shards import Shard
from anykey.sources.shards import split_name
from tests.drawn_pairs import drawn_pairs, read_all, write_shard, write_tar

IMAGE = b"the image's bytes"


def shard_of(path: Path, *members: tuple[str, bytes]) -> Shard:
    return Shard(DataFile(write_tar(path / "shard.tar", members)))


def captions_json(*captions: str) -> bytes:
    return json.dumps({"captions": captions}).encode()


def test_every_sample_is_read_at_its_position(tmp_path: Path) -> None:
    pairs = drawn_pairs(9)
    shard = Shard(DataFile(write_shard(tmp_path / "shard.tar", pairs)))
    assert len(shard) == 9
    for position in (4, 0, 8, 4):
        found = shard[position]
        assert (found.name, found.image, found.captions) == (
            pairs[position].name,
            pairs[position].image,
            pairs[position].captions,
        )


@pytest.mark.parametrize("extension", ["jpg", "jpeg", "png", "webp", "JPG", "Png", "gif", "TIFF", "avif", "heic"])
def test_image_extensions(tmp_path: Path, extension: str) -> None:
    assert shard_of(tmp_path, (f"a.{extension}", IMAGE), ("a.txt", b"one caption\n"))[0].captions == ("one caption",)


def test_every_line_of_a_txt_is_a_caption(tmp_path: Path) -> None:
    assert shard_of(tmp_path, ("a.jpg", IMAGE), ("a.txt", b"one\r\n\n two \n"))[0].captions == ("one", "two")


def test_members_of_a_sample_need_not_be_neighbours(tmp_path: Path) -> None:
    shard = shard_of(tmp_path, ("a.jpg", IMAGE), ("b.jpg", b"other"), ("b.txt", b"two"), ("a.txt", b"one"))
    assert [(shard[n].name, shard[n].captions) for n in (0, 1)] == [("a", ("one",)), ("b", ("two",))]


def test_json_beats_txt_and_other_members_are_ignored(tmp_path: Path) -> None:
    members = [("a.cls", b"3"), ("a.txt", b"from txt"), ("a.json", captions_json("from json")), ("a.jpg", IMAGE)]
    assert shard_of(tmp_path, *members)[0].captions == ("from json",)


def test_names_end_at_the_first_dot_of_the_last_part_as_webdataset_has_it(tmp_path: Path) -> None:
    shard = shard_of(
        tmp_path, ("set.v2/a.jpg", IMAGE), ("set.v2/a.txt", b"one"), ("b.left.jpg", IMAGE), ("b.txt", b"two")
    )
    assert (len(shard), shard[0].name) == (2, "set.v2/a")
    with pytest.raises(
        InvalidRowError, match=r"sample 'b': expected an image and a \.json or \.txt, found left\.jpg, txt"
    ):
        shard[1]


def test_a_link_makes_its_sample_a_bad_row(tmp_path: Path) -> None:
    texts = [("a.txt", b"one"), ("b.txt", b"two"), ("c.txt", b"three")]
    path = write_tar(tmp_path / "shard.tar", [("a.jpg", IMAGE), *texts])
    with tarfile.open(path, "a") as tar:
        for name in ("b.jpg", "c.cls"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.LNKTYPE, "a.jpg"
            tar.addfile(link)
    rows = read_all(Shard(DataFile(path)))
    assert rows[1] == "member 'b.jpg' is a link: expected a file"
    assert rows[2] == "expected an image and a .json or .txt, found txt, cls"
    assert [row.captions for row in rows if isinstance(row, Pair)] == [("one",)]


def test_names_are_cut_as_webdataset_cuts_them() -> None:
    for name in ("a.jpg", "b/a.x.jpg", "v.2/a.jpg", "b.c/d.e/f.seg.png", "./a.jpg", "a/.x/b.jpg"):
        assert split_name(name) == base_plus_ext(name)


def test_directories_and_hidden_files_are_no_samples(tmp_path: Path) -> None:
    hidden = [("._a.jpg", b"x"), ("b/._a.jpg", b"x")]
    assert len(shard_of(tmp_path, ("a.jpg", IMAGE), ("a.txt", b"one"), *hidden)) == 1


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a.jpg", IMAGE), ("a.cls", b"3")], "found jpg, cls"),
        ([("a.txt", b"one"), ("a.mp4", IMAGE)], "found txt, mp4"),
        ([("a.jpg", IMAGE), ("a.png", IMAGE), ("a.txt", b"one")], "expected one image, found jpg, png, txt"),
        ([("a.jpg", IMAGE), ("a.txt", b"one"), ("a.JPG", IMAGE)], "member 'a.JPG' is there twice"),
        ([("a.cls", b"3")], "found cls"),
        ([("a", b"3")], "found no suffix"),
        ([("a.0.jpg", IMAGE), ("a.1.jpg", IMAGE), ("a.txt", b"one")], "expected one image, found 0.jpg, 1.jpg, txt"),
        ([("a.jpg", IMAGE), ("a.txt", bytes(17 * 2**20))], "at most 16777216 are read"),
        ([("a.json", b'{"width": 3}'), ("a.txt", b" ")], "expected an image, a text or both, found neither"),
        ([("a.jpg", IMAGE), ("a.json", b'{"text": 3}')], "expected a text, a list of texts or null, got a number"),
        ([("a.jpg", IMAGE), ("a.json", b"[" * 100_000)], "nested too deeply"),
        ([("a.jpg", IMAGE), ("a.json", b'{"text": "\\ud800"}')], "not standard JSON"),
        ([("a.jpg", IMAGE), ("a.json", b"{")], "not JSON"),
        ([("a.jpg", IMAGE), ("a.json", b"\xff")], "not UTF-8"),
        ([("a.jpg", IMAGE), ("a.json", b"[]")], "expected a JSON object, got a list"),
    ],
)
def test_a_sample_that_is_no_pair_is_one_bad_row(tmp_path: Path, members: list[tuple[str, bytes]], reason: str) -> None:
    shard = shard_of(tmp_path, *members, ("good.jpg", IMAGE), ("good.txt", b"fine"))
    with pytest.raises(InvalidRowError, match=reason) as caught:
        shard[0]
    assert caught.value.where == f"{tmp_path / 'shard.tar'}: sample 'a'"
    assert shard[1].captions == ("fine",)


def test_a_sample_of_images_or_of_texts_alone_is_that_half(tmp_path: Path) -> None:
    blank = [("c.jpg", IMAGE), ("c.json", b'{"width": 3}'), ("c.txt", b" \n")]
    shard = shard_of(tmp_path, ("a.jpg", IMAGE), ("b.json", captions_json("two")), ("b.txt", b"x"), *blank)
    halves = [(shard[n].image, shard[n].captions) for n in range(3)]
    assert halves == [(IMAGE, ()), (None, ("two",)), (IMAGE, ())]


def test_files_that_are_no_tar_are_refused(tmp_path: Path) -> None:
    whole = write_shard(tmp_path / "whole.tar", drawn_pairs(4)).read_bytes()
    rubbish = {"text": b"not a tar" * 512, "empty": b"", "gzip": gzip.compress(whole)}
    cuts = {f"cut at {length}": whole[:length] for length in (100, 600, 1024 + 300, 2048 - 512)}
    holes = {"a hole": whole[:1024] + bytes(1024) + whole[2048:], "two in one": whole + whole}
    for name, data in (rubbish | cuts | holes).items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(data)
        with pytest.raises(SourceError, match=rf"{name}\.tar is no readable tar file"):
            Shard(DataFile(path))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        Shard(DataFile(tmp_path / "absent.tar"))


def test_a_shard_travels_to_another_process(tmp_path: Path) -> None:
    shard = Shard(DataFile(write_shard(tmp_path / "shard.tar", drawn_pairs(3))))
    copy = pickle.loads(pickle.dumps(shard))
    assert [copy[n] for n in range(3)] == [shard[n] for n in range(3)]


def test_many_threads_read_what_one_reads(tmp_path: Path) -> None:
    shard = Shard(DataFile(write_shard(tmp_path / "shard.tar", drawn_pairs(32))))
    expected = [shard[n] for n in range(32)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(shard.__getitem__, list(range(32)) * 10))
    assert found == expected * 10
