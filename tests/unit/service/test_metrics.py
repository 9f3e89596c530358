"""Protects the metrics: what they count is what happened, each is known, and nothing of users is in them."""

import json
import threading
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from prometheus_client.samples import Sample

from anykey.index.errors import IndexUnavailableError
from anykey.index.faiss_index import FaissIndex
from anykey.index.key_index import IndexInfo
from anykey.service.app import create_app
from anykey.service.operations.histogram import FINE_BOUNDS_S, quantile
from anykey.service.operations.metrics import METRICS, OF_PROCESS
from anykey.service.operations.records import RequestRecord
from anykey.service.operations.stage_times import RECENT_S, STAGES, StageTimes
from anykey.service.server import listen
from tests.fakes import FakeEncoder
from tests.serving import WAIT_S, GatedEncoder, MemoryIndex, make_settings, port_of, running, serving, until
from tests.unit.service.test_reranking import KEYS, FakeScorer

SECRET = "zebracrossing"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Scrape:
    """What `/metrics` answered, by metric."""

    def __init__(self, client: httpx.Client, path: str = "/metrics", accept: str = "*/*") -> None:
        answer = client.get(path, headers={"accept": accept})
        assert answer.status_code == 200
        self.media_type, self.text = answer.headers["content-type"], answer.text
        read = read_openmetrics if "openmetrics" in self.media_type else read_text
        self.families = list(read(self.text))
        self.samples: list[Sample] = [sample for family in self.families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name with these labels."""
        found = [s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()]
        assert found, f"no {name} with {labels}"
        return sum(found)


@pytest.fixture(scope="module")
def asked(wire_index: FaissIndex) -> Iterator[httpx.Client]:
    """A service that was asked this and that."""
    with serving(FakeEncoder(), wire_index) as client:
        for number in (1, 2, 2):
            assert client.post("/search", json={"text": f"{SECRET} {number}", "k": 3}).status_code == 200
        two = [{"text": f"{SECRET} {number} and more"} for number in (1, 2)]
        assert client.post("/search/batch", json={"queries": two}).status_code == 200
        assert client.post("/search", json={"text": SECRET, "k": -1}).status_code == 400
        assert client.get("/keys/red").status_code == 200
        assert client.get(f"/{SECRET}").status_code == 404
        assert client.post(f"/indexes/{SECRET}/search", json={"text": SECRET}).status_code == 404
        assert client.request("PROPFIND", "/search").status_code == 405
        yield client


@pytest.fixture(scope="module")
def scrape(asked: httpx.Client) -> Scrape:
    return Scrape(asked)


def test_requests_and_errors_are_counted_by_route_and_index(scrape: Scrape) -> None:
    requests = "anykey_requests_total"
    assert scrape.value(requests, index="default", route="/search", method="POST", status="200") == 3
    assert scrape.value(requests, route="/search", status="400") == 1
    assert scrape.value(requests, index="default", route="/keys/{key:path}", status="200") == 1
    assert scrape.value(requests, index="", route="unknown", status="404") == 1
    assert scrape.value(requests, method="other", status="405") == 1
    assert scrape.value("anykey_errors_total", route="/search", type="invalid_request") == 1


def test_stages_are_counted_once_for_each_query_that_came_through_them(scrape: Scrape) -> None:
    def count(stage: str, route: str) -> float:
        return scrape.value("anykey_stage_seconds_count", index="default", route=route, stage=stage)

    assert [count(stage, "/search") for stage in ("encode", "search", "read", "total")] == [2, 3, 3, 4]
    assert [count(stage, "/search/batch") for stage in ("encode", "search", "read", "write")] == [2, 2, 1, 1]
    assert {s.labels["stage"] for s in scrape.samples if "stage" in s.labels} <= set(STAGES)


def test_stages_of_a_request_fit_into_its_time(scrape: Scrape) -> None:
    by_stage = {
        stage: scrape.value("anykey_stage_seconds_sum", route="/search", stage=stage)
        for stage in STAGES
        if stage != "rerank"
    }
    assert 0 < sum(by_stage.values()) - by_stage["total"] <= by_stage["total"]


def test_they_agree_with_the_counters_of_info(asked: httpx.Client) -> None:
    counters, scrape = asked.get("/info").json()["counters"], Scrape(asked)
    assert scrape.value("anykey_batch_items_count") == counters["batcher"]["batches"] > 0
    assert scrape.value("anykey_batch_items_sum") == counters["batcher"]["encoded"] == 4
    assert scrape.value("anykey_model_items_total", outcome="encoded") == counters["batcher"]["encoded"]
    assert scrape.value("anykey_searches_total", outcome="searched") == counters["searches"]["searched"]
    assert scrape.value("anykey_cache_lookups_total", cache="vectors", outcome="miss") == counters["cache"]["misses"]
    assert (
        scrape.value("anykey_cache_lookups_total", cache="answers", outcome="memory")
        == counters["results"]["result_hits"]
        == 1
    )


def test_the_index_and_the_model_are_told(scrape: Scrape) -> None:
    assert scrape.value("anykey_index_ready", index="default") == 1
    assert scrape.value("anykey_index_keys", modality="image") == 3
    assert scrape.value("anykey_index_seq") == 9
    assert scrape.value("anykey_index_covered_share") == 1
    assert scrape.value("anykey_index_recall", depth="10") == 1
    assert scrape.value("anykey_model_info", kind="encoder", model="fake", backend="torch", precision="fp32") == 1
    assert scrape.value("anykey_connections") == 1


def test_every_sample_is_of_a_known_metric_with_its_labels(scrape: Scrape) -> None:
    known = {**METRICS, **OF_PROCESS}
    for sample in scrape.samples:
        name = sample.name
        if name not in known:  # a part of a histogram
            name = name.rpartition("_")[0]
            assert known[name].kind == "histogram"
        assert sample.labels.keys() - {"le"} == set(known[name].labels), sample


def test_nothing_of_a_user_is_in_them(asked: httpx.Client, scrape: Scrape) -> None:
    summary = asked.get("/metrics-summary").text + json.dumps(
        asked.get("/metrics-summary", headers={"accept": "application/json"}).json()
    )
    assert SECRET not in scrape.text + summary
    assert "127.0.0.1" not in scrape.text


def test_openmetrics_come_to_who_accepts_them(asked: httpx.Client) -> None:
    scrape, other = Scrape(asked), Scrape(asked, accept=OPENMETRICS)
    assert scrape.media_type.startswith("text/plain")
    assert other.media_type.startswith("application/openmetrics-text")
    names = {s.name for s in scrape.samples if s.name.startswith("anykey_")}
    assert {s.name for s in other.samples if s.name.startswith("anykey_")} == names


def test_the_summary_is_a_table_or_json(asked: httpx.Client) -> None:
    text = asked.get("/metrics-summary")
    assert text.headers["content-type"].startswith("text/plain")
    assert max(map(len, text.text.splitlines())) <= 80
    summary = asked.get("/metrics-summary", headers={"accept": "application/json"}).json()
    (searches,) = [table for table in summary["since_start"] if table["route"] == "/search" and table["index"]]
    assert [row["stage"] for row in searches["stages"]] == [stage for stage in STAGES if stage != "rerank"]
    total = searches["stages"][-1]
    assert (total["count"], total["share"]) == (4, 1.0)
    assert total["p50_ms"] <= total["p90_ms"] <= total["p99_ms"]


def test_rerankers_are_told_of() -> None:
    encoder = FakeEncoder()
    app = create_app(make_settings(), encoder=encoder, index=MemoryIndex(encoder, KEYS), rerankers=[FakeScorer("mini")])
    with running(app) as client:
        assert client.post("/search", json={"text": "a page", "rerank": {}}).status_code == 200
        scrape = Scrape(client)
    assert scrape.value("anykey_model_info", kind="reranker", model="mini") == 1
    assert scrape.value("anykey_stage_seconds_count", stage="rerank") == 1
    assert scrape.value("anykey_batch_items_count", model="mini") > 0


def test_waiting_and_refused_queries_are_seen_while_they_wait() -> None:
    encoder = GatedEncoder()
    with serving(encoder, MemoryIndex(FakeEncoder(), KEYS), max_queue_items=1) as client:
        encoder.gate.clear()
        asking = [
            threading.Thread(target=client.post, args=("/search",), kwargs={"json": {"text": f"{number} words"}})
            for number in (1, 2)
        ]
        asking[0].start()
        encoder.wait_until_entered()
        asking[1].start()
        until(lambda: Scrape(client).value("anykey_queue_items", queue="encoder") == 1, "the second query waits")
        assert client.post("/search", json={"text": "one too many"}).status_code == 429
        scrape = Scrape(client)
        encoder.gate.set()
        for one in asking:
            one.join(WAIT_S)
    assert scrape.value("anykey_refusals_total", reason="encoder_queue_full") == 1
    assert scrape.value("anykey_requests_under_way") == 3, "two that wait, and this one"
    assert scrape.value("anykey_bodies") == 2


def test_an_index_that_tells_nothing_leaves_the_other_metrics() -> None:
    class Silent(MemoryIndex):
        def info(self) -> IndexInfo:
            raise IndexUnavailableError("gone")

    encoder = FakeEncoder()
    with serving(encoder, Silent(encoder, KEYS)) as client:
        scrape = Scrape(client)
    assert scrape.value("anykey_build_info") == 1
    assert not [s for s in scrape.samples if s.name == "anykey_index_keys"]


def test_an_index_that_counts_long_is_asked_rarely() -> None:
    class Slow(MemoryIndex):
        num_asked = 0

        def info(self) -> IndexInfo:
            self.num_asked += 1
            time.sleep(0.2)
            return super().info()

    encoder = FakeEncoder()
    index = Slow(encoder, KEYS)
    with serving(encoder, index) as client:
        found = [Scrape(client).value("anykey_index_keys") for _ in range(3)]
        time.sleep(1.1)  # for which an answer is kept for all who ask
        assert [*found, Scrape(client).value("anykey_index_keys")] == [len(KEYS)] * 4
    assert index.num_asked == 1


def test_a_port_of_its_own_has_them_and_nothing_else() -> None:
    encoder = FakeEncoder()
    app = create_app(make_settings(), encoder=encoder, index=MemoryIndex(encoder, KEYS))
    with listen("127.0.0.1", 0) as listener:
        app.state.lifecycle.metrics_listener = listener
        address = f"http://127.0.0.1:{port_of(listener)}"
        with running(app) as service, httpx.Client(base_url=address, trust_env=False, timeout=WAIT_S) as client:
            assert service.post("/search", json={"text": "a page"}).status_code == 200
            assert Scrape(client).value("anykey_requests_total", route="/search") == 1
            assert Scrape(client, accept=OPENMETRICS).media_type.startswith("application/openmetrics-text")
            assert "WHERE TIME GOES" in client.get("/metrics-summary").text
            assert client.head("/metrics").status_code == 200
            assert [client.get("/search").status_code, client.post("/metrics").status_code] == [404, 404]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/metrics", trust_env=False)


def test_quantiles_are_those_of_the_times_themselves() -> None:
    seconds = np.random.default_rng(0).lognormal(-5, 1.5, 5000)
    times = StageTimes()
    times.add([request_of(each) for each in seconds])
    counts_B = times.since_start()["photos", "/search"].counts_SB[STAGES.index("total")]
    assert counts_B.sum() == len(seconds)
    for share in (0.5, 0.9, 0.99):
        assert quantile(counts_B, share) == pytest.approx(float(np.quantile(seconds, share)), rel=0.1)
    for bound, so_far in zip(FINE_BOUNDS_S, np.cumsum(counts_B), strict=False):
        assert so_far == (seconds <= bound).sum()


def test_old_times_leave_the_last_minutes_and_not_the_rest() -> None:
    now_s = 1000.0
    times = StageTimes(clock=lambda: now_s)
    place = ("photos", "/search")
    times.add([request_of(0.1)])
    now_s += RECENT_S / 2
    times.add([request_of(0.2), request_of(0.2)])

    def numbers() -> tuple[int, int]:
        both = (times.lately(), times.since_start())
        lately, all_of_them = (int(each[place].counts_SB[-1].sum()) if place in each else 0 for each in both)
        return lately, all_of_them

    assert numbers() == (3, 3)
    now_s += RECENT_S / 2
    assert numbers() == (2, 3)
    now_s += RECENT_S
    assert numbers() == (0, 3)


def request_of(seconds: float) -> RequestRecord:
    """One that took so long."""
    record = RequestRecord("id", 50.0)
    record.ended_s = 50.0 + seconds
    record.index, record.route, record.method, record.status = "photos", "/search", "POST", 200
    return record
