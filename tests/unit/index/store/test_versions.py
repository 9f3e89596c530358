"""The index directory: one step from one version to the next, and nobody's files deleted under them."""

import errno
import os
from pathlib import Path

import pytest

from anykey.index.errors import IndexCorruptError, IndexLockedError, IndexNotFoundError
from anykey.index.publish.directory import WritableDirectory
from anykey.index.store.manifest import FORMAT_VERSION, EncoderFacts, FileFacts, FoldOptions, Manifest, file_facts
from anykey.index.store.versions import check_file, open_published


def manifest(version: str, files: dict[str, FileFacts] | None = None) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        version=version,
        created_at="2026-01-01T00:00:00+00:00",
        encoder=EncoderFacts(name="n", fingerprint="sha256:0", width=8, fusion="raw"),
        num_keys=0,
        modalities={},
        pools={},
        num_bad_rows=0,
        store="1",
        store_id="0",
        options=FoldOptions(),
        seq=0,
        files=files or {},
        corpus=[],
        settings={},
        libraries={},
    )


def publish(directory: WritableDirectory) -> str:
    directory.folding_dir.mkdir(parents=True)
    files = {}
    for name in ("rows.npy", "vectors.faiss"):
        (directory.folding_dir / name).write_text(name)
        files[name] = file_facts(directory.folding_dir / name)
    version = directory.next_name()
    directory.publish(manifest(version, files))
    return version


def test_publishing_moves_the_work_and_points_to_it(tmp_path: Path) -> None:
    directory = WritableDirectory(tmp_path / "i")

    assert [publish(directory) for _ in range(2)] == ["1", "2"]
    assert directory.current() == "2"
    assert (tmp_path / "i" / "CURRENT").read_text() == "2\n"
    assert not directory.folding_dir.exists()
    assert sorted(path.name for path in directory.version_dir("2").iterdir()) == [
        "manifest.json",
        "rows.npy",
        "vectors.faiss",
    ]


@pytest.mark.parametrize(
    ("step", "name"),
    list(enumerate(["manifest.json", "rows.npy", "vectors.faiss", "folding", "versions", "CURRENT.new", "i"])),
)
def test_what_cannot_be_forced_to_disk_is_named(
    tmp_path: Path, step: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = iter(range(100))

    def fail(fd: int) -> None:
        if next(steps) == step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left on device") as caught:
        publish(WritableDirectory(tmp_path / "i"))

    assert Path(caught.value.filename).name == name


def test_nothing_is_published_at_first(tmp_path: Path) -> None:
    directory = WritableDirectory(tmp_path / "i")

    assert (directory.current(), directory.names(), directory.next_name()) == (None, [], "1")
    with pytest.raises(IndexNotFoundError):
        open_published(tmp_path / "i")


def test_versions_are_counted_as_numbers(tmp_path: Path) -> None:
    directory = WritableDirectory(tmp_path)
    for name in ("9", "10", "notes"):
        (tmp_path / "versions" / name).mkdir(parents=True)

    assert (directory.names(), directory.next_name()) == (["9", "10"], "11")


def test_only_the_last_two_versions_are_kept(tmp_path: Path) -> None:
    directory = WritableDirectory(tmp_path / "i")
    for _ in range(4):
        publish(directory)

    directory.remove_old()

    assert directory.names() == ["3", "4"]


def test_version_that_is_open_is_deleted_only_after_its_release(tmp_path: Path) -> None:
    directory = WritableDirectory(tmp_path / "i")
    publish(directory)
    first = open_published(tmp_path / "i")
    publish(directory)
    publish(directory)

    directory.remove_old()
    assert directory.names() == ["1", "2", "3"]
    first.release()
    directory.remove_old()
    assert directory.names() == ["2", "3"]


def test_complete_version_that_was_not_announced_is_published(tmp_path: Path) -> None:
    directory = WritableDirectory(tmp_path / "i")
    for _ in range(2):
        publish(directory)
    for damage in ("1\n", "", None):
        current = tmp_path / "i" / "CURRENT"
        current.unlink() if damage is None else current.write_text(damage)

        directory.recover()

        assert directory.current() == "2"


def test_second_lock_is_refused_and_names_the_holder(tmp_path: Path) -> None:
    directory = WritableDirectory(tmp_path / "i")

    with directory.locked_for_writing("build"), pytest.raises(IndexLockedError, match=f"process {os.getpid()}"):
        directory.locked_for_writing("build").__enter__()
    with directory.locked_for_writing("build"):
        pass


def test_check_compares_size_and_small_files_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"1234")
    facts = manifest("1", {"f": file_facts(path)})

    check_file(tmp_path, facts, "f")
    path.write_bytes(b"1235")
    with pytest.raises(IndexCorruptError, match="checksum differs"):
        check_file(tmp_path, facts, "f")
    path.write_bytes(b"123")
    with pytest.raises(IndexCorruptError, match="has 3 bytes, the manifest says 4"):
        check_file(tmp_path, facts, "f")
    with pytest.raises(IndexCorruptError, match="does not list g"):
        check_file(tmp_path, facts, "g")
