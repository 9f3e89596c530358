"""The service over a Milvus collection answers as over an index directory; when Milvus is away it says so at once."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from anykey.index.hits import StoredImage, StoredKey
from anykey.index.key_index import NewKey
from anykey.index.milvus_index import MilvusIndex
from anykey.index.store.manifest import EncoderFacts
from anykey.service.app import create_app
from anykey.service.errors import StartupError
from anykey.service.indexes.parts import load_index
from tests.engines import needs_milvus
from tests.fakes import FakeEncoder
from tests.milvus_server import MilvusServer, milvus_server
from tests.service_inputs import as_base64, png
from tests.serving import build_real_index, make_settings, running, serving, until
from tests.unit.service.conftest import wire_keys

pytestmark = needs_milvus

QUERIES: list[dict[str, Any]] = [
    {"text": "five words of some length", "k": 4},
    {"image": as_base64(png((250, 0, 0))), "k": 2},
    {"text": "a red page", "image": as_base64(png((250, 0, 0))), "k": 20},
    {"text": "plain", "modalities": ["image", "fused"], "k": 20},
    {"text": "plain", "pool": "pages", "exclude": ["note"]},
    {"text": "plain", "k": 20, "filter": {"not": {"field": "price", "gte": 3}}},
    {"text": "plain", "k": 20, "within": ["red", "note", "a/b:c", "unknown"], "filter": {"field": "price", "eq": 3}},
    {"text": "plain", "within": []},
]
ENCODER = FakeEncoder()
FACTS = EncoderFacts(name="fake", fingerprint=ENCODER.fingerprint, width=ENCODER.width, fusion=ENCODER.fusion)


def new_key(key: StoredKey, item: Item) -> NewKey:
    images = tuple(StoredImage(image, "image/png") for image in item.images if isinstance(image, bytes))
    return NewKey(key.key, ENCODER.encode([item])[0], item.text, images, key.payload.metadata, key.pools)


def fill(uri: str, images_dir: Path) -> None:
    with MilvusIndex.create(uri, "keys", FACTS, images_dir=str(images_dir)) as index:
        index.upsert([new_key(key, item) for key, item in wire_keys()])


@pytest.fixture(autouse=True)
def _leave_pymilvus_as_it_was() -> Iterator[None]:
    """The service silences the client's log, for the whole process."""
    level = logging.getLogger("pymilvus").level
    yield
    logging.getLogger("pymilvus").setLevel(level)


@contextmanager
def ready(index: str, **settings: Any) -> Iterator[httpx.Client]:
    """A service that opened this index by its address."""
    app = create_app(make_settings(index=index, **settings), encoder=FakeEncoder())
    with running(app) as client:
        until(lambda: client.get("/readyz").status_code == 200, "the service is ready")
        yield client


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MilvusServer]:
    with milvus_server(tmp_path / "keys.db") as started:
        fill(started.uri, tmp_path / "images")
        yield started


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Clients of two services with the same keys: over a Milvus Lite file, and over an index directory."""
    directory = tmp_path_factory.mktemp("both")
    fill(str(directory / "keys.db"), directory / "images")
    built = build_real_index(directory, ENCODER, wire_keys())
    with (
        FaissIndex.open(built) as index,
        serving(FakeEncoder(), index) as faiss,
        ready(f"{directory}/keys.db/keys") as milvus,
    ):
        yield milvus, faiss


def by_score(answer: Any) -> list[tuple[float, list[Any]]]:
    """Hits in groups of equal score, inside which engines order differently."""
    groups: dict[float, list[Any]] = {}
    for hit in answer["hits"]:
        groups.setdefault(round(hit["score"], 4), []).append([hit["key"], hit["modality"], hit["payload"]])
    return [(score, sorted(hits, key=lambda hit: str(hit[0]))) for score, hits in groups.items()]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: " ".join(query))
def test_search_answers_as_over_an_index_directory(both: tuple[httpx.Client, httpx.Client], query: Any) -> None:
    ours, theirs = (client.post("/search", json=query).json() for client in both)
    assert by_score(ours) == by_score(theirs)
    assert [hit["rank"] for hit in ours["hits"]] == list(range(1, len(ours["hits"]) + 1))
    assert (ours["index_version"], theirs["index_version"]) == (None, "1")


def test_keys_and_images_are_the_same(both: tuple[httpx.Client, httpx.Client]) -> None:
    paths = ["/keys/red", "/keys/red/image", "/keys/two%20frames/image?position=1", "/keys/a%2Fb%3Ac", "/keys/note"]
    paths += ["/keys/none", "/keys/note/image", "/keys/red/image?position=1"]
    for path in paths:
        ours, theirs = (client.get(path) for client in both)
        assert ours.status_code == theirs.status_code
        if ours.status_code == 200:
            assert ours.headers["content-type"] == theirs.headers["content-type"]
            assert contents_of(ours) == contents_of(theirs)


def contents_of(response: httpx.Response) -> Any:
    """A key as it is answered, but for the number of its last change, which Milvus does not count; or an image."""
    if response.headers["content-type"] != "application/json":
        return response.content
    return {**response.json(), "seq": None}


def test_an_unknown_pool_is_refused_with_the_same_words(both: tuple[httpx.Client, httpx.Client]) -> None:
    ours, theirs = (client.post("/search", json={"text": "a", "pool": "nowhere"}) for client in both)
    assert ours.status_code == 400
    assert ours.json()["error"]["message"] == theirs.json()["error"]["message"]
    assert "known: pages, pictures" in ours.json()["error"]["message"]


def test_info_counts_the_keys_there_are(both: tuple[httpx.Client, httpx.Client]) -> None:
    ours, theirs = (client.get("/info").json()["index"] for client in both)
    assert (ours["engine"], ours["version"], ours["created_at"]) == ("milvus", None, None)
    assert (theirs["engine"], theirs["version"]) == ("faiss", "1")
    for name in ("num_keys", "modalities", "pools"):
        assert ours[name] == theirs[name]


def test_a_killed_server_is_told_from_a_failure_and_found_again(
    server: MilvusServer, caplog: pytest.LogCaptureFixture
) -> None:
    with ready(f"{server.uri}/keys", check_index_s=0.05) as client:
        hits = client.post("/search", json=QUERIES[0]).json()["hits"]
        assert len(hits) == 4

        server.kill()
        for method, path in (("POST", "/search"), ("GET", "/keys/red"), ("GET", "/keys/red/image"), ("GET", "/info")):
            answer = client.request(method, path, json=QUERIES[0] if method == "POST" else None)
            assert_unavailable(answer)
        until(lambda: client.get("/readyz").status_code == 503, "the service notices")
        assert_unavailable(client.get("/readyz"))
        assert client.get("/livez").status_code == 200

        server.restart()
        until(lambda: client.get("/readyz").status_code == 200, "the service finds it again")
        assert client.post("/search", json=QUERIES[0]).json()["hits"] == hits
    events = [getattr(record, "event", None) for record in caplog.records]
    assert events.count("index_unavailable") == 1
    assert "five words" not in caplog.text


def test_a_server_that_hangs_costs_a_request_no_more_than_its_deadline(server: MilvusServer) -> None:
    with ready(f"{server.uri}/keys", check_index_s=0.05, request_deadline_ms=3_000) as client:
        server.halt()
        assert_unavailable(client.post("/search", json=QUERIES[0]))
        until(lambda: client.get("/readyz").status_code == 503, "the service notices")

        server.process.send_signal(signal.SIGCONT)
        until(lambda: client.get("/readyz").status_code == 200, "the service finds it again")
        assert client.post("/search", json=QUERIES[0]).status_code == 200


def test_a_collection_of_another_encoder_in_its_place_is_not_searched(server: MilvusServer, tmp_path: Path) -> None:
    from pymilvus import MilvusClient

    with ready(f"{server.uri}/keys", check_index_s=0.05) as client:
        MilvusClient(server.uri).drop_collection("keys")
        until(lambda: client.get("/readyz").status_code == 503, "the service notices")
        other = FACTS.model_copy(update={"fingerprint": "sha256:other"})
        MilvusIndex.create(server.uri, "keys", other, images_dir=str(tmp_path / "images")).close()
        for _ in range(3):
            assert_unavailable(client.post("/search", json=QUERIES[0]))


def assert_unavailable(answer: httpx.Response) -> None:
    """503 of the documented shape, which says nothing of where the index is."""
    assert answer.status_code == 503, answer.text
    assert answer.json()["error"]["type"] == "index_unavailable"
    assert "127.0.0.1" not in answer.text
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("http://127.0.0.1:9/keys", r"^Milvus at http://127\.0\.0\.1:9: "),
        ("{tmp}/none.db/keys", r"there is no Milvus Lite file .*, or name one with --index or ANYKEY_INDEX"),
    ],
)
def test_what_cannot_be_opened_is_one_clear_line(tmp_path: Path, index: str, message: str) -> None:
    with pytest.raises(StartupError, match=message):
        load_index(make_settings(index=index.format(tmp=tmp_path), request_deadline_ms=2_000))


def test_without_pymilvus_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(StartupError, match=r"pip install 'anykey\[milvus\]'"):
        load_index(make_settings(index="http://127.0.0.1:9/keys", milvus_token="root:secret"))
