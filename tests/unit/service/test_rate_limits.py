"""Protects the limits of each caller: what is counted, whose it is, what a refusal says, and that Redis is none."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from anykey.index.faiss_index import FaissIndex
from anykey.program.settings import UsageError, load_settings
from anykey.service.access.api_keys import AccessScope, make_key, written
from anykey.service.app import create_app
from anykey.service.settings import ServiceSettings
from tests.fakes import FakeEncoder
from tests.service_inputs import as_base64, png
from tests.serving import make_settings, serving

ORIGIN = "https://shop.example"


@pytest.fixture
def limited(wire_encoder: FakeEncoder, wire_index: FaissIndex) -> Any:
    """Serves under limits."""

    @contextmanager
    def serve(**settings: Any) -> Iterator[httpx.Client]:
        with serving(wire_encoder, wire_index, **settings) as client:
            yield client

    return serve


def search(client: httpx.Client, sender: str = "192.0.2.1", **fields: Any) -> httpx.Response:
    """Searches on behalf of an address, as a proxy would."""
    return client.post("/search", json=fields or {"text": "a"}, headers={"x-forwarded-for": sender, "origin": ORIGIN})


def test_more_requests_than_allowed_are_refused_and_told_when_to_come_again(limited: Any) -> None:
    with limited(limit_requests=["3/hour", "1000/day"], cors_origins=[ORIGIN]) as client:
        assert [search(client).status_code for _ in range(4)] == [200, 200, 200, 429]
        refused = search(client)
        error = refused.json()["error"]
        assert error["type"] == "rate_limited"
        assert "at most 3 requests in 3600 s" in error["message"]
        wait_s = int(refused.headers["retry-after"])
        assert 1 <= wait_s <= 3600
        assert refused.headers["ratelimit"] == f'"requests-3600s";r=0;t={wait_s}'
        assert refused.headers["ratelimit-policy"] == '"requests-3600s";q=3;w=3600, "requests-86400s";q=1000;w=86400'
        assert "RateLimit" in refused.headers["access-control-expose-headers"]
        assert search(client, "192.0.2.2").status_code == 200, "another address has its own"
        assert client.get("/livez").status_code == client.get("/readyz").status_code == 200
        assert client.post("/search", content=b"{", headers={"x-forwarded-for": "192.0.2.1"}).status_code == 429


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("203.0.113.9, 192.0.2.1", "198.51.100.7, 192.0.2.1", True),  # what the sender itself put there counts nothing
        ("192.0.2.1, 127.0.0.1", "192.0.2.1", True),  # another proxy that is believed
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("nonsense", "other nonsense", True),
    ],
)
def test_an_address_is_what_the_proxy_says(limited: Any, first: str, second: str, is_same: bool) -> None:
    with limited(limit_requests=["1/hour"]) as client:
        assert search(client, first).status_code == 200
        assert (search(client, second).status_code == 429) == is_same


def test_nobody_else_is_believed(limited: Any) -> None:
    with limited(limit_requests=["1/hour"], forwarded_allow_ips=["10.0.0.0/8"]) as client:
        assert [search(client, sender).status_code for sender in ("192.0.2.1", "192.0.2.2")] == [200, 429]


def test_each_key_has_its_own_limits(limited: Any, tmp_path: Path) -> None:
    made = [make_key(name, [AccessScope.SEARCH]) for name in ("one", "other")]
    path = tmp_path / "keys.json"
    path.write_bytes(written(each.key for each in made))
    with limited(limit_requests=["1/hour"], api_keys=path) as client:
        for token in (each.token for each in made):
            headers = {"api-key": token}
            codes = [client.post("/search", json={"text": "a"}, headers=headers).status_code for _ in range(2)]
            assert codes == [200, 429]


def test_images_are_counted_before_they_are_decoded(limited: Any) -> None:
    image, broken = as_base64(png((250, 0, 0))), as_base64(b"no image at all")
    with limited(limit_images=["3/hour"]) as client:
        assert search(client, image=[image, image]).status_code == 200
        assert search(client, image=[image, broken]).status_code == 429
        assert search(client, image=broken).status_code == 422
        assert search(client, image=image).status_code == 429
        assert search(client, text="a").status_code == 200
    for path, body in (
        ("/search/batch", {"queries": [{"image": image}, {"parts": [{"image": image}, {"text": "a"}]}]}),
        ("/embed", {"items": [{"image": image}, {"image": image}, {"text": "a"}]}),
        ("/v1/embeddings", {"input": [f"data:image/png;base64,{image}"] * 2}),
        ("/rerank", {"query": {"image": image}, "documents": [{"image": image}, "a"]}),
        ("/collections/default/points/query", {"query": {"image": image, "model": "anykey"}}),
    ):
        with limited(limit_images=["2/hour"]) as client:
            codes = [client.post(path, json=body).status_code for _ in range(3)]
            assert codes[0] == 200, path
            assert codes[-1] == 429, path


def test_bytes_are_counted_however_they_come(limited: Any) -> None:
    body = b'{"text": "a"}'
    with limited(limit_bytes=["30/hour"]) as client:
        headers = {"content-type": "application/json"}
        assert [client.post("/search", content=body, headers=headers).status_code for _ in range(3)] == [200, 200, 429]
    with limited(limit_bytes=["30/hour"]) as client:
        pieces = [client.post("/search", content=iter([body]), headers=headers).status_code for _ in range(3)]
        assert pieces == [200, 200, 429]
        whole = client.post("/search", content=b" " * 31, headers=headers)
        assert "this request has 31" in whole.json()["error"]["message"]


def test_redis_that_is_away_refuses_nobody_and_limits_hold_here(limited: Any) -> None:
    with limited(limit_requests=["2/hour"], redis_url="redis://127.0.0.1:9/0", redis_timeout_ms=1000) as client:
        assert [search(client).status_code for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize("limit", ["100", "0/minute", "x/minute", "5/fortnight", "-1/second", "5/0 second"])
def test_what_is_no_limit_is_refused(limit: str) -> None:
    with pytest.raises(UsageError, match="expected limits such as"):
        load_settings(ServiceSettings, "anykey-serve", [f"--limit-requests={limit}"])
    good = load_settings(ServiceSettings, "anykey-serve", ["--limit-requests", "20/second,1000/2 hours,5 per day"])
    create_app(make_settings(limit_requests=good.limit_requests))
