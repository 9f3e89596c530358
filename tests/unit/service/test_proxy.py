"""Protects the service behind a reverse proxy: addresses work under a prefix, and only trusted proxies are believed."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx
import pytest

from anykey.index.faiss_index import FaissIndex
from anykey.program.settings import UsageError, load_settings
from anykey.service.settings import ServiceSettings
from tests.fakes import FakeEncoder
from tests.http_handlers import handled
from tests.serving import WAIT_S, serving

PREFIX = "/shop/anykey"


@contextmanager
def proxied(service: httpx.Client, prefix: str, is_stripped: bool, sent: dict[str, str]) -> Iterator[httpx.Client]:
    """A client of a proxy that shows the service under a prefix, and nothing anywhere else."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if not self.path.startswith(f"{prefix}/"):
                self.send_error(404)
                return
            path = self.path.removeprefix(prefix) if is_stripped else self.path
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            answer = service.request(self.command, path, content=body, headers={**headers, **sent})
            self.send_response(answer.status_code)
            self.send_header("content-type", answer.headers["content-type"])
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Stays quiet."""

    with (
        handled(Proxy) as address,
        httpx.Client(base_url=address, timeout=WAIT_S, trust_env=False) as client,
    ):
        yield client


@pytest.mark.parametrize("is_stripped", [True, False], ids=["stripped", "left"])
@pytest.mark.parametrize(("prefix", "is_said"), [(PREFIX, True), (PREFIX, False), ("/shop/keys", True)])
def test_the_service_works_under_a_prefix(
    is_stripped: bool, prefix: str, is_said: bool, wire_encoder: FakeEncoder, wire_index: FaissIndex
) -> None:
    settings: dict[str, Any] = {} if is_said else {"root_path": f"{prefix}/"}
    sent = {"X-Forwarded-Prefix": prefix} if is_said else {}
    with (
        serving(wire_encoder, wire_index, **settings) as service,
        proxied(service, prefix, is_stripped, sent) as client,
    ):
        hits = client.post(f"{prefix}/search", json={"text": "a", "k": 100}).json()["hits"]
        addresses = [address for hit in hits for address in hit["payload"]["image_urls"]]
        assert len(addresses) == 7
        for address in addresses:
            assert address.startswith(f"{prefix}/keys/")
            assert client.get(address).headers["content-type"] == "image/png"
        for key in ("a%2Fb%3Ac", "shelf%2Fimage", "Schl%C3%BCssel%20%E9%8D%B5%20%2541"):
            assert client.get(f"{prefix}/keys/{key}").status_code == 200
        page = client.get(f"{prefix}/docs").text
        for address in (f"{prefix}/openapi.json", f"{prefix}/static-offline-docs/swagger-ui-bundle.js"):
            assert address in page
            assert client.get(address).status_code == 200
        assert client.get(f"{prefix}/openapi.json").json()["servers"][0]["url"] == prefix
        assert service.get("/readyz").status_code == 200, "probes go past the proxy"


@pytest.mark.parametrize(
    ("proxies", "is_believed"),
    [(["127.0.0.1", "::1"], True), (["127.0.0.0/8"], True), (["*"], True), (["10.0.0.0/8", "fd00::/8"], False)],
    ids=str,
)
def test_only_a_trusted_proxy_is_believed(
    proxies: list[str], is_believed: bool, wire_encoder: FakeEncoder, wire_index: FaissIndex
) -> None:
    with serving(wire_encoder, wire_index, forwarded_allow_ips=proxies) as service:
        answer = service.get("/keys/red", headers={"x-forwarded-prefix": "/elsewhere"}).json()
        address = "/elsewhere/keys/red/image" if is_believed else "/keys/red/image"
        assert answer["payload"]["image_urls"] == [address]


def test_several_proxies_each_add_their_prefix(client: httpx.Client) -> None:
    for headers in ([("x-forwarded-prefix", "/a, /b/")], [("x-forwarded-prefix", "/a"), ("x-forwarded-prefix", "/b")]):
        assert client.get("/keys/red", headers=headers).json()["payload"]["image_urls"] == ["/a/b/keys/red/image"]
    assert client.get("/keys/red", headers={"x-forwarded-prefix": "/"}).json()["payload"]["image_urls"] == [
        "/keys/red/image"
    ]


@pytest.mark.parametrize("prefix", ["//evil.example", "/a/../b", "a", "http://evil.example", "/a'b", "/%2e%2e", "/a b"])
def test_a_prefix_that_is_no_path_is_refused(prefix: str, client: httpx.Client) -> None:
    answer = client.get("/livez", headers={"x-forwarded-prefix": prefix})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("header X-Forwarded-Prefix: expected a path such as /anykey")


@pytest.mark.parametrize("prefix", ["/search", "/keys", "/keys/search", "/, /docs/", "/info,/a"])
def test_a_prefix_that_begins_like_an_own_address_is_refused(prefix: str, client: httpx.Client) -> None:
    answer = client.get("/keys/red", headers={"x-forwarded-prefix": prefix})
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert message.startswith("header X-Forwarded-Prefix: expected a path that begins with none of search, info, keys")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--root-path", "anykey"),
        ("--root-path", "//host"),
        ("--root-path", "/keys"),
        ("--root-path", "/docs/a"),
        ("--forwarded-allow-ips", "proxy.example"),
        ("--keep-alive-s", "0"),
        ("--max-bodies-bytes", "1024"),
    ],
)
def test_a_wrong_setting_is_refused(flag: str, value: str) -> None:
    with pytest.raises(UsageError, match=flag[2:].replace("-", "_")):
        load_settings(ServiceSettings, "anykey-serve", [flag, value])
