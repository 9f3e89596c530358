"""Images in Parquet rows: any order gives the right bytes, the order of the rows costs one pass."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from anykey.sources.files.inline_images import InlineImages, images_in
from anykey.sources.files.locations import InlineLocation

NUM_ROWS = 300


def image(row: int) -> bytes:
    """What row `row`, from 0, holds."""
    return b"%d." % row * 40


def write(path: Path, row_group_size: int, rows: range = range(NUM_ROWS)) -> Path:
    parquet.write_table(pyarrow.table({"image": [image(row) for row in rows]}), path, row_group_size=row_group_size)
    return path


def at(path: Path, row: int) -> InlineLocation:
    return InlineLocation(str(path), row + 1, 0, "image")


@pytest.fixture
def images() -> Iterator[InlineImages]:
    found = InlineImages()
    yield found
    found.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("files")
    return [write(folder / f"{size}.parquet", size) for size in (7, 100, NUM_ROWS)]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(places=st.lists(st.tuples(st.integers(0, 2), st.integers(0, NUM_ROWS - 1)), min_size=1, max_size=30))
def test_any_order_gives_the_row_s_bytes(files: list[Path], places: list[tuple[int, int]]) -> None:
    images = InlineImages(kept_batches=2)
    for file, row in places:
        assert images.read(at(files[file], row)) == image(row)
    images.close()


def test_threads_across_files_get_the_row_s_bytes(files: list[Path], images: InlineImages) -> None:
    places = [(path, row) for path in files for row in range(NUM_ROWS)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda place: images.read(at(*place)), places))
    assert found == [image(row) for _, row in places]


def test_rows_nearly_in_order_are_read_once(
    files: list[Path], images: InlineImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []
    read = parquet.ParquetFile.iter_batches

    def begin(self: parquet.ParquetFile, *arguments: Any, **options: Any) -> Any:
        begun.append(options)
        return read(self, *arguments, **options)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", begin)
    for start in range(0, NUM_ROWS, 10):
        for row in reversed(range(start, start + 10)):
            images.read(at(files[2], row))
    assert len(begun) == 1


def test_distant_row_group_is_reached_without_reading_those_before(tmp_path: Path, images: InlineImages) -> None:
    path = write(tmp_path / "a.parquet", 100)
    data = bytearray(path.read_bytes())
    group = parquet.ParquetFile(path).metadata.row_group(0).column(0)
    start = group.dictionary_page_offset or group.data_page_offset
    data[start : start + group.total_compressed_size] = bytes(group.total_compressed_size)
    path.write_bytes(data)

    assert images.read(at(path, 250)) == image(250)
    with pytest.raises(OSError, match="cannot read row 1"):
        images.read(at(path, 0))
    assert images.read(at(path, 299)) == image(299)


def test_row_that_is_gone_is_an_error(tmp_path: Path, images: InlineImages) -> None:
    path = write(tmp_path / "a.parquet", 10, range(10))
    with pytest.raises(OSError, match="there is no such row"):
        images.read(at(path, 10))
    with pytest.raises(OSError, match="row 1 holds no image any more"):
        images.read(InlineLocation(str(path), 1, 1, "image"))
    with pytest.raises(OSError, match=r"none\.parquet"):
        images.read(at(tmp_path / "none.parquet", 0))


def test_no_more_than_two_files_stay_open(files: list[Path], images: InlineImages) -> None:
    for path in files:
        images.read(at(path, 0))
    assert len(images._columns) == 2


def test_image_cells_of_every_shape() -> None:
    assert images_in(None) == []
    assert images_in([]) == []
    assert images_in(b"1") == [b"1"]
    assert images_in({"bytes": b"1", "path": "a"}) == [b"1"]
    assert images_in({"bytes": None, "path": "a"}) == ["a"]
    assert images_in({"bytes": None, "path": None}) == []
    assert images_in([b"1", {"bytes": b"2"}]) == [b"1", b"2"]
