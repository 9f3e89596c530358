"""Protects the line about a slow search: all of where time went, nothing of what was asked, and only of slow ones."""

import json
from typing import Any

import pytest

from anykey.index.faiss_index import FaissIndex
from anykey.service.logs import JsonFormatter, LogEvent
from tests.fakes import FakeEncoder
from tests.serving import serving

SECRET = "zebracrossing"


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Lines about slow queries, as they are written."""
    records = [record for record in caplog.records if getattr(record, "event", "") == LogEvent.SLOW_QUERY]
    return [json.loads(JsonFormatter().format(record)) for record in records]


def test_it_tells_where_time_went_and_nothing_of_the_query(
    wire_index: FaissIndex, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(FakeEncoder(), wire_index, slow_ms=0.001) as client:
        body = {"text": SECRET, "k": 3, "filter": {"field": SECRET, "gt": 1}, "modalities": ["image"]}
        answers = [client.post("/search", json=body).json() for _ in range(2)]
        two = [{"text": f"{SECRET} {number}"} for number in range(2)]
        assert client.post("/search/batch", json={"queries": two}).status_code == 200
        client.get("/keys/red")
    first, again, batch = lines(caplog)
    (query,) = first["queries"]
    assert (query["k"], query["modality"], query["structure"], query["num_keys"]) == (3, "text", "exact", 9)
    assert (query["num_in_scope"], query["is_scope_looked_up"], query["num_together"]) == (0, True, 1)
    assert query["timings_ms"]["encode"] == answers[0]["timings_ms"]["encode"]
    assert first["batches"][0]["num_items"] == 1
    assert set(first["stages_ms"]) == {"read", "decode", "queue", "encode", "search", "write", "total"}
    assert first["stages_ms"]["total"] == pytest.approx(first["duration_ms"])
    assert again["queries"][0]["result_cached"] is True
    assert "structure" not in again["queries"][0]
    assert batch["num_queries"] == len(batch["queries"]) == 2
    assert SECRET not in json.dumps([first, again, batch])


@pytest.mark.parametrize("slow_ms", [0, 600_000])
def test_none_is_written_of_those_that_are_not_slow(
    slow_ms: float, wire_index: FaissIndex, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(FakeEncoder(), wire_index, slow_ms=slow_ms) as client:
        assert client.post("/search", json={"text": "a page"}).status_code == 200
    assert lines(caplog) == []
