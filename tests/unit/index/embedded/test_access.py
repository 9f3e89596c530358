"""A file that may not be read is no damaged one."""

import os
from pathlib import Path

import pytest

from index import FaissIndex
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
