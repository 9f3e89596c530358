"""Protects the query log: off unless wanted, what is in it, that it can be sent again, and judgements made of it."""

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from anykey.benchmark.datasets import open_dataset
from anykey.benchmark.errors import DatasetError
from anykey.benchmark.judgements import run
from anykey.benchmark.load.traffic import Log
from anykey.benchmark.settings import JudgementsSettings
from anykey.client import Client
from anykey.encoder.item import Item, Modality
from anykey.index.faiss_index import FaissIndex
from anykey.index.filtering.conditions import And, Equals, In, Not, Range
from anykey.index.key_index import Scope
from anykey.service.operations.query_log import QueryLog
from anykey.service.queries.body import body_of
from anykey.service.queries.parts import WordsPart
from anykey.service.queries.query import ItemPart, KeyPart, Query, Reranked, VectorPart, query_from_json
from anykey.service.queries.wanted import Duplicates, Grouping
from anykey.service.schemas import Limits
from tests.fakes import FakeEncoder
from tests.service_inputs import as_base64, png
from tests.serving import make_settings, serving
from tests.unit.service.test_metrics import Scrape

RED = png((250, 0, 0))
LIMITS = Limits.model_validate(make_settings().model_dump(include=set(Limits.model_fields)))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def client(folder: Path, wire_index: FaissIndex) -> Iterator[httpx.Client]:
    with serving(FakeEncoder(), wire_index, query_log=folder, query_log_share=1, query_log_image_bytes=10**6) as client:
        yield client


def search(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/search", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_nothing_is_written_unless_it_is_wanted(tmp_path: Path, wire_index: FaissIndex) -> None:
    before = sorted(tmp_path.rglob("*"))
    with serving(FakeEncoder(), wire_index) as client:
        assert search(client, text="a page")["query_id"] is None
        told = client.post("/feedback", json={"query_id": "0" * 32, "key": "red", "judgement": "good"})
        assert (told.status_code, told.json()["error"]["type"]) == (404, "not_found")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_line_is_what_was_asked_and_answered(client: httpx.Client, folder: Path) -> None:
    answers = [search(client, text="a red page", k=2, modalities=["text", "fused"]) for _ in range(2)]
    search(client, text="red", image=as_base64(RED), text_weight=0.25)
    client.post("/search/batch", json={"queries": [{"text": "a note"}]}).raise_for_status()
    Scrape(client)  # which waits until all is written
    first, again, fused, batch = rows(folder / "queries.jsonl")
    logged = first.pop("logged")
    assert first == {"at_s": first["at_s"], "text": "a red page", "k": 2, "modalities": ["fused", "text"]}
    assert abs(first["at_s"] - time.time()) < 60
    assert logged["hits"] == [[hit["key"], hit["score"]] for hit in answers[0]["hits"]]
    assert (logged["query_id"], logged["index"], logged["route"]) == (answers[0]["query_id"], "default", "/search")
    assert logged["model_fingerprint"] == answers[0]["model_fingerprint"]
    assert logged["key_name"] is None
    assert again["logged"]["query_id"] == answers[1]["query_id"] != answers[0]["query_id"]
    assert answers[1]["result_cached"]
    (image,) = (folder / "images").iterdir()
    assert (fused["image"], fused["text_weight"]) == (f"sha256:{image.name}", 0.25)
    assert image.read_bytes() == RED
    assert batch["logged"]["route"] == "/search/batch"
    assert folder.stat().st_mode & 0o077 == 0


def test_it_is_sent_again_as_it_was(client: httpx.Client, folder: Path) -> None:
    asked = [
        {"text": "red", "image": as_base64(RED), "k": 3},
        {"parts": [{"key": "red"}, {"text": "blue", "weight": -0.5}], "k": 4},
        {"words": "page", "filter": {"field": "price", "gt": 1}},
    ]
    keys = [[hit["key"] for hit in search(client, **body)["hits"]] for body in asked]
    Scrape(client)
    log = Log(folder / "queries.jsonl")
    requests = log.requests()
    again = [json.loads(asyncio.run(next(requests).body())) for _ in asked]
    assert [[hit["key"] for hit in search(client, **body)["hits"]] for body in again] == keys
    assert len(log.times_s) == 3
    assert log.facts()["modalities"] == {"fused": 1, "other": 2}


def test_images_that_were_not_kept_are_left_out_when_it_is_sent_again(client: httpx.Client, folder: Path) -> None:
    search(client, text="red", image=as_base64(RED))
    search(client, text="blue")
    Scrape(client)
    for image in (folder / "images").iterdir():
        image.unlink()
    assert Log(folder / "queries.jsonl").facts() == {"num_queries": 1, "modalities": {"text": 1}, "num_left_out": 1}


@pytest.mark.parametrize(
    "query",
    [
        Query((ItemPart(Item(text="a", images=(RED,)), 0.3, "find it"),), k=7),
        Query((ItemPart(Item(images=(RED, RED)), weight=-1.5), KeyPart("k"), WordsPart("w", 2.0)), join="weight"),
        Query((VectorPart((0.5, -1.0), Modality.TEXT),), exact=True, min_score=0.25, offset=4, cuts=True),
        Query((ItemPart(Item(text="a")),), rerank=Reranked("mini", 50), grouping=Grouping(("shop", "name"))),
        Query((ItemPart(Item(text="a")),), diversity=0.5, grouping=Grouping(Duplicates(0.9), 3)),
        Query(
            (ItemPart(Item(text="a")),),
            scope=Scope(
                frozenset({Modality.IMAGE}),
                "pool",
                And((Equals(("a",), 1), Range(("d",), gt=1, lte=2.5), Not(In(("b", "c"), ("x", "y"))))),
                frozenset({"x", "y"}),
                frozenset({"z"}),
            ),
        ),
    ],
)
def test_a_query_is_the_same_read_back_from_its_body(query: Query) -> None:
    body = json.dumps(body_of(query, as_base64)).encode()
    again = query_from_json(body, LIMITS)
    assert again.parts == query.parts
    assert again.scope == query.scope.__class__(
        query.scope.modalities,
        query.scope.pool,
        query.scope.condition,
        query.scope.within,
        query.scope.exclude | {part.key for part in query.parts if isinstance(part, KeyPart)},
    )
    for name in ("k", "exact", "rerank", "min_score", "offset", "cuts", "grouping", "diversity", "join"):
        assert getattr(again, name) == getattr(query, name)


def test_feedback_is_taken_beside_it(client: httpx.Client, folder: Path) -> None:
    answer = search(client, text="a red page")
    with Client(str(client.base_url)) as ours:
        found = ours.search(text="a red page")
        assert found.query_id is not None
        ours.judge(found.query_id, found.hits[0].key, good=True)
    body = {"query_id": answer["query_id"], "key": "red", "judgement": "bad"}
    for _ in range(2):
        assert client.post("/feedback", json=body).json() == body
    assert [row["judgement"] for row in rows(folder / "feedback.jsonl")] == ["good", "bad", "bad"]
    scrape = Scrape(client)
    assert scrape.value("anykey_feedback_total", judgement="bad") == 2
    assert scrape.value("anykey_query_log_lines_total", outcome="written") == 2


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"key": "a", "judgement": "good"}, "query_id is absent"),
        ({"query_id": "xyz", "key": "a", "judgement": "good"}, "query_id must be the query_id of an answer"),
        ({"query_id": "0" * 32, "key": "a", "judgement": "fine"}, "judgement must be one of 'good', 'bad', got 'fine'"),
        ({"query_id": "0" * 32, "key": "", "judgement": "good"}, "key must have 1 to 4096 characters, got 0"),
        ({"query_id": "0" * 32, "key": "a", "judgement": "good", "why": 1}, "unknown field 'why'"),
        ([1], "the body must be an object"),
    ],
)
def test_wrong_feedback_is_refused(client: httpx.Client, body: Any, said: str) -> None:
    answer = client.post("/feedback", json=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request")
    assert said in answer.json()["error"]["message"]


def test_a_full_disk_is_told_and_searches_go_on(client: httpx.Client, folder: Path) -> None:
    for name in ("queries.jsonl", "feedback.jsonl"):
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/full")
    answer = search(client, text="a page")
    told = client.post("/feedback", json={"query_id": answer["query_id"], "key": "red", "judgement": "good"})
    assert (told.status_code, told.json()["error"]["type"]) == (503, "index_unavailable")
    scrape = Scrape(client)
    assert scrape.value("anykey_query_log_lines_total", outcome="lost") == 2
    assert scrape.value("anykey_log_events_total", event="query_log_failed") == 1


def test_what_is_old_or_too_much_is_let_go_of(folder: Path) -> None:
    log = QueryLog(folder, share=1, days=1, max_bytes=2**20, image_bytes=1000)
    for number in range(3):
        log._image(bytes([number]) * 400)
    assert len(list((folder / "images").iterdir())) == 3
    log.judge("0" * 32, "red", "good", None)
    older = folder / "queries.jsonl.1"
    older.write_text("{}\n")
    os.utime(older, (0, 0))
    log.tidy()
    assert not older.exists()
    assert len(list((folder / "images").iterdir())) == 2, "those that there is room for"
    for image in (folder / "images").iterdir():
        os.utime(image, (0, 0))
    log.tidy()
    log.close()
    assert list((folder / "images").iterdir()) == []
    assert len(rows(folder / "feedback.jsonl")) == 1


def test_a_share_of_requests_is_written(folder: Path, wire_index: FaissIndex) -> None:
    with serving(FakeEncoder(), wire_index, query_log=folder, query_log_share=0.3) as client:
        ids = [search(client, text="a page")["query_id"] for _ in range(60)]
    kept = [id for id in ids if id is not None]
    assert 3 <= len(kept) <= 40
    assert [row["logged"]["query_id"] for row in rows(folder / "queries.jsonl")] == kept


def test_judgements_become_a_dataset_that_can_be_measured_with(
    client: httpx.Client, folder: Path, tmp_path: Path
) -> None:
    def judged(verdicts: dict[str, str], **body: Any) -> None:
        query_id = search(client, **body)["query_id"]
        for key, judgement in verdicts.items():
            client.post("/feedback", json={"query_id": query_id, "key": key, "judgement": judgement}).raise_for_status()

    judged({"red": "good", "blue": "bad"}, text="a red thing")
    judged({"red": "good"}, text="a red thing", k=3)
    judged({"red": "bad", "page": "good"}, text="a red thing")
    judged({"page": "good"}, text="red", image=as_base64(RED))
    judged({"plain": "bad"}, text="nothing that is there")
    judged({"red": "good"}, key="blue")
    Scrape(client)
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"key": key, "text": key}) + "\n" for key in ("red", "blue", "page", "plain")))
    output = tmp_path / "judged"
    settings = JudgementsSettings(log=folder, output=output, corpus=corpus)
    assert run(settings) == 0
    dataset = open_dataset(output)
    (task,) = dataset.tasks()
    text, fused = dataset.queries(task)
    assert (text.text, dict(text.relevant)) == ("a red thing", {"red": 1, "page": 1})
    assert (fused.text, dict(fused.relevant)) == ("red", {"page": 1})
    (image,) = fused.images
    assert isinstance(image, Path)
    assert image.read_bytes() == RED
    assert "blue\t0" in (output / "qrels.txt").read_text()
    with pytest.raises(DatasetError, match="there already"):
        run(settings)
    with pytest.raises(DatasetError, match="ask with a key"):
        run(JudgementsSettings(log=folder, output=tmp_path / "two", min_votes=4))
    with pytest.raises(DatasetError, match="no query log"):
        run(JudgementsSettings(log=tmp_path, output=tmp_path / "two"))
