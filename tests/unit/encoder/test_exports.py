"""Protects exported networks in the cache folder: written once, read back whole or not at all, and bounded."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from anykey.encoder.exports import Exports


class Writer:
    """Writes a file of some bytes, and counts how often it was asked to."""

    def __init__(self, content: bytes = b"weights") -> None:
        self.content = content
        self.times = 0

    def __call__(self, folder: Path) -> None:
        assert list(folder.iterdir()) == []
        self.times += 1
        (folder / "network").write_bytes(self.content)


def read(exports: Exports, writer: Callable[[Path], None], network: str = "image", form: str = "int8") -> bytes:
    with exports.files(network, form, writer) as folder:
        return (folder / "network").read_bytes()


def test_a_network_is_written_once_for_a_checkpoint_and_a_form(tmp_path: Path) -> None:
    first, again = Writer(), Writer(b"other")
    for writer in (first, again):
        assert read(Exports("sha256:a", tmp_path), writer) == b"weights"
    assert (first.times, again.times) == (1, 0)
    for fingerprint, network, form in (
        ("sha256:b", "image", "int8"),
        ("sha256:a", "text", "int8"),
        ("sha256:a", "image", "fp32"),
    ):
        assert read(Exports(fingerprint, tmp_path), again, network, form) == b"other"
    assert again.times == 3


def test_what_is_damaged_is_written_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    exports, writer = Exports("sha256:a", tmp_path), Writer()
    read(exports, writer)
    (file,) = tmp_path.rglob("network")
    for damage in (lambda: file.write_bytes(b"Weights"), file.unlink, (file.parent / "sums.json").unlink):
        damage()
        assert read(exports, writer) == b"weights"
    assert writer.times == 4
    assert "is damaged, so the network is exported again" in caplog.text


def test_those_used_longest_ago_make_room(tmp_path: Path) -> None:
    exports, writer = Exports("sha256:a", tmp_path, max_bytes=2500), Writer(bytes(1000))
    for age, network in ((300, "a"), (200, "b")):
        with exports.files(network, "fp32", writer) as folder:
            pass
        os.utime(folder, (os.stat(folder).st_mtime - age,) * 2)
    read(exports, writer, "a", "fp32")  # which is used now
    read(exports, writer, "c", "fp32")
    assert writer.times == 3
    for network, times in (("a", 3), ("c", 3), ("b", 4)):
        read(exports, writer, network, "fp32")
        assert writer.times == times, network


def test_a_cache_that_cannot_be_written_costs_another_export_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the place of a folder")
    writer = Writer()
    for _ in range(2):
        assert read(Exports("sha256:a", tmp_path / "file"), writer) == b"weights"
    assert writer.times == 2
    assert "so the next start exports them again" in caplog.text


def test_of_a_network_that_cannot_be_exported_nothing_stays(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise RuntimeError("no such operation")

    with pytest.raises(RuntimeError, match="no such operation"):
        read(Exports("sha256:a", tmp_path), fail)
    assert [path.name for path in tmp_path.rglob("*") if path.suffix != ".lock"] == []
