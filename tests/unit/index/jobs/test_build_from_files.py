"""Builds from shards, tables and other machines: what is read again, what is embedded again, what is shown."""

import json
import os
from pathlib import Path

import fsspec
import pytest
from rich.console import Console

from anykey.index import FaissIndex
from anykey.index.errors import ImageUnavailableError
from anykey.index.jobs.build import BuildReport, build_index
from anykey.sources.errors import InvalidRowError, SourceError
from tests.corpora import as_csv, as_parquet, as_shards, small_rows, tar_bytes, write_tar
from tests.factories import BLUE, GREEN, RED, build_settings, build_with, image_bytes, write_jsonl
from tests.fakes import FakeEncoder, FakeEncoderSource
from tests.site import Site
from tests.unit.index.jobs.test_build import contents, keys_of


def build_again(corpus: Path | str, output: Path, **changes: object) -> tuple[BuildReport, int]:
    """Builds; gives the report, and how often the encoder was asked for."""
    source = FakeEncoderSource()
    return build_index(build_settings(corpus, output, **changes), source, Console(quiet=True)), source.num_loads


def test_unchanged_shards_load_no_encoder(tmp_path: Path) -> None:
    corpus = as_shards(small_rows(), tmp_path)
    build_with(corpus, tmp_path / "i")

    report, num_loads = build_again(corpus, tmp_path / "i")

    assert (report.is_new, num_loads) == (False, 0)


def test_rewritten_shard_is_compared_by_content(tmp_path: Path) -> None:
    members = [(f"{number}.png", image_bytes(colour)) for number, colour in enumerate((RED, GREEN))]
    shard = write_tar(tmp_path / "s.tar", members)
    build_with(shard, tmp_path / "i")
    write_tar(shard, [("new.txt", b"first now"), *members[:1], ("1.png", image_bytes(BLUE))])
    encoder = FakeEncoder()

    report = build_with(shard, tmp_path / "i", encoder)

    assert (report.num_embedded, keys_of(tmp_path / "i")) == (2, ["0", "1", "new"])
    build_with(shard, tmp_path / "fresh")
    assert contents(tmp_path / "i") == contents(tmp_path / "fresh")


def test_parquet_images_are_compared_by_content(tmp_path: Path) -> None:
    rows = small_rows()
    corpus = as_parquet(rows, tmp_path, is_inline=True)
    build_with(corpus, tmp_path / "i")
    as_parquet(rows, tmp_path, is_inline=True, row_group_size=2)

    report, num_loads = build_again(corpus, tmp_path / "i")

    assert (report.is_new, num_loads) == (False, 0)


def test_bad_rows_of_a_shard_do_not_fail_its_neighbours(tmp_path: Path) -> None:
    members = [("0.txt", b"x"), ("1.png", b"no picture"), ("2.json", b"{"), ("0.png", image_bytes()), ("3.txt", b"y")]
    shard = write_tar(tmp_path / "s.tar", members)

    report = build_with(shard, tmp_path / "i")

    assert keys_of(tmp_path / "i") == ["0", "3"]
    places = [(row.where, row.key) for row in report.bad_rows]
    assert places == [(f"{shard}: sample '1'", "1"), (f"{shard}: sample '2'", None)]
    assert report.bad_rows[0].reason.endswith(f": '1.png' in {shard}")
    with pytest.raises(InvalidRowError, match="sample '2'"):
        build_with(shard, tmp_path / "strict", strict=True)


def test_keys_that_repeat_between_shards_are_bad_rows_unless_prefixed(tmp_path: Path) -> None:
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", [("a.txt", b"%d" % number)])
    corpus = f"{tmp_path}/{{0,1}}.tar"

    report = build_with(corpus, tmp_path / "i")

    assert [str(row) for row in report.bad_rows] == [
        f"{tmp_path}/1.tar: sample 'a': duplicate key 'a', first at {tmp_path}/0.tar: sample 'a'"
    ]
    build_with(corpus, tmp_path / "prefixed", prefix_keys=True)
    assert keys_of(tmp_path / "prefixed") == ["0/a", "1/a"]


def test_two_images_of_one_name_are_a_duplicate(tmp_path: Path) -> None:
    for suffix in ("jpg", "png"):
        (tmp_path / f"a.{suffix}").write_bytes(image_bytes())
    report = build_with(tmp_path, tmp_path / "i")
    assert [str(row) for row in report.bad_rows] == [f"{tmp_path}/a.png: duplicate key 'a', first at {tmp_path}/a.jpg"]


def test_images_elsewhere_with_a_tag_are_not_read_again(tmp_path: Path, site: Site) -> None:
    site.pages["/i.png"], site.tags["/i.png"] = image_bytes(), '"1"'
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"key": "k", "image": site.url("/i.png")}])
    build_with(corpus, tmp_path / "i")
    site.requests.clear()

    assert not build_with(corpus, tmp_path / "i").is_new
    assert site.requests == [("/i.png", "bytes=0-0")]

    site.pages["/i.png"], site.tags["/i.png"] = image_bytes(GREEN), '"2"'
    assert build_with(corpus, tmp_path / "i").num_embedded == 1


def test_images_elsewhere_without_a_tag_are_compared_by_content(tmp_path: Path, site: Site) -> None:
    site.pages["/i.png"] = image_bytes()
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"key": "k", "image": site.url("/i.png")}])
    build_with(corpus, tmp_path / "i")

    assert not build_with(corpus, tmp_path / "i").is_new
    site.pages["/i.png"] = image_bytes(GREEN)
    assert build_with(corpus, tmp_path / "i").num_embedded == 1


def test_image_that_cannot_be_reached_is_tried_by_the_next_build(tmp_path: Path, site: Site) -> None:
    site.pages["/i.png"] = image_bytes()
    rows = [{"key": "k", "text": "x"}, {"key": "i", "image": site.url("/i.png")}]
    corpus = write_jsonl(tmp_path / "c.jsonl", rows)
    site.num_failures = 3
    (row,) = build_with(corpus, tmp_path / "i").bad_rows
    assert row.reason == f"cannot read image {site.url('/i.png')}: the server answered 503 Service Unavailable"

    assert build_with(corpus, tmp_path / "i").bad_rows == []


def test_copied_index_of_a_corpus_elsewhere_keeps_no_secret(tmp_path: Path, site: Site) -> None:
    site.pages["/s.tar"], site.tags["/s.tar"] = tar_bytes([("0.png", image_bytes()), ("1.txt", b"")]), '"1"'
    url = site.url("/s.tar?signature=hidden").replace("http://", "http://me:secret@")

    report = build_with(url, tmp_path / "i")

    assert len(report.bad_rows) == 1
    for path in report.version_dir.iterdir():
        assert b"hidden" not in path.read_bytes(), path
        assert b"secret" not in path.read_bytes(), path
    assert report.manifest.corpus == [site.url("/s.tar")]
    assert not build_with(url, tmp_path / "i").is_new
    with pytest.raises(SourceError) as caught:
        build_with(url, tmp_path / "other", max_image_bytes=1)
    assert "secret" not in str(caught.value)


def test_reference_into_a_shard_elsewhere_is_read_when_asked_for(tmp_path: Path, site: Site) -> None:
    site.pages["/s.tar"], site.tags["/s.tar"] = tar_bytes([("0.png", image_bytes())]), '"1"'
    build_with(site.url("/s.tar?signature=hidden"), tmp_path / "i", images="reference")

    with FaissIndex.open(tmp_path / "i") as index:
        assert index.image("0", 0).data == image_bytes()
        site.pages["/s.tar"] = tar_bytes([("1.png", image_bytes())])
        with pytest.raises(ImageUnavailableError) as caught:
            index.image("0", 0)
    assert str(caught.value) == (
        f"the index refers to the image of key '0' at '0.png' in {site.url('/s.tar')}, "
        "which cannot be read: the tar file has changed"
    )


def test_images_in_rows_cannot_be_referred_to(tmp_path: Path) -> None:
    corpus = as_parquet(small_rows(3), tmp_path, is_inline=True)
    report = build_with(corpus, tmp_path / "i", images="reference")
    assert (keys_of(tmp_path / "i"), len(report.bad_rows)) == (["d0/k0"], 2)


def test_columns_can_be_renamed_without_embedding(tmp_path: Path) -> None:
    corpus = as_csv(small_rows(), tmp_path)
    build_with(corpus, tmp_path / "i")
    corpus.write_text(corpus.read_text(encoding="utf-8-sig").replace("key,text", "sku,title", 1))

    with pytest.raises(SourceError, match="expected a column 'key', found sku, title"):
        build_with(corpus, tmp_path / "i")
    assert not build_with(corpus, tmp_path / "i", columns=["key=sku", "text=title"]).is_new


def test_one_corpus_may_be_of_several_formats(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe("/c.jsonl", b'{"key": "jsonl", "text": "x"}')
    (tmp_path / "c.csv").write_text("key,text\ncsv,x\n")
    write_tar(tmp_path / "s.tar", [("tar.txt", b"x")])
    names = ["memory://c.jsonl", str(tmp_path / "c.csv"), str(tmp_path / "s.tar")]

    build_with(names, tmp_path / "i")

    assert keys_of(tmp_path / "i") == ["csv", "jsonl", "tar"]


def test_touched_shard_costs_a_read_and_no_embedding(tmp_path: Path) -> None:
    corpus = as_shards(small_rows(), tmp_path, num_shards=1)
    build_with(corpus, tmp_path / "i")
    os.utime(tmp_path / "shard-0.tar", ns=(1, 1))

    report, num_loads = build_again(corpus, tmp_path / "i")

    assert (report.is_new, num_loads) == (False, 0)
    assert json.loads((report.version_dir / "manifest.json").read_text())["num_keys"] == 9
