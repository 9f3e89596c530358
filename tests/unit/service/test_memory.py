"""Protects what the service tells of its memory, and that it loads nothing that would not fit beside what answers."""

import json
import logging
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from anykey.encoder.item import Item
from anykey.program.memory import process_memory
from anykey.service.app import create_app
from anykey.service.logs import LogEvent
from tests.fakes import FakeEncoder
from tests.serving import build_real_index, make_settings, running, stored, until
from tests.unit.service.test_indexes import serving_several
from tests.unit.service.test_releases import (
    Checkpoints,
    ask,
    make,
    publish,
    release_of,
    serving_releases,
)

MIB = 2**20
WEIGHTS = "model.safetensors"


def parts_of(memory: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {part.pop("name"): part for part in memory["parts"]}


def memory_of(client: httpx.Client, address: str = "/info") -> dict[str, Any]:
    found: dict[str, Any] = client.get(address).json()["memory"]
    return found


def own_mib() -> int:
    own = process_memory()
    assert own is not None
    return own.own_bytes // MIB


def test_each_index_tells_what_it_holds_and_models_count_once(tmp_path: Path) -> None:
    with serving_several(tmp_path) as client:
        listed = client.get("/indexes").json()
        (encoder,) = listed["memory"]["encoders"]
        assert (encoder["weights_bytes"], encoder["indexes"]) == (FakeEncoder.weights_bytes, ["photos", "notes"])
        assert [one["encoder"] for one in listed["indexes"]] == [encoder["fingerprint"]] * 2
        for one in listed["indexes"]:
            index = tmp_path / one["name"] / "index"
            (version,) = (index / "versions").iterdir()
            (store,) = index.glob("stores/*/*.sqlite")
            totals = {name: one["memory"][f"{name}_bytes"] for name in ("mapped", "memory", "gpu", "disk")}
            told = parts_of(one["memory"])
            files = {"vectors": "vectors.faiss", "positions": "rows.npy", "fields": "fields.sqlite"}
            for name, file in files.items():
                assert told[name]["bytes"] == (version / file).stat().st_size
            assert told["store"]["bytes"] == store.stat().st_size
            assert told["recent"]["bytes"] == 0
            assert sum(totals.values()) == sum(part["bytes"] for part in told.values())
            assert totals["mapped"] == told["vectors"]["bytes"] + told["positions"]["bytes"]
        counted = client.get("/indexes/notes/info").json()["counters"]["memory"]
        assert counted["weights_bytes"] == FakeEncoder.weights_bytes
        assert counted["index_mapped_bytes"] == listed["indexes"][1]["memory"]["mapped_bytes"]
        assert counted["is_room_awaited"] == 0


def test_what_grows_is_seen_to_grow(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    index = build_real_index(tmp_path, encoder, [stored("a", Item(text="one")), stored("b", Item(text="two"))])
    settings = make_settings(index=str(index), checkpoint="given", writable=True, memory_limit_mib=2**20)
    with running(create_app(settings, load_encoder=lambda _: encoder)) as client:
        until(lambda: client.get("/readyz").status_code == 200, "readiness")
        empty = memory_of(client)["process"]
        assert (empty["query_vectors"], empty["answers"], empty["answers_bytes"]) == (0, 0, 0)
        sizes = []
        for number in range(3):
            assert client.post("/search", json={"text": "x" * (number + 1)}).status_code == 200
            process = memory_of(client)["process"]
            sizes.append((process["query_vectors_bytes"], process["answers_bytes"]))
        assert process["query_vectors"] == process["answers"] == 3
        assert sizes[0] < sizes[1] < sizes[2]
        assert sizes[1][0] == 2 * sizes[0][0] >= 2 * 4 * encoder.width
        keys = [{"key": f"k{n}", "text": f"text {n}", "metadata": {"price": n}} for n in range(200)]
        assert client.put("/keys", json={"keys": keys}).json()["num_failed"] == 0
        client.post("/search", json={"text": "sees them"})
        least = 200 * (4 * encoder.width + 8)

        def recent_bytes() -> int:
            return int(parts_of(memory_of(client)["index"])["recent"]["bytes"])

        until(lambda: recent_bytes() > least, "recent keys are told")
        before = recent_bytes()
        assert client.post("/search", json={"text": "y", "filter": {"field": "price", "gte": 3}}).status_code == 200
        until(lambda: recent_bytes() != before, "what filters look at is told")
        assert recent_bytes() > least


def weigh(tmp_path: Path, name: str, num_mib: int, *keys: str) -> None:
    """Gives a release's checkpoint weights of this size, in a file that takes no room."""
    folder = Path(make(tmp_path, name, *keys).checkpoint)
    header = json.dumps({"w": {"dtype": "F16", "shape": [num_mib, MIB // 4], "data_offsets": [0, num_mib * MIB // 2]}})
    with (folder / WEIGHTS).open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        file.truncate(8 + len(header) + num_mib * MIB // 2)


def test_a_release_waits_until_there_is_room_for_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    publish(tmp_path, "first", "a")
    weigh(tmp_path, "second", 35, "b")  # of which twice as much is taken
    ballast = np.ones(80 * MIB, np.uint8)
    checkpoints = Checkpoints()
    limit = own_mib() + 40
    caplog.set_level(logging.WARNING)
    with serving_releases(tmp_path, checkpoints, memory_limit_mib=limit, backend="torch") as client:
        publish(tmp_path, "second", "b")
        until(lambda: bool(client.get("/readyz").json()["problems"]), "it is told that it waits")
        problem = client.get("/indexes").json()["indexes"][0]["problem"]
        assert "release 2 needs about 70 MiB of memory" in problem
        assert f"of the {limit:,} MiB of memory_limit_mib" in problem
        assert "set release_switch to swap" in problem
        assert client.get("/info").json()["counters"]["memory"]["is_room_awaited"] == 1
        process = memory_of(client)["process"]
        assert (process["limited_by"], process["limit_bytes"]) == ("setting", limit * MIB)
        assert process["free_bytes"] < 70 * MIB
        assert ask(client)["release"] == "1"
        assert len(checkpoints.loaded) == 1
        waiting = [record for record in caplog.records if getattr(record, "event", None) == LogEvent.RELEASE_WAITS]
        assert len(waiting) == 1, "told once, however often it is tried"
        del ballast
        until(lambda: release_of(client) == "2", "there is room")
        assert client.get("/readyz").json()["problems"] == {}
        assert client.get("/info").json()["counters"]["memory"]["is_room_awaited"] == 0


def test_one_that_would_not_even_fit_alone_is_not_swapped_in(tmp_path: Path) -> None:
    publish(tmp_path, "first", "a")
    weigh(tmp_path, "second", 2000, "b")
    checkpoints = Checkpoints()
    limit = own_mib() + 1000
    with serving_releases(
        tmp_path, checkpoints, memory_limit_mib=limit, release_switch="swap", backend="torch"
    ) as client:
        publish(tmp_path, "second", "b")
        until(lambda: bool(client.get("/readyz").json()["problems"]), "it is told that it waits")
        assert "needs about 4,000 MiB" in client.get("/readyz").json()["problems"]["default"]
        assert "swap" not in client.get("/readyz").json()["problems"]["default"]
        assert ask(client)["release"] == "1"
        publish(tmp_path, "third", "c")
        until(lambda: release_of(client) == "3", "one that fits is loaded")


def test_an_index_that_does_not_fit_beside_others_leaves_them_alone(tmp_path: Path) -> None:
    heavy = make(tmp_path, "heavy", "b")
    weigh(tmp_path, "heavy", 35, "b")
    light = make(tmp_path, "light", "a")
    table = tmp_path / "indexes.toml"
    lines = ['default = "light"']
    for name, one in (("light", light), ("heavy", heavy)):
        lines += [f"[indexes.{name}]", f'index = "{one.index}"', f'checkpoint = "{one.checkpoint}"']
    table.write_text("\n".join(lines))
    ballast = np.ones(80 * MIB, np.uint8)
    settings = make_settings(indexes=table, memory_limit_mib=own_mib() + 40, check_index_s=0.02, backend="torch")
    checkpoints = Checkpoints()
    with running(create_app(settings, load_encoder=checkpoints.load)) as client:
        until(lambda: client.get("/readyz").status_code == 200, "readiness")
        assert "index heavy needs about 70 MiB" in client.get("/readyz").json()["failing"]["heavy"]
        assert client.post("/indexes/light/search", json={"text": "x"}).status_code == 200
        assert client.post("/indexes/heavy/search", json={"text": "x"}).status_code == 503
        del ballast
        until(lambda: not client.get("/readyz").json()["failing"], "it is tried again")
        assert client.post("/indexes/heavy/search", json={"text": "x"}).status_code == 200
