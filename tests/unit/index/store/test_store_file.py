"""How connections to a store are made: what readers keep in memory."""

from contextlib import closing
from pathlib import Path

from anykey.index.store.store import Store
from anykey.index.store.store_file import READ_CACHE_KIB, open_read_only

SQLITE_DEFAULT_KIB = 2000


def test_readers_have_room_for_the_inner_pages_of_many_keys(tmp_path: Path) -> None:
    Store(tmp_path / "store.sqlite").close()
    with closing(open_read_only(tmp_path / "store.sqlite")) as db:
        assert db.execute("PRAGMA cache_size").fetchone() == (-READ_CACHE_KIB,)  # negative: KiB, not pages
    assert READ_CACHE_KIB >= 8 * SQLITE_DEFAULT_KIB
