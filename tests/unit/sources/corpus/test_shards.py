"""Tar shards: samples become keys, images stay where they are, and damage costs what follows it."""

import io
import json
import os
import tarfile
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from anykey.sources.columns import parse_columns
from anykey.sources.errors import SourceError
from anykey.sources.files.images import ImageStamp, read_image
from anykey.sources.shards import split_name
from tests.corpora import bad_rows, entries, read, tar_bytes, write_tar
from tests.factories import GREEN, RED, image_bytes
from tests.site import Site


def images_of(entry) -> list[bytes]:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """The bytes of an entry's images."""
    return [read_image(image.location if isinstance(image, ImageStamp) else image) for image in entry.images]


def test_samples_are_images_texts_or_both(tmp_path: Path) -> None:
    sidecar = json.dumps({"text": "from json", "metadata": {"a": 1}, "pool": "p", "width": 5}).encode()
    path = write_tar(
        tmp_path / "s.tar",
        [
            ("cats/1.jpg", image_bytes(RED)),
            ("cats/1.txt", b"\xef\xbb\xbf a cat \n"),
            ("2.png", image_bytes(GREEN)),
            ("3.txt", b"a text"),
            ("4.json", sidecar),
            ("4.WEBP", image_bytes(RED)),
        ],
    )

    first, second, third, fourth = entries(path)

    assert (first.key, first.text, images_of(first)) == ("cats/1", "a cat", [image_bytes(RED)])
    assert (second.key, second.text, images_of(second)) == ("2", None, [image_bytes(GREEN)])
    assert (third.key, third.text, third.images) == ("3", "a text", ())
    assert (fourth.text, fourth.pools) == ("from json", ("p",))
    assert fourth.metadata == {"width": 5, "a": 1}
    assert first.where == f"{path}: sample 'cats/1'"


def test_json_of_img2dataset_is_read(tmp_path: Path) -> None:
    row = {"key": "000000012", "caption": "a cat", "url": "http://host/1.jpg", "error_message": None}
    members = [("000000012.jpg", image_bytes()), ("000000012.json", json.dumps(row).encode()), ("000000012.txt", b"x")]

    (entry,) = entries(write_tar(tmp_path / "s.tar", members))

    assert (entry.key, entry.text, entry.metadata) == ("000000012", "a cat", {"url": "http://host/1.jpg"})


def test_fields_of_the_json_may_have_other_names(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [("1.json", b'{"sku": "a", "title": "t"}')])
    (entry,) = entries(path, columns=parse_columns(["key=sku", "text=title"]))
    assert (entry.key, entry.text) == ("a", "t")


def test_members_need_not_be_neighbours_and_numbered_images_are_several(tmp_path: Path) -> None:
    names = ["a.10.png", "b.txt", "a.2.png", "a.txt"]
    colours = {"a.10.png": RED, "a.2.png": GREEN}
    members = [(name, image_bytes(colours[name]) if name in colours else b"text") for name in names]

    first, second = entries(write_tar(tmp_path / "s.tar", members))

    assert (first.key, first.text, images_of(first)) == ("a", "text", [image_bytes(GREEN), image_bytes(RED)])
    assert second.key == "b"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=12))
def test_names_are_cut_as_webdataset_cuts_them(name: str) -> None:
    base, suffix = base_plus_ext(name)
    if base is not None and not base.endswith("/"):
        assert split_name(name) == (base, suffix)


def test_keys_can_be_told_apart_by_shard(tmp_path: Path) -> None:
    for number in range(2):
        write_tar(tmp_path / f"s-{number}.tar", [("0.txt", b"x")])
    pattern = f"{tmp_path}/s-{{0..1}}.tar"
    assert [entry.key for entry in entries(pattern)] == ["0", "0"]
    assert [entry.key for entry in entries(pattern, prefix_keys=True)] == ["s-0/0", "s-1/0"]


def test_what_is_left_aside_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = [
        ("1.png", image_bytes()),
        ("1.cls", b"3"),
        ("1.seg.png", image_bytes()),
        (".hidden", b""),
        ("2.txt", b"x"),
    ]
    path = write_tar(tmp_path / "s.tar", members)
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("1.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "1.png"
        tar.addfile(link)

    assert [len(entry.images) for entry in entries(path)] == [1, 0]
    note = f"{path}: left aside 3 members that are no image, .txt or .json: .cls (1), .seg.png (1), .mp4 link (1)"
    assert note in caplog.text


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_a_link_makes_its_sample_a_bad_row(tmp_path: Path, kind: bytes) -> None:
    path = write_tar(tmp_path / "s.tar", [("1.png", image_bytes()), ("2.txt", b"x")])
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("2.png")
        link.type, link.linkname = kind, "1.png"
        tar.addfile(link)
    assert [row.where for row in read(path)] == [f"{path}: sample '1'", f"{path}: sample '2'"]
    assert bad_rows(path) == [(f"{path}: sample '2'", "member '2.png' is a link: expected a file")]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("bad.mp4", b"1")], "expected an image, .txt or .json, found .mp4 (1)"),
        ([("bad.json", b"[1]")], ".json: expected a JSON object, got a list"),
        ([("bad.json", b"{"), ("bad.png", b"1")], ".json: not JSON"),
        ([("bad.json", b'{"width": 3}')], "neither text nor image"),
        ([("bad.txt", b"\xff")], ".txt: not UTF-8 (byte 0)"),
        ([("bad.txt", b" \n")], "neither text nor image"),
        ([("bad.json", b'{"pool": 3, "text": "x"}')], "'pool' must be a string or a list of strings"),
        ([("bad.txt", b"x"), ("bad.txt", b"y")], "member 'bad.txt' is there twice"),
        ([("bad.txt", bytes(17 * 2**20))], ".txt has 17825792 bytes, at most 16777216 are read"),
    ],
)
def test_bad_sample_is_an_error_with_place_and_reason(
    tmp_path: Path, members: list[tuple[str, bytes]], reason: str
) -> None:
    path = write_tar(tmp_path / "s.tar", [("good.txt", b"x"), *members, ("more.txt", b"x")])

    ((where, found),) = bad_rows(path)

    assert (where, len(read(path))) == (f"{path}: sample 'bad'", 3)
    assert found.startswith(reason)


def test_name_that_is_no_utf8_is_a_bad_row(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [(os.fsdecode(b"caf\xe9.png"), image_bytes()), ("2.txt", b"x")])
    ((where, reason),) = bad_rows(path)
    assert reason == "its name is not UTF-8"
    assert where.encode().decode() == f"{path}: sample 'caf\\udce9'"


MEMBERS = [(f"{number}.{kind}", b"x" * 700) for number in range(4) for kind in ("png", "txt")]


@pytest.mark.parametrize("size", [*range(0, 16 * 1536, 256), 16 * 1536 - 1])
def test_shard_cut_anywhere_keeps_what_came_whole(tmp_path: Path, size: int) -> None:
    """A member takes a header of 512 bytes and 1024 of content; the end of the archive follows."""
    path = tmp_path / "s.tar"
    path.write_bytes(tar_bytes(MEMBERS)[:size])
    if size < 512:
        with pytest.raises(SourceError, match="is no readable tar file"):
            read(path)
        return

    good = [row for row in read(path) if row.key is not None]
    bad = bad_rows(path)

    whole = sum(size >= number * 1536 + 512 + 700 for number in range(8))
    assert len(good) == (whole // 2 if whole > 2 else 0)  # of a first sample nobody knows whether it is whole
    assert (bad == []) == (size > 8 * 1536)
    is_half = bool(good or whole) and (whole % 2 == 1 or whole == 2)
    doubted = [(f"{path}: sample '{(whole - 1) // 2}'", "it may lack members, as the shard is damaged behind it")]
    assert bad[:-1] == (doubted if is_half else [])
    assert all(where == str(path) and reason.startswith("what follows ") for where, reason in bad[-1:])


def test_cut_shard_with_mixed_samples_keeps_those_that_are_whole(tmp_path: Path) -> None:
    mixed = [*MEMBERS[::2], *MEMBERS[1::2]]
    (tmp_path / "s.tar").write_bytes(tar_bytes(mixed)[: 6 * 1536 + 700])

    assert [row.key for row in read(tmp_path / "s.tar")] == ["0", "1", None, None, None]


def test_damaged_header_costs_what_follows(tmp_path: Path) -> None:
    data = bytearray(tar_bytes(MEMBERS))
    data[4 * 1536 : 4 * 1536 + 20] = b"\xff" * 20
    (tmp_path / "s.tar").write_bytes(data)

    assert [row.key for row in read(tmp_path / "s.tar")] == ["0", "1", None]
    ((_, reason),) = bad_rows(tmp_path / "s.tar")
    assert reason == "what follows '1.txt' is lost: the header at byte 6144 is damaged"


@pytest.mark.parametrize("says_bytes", [8**11 - 1, 2**40, 2**64])
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_header_that_says_to_be_huge_costs_what_follows_and_no_memory(
    tmp_path: Path, kind: bytes, says_bytes: int
) -> None:
    header = tarfile.TarInfo("long")
    header.type, header.size = kind, says_bytes
    data = tar_bytes(MEMBERS)[: 4 * 1536] + header.tobuf(tarfile.GNU_FORMAT) + tar_bytes(MEMBERS)[4 * 1536 :]
    (tmp_path / "s.tar").write_bytes(data)

    assert [row.key for row in read(tmp_path / "s.tar")] == ["0", "1", None]
    ((_, reason),) = bad_rows(tmp_path / "s.tar")
    assert reason.startswith("what follows '1.txt' is lost: a header says to have ")


def test_name_of_several_lines_is_told_in_one(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [("a\nINFO b.png", b"x"), ("a\nINFO b.png", b"y")])

    assert bad_rows(path) == [(f"{path}: sample 'a\\nINFO b'", "member 'a\\nINFO b.png' is there twice")]


def test_compressed_shard_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("1.txt"))
    (tmp_path / "s.tar").write_bytes(buffer.getvalue())
    with pytest.raises(SourceError, match=r"s\.tar is no readable tar file \(plain, not compressed\)"):
        read(tmp_path / "s.tar")


def test_shard_elsewhere_is_read_alike(site: Site, memory: fsspec.AbstractFileSystem) -> None:
    members = [*MEMBERS, ("9.png", bytes(3 * 2**20)), ("9.txt", b"last")]
    site.pages["/s.tar"] = tar_bytes(members)
    memory.pipe("/s.tar", tar_bytes(members))

    for url in (site.url("/s.tar?signature=hidden"), "memory://s.tar"):
        rows = entries(url)
        assert [row.key for row in rows] == ["0", "1", "2", "3", "9"]
        assert images_of(rows[0]) == [b"x" * 700]
        assert "hidden" not in rows[0].where


def test_images_of_a_shard_elsewhere_are_not_fetched_by_the_reader(site: Site) -> None:
    site.pages["/s.tar"] = tar_bytes([("0.png", bytes(30 * 2**20)), ("1.txt", b"x")])
    entries(site.url("/s.tar"))
    spans = [span for _, span in site.requests if span != "bytes=0-0"]
    assert len(spans) == 2
    assert spans[0] is None
    assert int((spans[1] or "").removeprefix("bytes=").removesuffix("-")) > 29 * 2**20
