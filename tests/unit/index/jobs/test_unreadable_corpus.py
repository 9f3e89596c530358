"""What cannot be read of a corpus is not gone: published keys stay, again and again, and the build says so."""

import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from numpy.typing import NDArray
from pyarrow import parquet
from rich.console import Console

from anykey.index.errors import RemovalRefusedError
from anykey.index.jobs.build import build_index
from anykey.sources.errors import SourceError, UnreadableStretchError
from tests.corpora import Row, as_csv, as_jsonl, as_parquet, as_shards, small_rows
from tests.factories import build_settings, build_with, image_bytes, write_jsonl
from tests.fakes import FakeEncoder, FakeEncoderSource
from tests.site import Site
from tests.unit.index.jobs.test_build import contents, keys_of

ROWS = small_rows(12)


def parquet_in_groups(folder: Path) -> Path:
    return as_parquet(ROWS, folder, row_group_size=3)


def overwrite_group(path: Path) -> None:
    """Overwrites the second of four row groups."""
    column = parquet.ParquetFile(path).metadata.row_group(1).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + column.total_compressed_size] = b"?" * column.total_compressed_size
    path.write_bytes(data)


def with_checksums(folder: Path) -> Path:
    """A table that does not fall apart when bytes of its texts change."""
    table = pyarrow.table({"key": [f"k{n}" for n in range(12)], "text": [f"text number {n}" for n in range(12)]})
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    parquet.write_table(table, folder / "sums.parquet", row_group_size=3, **options)
    return folder / "sums.parquet"


def change_text(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"text number 4", b"TEXT NUMBER 4", 1))


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwrite_line(path: Path) -> None:
    """Overwrites some bytes in the middle, as a disk does."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 60] = b"\xff" * 60
    path.write_bytes(data)


def zero_blocks(path: Path) -> None:
    """Leaves a hole of whole blocks, as a disk does, which looks like the end of a tar file."""
    data = bytearray(path.read_bytes())
    start = len(data) // 4 // 512 * 512
    data[start : start + 1024] = bytes(1024)
    path.write_bytes(data)


def zero_tail(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 4 // 512 * 512] + bytes(2**16))


def zero_lines(path: Path) -> None:
    """Leaves a hole from within a cell to within the same cell of a later line, so that the columns are right."""
    data = bytearray(path.read_bytes())
    ends = [place for place, byte in enumerate(data) if byte == ord("\n")]
    data[ends[3] + 4 : ends[6] + 4] = bytes(ends[6] - ends[3])
    path.write_bytes(data)


def candidates(folder: Path) -> Path:
    return write_jsonl(folder / "x_cand_pool.jsonl", [{"did": f"1:{n}", "txt": f"text {n}"} for n in range(12)])


def shard(folder: Path) -> Path:
    as_shards(ROWS, folder, num_shards=1)
    return folder / "shard-0.tar"


DAMAGES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], None]]] = {
    "a row group overwritten": (parquet_in_groups, overwrite_group),
    "a page that differs from its checksum": (with_checksums, change_text),
    "a shard cut in half": (shard, cut_in_half),
    "a shard with a hole": (shard, zero_blocks),
    "a shard with zeros from some place on": (shard, zero_tail),
    "CSV with a hole": (lambda folder: as_csv(ROWS, folder), zero_lines),
    "JSONL cut inside a line": (lambda folder: as_jsonl(ROWS, folder), cut_in_half),
    "JSONL overwritten": (lambda folder: as_jsonl(ROWS, folder), overwrite_line),
    "M-BEIR cut inside a line": (candidates, cut_in_half),
    "CSV cut in half": (lambda folder: as_csv(ROWS, folder), cut_in_half),
    "CSV overwritten": (lambda folder: as_csv(ROWS, folder), overwrite_line),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_published_keys_stay_where_the_corpus_cannot_be_read(tmp_path: Path, name: str) -> None:
    write, damage = DAMAGES[name]
    corpus = write(tmp_path)
    build_with(corpus, tmp_path / "i")
    before = contents(tmp_path / "i")
    damage(corpus)

    for is_new in (True, False, False):
        report = build_with(corpus, tmp_path / "i")
        assert (report.is_new, report.is_any_unread, report.num_removed) == (is_new, True, 0)
        assert report.num_unread > 0
        assert any(isinstance(row, UnreadableStretchError) for row in report.bad_rows)
        assert contents(tmp_path / "i") == before
    listed = (report.version_dir / "bad_rows.jsonl").read_text().splitlines()
    assert any(json.loads(line)["unread"] for line in listed)


def test_what_can_be_read_is_stored_and_what_is_mended_goes_on(tmp_path: Path) -> None:
    path = as_jsonl(ROWS, tmp_path)
    build_with(path, tmp_path / "i")
    lines = path.read_text().splitlines(keepends=True)
    changed = json.dumps({"key": "d0/k0", "text": "changed"}) + "\n"
    path.write_text("".join([changed, *lines[1:8], lines[8][:20]]))

    report = build_with(path, tmp_path / "i")
    assert (report.num_embedded, report.num_unread, report.manifest.num_keys) == (1, 4, 12)
    path.write_text("".join([changed, *lines[1:8]]))
    report = build_with(path, tmp_path / "i")

    assert (report.is_any_unread, report.num_removed, report.manifest.num_keys) == (False, 4, 8)
    assert not build_with(path, tmp_path / "i").is_new


def test_rows_that_were_read_and_are_wrong_are_no_unknown_keys(tmp_path: Path) -> None:
    path = as_jsonl(ROWS, tmp_path)
    build_with(path, tmp_path / "i")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(
        "".join(lines[:-1]) + '{"text": "no key"}\n{"key": [7], "text": "x"}\n[]\n{"key": "n", "text": NaN}\n'
    )

    report = build_with(path, tmp_path / "i")

    assert (report.is_any_unread, len(report.bad_rows), report.num_removed) == (False, 4, 1)


def test_image_that_cannot_be_decoded_costs_no_key_while_a_stretch_is_unread(tmp_path: Path) -> None:
    path = as_jsonl(ROWS, tmp_path)
    build_with(path, tmp_path / "i")
    before = contents(tmp_path / "i")
    (tmp_path / "images" / "d0" / "k1-0.png").write_bytes(b"spoilt")
    with path.open("a") as file:
        file.write("{")

    for _ in range(2):
        build_with(path, tmp_path / "i")
        assert contents(tmp_path / "i") == before


def test_folder_with_a_spoilt_text_loses_no_key(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    for number in range(3):
        (tmp_path / "c" / f"{number}.txt").write_text(f"text {number}")
    build_with(tmp_path / "c", tmp_path / "i")
    (tmp_path / "c" / "2.txt").rename(tmp_path / "c" / "2.json")

    report = build_with(tmp_path / "c", tmp_path / "i")

    assert (report.is_any_unread, keys_of(tmp_path / "i")) == (True, ["0", "1", "2"])


@pytest.mark.parametrize("line", [0, 1])
def test_folder_whose_table_is_damaged_loses_no_text(tmp_path: Path, line: int) -> None:
    (tmp_path / "c").mkdir()
    for number in range(3):
        (tmp_path / "c" / f"{number}.png").write_bytes(image_bytes((number, 0, 0)))
    rows = [{"file_name": f"{number}.png", "text": f"text {number}"} for number in range(3)]
    table = write_jsonl(tmp_path / "c" / "metadata.jsonl", rows)
    build_with(tmp_path / "c", tmp_path / "i")
    before = contents(tmp_path / "i")
    lines = table.read_text().splitlines(keepends=True)
    lines[line] = "{" + lines[line]
    table.write_text("".join(lines))

    report = build_with(tmp_path / "c", tmp_path / "i")

    assert (report.is_any_unread, report.num_unread) == (True, 1)
    assert contents(tmp_path / "i") == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_folder_that_cannot_be_listed_loses_no_key(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "c" / name).mkdir(parents=True)
        (tmp_path / "c" / name / "1.txt").write_text("x")
    build_with(tmp_path / "c", tmp_path / "i")
    (tmp_path / "c" / "b").chmod(0)

    report = build_with(tmp_path / "c", tmp_path / "i")

    assert (report.num_unread, keys_of(tmp_path / "i")) == (1, ["a/1", "b/1"])


def test_another_encoder_does_not_drop_what_cannot_be_read(tmp_path: Path) -> None:
    path = as_jsonl(ROWS, tmp_path)
    build_with(path, tmp_path / "i")
    cut_in_half(path)
    other = FakeEncoder(name="other")

    with pytest.raises(RemovalRefusedError, match=r"of the 12 keys .* cannot be read now: .*--allow-removal"):
        build_with(path, tmp_path / "i", other)
    assert len(keys_of(tmp_path / "i")) == 12
    assert build_with(path, tmp_path / "i", other, allow_removal=True).manifest.num_keys < 12


class Stopped(FakeEncoder):
    """An encoder whose last batch never comes."""

    def encode_prepared(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        if len(self.batches) == 3:
            raise KeyboardInterrupt
        return super().encode_prepared(prepared)


def test_work_of_a_stopped_build_is_not_published_for_an_unread_row(tmp_path: Path) -> None:
    """Nothing is published yet, so nothing is lost; the keys may be of another corpus."""
    path = as_jsonl(ROWS, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        build_with(path, tmp_path / "i", Stopped(), batch_size=3)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:5], lines[5][:20]]))

    assert build_with(path, tmp_path / "i").manifest.num_keys == 5


def big_groups(folder: Path) -> bytes:
    """A Parquet file of four row groups of 300 kB."""
    noise = random.Random(0)
    table = pyarrow.table(
        {
            "key": [f"k{number}" for number in range(12)],
            "text": [f"text {number}" for number in range(12)],
            "noise": [noise.randbytes(50_000).hex() for _ in range(12)],
        }
    )
    parquet.write_table(table, folder / "big.parquet", row_group_size=3, compression="none")
    return (folder / "big.parquet").read_bytes()


def test_server_that_breaks_off_once_costs_nothing_and_one_that_stays_away_no_key(tmp_path: Path, site: Site) -> None:
    site.pages["/c.parquet"], site.tags["/c.parquet"] = big_groups(tmp_path), '"1"'
    site.breaks_after, site.num_breaks = 400_000, 1

    report = build_with(site.url("/c.parquet"), tmp_path / "i")
    assert (report.bad_rows, report.manifest.num_keys, site.num_breaks) == ([], 12, 0)

    site.breaks_after, site.num_breaks = 0, 0
    for is_new, fails_from in ((True, 500_000), (False, 530_000)):  # the same rows, after more bytes
        site.fails_between = (fails_from, 900_000)
        report = build_with(site.url("/c.parquet"), tmp_path / "i")
        assert (report.is_new, report.is_any_unread, report.manifest.num_keys) == (is_new, True, 12)
        assert 0 < report.num_unread < 12


@pytest.mark.parametrize("write", [as_jsonl, as_csv])
def test_rest_of_a_file_whose_server_goes_away_is_a_stretch(
    tmp_path: Path, site: Site, write: Callable[[list[Row], Path], Path]
) -> None:
    rows = [Row(f"k{number}", "word " * 20_000) for number in range(12)]
    site.pages["/c" + write(rows, tmp_path).suffix] = write(rows, tmp_path).read_bytes()
    url = site.url(next(iter(site.pages)))
    build_with(url, tmp_path / "i")
    site.fails_between = (600_000, 10**9)

    report = build_with(url, tmp_path / "i")

    assert (report.is_any_unread, report.manifest.num_keys, report.num_removed) == (True, 12, 0)
    assert 0 < report.num_unread < 12
    assert "cannot read on: " in report.bad_rows[-1].reason


def test_vectors_of_a_faiss_file_need_a_corpus_that_can_be_read(tmp_path: Path) -> None:
    from anykey.index.jobs.imported import ImportedSource
    from anykey.index.jobs.transfer import export_faiss

    path = shard(tmp_path)
    build_with(path, tmp_path / "i")
    export_faiss(tmp_path / "i", tmp_path / "e", lambda count: None)
    cut_in_half(path)
    source = ImportedSource(tmp_path / "e" / "vectors.faiss", FakeEncoderSource())

    with pytest.raises(SourceError, match="of which a stretch cannot be read"):
        build_index(build_settings(path, tmp_path / "i"), source, Console(quiet=True))
    assert len(keys_of(tmp_path / "i")) == 12
