"""Protects the switch from one release to the next: whole, without a gap, and not at all if it cannot be loaded."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from anykey.index.jobs.releasing import publish_release, roll_back_release
from anykey.index.settings import ReleaseSettings
from anykey.service.app import create_app
from anykey.service.errors import StartupError
from anykey.service.settings import ServiceSettings
from tests.fakes import FakeEncoder
from tests.serving import GatedEncoder, build_real_index, make_settings, running, stored, until


class Checkpoints:
    """Encoders by what their checkpoints say of themselves, as the service loads them.

    Attributes:
        loaded: Every encoder that was loaded, in order.
        failures: Raised instead of loading, one for each; `None` for one that is loaded.
        batch_failures: Given to each encoder that is loaded from now on.
    """

    def __init__(self) -> None:
        self.loaded: list[GatedEncoder] = []
        self.failures: list[Exception | None] = []
        self.batch_failures: list[BaseException | None] = []

    def load(self, settings: ServiceSettings) -> GatedEncoder:
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure
        name = json.loads((Path(settings.checkpoint) / "encoder.json").read_text())["name"]
        self.loaded.append(GatedEncoder(name=name))
        self.loaded[-1].failures = list(self.batch_failures)
        return self.loaded[-1]


def make(tmp_path: Path, name: str, *keys: str, **options: Any) -> ReleaseSettings:
    """What a release of an encoder of this name and an index of these keys is made of."""
    folder = tmp_path / f"made-{name}-{'-'.join(keys)}"
    encoder = FakeEncoder(name=name)
    index = folder / "index"
    if not index.exists():
        build_real_index(folder, encoder, [stored(key, Item(text=f"text of {key}")) for key in keys])
        facts = {"name": name, "fingerprint": encoder.fingerprint, "width": encoder.width, "fusion": encoder.fusion}
        (folder / "checkpoint").mkdir()
        (folder / "checkpoint" / "encoder.json").write_text(json.dumps(facts))
    return ReleaseSettings(
        checkpoint=str(folder / "checkpoint"), index=str(index), releases=tmp_path / "releases", **options
    )


def publish(tmp_path: Path, name: str, *keys: str, **options: Any) -> str:
    """Publishes such a release; gives its number."""
    return publish_release(make(tmp_path, name, *keys, **options))[0].number


@contextmanager
def serving_releases(tmp_path: Path, checkpoints: Checkpoints, **settings: Any) -> Iterator[httpx.Client]:
    """Serves the current release and follows the next ones."""
    values = {"release": tmp_path / "releases", "check_index_s": 0.02, **settings}
    with running(create_app(make_settings(**values), load_encoder=checkpoints.load)) as client:
        until(lambda: client.get("/readyz").status_code == 200, "readiness")
        yield client


def ask(client: httpx.Client, text: str = "text of something", **fields: Any) -> dict[str, Any]:
    answer = client.post("/search", json={"text": text, "k": 9, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def keys_of(answer: dict[str, Any]) -> set[str]:
    return {hit["key"] for hit in answer["hits"]}


def release_of(client: httpx.Client) -> str:
    found: str = client.get("/indexes").json()["indexes"][0]["release"]
    return found


@pytest.fixture
def checkpoints() -> Checkpoints:
    return Checkpoints()


def test_an_answer_names_its_release_and_is_wholly_of_it(tmp_path: Path, checkpoints: Checkpoints) -> None:
    publish(tmp_path, "first", "a", "b")
    with serving_releases(tmp_path, checkpoints) as client:
        before = ask(client)
        assert (before["release"], keys_of(before)) == ("1", {"a", "b"})
        publish(tmp_path, "second", "c", "d", note="better")
        until(lambda: release_of(client) == "2", "the switch")
        after = ask(client)
        assert (after["release"], keys_of(after)) == ("2", {"c", "d"})
        assert after["model_fingerprint"] == FakeEncoder(name="second").fingerprint
        release = client.get("/info").json()["release"]
        assert (release["number"], release["note"], release["problem"]) == ("2", "better", None)
        roll_back_release(tmp_path / "releases", None)
        until(lambda: release_of(client) == "1", "the way back")
        assert keys_of(ask(client)) == {"a", "b"}


def test_a_request_under_way_is_answered_by_the_release_that_took_it(tmp_path: Path, checkpoints: Checkpoints) -> None:
    publish(tmp_path, "first", "a")
    with serving_releases(tmp_path, checkpoints) as client, ThreadPoolExecutor(1) as pool:
        make(tmp_path, "second", "b")
        checkpoints.loaded[0].gate.clear()
        waiting = pool.submit(ask, client, "text that takes long")
        checkpoints.loaded[0].wait_until_entered()
        publish(tmp_path, "second", "b")
        until(lambda: release_of(client) == "2", "the switch")
        assert keys_of(ask(client)) == {"b"}
        assert not waiting.done()
        checkpoints.loaded[0].gate.set()
        answer = waiting.result()
        assert (answer["release"], keys_of(answer)) == ("1", {"a"})
        until(lambda: not _is_open(tmp_path / "releases" / "1"), "the first release is closed")


def test_the_next_release_is_warmed_with_what_was_asked_before(tmp_path: Path, checkpoints: Checkpoints) -> None:
    publish(tmp_path, "first", "a")
    with serving_releases(tmp_path, checkpoints) as client:
        ask(client, "one two")
        ask(client, "three", pool=None, modalities=["text"])
        publish(tmp_path, "second", "b")
        until(lambda: release_of(client) == "2", "the switch")
        assert sum(checkpoints.loaded[1].batches) == 2
        assert ask(client, "one two")["cached"]
        assert not ask(client, "never asked before")["cached"]


def test_a_release_of_the_same_encoder_loads_none(tmp_path: Path, checkpoints: Checkpoints) -> None:
    publish(tmp_path, "first", "a")
    with serving_releases(tmp_path, checkpoints) as client:
        ask(client, "one")
        publish(tmp_path, "first", "a", "b")
        until(lambda: release_of(client) == "2", "the switch")
        again = ask(client, "one")
        assert keys_of(again) == {"a", "b"}
        assert again["cached"]
        assert len(checkpoints.loaded) == 1


@pytest.mark.parametrize(
    "failure", [StartupError("the checkpoint is damaged"), MemoryError("no room"), RuntimeError("CUDA out of memory")]
)
def test_a_release_that_cannot_be_loaded_leaves_the_one_before(
    tmp_path: Path, checkpoints: Checkpoints, failure: Exception
) -> None:
    publish(tmp_path, "first", "a")
    with serving_releases(tmp_path, checkpoints) as client:
        checkpoints.failures = [failure]
        publish(tmp_path, "second", "b")
        until(lambda: bool(client.get("/readyz").json()["problems"]), "the failure is told")
        told = client.get("/readyz").json()
        assert told["status"] == "ready"
        assert "the one before goes on" in told["problems"]["default"]
        assert client.get("/info").json()["release"]["problem"] == told["problems"]["default"]
        assert ask(client)["release"] == "1"
        for _ in range(20):  # it is not tried again as it is
            ask(client)
        assert len(checkpoints.loaded) == 1
        (tmp_path / "releases" / "CURRENT").touch()
        until(lambda: release_of(client) == "2", "it is tried again when it changes")
        assert client.get("/readyz").json()["problems"] == {}


def test_a_damaged_release_leaves_the_one_before(tmp_path: Path, checkpoints: Checkpoints) -> None:
    publish(tmp_path, "first", "a")
    with serving_releases(tmp_path, checkpoints) as client:
        (tmp_path / "releases" / "CURRENT").write_text("what\n")
        until(lambda: bool(client.get("/readyz").json()["problems"]), "the failure is told")
        assert ask(client)["release"] == "1"
        (tmp_path / "releases" / "CURRENT").write_text("1\n")
        until(lambda: not client.get("/readyz").json()["problems"], "all is well again")


def test_a_release_whose_encoder_is_another_is_refused(tmp_path: Path, checkpoints: Checkpoints) -> None:
    publish(tmp_path, "first", "a")
    with serving_releases(tmp_path, checkpoints) as client:
        publish(tmp_path, "second", "b")
        until(lambda: release_of(client) == "2", "the switch")
        path = tmp_path / "releases" / "1" / "checkpoint" / "encoder.json"
        facts = json.loads(path.read_text()) | {"name": "third", "fingerprint": FakeEncoder(name="third").fingerprint}
        path.unlink()
        path.write_text(json.dumps(facts))
        (tmp_path / "releases" / "CURRENT").write_text("1\n")
        until(lambda: bool(client.get("/readyz").json()["problems"]), "the failure is told")
        assert "built by another encoder" in client.get("/readyz").json()["problems"]["default"]
        assert ask(client)["release"] == "2"


def test_a_release_that_fails_when_it_is_warmed_does_not_take_over(tmp_path: Path, checkpoints: Checkpoints) -> None:
    publish(tmp_path, "first", "a")
    with serving_releases(tmp_path, checkpoints) as client:
        ask(client, "one")
        checkpoints.batch_failures = [RuntimeError("the weights are no numbers")] * 2  # it is tried once more
        publish(tmp_path, "second", "b")
        until(lambda: bool(client.get("/readyz").json()["problems"]), "the failure is told")
        assert "fails on a query that came lately" in client.get("/readyz").json()["problems"]["default"]
        assert ask(client, "one")["release"] == "1"
        until(lambda: not _is_open(tmp_path / "releases" / "2"), "the broken release is closed")


def test_swapping_refuses_requests_until_the_other_release_is_loaded(tmp_path: Path, checkpoints: Checkpoints) -> None:
    publish(tmp_path, "first", "a")
    with serving_releases(tmp_path, checkpoints, release_switch="swap") as client, ThreadPoolExecutor(1) as pool:
        make(tmp_path, "second", "b")
        checkpoints.loaded[0].gate.clear()
        waiting = pool.submit(ask, client, "text that takes long")
        checkpoints.loaded[0].wait_until_entered()
        publish(tmp_path, "second", "b")
        until(lambda: client.get("/readyz").status_code == 503, "the window")
        refused = client.post("/search", json={"text": "x"})
        assert refused.status_code == 503
        assert "release 2 is being loaded" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"]
        assert len(checkpoints.loaded) == 1, "the other one is loaded when this one is gone"
        checkpoints.loaded[0].gate.set()
        assert keys_of(waiting.result()) == {"a"}
        until(lambda: client.get("/readyz").status_code == 200, "the end of the window")
        assert keys_of(ask(client)) == {"b"}


def test_swapping_goes_back_where_the_other_release_cannot_be_loaded(tmp_path: Path, checkpoints: Checkpoints) -> None:
    publish(tmp_path, "first", "a")
    with serving_releases(tmp_path, checkpoints, release_switch="swap") as client:
        checkpoints.failures = [MemoryError("no room")]
        publish(tmp_path, "second", "b")
        until(lambda: bool(client.get("/readyz").json().get("problems")), "the failure is told")
        assert ask(client)["release"] == "1"


def test_a_service_that_could_not_load_its_release_ends(tmp_path: Path, checkpoints: Checkpoints) -> None:
    failed = threading.Event()
    settings = make_settings(release=tmp_path / "releases")
    app = create_app(settings, load_encoder=checkpoints.load, on_failure=failed.set)
    with running(app) as client:
        assert failed.wait(20)
        assert "anykey-index release" in client.get("/readyz").json()["error"]["message"]


def _is_open(folder: Path) -> bool:
    """Whether somebody has a release open."""
    from anykey.index.jobs.releasing import list_releases

    return next(one.is_read for one in list_releases(folder.parent) if one.name == folder.name)


def test_no_change_is_lost_silently_when_another_release_takes_over(tmp_path: Path, checkpoints: Checkpoints) -> None:
    publish(tmp_path, "first", "a")
    make(tmp_path, "second", "b")
    with (
        serving_releases(tmp_path, checkpoints, writable=True) as client,
        httpx.Client(base_url=client.base_url, timeout=20, trust_env=False) as other,
        ThreadPoolExecutor(2) as pool,
    ):
        is_over = threading.Event()

        def change(name: str) -> list[tuple[str, httpx.Response]]:
            answers = []
            while not is_over.is_set():
                key = f"{name}-{len(answers)}"
                answers.append((key, other.put(f"/keys/{key}", json={"text": f"text {len(answers)}"})))
            return answers

        changing = [pool.submit(change, name) for name in ("x", "y")]
        until(lambda: other.get("/keys/x-3").status_code == 200, "changes are made")
        checkpoints.loaded[0].gate.clear()  # some changes are under way while the releases switch
        publish(tmp_path, "second", "b")
        until(lambda: release_of(client) == "2", "the switch")
        checkpoints.loaded[0].gate.set()
        until(lambda: client.get("/indexes").json()["indexes"][0]["left_changes"] is not None, "what is left is told")
        until(
            lambda: len([1 for name in "xy" if other.get(f"/keys/{name}-0").status_code == 404]) == 2, "they are left"
        )
        seen = client.post("/keys/count", json={}).json()["num_keys"]
        until(lambda: client.post("/keys/count", json={}).json()["num_keys"] > seen, "the writer follows")
        is_over.set()
        answers = [answer for done in changing for answer in done.result()]
        made: dict[str, set[str]] = {"1": set(), "2": set()}
        for key, answer in answers:
            if answer.status_code == 200:
                made[answer.json()["release"]].add(key)
            else:
                assert answer.status_code == 503, answer.text
                assert "another release has taken over" in answer.json()["error"]["message"]
                assert answer.headers["retry-after"]
        assert made["1"]
        assert made["2"]
        assert any(answer.status_code == 503 for _, answer in answers), "who was amid the switch"
        left = client.get("/indexes").json()["indexes"][0]["left_changes"]
        assert left == {"release": "1", "num_changes": len(made["1"])}
        assert {key["key"] for key in client.get("/keys?limit=1000").json()["keys"]} == {"b"} | made["2"]
    with FaissIndex.open(tmp_path / "releases" / "1" / "index") as index:
        assert {key.key for key in index.scan()} == {"a"} | made["1"]
