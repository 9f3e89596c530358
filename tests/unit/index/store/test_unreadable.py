"""A file that may not be read is no damaged one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from anykey.index import FaissIndex
from anykey.index.errors import IndexCorruptError
from anykey.index.publish.verify import repair_index
from tests.live_index import make_index, new_keys


@pytest.mark.parametrize("name", ["vectors.faiss", "store.sqlite", "bad_rows.jsonl"])
def test_file_that_may_not_be_read_is_named_and_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make_index(tmp_path / "i", new_keys(3))
    may = os.access  # root, whom the tests may run as, may read everything
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith(name) and may(path, mode))

    with pytest.raises(PermissionError, match=rf"Permission denied: '.*{name}'"):
        FaissIndex.open(tmp_path / "i")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["CURRENT", "versions/2/manifest.json"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_told_at_once_and_mended(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    index_dir = make_index(tmp_path / "i", new_keys(3))
    (index_dir / name).unlink()
    make(index_dir / name)

    with pytest.raises(IndexCorruptError, match=f"{name} is damaged: it is no file"):
        FaissIndex.open(index_dir)
    repair_index(index_dir)
    with FaissIndex.open(index_dir) as index:
        assert index.count() == 3
