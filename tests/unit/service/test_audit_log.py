"""Protects the audit log: each change that was made, by whom; nothing else; and what happens on a full disk."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from anykey.service.access.api_keys import AccessScope, make_key, written
from anykey.service.errors import StartupError
from anykey.service.operations.json_lines import JsonLines
from tests.fakes import FakeEncoder
from tests.serving import build_real_index, make_settings, serving, stored
from tests.unit.service.test_metrics import Scrape

SECRET = "zebracrossing"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def audited(tmp_path: Path) -> Iterator[tuple[httpx.Client, Path]]:
    encoder, path = FakeEncoder(), tmp_path / "log" / "audit.jsonl"
    directory = build_real_index(tmp_path / "built", encoder, [stored("kept", Item(text="kept"))])
    with (
        FaissIndex.open(directory) as index,
        serving(encoder, index, writable=True, audit_log=path, undo_s=60) as client,
    ):
        yield client, path


def test_each_change_of_every_dialect_is_a_line_and_nothing_else_is(audited: tuple[httpx.Client, Path]) -> None:
    client, path = audited
    one = client.put("/keys/one", json={"text": SECRET}, headers={"x-request-id": "first", "traceparent": TRACEPARENT})
    two = client.put(
        "/keys", json={"keys": [{"key": "two", "text": SECRET}, {"key": "bad"}, {"key": "three", "text": "x"}]}
    )
    line = json.dumps({"key": "streamed", "text": SECRET}) + "\n"
    client.put("/keys", content=line + "\n" + line, headers={"content-type": "application/x-ndjson"})
    point = {"points": [{"id": 7, "vector": [1.0] * 8, "payload": {"text": SECRET}}]}
    assert client.put("/collections/default/points", json=point).status_code == 200
    assert client.patch("/keys/one", json={"metadata": {"colour": SECRET}}).status_code == 200
    for _ in range(2):  # of which the second changes nothing
        client.put("/keys/once", json={"text": "x"}, headers={"idempotency-key": "k"}).raise_for_status()
    assert client.delete("/keys/absent").status_code == 404
    assert client.put("/keys/two", json={"text": "x"}, headers={"if-none-match": "*"}).status_code == 412
    client.post("/keys/delete", json={"keys": ["two", "absent"]}).raise_for_status()
    client.post("/keys/delete", json={"within": ["three"], "dry_run": True}).raise_for_status()
    client.post("/keys/delete", json={"filter": {"field": "colour", "exists": True}}).raise_for_status()
    found = rows(path)
    assert [(row["operation"], row.get("key")) for row in found] == [
        ("put", "one"),
        ("put", "two"),
        ("put", "three"),
        ("put", "streamed"),
        ("put", "streamed"),
        ("put", "7"),
        ("patch", "one"),
        ("put", "once"),
        ("delete", "two"),
        ("delete_scope", None),
    ]
    assert found[0] == {
        "time": found[0]["time"],
        "who": "anonymous",
        "address": "127.0.0.1",
        "request_id": "first",
        "trace_id": TRACEPARENT.split("-")[1],
        "index": "default",
        "release": None,
        "operation": "put",
        "key": "one",
        "seq": one.json()["seq"],
    }
    assert [row["seq"] for row in found[1:3]] == [
        outcome["seq"] for outcome in two.json()["outcomes"] if outcome["status"] == "stored"
    ]
    assert (found[-1]["num_keys"], found[-1]["is_whole"]) == (1, True)
    assert found[-1]["scope"]["filter"] == {"field": "colour", "exists": True}
    assert SECRET not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Scrape(client).value("anykey_audit_lines_total", outcome="written") == len(found)


def test_the_holder_of_an_api_key_is_named_and_the_key_is_not(tmp_path: Path) -> None:
    new = make_key("shop", [AccessScope.WRITE])
    keys, path, encoder = tmp_path / "keys.json", tmp_path / "audit.jsonl", FakeEncoder()
    keys.write_bytes(written([new.key]))
    directory = build_real_index(tmp_path / "built", encoder, [stored("kept", Item(text="kept"))])
    with (
        FaissIndex.open(directory) as index,
        serving(encoder, index, writable=True, audit_log=path, api_keys=keys) as client,
    ):
        client.put("/keys/one", json={"text": "x"}, headers={"api-key": new.token}).raise_for_status()
    assert [row["who"] for row in rows(path)] == ["shop"]
    assert new.token not in path.read_text()


def test_who_asks_through_a_proxy_is_told_by_the_proxy(audited: tuple[httpx.Client, Path]) -> None:
    client, path = audited
    client.put("/keys/one", json={"text": "x"}, headers={"x-forwarded-for": "9.9.9.9, 203.0.113.7"}).raise_for_status()
    assert [row["address"] for row in rows(path)] == ["203.0.113.7"]


def test_an_undone_change_is_a_line(audited: tuple[httpx.Client, Path]) -> None:
    client, path = audited
    done = client.put("/keys/kept?undo=true", json={"text": "another"}).json()
    client.post("/keys/undo", json={"seq": done["seq"]}).raise_for_status()
    assert [row["operation"] for row in rows(path)] == ["put", "undo"]


def test_a_full_disk_refuses_nothing_and_is_told_and_counted(
    audited: tuple[httpx.Client, Path], caplog: pytest.LogCaptureFixture
) -> None:
    client, path = audited
    path.unlink()
    path.symlink_to("/dev/full")
    for name in ("one", "two"):
        assert client.put(f"/keys/{name}", json={"text": "x"}).status_code == 200
    scrape = Scrape(client)
    assert scrape.value("anykey_audit_lines_total", outcome="lost") == 2
    assert scrape.value("anykey_log_events_total", event="audit_failed") == 1
    path.unlink()  # as there is room again
    assert client.put("/keys/three", json={"text": "x"}).status_code == 200
    assert [row["key"] for row in rows(path)] == ["three"]
    assert Scrape(client).value("anykey_log_events_total", event="audit_resumed") == 1
    assert client.get("/keys/one").status_code == 200


def test_a_log_that_cannot_be_written_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with (
        pytest.raises(StartupError, match="cannot write the audit log"),
        serving(FakeEncoder(), audit_log=tmp_path / "folder"),
    ):
        pass


def test_files_are_bounded_in_size_and_number(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    lines = JsonLines(path, max_bytes=100, num_files=3, is_durable=True)
    for number in range(40):
        lines.write([{"number": number}])
    lines.close()
    files = [path.with_name("lines.jsonl.2"), path.with_name("lines.jsonl.1"), path]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(file.stat().st_size <= 100 for file in files)
    kept = [row["number"] for file in files for row in rows(file)]
    assert kept == list(range(kept[0], 40))


def test_what_a_crash_cut_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"number": 1}\n{"num')
    lines = JsonLines(path, max_bytes=1000, num_files=1)
    lines.write([{"number": 2}])
    lines.close()
    assert path.read_text() == '{"number": 1}\n{"num\n{"number":2}\n'


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    lines = JsonLines(path, max_bytes=1000, num_files=1)
    lines.write([{"number": 1}])
    path.rename(tmp_path / "moved")
    lines.write([{"number": 2}])
    lines.close()
    assert [row["number"] for row in rows(path)] == [2]
    assert make_settings(audit_log=path).audit_log == path
