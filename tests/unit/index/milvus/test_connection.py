"""Connections say what is wrong before and while they talk, and let go of files."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anykey.index.errors import IndexLockedError, IndexNotFoundError, IndexUnavailableError
from anykey.index.milvus.connection import Connection
from anykey.program.extras import MissingLibraryError
from tests.engines import MILVUS_URI, needs_milvus
from tests.guards.checkout import ROOT
from tests.milvus_server import milvus_server

pytestmark = [needs_milvus, pytest.mark.skipif(MILVUS_URI is not None, reason="looks at Milvus Lite")]


def connect(path: Path) -> Connection:
    return Connection(str(path), None, 10.0, may_create=True)


def test_file_is_made_with_its_folder_and_closed_by_the_last_connection(tmp_path: Path) -> None:
    path = tmp_path / "new" / "keys.db"
    first, second = connect(path), connect(path)

    first.close()
    first.close()
    assert second.call("list_collections") == []
    second.close()

    with pytest.raises(IndexUnavailableError):
        second.call("list_collections")
    third = connect(path)
    assert third.is_lite
    third.close()


def test_missing_file_is_not_made_by_opening(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFoundError, match=r"there is no Milvus Lite file .*keys\.db"):
        Connection(str(tmp_path / "keys.db"), None, 10.0)
    assert list(tmp_path.iterdir()) == []


def test_file_that_another_process_has_open_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "keys.db"
    code = f"""
import pathlib, sys
from anykey.index.milvus.connection import Connection
connection = Connection({str(path)!r}, None, 10.0, may_create=True)
print("open", flush=True)
sys.stdin.readline()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(IndexLockedError, match=rf"keys\.db is open in process {process.pid}"):
            Connection(str(path), None, 10.0)
        process.kill()
    Connection(str(path), None, 10.0).close()


@pytest.mark.parametrize("address", ["keys", "keys.sqlite", "ftp://host/keys.db", "s3://bucket/keys.db"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(IndexUnavailableError, match=r"expected the address of a Milvus server, .* or a path that ends"):
        Connection(address, None, 1.0)


def test_absent_server_is_reported_without_the_password() -> None:
    with pytest.raises(IndexUnavailableError, match=r"^Milvus at http://127\.0\.0\.1:9: ") as caught:
        Connection("http://root:secret@127.0.0.1:9", None, 1.0)
    assert "secret" not in str(caught.value)


def test_server_that_hangs_is_given_up_after_the_time_for_a_call(tmp_path: Path) -> None:
    with milvus_server(tmp_path / "keys.db") as server:
        connection = Connection(server.uri, None, 1.0)
        server.halt()
        with pytest.raises(IndexUnavailableError, match=rf"^Milvus at {server.uri}: .*DEADLINE_EXCEEDED"):
            connection.call("list_collections", timeout_s=0.2)
        server.process.send_signal(signal.SIGCONT)
        assert connection.call("list_collections") == []
        connection.close()


def test_refusals_name_the_file_and_the_reason(tmp_path: Path) -> None:
    connection = connect(tmp_path / "keys.db")
    try:
        with pytest.raises(IndexUnavailableError, match=r"^Milvus at .*keys\.db: .*missing"):
            connection.call("describe_collection", collection_name="missing")
    finally:
        connection.close()


@pytest.mark.parametrize(("library", "extra"), [("pymilvus", "milvus"), ("milvus_lite", "milvus-lite")])
def test_missing_library_says_how_to_install_it(
    library: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(MissingLibraryError, match=rf"needs the library {library}: pip install 'anykey\[{extra}\]'"):
        connect(tmp_path / "keys.db")


def test_index_and_its_milvus_engine_are_imported_without_pymilvus() -> None:
    code = "import sys; sys.modules['pymilvus'] = None; import anykey.index; anykey.index.MilvusIndex"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
