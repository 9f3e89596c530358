"""Protects several indexes in one process: each answers under its name, and none takes the others down."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.program.settings import UsageError, load_settings
from anykey.service.app import create_app
from anykey.service.settings import ServiceSettings
from tests.fakes import FakeEncoder
from tests.service_inputs import png
from tests.serving import build_real_index, make_settings, running, stored, until

PHOTOS = [stored("red", Item(images=(png((250, 0, 0)),)), ("warm",)), stored("blue", Item(images=(png((0, 0, 250)),)))]
NOTES = [stored("note", Item(text="a note of five words")), stored("a/b", Item(text="slash"))]


def write_table(path: Path, default: str | None, **tables: dict[str, object]) -> Path:
    """A file of indexes."""
    lines = [f'default = "{default}"'] if default else []
    for name, table in tables.items():
        lines += [f"[indexes.{name}]", *(f"{field} = {value!r}" for field, value in table.items())]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@contextmanager
def serving_several(tmp_path: Path, *names: str, loads: list[str] | None = None) -> Iterator[httpx.Client]:
    """Serves `photos` (the default), `notes`, and others that are not there."""
    build_real_index(tmp_path / "photos", FakeEncoder(), PHOTOS)
    build_real_index(tmp_path / "notes", FakeEncoder(), NOTES)
    tables = {
        name: {"index": str(tmp_path / name / "index"), "checkpoint": "fake", "width": 8}
        for name in ("photos", "notes", *names)
    }
    table = write_table(tmp_path / "indexes.toml", "photos", **tables)

    def load(settings: ServiceSettings) -> FakeEncoder:
        if loads is not None:
            loads.append(settings.index)
        return FakeEncoder()

    app = create_app(make_settings(indexes=table), load_encoder=load)
    with running(app) as client:
        until(lambda: client.get("/readyz").status_code == 200, "readiness")
        yield client


def keys_of(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [hit["key"] for hit in answer.json()["hits"]]


def test_each_index_answers_under_its_name_and_the_default_one_without(tmp_path: Path) -> None:
    with serving_several(tmp_path) as client:
        query = {"text": "a note of five words", "k": 5}
        assert sorted(keys_of(client.post("/search", json=query))) == ["blue", "red"]
        assert sorted(keys_of(client.post("/indexes/photos/search", json=query))) == ["blue", "red"]
        assert sorted(keys_of(client.post("/indexes/notes/search", json=query))) == ["a/b", "note"]
        assert client.get("/info").json()["index"]["num_keys"] == 2
        assert client.get("/indexes/photos/info").json()["index"]["pools"] == {"warm": 1}
        assert client.get("/indexes/notes/info").json()["index"]["pools"] == {}
        assert client.get("/indexes/notes/keys/a%2Fb").json()["payload"]["text"] == "slash"
        assert client.get("/keys/note").status_code == 404
        assert client.get("/indexes/notes/readyz").json()["status"] == "ready"
        listed = client.get("/indexes").json()
        assert listed["default"] == "photos"
        assert [(one["name"], one["status"]) for one in listed["indexes"]] == [("photos", "ready"), ("notes", "ready")]


def test_addresses_of_images_lead_back_into_the_same_index(tmp_path: Path) -> None:
    with serving_several(tmp_path) as client:
        hit = client.post("/indexes/photos/search", json={"text": "x", "k": 1}).json()["hits"][0]
        (address,) = hit["payload"]["image_urls"]
        assert address.startswith("/indexes/photos/keys/")
        assert client.get(address).headers["content-type"] == "image/png"
        assert client.get(address.replace("photos", "notes")).status_code == 404


def test_an_unknown_index_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    with serving_several(tmp_path) as client:
        for answer in (client.post("/indexes/none/search", json={"text": "x"}), client.get("/indexes/none/info")):
            assert answer.status_code == 404
            assert answer.json()["error"]["message"] == "no index is called 'none'; known: photos, notes"
        assert client.get("/indexes/notes/nothing").json()["error"]["type"] == "not_found"
        assert client.get("/indexes/notes/search").status_code == 405


def test_equal_encoders_are_loaded_once_and_share_a_batcher(tmp_path: Path) -> None:
    loads: list[str] = []
    with serving_several(tmp_path, loads=loads) as client:
        client.post("/indexes/photos/search", json={"text": "one"})
        client.post("/indexes/notes/search", json={"text": "two"})
        counted = [client.get(f"/indexes/{name}/info").json()["counters"]["batcher"] for name in ("photos", "notes")]
        assert counted[0] == counted[1]
        assert counted[0]["encoded"] == 2
        again = client.post("/indexes/notes/search", json={"text": "one"}).json()
        assert again["cached"]  # the vector is the same, whichever index is searched


def test_an_index_that_cannot_be_opened_leaves_the_others_alone(tmp_path: Path) -> None:
    with serving_several(tmp_path, "lost") as client:
        assert client.post("/search", json={"text": "x"}).status_code == 200
        answer = client.post("/indexes/lost/search", json={"text": "x"})
        assert answer.status_code == 503
        assert "anykey-index build" in answer.json()["error"]["message"]
        ready = client.get("/readyz").json()
        assert ready["status"] == "ready"
        assert list(ready["failing"]) == ["lost"]
        assert client.get("/indexes/lost/readyz").status_code == 503
        assert client.get("/indexes").json()["indexes"][2]["status"] == "failing"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("default = ", "indexes.toml"),
        ("[indexes]", "a table [indexes.NAME] for each index"),
        ("speed = 3\n[indexes.a]\nindex = 'i'\ncheckpoint = 'c'", "a table [indexes.NAME] for each index"),
        ("[indexes.a]\nindex = 'i'", "[indexes.a]: expected checkpoint"),
        ("[indexes.a]\nindex = 'i'\ncheckpoint = 'c'\nhost = 'h'", "[indexes.a]: unknown setting 'host'; known are"),
        ("[indexes.a]\nindex = 'i'\ncheckpoint = 'c'\nwidth = 0", "[indexes.a] width: "),
        ("[indexes.'a/b']\nindex = 'i'\ncheckpoint = 'c'", "expected a name of at most 64 letters"),
        ("[indexes.a]\nindex='i'\ncheckpoint='c'\n[indexes.b]\nindex='i'\ncheckpoint='c'", "default to be one of a, b"),
        ("default = 'c'\n[indexes.a]\nindex = 'i'\ncheckpoint = 'c'", "default to be one of a, got 'c'"),
    ],
)
def test_a_wrong_file_of_indexes_is_told_with_the_place(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "indexes.toml").write_text(content)
    with pytest.raises(UsageError) as caught:
        load_settings(ServiceSettings, "anykey-serve", ["--indexes", str(tmp_path / "indexes.toml")])
    assert expected in str(caught.value)


def test_a_file_of_indexes_may_be_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "indexes.toml"
    file.write_text(
        "default = 'a'\n[indexes.a]\nindex = 'i'\ncheckpoint = 'c'\n[indexes.b]\nrelease = 'r'\nsearch_threads = 5\n"
    )
    monkeypatch.setenv("ANYKEY_INDEXES", str(file))
    monkeypatch.setenv("ANYKEY_INDEX", "")
    by_name, default = load_settings(ServiceSettings, "anykey-serve", []).by_index()
    assert default == "a"
    assert (by_name["a"].index, by_name["a"].checkpoint, by_name["a"].search_threads) == ("i", "c", 2)
    assert (by_name["b"].release, by_name["b"].search_threads) == (Path("r"), 5)


def test_a_file_of_indexes_and_an_index_by_flag_are_refused_together(tmp_path: Path) -> None:
    table = write_table(tmp_path / "indexes.toml", None, a={"index": "i", "checkpoint": "c"})
    with pytest.raises(UsageError, match="index: expected none beside indexes"):
        load_settings(ServiceSettings, "anykey-serve", ["--indexes", str(table), "--index", "other"])
