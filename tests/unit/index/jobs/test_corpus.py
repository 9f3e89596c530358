"""A corpus as a build sees it: files in order, images looked at, and what cannot be used said with its place."""

import os
import threading
from pathlib import Path

import fsspec
import pytest

from anykey.index.jobs.corpus import Stamped, read_corpus
from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.files.images import ImageStamp
from tests.corpora import as_parquet, small_rows
from tests.factories import build_settings, image_bytes, write_jsonl
from tests.site import Site


def stamped(*names: str | Path, **changes: object) -> list[Stamped | InvalidRowError]:
    pages = read_corpus(build_settings([str(name) for name in names], Path("unused"), **changes))
    return [row for page in pages for row in page]


def reasons(*names: str | Path, **changes: object) -> list[str]:
    return [row.reason for row in stamped(*names, **changes) if isinstance(row, InvalidRowError)]


def test_images_come_with_size_and_time(tmp_path: Path) -> None:
    (tmp_path / "i.png").write_bytes(b"12345")
    os.utime(tmp_path / "i.png", ns=(7, 7))
    (row,) = stamped(write_jsonl(tmp_path / "c.jsonl", [{"key": "k", "image": ["i.png"]}]))
    assert not isinstance(row, InvalidRowError)
    assert row[1] == (ImageStamp(f"{tmp_path}/i.png", 5, "7"),)


def test_images_that_are_missing_no_file_or_too_large_are_bad_rows(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bytes(101))
    (tmp_path / "folder.png").mkdir()
    names = ("none.png", "folder.png", "large.png", "\0", "zzz://host/i.png")
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"key": f"k{name}", "image": name} for name in names])

    found = reasons(corpus, max_image_bytes=100)

    assert found == [
        f"cannot read image {tmp_path}/none.png: No such file or directory",
        f"cannot read image {tmp_path}/folder.png: it is no file",
        f"image {tmp_path}/large.png has 101 bytes, at most 100 are accepted",
        f"cannot read image {tmp_path}/\\x00: embedded null byte",
        "cannot read image zzz://host/i.png: Protocol not known: zzz",
    ]


def test_too_many_images_are_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "i.png").write_bytes(b"1")
    rows = [{"key": str(count), "image": ["i.png"] * count} for count in (3, 4)]
    assert reasons(write_jsonl(tmp_path / "c.jsonl", rows), max_images=3) == ["4 images, at most 3 are accepted"]


def test_image_in_a_row_cannot_be_referred_to(tmp_path: Path) -> None:
    path = as_parquet(small_rows(3), tmp_path, is_inline=True)
    reason = "the image in column 'image' is part of the row and cannot be referred to; --images copy keeps it"
    assert reasons(path, images="reference") == [reason] * 2
    assert reasons(path) == []


def test_relative_images_of_a_corpus_elsewhere_lie_beside_it(site: Site, memory: fsspec.AbstractFileSystem) -> None:
    row = b'{"key": "k", "image": "images/a b.png"}'
    site.pages |= {"/set/c.jsonl": row, "/set/images/a%20b.png": b"12345"}
    memory.pipe({"/set/c.jsonl": row, "/set/images/a b.png": b"12345"})
    for url in (site.url("/set/c.jsonl"), "memory://set/c.jsonl"):
        (found,) = stamped(url)
        assert not isinstance(found, InvalidRowError)
        assert found[1][0].size_bytes == 5


def test_images_elsewhere_are_looked_at_by_several_threads_in_order(tmp_path: Path, site: Site) -> None:
    meeting = threading.Barrier(4, timeout=20)
    answer = site.RequestHandlerClass.do_GET  # type: ignore[attr-defined]

    class Meeting(site.RequestHandlerClass):  # type: ignore[name-defined,misc]
        """Answers once four ask at a time."""

        def do_GET(self) -> None:  # noqa: N802
            meeting.wait()
            answer(self)

    site.RequestHandlerClass = Meeting
    site.pages = {f"/{number}.png": bytes(number) for number in range(1, 9)}
    site.tags = {name: '"1"' for name in site.pages}
    rows = [{"key": name, "image": site.url(name)} for name in site.pages]

    found = stamped(write_jsonl(tmp_path / "c.jsonl", rows), decode_threads=4)

    assert [row[1][0].size_bytes for row in found if not isinstance(row, InvalidRowError)] == list(range(1, 9))


def test_file_that_cannot_be_read_to_its_end_is_an_error(site: Site) -> None:
    site.pages["/c.jsonl"] = b'{"key": "a", "text": "x"}\n' * 10
    with pytest.raises(SourceError, match=r"cannot read .*/cut/c\.jsonl: peer closed connection"):
        stamped(site.url("/cut/c.jsonl"))


def test_columns_and_prefixes_come_from_the_settings(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(image_bytes())
    (tmp_path / "t.csv").write_text("sku,title\n1,shoe\n")
    rows = stamped(tmp_path / "photos", tmp_path / "t.csv", columns=["key=sku", "text=title"], prefix_keys=True)
    assert [row[0].key for row in rows if not isinstance(row, InvalidRowError)] == ["photos/a", "1"]
