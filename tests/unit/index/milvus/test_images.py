"""Images are kept once per content, whole, and are told from damaged ones."""

from pathlib import Path

import pytest

from anykey.index.errors import ImageUnavailableError
from anykey.index.milvus.images import ImageFolder


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_equal_images_are_one_file_that_reads_back(tmp_path: Path) -> None:
    folder = ImageFolder(str(tmp_path / "made" / "later"))

    locations = [folder.keep(b"one"), folder.keep(b"two"), folder.keep(b"one")]

    assert [folder.read(location) for location in locations] == [b"one", b"two", b"one"]
    assert locations[0] == locations[2]
    assert len(files(tmp_path)) == 2  # nothing was left aside


def test_folder_is_remembered_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = ImageFolder("images")
    location = folder.keep(b"one")
    monkeypatch.chdir("/")

    assert folder.url == str(tmp_path / "images")
    assert ImageFolder(folder.url).read(location) == b"one"


def test_any_folder_that_fsspec_reaches_will_do() -> None:
    folder = ImageFolder("memory://bucket/images")

    assert ImageFolder(folder.url).read(folder.keep(b"far away")) == b"far away"


def test_missing_and_damaged_images_are_unavailable(tmp_path: Path) -> None:
    folder = ImageFolder(str(tmp_path))
    location = folder.keep(b"one")

    (tmp_path / location).write_bytes(b"on")
    with pytest.raises(ImageUnavailableError, match=f"{location} .* is damaged"):
        folder.read(location)
    (tmp_path / location).unlink()
    with pytest.raises(ImageUnavailableError, match=f"{location} cannot be read from {tmp_path}"):
        folder.read(location)


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")

    with pytest.raises(ImageUnavailableError, match=f"cannot be written to {tmp_path}/file"):
        ImageFolder(str(tmp_path / "file")).keep(b"one")
