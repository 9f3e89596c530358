"""What a search may ask of rerankers, and that one that is slow, full or broken holds up nothing else."""

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from anykey.encoder.images import decode_image
from anykey.encoder.item import Item, Modality
from anykey.index.errors import ImageUnavailableError, ImageUnreachableError
from anykey.index.hits import FoundImage
from anykey.program.settings import UsageError, load_settings
from anykey.service.app import create_app
from anykey.service.settings import ServiceSettings
from tests.fakes import FakeEncoder
from tests.service_inputs import as_base64, png
from tests.serving import WAIT_S, MemoryIndex, counters, make_settings, running, stored, until

KEYS = [stored(f"{n} letters", Item(text="x" * n)) for n in range(1, 9)] + [stored("picture", Item(images=(png(),)))]
IMAGE = as_base64(png((250, 0, 0)))


@dataclass(frozen=True)
class FakePair:
    """A pair, as long as the key's text, and one with images by a hundred longer."""

    num_tokens: int


class FakeScorer:
    """Scores a key by its length, once the gate is open.

    Attributes:
        entered: Released once for each batch begun.
        gate: Batches wait until it is set.
        batches: Sizes of the batches so far.
        failure: Raised by each batch, where there is one.
    """

    fingerprint = "sha256:0"
    max_tokens = 8
    device = "cpu"
    weights_bytes = 700

    def __init__(self, name: str = "long", modalities: Sequence[Modality] = (Modality.TEXT,)) -> None:
        self.name = name
        self.modalities = frozenset(modalities)
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []
        self.failure: Exception | None = None

    def prepare(self, item: Item) -> Item:
        """Decodes the images, which may fail."""
        for image in item.images:
            decode_image(image)
        return item

    def pair(self, query: Item, key: Item) -> FakePair:
        """The key's length."""
        return FakePair(len(key.text or "") + 100 * len(key.images))

    def score(self, pairs: Sequence[FakePair]) -> NDArray[np.float32]:
        """Lengths, after a while."""
        self.batches.append(len(pairs))
        self.entered.release()
        assert self.gate.wait(WAIT_S), "the test never opened the gate"
        if self.failure is not None:
            raise self.failure
        return np.array([pair.num_tokens for pair in pairs], dtype=np.float32)


@pytest.fixture
def scorer() -> Iterator[FakeScorer]:
    scorer = FakeScorer()
    yield scorer
    scorer.gate.set()


def service(*scorers: FakeScorer, **settings: Any) -> Any:
    """Serves the keys with these rerankers."""
    encoder = FakeEncoder()
    settings = {"max_rerank_batch_tokens": 16, **settings}
    return running(
        create_app(make_settings(**settings), encoder=encoder, index=MemoryIndex(encoder, KEYS), rerankers=scorers)
    )


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with service(FakeScorer(), max_rerank_top=60, max_k=70) as client:
        yield client


def ask(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/search", json={"text": "a b", "rerank": {}, **fields})


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["type"], error["message"]


def test_the_only_reranker_need_not_be_named(client: httpx.Client) -> None:
    answers = [ask(client, rerank=rerank).json() for rerank in ({}, {"model": None}, {"model": "long", "top": None})]
    for answer in answers:
        assert [hit["key"] for hit in answer["hits"]] == [f"{n} letters" for n in range(8, 0, -1)] + ["picture"]
        assert [hit["rank"] for hit in answer["hits"]] == list(range(1, 10))
        assert answer["reranking"]["model"] == "long"
    assert answers[0]["hits"] == answers[1]["hits"]


def test_pages_of_its_order_fit_together(client: httpx.Client) -> None:
    at_once = ask(client, k=9, rerank={"top": 9}).json()["hits"]
    pages = [ask(client, k=4, offset=offset, rerank={"top": 9}) for offset in (0, 4)]
    pages.append(ask(client, k=1, offset=8, rerank={"top": 9}))
    assert [hit for page in pages for hit in page.json()["hits"]] == at_once


def test_it_orders_the_best_of_each_group(client: httpx.Client) -> None:
    answer = ask(client, k=9, group_by="duplicates", rerank={"top": 9}).json()
    assert [(hit["key"], hit["group"]["value"], hit["group"]["num_folded"]) for hit in answer["hits"]] == [
        *((f"{n} letters", f"{n} letters", 0 if n > 3 else 1) for n in range(5, 0, -1)),
        ("picture", "picture", 0),
    ]
    assert answer["grouping"] == {"num_candidates": 9, "is_complete": True}
    assert answer["reranking"]["num_candidates"] == 6


def test_what_scores_too_low_is_not_read(client: httpx.Client) -> None:
    answer = ask(client, k=9, min_score=0.5, rerank={"top": 9}, offset=0).json()
    assert answer["reranking"]["num_candidates"] == len(answer["hits"]) == 9 - answer["num_below_min_score"] < 9


def test_a_search_without_it_says_so(client: httpx.Client) -> None:
    for answer in (ask(client, rerank=None).json(), client.post("/search", json={"text": "a b"}).json()):
        assert answer["reranking"] is None
        assert {hit["rerank_score"] for hit in answer["hits"]} == {None}
        assert answer["timings_ms"]["rerank"] == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rerank": {"top": 0}}, "rerank.top must be a whole number from 1 to 60, got 0"),
        ({"rerank": {"top": 61}}, "rerank.top must be a whole number from 1 to 60, got 61"),
        ({"rerank": {"top": "50"}}, "rerank.top must be a whole number from 1 to 60, got '50'"),
        ({"rerank": {"top": 4}, "k": 5}, "k must be at most rerank.top, 4, got 5"),
        ({"rerank": {}, "k": 61}, "k must be at most rerank.top, 60, got 61"),
        ({"rerank": {"model": "short"}}, "rerank: unknown model 'short'; known: long"),
        ({"rerank": {"model": 3}}, "rerank.model must be a string, got 3"),
        ({"rerank": {"tops": 3}}, "unknown field 'tops' of rerank; known: model, top"),
        ({"rerank": "long"}, """rerank must be an object such as {"top": 50}, got 'long'"""),
        ({"rerank": True}, 'rerank must be an object such as {"top": 50}, got true'),
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused_with_what_can(client: httpx.Client, fields: Any, message: str) -> None:
    assert error_of(ask(client, **fields)) == (400, "invalid_request", message)


def test_many_unknown_members_make_a_short_message(client: httpx.Client) -> None:
    _, _, message = error_of(ask(client, rerank={f"a{n}": n for n in range(20_000)}))
    assert message.count("unknown field") == 5


def test_top_is_as_large_as_k_where_it_is_not_said(client: httpx.Client) -> None:
    assert ask(client, k=60).status_code == 200
    assert client.get("/info").json()["limits"]["max_rerank_top"] == 60


@pytest.mark.parametrize(("image", "modality"), [({"text": None}, "image"), ({}, "fused")])
def test_a_query_with_an_image_is_refused_by_the_rerankers_name(
    client: httpx.Client, image: dict[str, Any], modality: str
) -> None:
    message = f"reranker long reads texts, and takes no {modality} queries; leave rerank out"
    assert error_of(ask(client, image=IMAGE, **image)) == (422, "unsupported_modality", message)


class LossyIndex(MemoryIndex):
    """An index of pictures and pages, of which some cannot be had any more."""

    def find_image(self, key: str, position: int = 0) -> FoundImage:
        """The image, unless the key says otherwise."""

        def fail(_timeout_s: float) -> Any:
            raise ImageUnavailableError("no such file") if "gone" in key else ImageUnreachableError("no route to host")

        if "gone" in key or (position and "away" in key):
            return FoundImage(None, fail)
        return super().find_image(key, position)


PICTURES = [
    stored("note", Item(text="x" * 7)),
    stored("page", Item(text="x" * 3, images=(png(),))),
    stored("two", Item(images=(png(), png()))),
    stored("gone page", Item(text="x" * 9, images=(png(),))),
    stored("half away", Item(images=(png(), png()))),
    stored("broken", Item(images=(png(),))),
    stored("many", Item(images=(png(),) * 5)),
]


def test_keys_are_read_with_all_their_images_or_not_at_all() -> None:
    encoder = FakeEncoder()
    index = LossyIndex(encoder, PICTURES)
    index.replace_image("broken", png()[:45])
    scorer = FakeScorer(modalities=tuple(Modality))
    app = create_app(make_settings(max_images=4), encoder=encoder, index=index, rerankers=[scorer])
    with running(app) as client:
        assert client.get("/info").json()["rerankers"][0]["modalities"] == ["text", "image", "fused"]
        by_index = [hit["key"] for hit in ask(client, rerank=None).json()["hits"]]
        for query in ({}, {"image": IMAGE}, {"image": IMAGE, "text": None}):
            answer = ask(client, **query).json()
            scores = {hit["key"]: hit["rerank_score"] for hit in answer["hits"]}
            assert list(scores.items())[:4] == [("many", 400), ("two", 200), ("page", 103), ("note", 7)]
            assert answer["reranking"]["num_scored"] == 4
            if not query:
                unread = ("gone page", "half away", "broken")
                assert list(scores)[4:] == [key for key in by_index if key in unread]
            assert list(scores.values())[4:] == [None] * 3
        assert counters(client, "reranker long")["places_taken"] == 0
        bad = ask(client, image=as_base64(png()[:45]))
        assert error_of(bad)[:2] == (422, "undecodable_image")


def test_a_form_has_it_as_json(client: httpx.Client) -> None:
    form = {"text": (None, "a b"), "k": (None, "3"), "rerank": (None, json.dumps({"top": 9}))}
    answer = client.post("/search", files=form).json()
    assert answer["hits"] == ask(client, k=3, rerank={"top": 9}).json()["hits"]
    empty = client.post("/search", files={**form, "rerank": (None, "")})
    assert empty.json()["reranking"] is None
    refused = client.post("/search", files={**form, "rerank": (None, '{"top": ')})
    assert error_of(refused)[2].startswith("field rerank must be JSON")


def test_without_a_reranker_the_error_says_how_to_load_one() -> None:
    with service() as client:
        assert client.get("/info").json()["rerankers"] == []
        message = "rerank: no reranker is loaded; start the service with --rerankers NAME=DIRECTORY"
        assert error_of(ask(client)) == (400, "invalid_request", message)


def test_one_of_several_must_be_named() -> None:
    with service(FakeScorer("a"), FakeScorer("b")) as client:
        message = "rerank: expected model to be one of several, known: a, b"
        assert error_of(ask(client)) == (400, "invalid_request", message)
        assert ask(client, rerank={"model": "b"}).json()["reranking"]["model"] == "b"


def test_pairs_are_scored_in_batches_of_bounded_length(scorer: FakeScorer) -> None:
    with service(scorer) as client:
        assert ask(client).status_code == 200
    assert sum(scorer.batches) == 8
    assert max(scorer.batches) <= 3, "the longest first: 8+7, 6+5+4, 3+2+1, if all were there in time"


def test_a_late_request_is_504_and_its_pairs_are_dropped(scorer: FakeScorer) -> None:
    scorer.gate.clear()
    with service(scorer, request_deadline_ms=300) as client:
        assert error_of(ask(client))[:2] == (504, "deadline_exceeded")
        assert client.post("/search", json={"text": "a b"}).status_code == 200, "others are not held up"
        num_begun = sum(scorer.batches)
        scorer.gate.set()
        until(lambda: counters(client, "reranker long")["places_taken"] == 0, "all are out of the queue")
        assert ask(client, rerank={"top": 1}, k=1).status_code == 200
        assert counters(client, "reranker long")["dropped"] == 8 - num_begun
        assert sum(scorer.batches) == num_begun + 1


def test_pairs_of_a_client_that_went_away_are_dropped(scorer: FakeScorer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    scorer.gate.clear()
    with service(scorer, request_deadline_ms=600_000) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/search", json={"text": "a b", "rerank": {}}, timeout=0.3)
        assert scorer.entered.acquire(timeout=WAIT_S)
        until(lambda: any(getattr(r, "error_type", "") == "client_gone" for r in caplog.records), "the server notices")
        num_begun = sum(scorer.batches)
        scorer.gate.set()
        until(lambda: counters(client, "reranker long")["dropped"] == 8 - num_begun, "nobody waits for them")


def test_a_full_queue_refuses_at_once_and_frees_what_it_took(scorer: FakeScorer) -> None:
    scorer.gate.clear()
    with service(scorer, max_rerank_queue=12, max_rerank_top=12) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, client)
        assert scorer.entered.acquire(timeout=WAIT_S)
        until(lambda: counters(client, "reranker long")["queued"] == 8 - sum(scorer.batches), "the rest waits")
        num_waiting = 8 - sum(scorer.batches)
        refused = ask(client)
        status, kind, message = error_of(refused)
        assert (status, kind, refused.headers["retry-after"]) == (429, "overloaded", "1")
        assert message == "12 pairs of query and key are waiting, the most accepted; retry in a moment"
        assert counters(client, "reranker long")["places_taken"] == num_waiting
        scorer.gate.set()
        assert first.result().status_code == 200


def test_a_model_that_fails_is_500_for_its_requests_only(scorer: FakeScorer) -> None:
    with service(scorer) as client:
        scorer.failure = RuntimeError("out of memory")
        assert error_of(ask(client)) == (
            500,
            "internal",
            "the reranker long failed on this item",
        )
        scorer.failure = None
        assert ask(client).status_code == 200
        assert client.get("/readyz").status_code == 200


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_died_is_told_by_readiness_and_leaves_plain_searches() -> None:
    class Deadly(FakeScorer):
        def score(self, pairs: Sequence[FakePair]) -> NDArray[np.float32]:
            raise SystemExit

    with service(Deadly()) as client:
        assert error_of(ask(client)) == (503, "not_ready", "the reranker long's worker has died")
        assert error_of(client.get("/readyz"))[2] == "the worker of reranker long has died; restart the service"
        assert client.post("/search", json={"text": "a b"}).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rerankers", "mini"], "expected NAME=DIRECTORY, each NAME once, got 'mini'"),
        (["--rerankers", "a=x,a=y"], "got 'a=y'"),
        (["--max-rerank-queue", "9"], "expected max_rerank_queue to be max_rerank_top, 100, or more, got 9"),
    ],
)
def test_wrong_settings_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_settings(ServiceSettings, "anykey-serve", arguments)
