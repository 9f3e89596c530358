"""One corpus in every format, here and elsewhere, gives one index: keys, payload, pools, images and vectors."""

from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from tests.corpora import Row, as_csv, as_folder, as_jsonl, as_parquet, as_shards, small_rows, upload
from tests.factories import build_with
from tests.fakes import FakeEncoder
from tests.site import Site
from tests.unit.index.jobs.test_build import Content, contents

Writer = Callable[[list[Row], Path], Path | str]
WRITERS: dict[str, Writer] = {
    "csv": as_csv,
    "tsv": lambda rows, folder: as_csv(rows, folder, "\t"),
    "parquet": as_parquet,
    "parquet with images": lambda rows, folder: as_parquet(rows, folder, is_inline=True),
    "shards": as_shards,
    "folder": as_folder,
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[Content]:
    """What the JSONL corpus gives."""
    folder = tmp_path_factory.mktemp("jsonl")
    report = build_with(as_jsonl(small_rows(), folder), folder / "i")
    assert report.bad_rows == []
    return contents(folder / "i")


@pytest.mark.parametrize("writer", WRITERS)
def test_formats_give_one_index(tmp_path: Path, expected: list[Content], writer: str) -> None:
    report = build_with(WRITERS[writer](small_rows(), tmp_path / "corpus"), tmp_path / "i")

    assert report.bad_rows == []
    assert contents(tmp_path / "i") == expected


@pytest.mark.parametrize("writer", ["jsonl", *WRITERS])
def test_corpora_elsewhere_give_the_same_index(
    tmp_path: Path, expected: list[Content], writer: str, memory: fsspec.AbstractFileSystem
) -> None:
    name = str({"jsonl": as_jsonl, **WRITERS}[writer](small_rows(), tmp_path / "corpus"))
    upload(tmp_path / "corpus", "/corpus", memory)

    report = build_with(name.replace(str(tmp_path), "memory:/"), tmp_path / "i")

    assert report.bad_rows == []
    assert contents(tmp_path / "i") == expected


@pytest.mark.parametrize("writer", ["jsonl", "csv", "parquet", "parquet with images", "shards"])
def test_corpora_on_the_web_give_the_same_index(
    tmp_path: Path, expected: list[Content], writer: str, site: Site
) -> None:
    name = str({"jsonl": as_jsonl, **WRITERS}[writer](small_rows(), tmp_path / "corpus"))
    for path in (tmp_path / "corpus").rglob("*.*"):
        site.pages[f"/{path.relative_to(tmp_path)}"] = path.read_bytes()

    report = build_with(name.replace(str(tmp_path), site.url("")), tmp_path / "i")

    assert report.bad_rows == []
    assert contents(tmp_path / "i") == expected


def test_change_of_format_embeds_nothing(tmp_path: Path) -> None:
    build_with(as_jsonl(small_rows(), tmp_path / "jsonl"), tmp_path / "i")
    for writer, write in WRITERS.items():
        encoder = FakeEncoder()
        build_with(write(small_rows(), tmp_path / writer), tmp_path / "i", encoder)
        assert encoder.batches == []


@pytest.mark.parametrize("writer", ["csv", "shards", "folder"])
def test_references_show_the_same_images(tmp_path: Path, expected: list[Content], writer: str) -> None:
    build_with(WRITERS[writer](small_rows(), tmp_path / "corpus"), tmp_path / "i", images="reference")
    assert contents(tmp_path / "i") == expected
