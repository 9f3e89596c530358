"""Protects who may call: each route asks for its scope, keys are kept as hashes, and changes of the file are taken."""

import io
import logging
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import BaseRoute, Mount

from anykey.client import Client, ForbiddenError, UnauthorizedError
from anykey.index.faiss_index import FaissIndex
from anykey.service.access.api_keys import AccessScope, keys_in, make_key, written
from anykey.service.access.guard import GuardedRoute
from anykey.service.access.needs import NEEDS, Need
from anykey.service.app import create_app
from anykey.service.commands import run
from anykey.service.errors import StartupError
from anykey.service.logs import JsonFormatter
from tests.fakes import FakeEncoder
from tests.serving import make_settings, serving, until

OF_THE_FRAMEWORK = ("/openapi.json", "/docs", "/docs/oauth2-redirect", "/static-offline-docs")  # open to all
SCOPES = [scope.value for scope in AccessScope]


class Keys:
    """A file of API keys with one for each scope, and what is sent for each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tokens: dict[str, str] = {}
        for scope in AccessScope:
            self.add(scope.value, scope)

    def add(self, name: str, *scopes: AccessScope, **fields: Any) -> str:
        """Adds a key as the command does; gives it."""
        made = make_key(name, scopes, **fields)
        known = keys_in(self.path.read_bytes(), self.path) if self.path.exists() else ()
        aside = self.path.with_suffix(".aside")
        aside.write_bytes(written([*known, made.key]))
        os.replace(aside, self.path)
        self.tokens[name] = made.token
        return made.token

    def headers(self, name: str) -> dict[str, str]:
        """What a holder of the key sends."""
        return {"authorization": f"Bearer {self.tokens[name]}"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    keys = Keys(tmp_path_factory.mktemp("access") / "keys.json")
    keys.add("late", AccessScope.SEARCH, expires=datetime.now(UTC) - timedelta(seconds=1))
    keys.add("own", AccessScope.SEARCH, AccessScope.WRITE, indexes=["default"])
    keys.add("another", AccessScope.ADMIN, indexes=["another"])
    return keys


@pytest.fixture(scope="module")
def guarded(keys: Keys, wire_encoder: FakeEncoder, wire_index: FaissIndex) -> Iterator[httpx.Client]:
    with serving(wire_encoder, wire_index, api_keys=keys.path, cors_origins=["https://shop.example"]) as client:
        yield client


def asked(client: httpx.Client, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    """An answer to a request that says nothing that would be answered with 401 or 403 by itself."""
    path = path.replace("{key:path}", "red").replace("{index_name}", "default").replace("{model:path}", "anykey")
    path = path.replace("{name}", "main.js")
    return client.request(method, path, headers=headers)


def test_each_route_lets_in_the_scope_of_the_table_and_no_other(guarded: httpx.Client, keys: Keys) -> None:
    for need, routes in NEEDS.items():
        for route in routes:
            method, path = route.split(" ")
            other = "search" if need == "embed" else "embed"
            let_in = {
                name: asked(guarded, method, path, keys.headers(name)).status_code not in (401, 403)
                for name in (other, str(need))
                if name in SCOPES
            }
            assert let_in == {name: isinstance(need, Need) or name == need for name in let_in}, route
            without = asked(guarded, method, path, {})
            assert (without.status_code == 401) == (need is not Need.NOTHING), route
            if without.status_code == 401:
                assert without.headers["www-authenticate"].startswith("Bearer")


def routes_of(routes: list[BaseRoute]) -> Iterator[BaseRoute]:
    for route in routes:
        if isinstance(route, Mount) and route.routes and not route.path.startswith(OF_THE_FRAMEWORK):
            yield from routes_of(route.routes)
        else:
            yield route


def test_no_route_is_without_a_guard() -> None:
    found = list(routes_of(create_app(make_settings()).routes))
    unguarded = {getattr(route, "path", "") for route in found if not isinstance(route, GuardedRoute)}
    assert unguarded == set(OF_THE_FRAMEWORK)
    served = {f"{method} {route.path}" for route in found if isinstance(route, GuardedRoute) for method in route.needs}
    assert served == {route for routes in NEEDS.values() for route in routes}
    with pytest.raises(KeyError, match="GET /new"):
        GuardedRoute("/new", lambda: None)


def test_a_key_comes_in_either_header_and_is_told_what_is_wrong(guarded: httpx.Client, keys: Keys) -> None:
    token, other = keys.tokens["search"], keys.tokens["write"]

    def search(**headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return guarded.post("/search", json={"text": "a"}, headers=sent)

    basic = "Basic dXNlcjpwYXNz"
    for taken in (
        {"authorization": f"bearer  {token}"},
        {"api_key": token},
        {"authorization": f"Bearer {token}", "api_key": token},
        {"authorization": basic, "api_key": token},  # of a proxy in front
    ):
        assert search(**taken).status_code == 200, taken
    for refused, status, words in (
        ({}, 401, "expected an API key with scope search"),
        ({"authorization": "Bearer"}, 401, "another scheme"),
        ({"api_key": ""}, 401, "expected an API key"),
        ({"authorization": basic}, 401, "another scheme"),
        ({"authorization": token}, 401, "another scheme"),
        ({"authorization": f"Bearer {token}x"}, 401, "not known"),
        ({"api_key": "x" * 8000}, 401, "not known"),
        ({"authorization": f"Bearer {token}", "api_key": other}, 400, "different ones"),
        ({"authorization": f"Bearer {keys.tokens['late']}"}, 401, "'late' has expired"),
        ({"authorization": f"Bearer {keys.tokens['embed']}"}, 403, "'embed' lacks the scope search; it has embed"),
    ):
        answer = search(**refused)
        assert answer.status_code == status, refused
        error = answer.json()["error"]
        assert error["type"] == {400: "invalid_request", 401: "unauthorized", 403: "forbidden"}[status]
        assert words in error["message"]
        assert token not in answer.text


def test_refusals_speak_the_dialect_and_a_browser_may_read_them(guarded: httpx.Client) -> None:
    qdrant = guarded.post("/collections/default/points/query", json={}).json()
    assert qdrant["status"]["error"] == qdrant["error"]["message"]
    cohere = guarded.post("/v2/embed", json={}).json()
    assert cohere["message"] == cohere["detail"] == cohere["error"]["message"]
    refused = guarded.post("/search", json={}, headers={"origin": "https://shop.example"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://shop.example"


def test_a_limited_key_sees_its_indexes_and_no_others(guarded: httpx.Client, keys: Keys) -> None:
    own, other = keys.headers("own"), keys.headers("another")
    assert [one["name"] for one in guarded.get("/indexes", headers=own).json()["indexes"]] == ["default"]
    listed = guarded.get("/indexes", headers=other).json()
    assert (listed["default"], listed["indexes"]) == (None, [])
    assert {name for one in listed["memory"]["encoders"] for name in one["indexes"]} == set()
    assert guarded.get("/collections", headers=other).json()["result"] == {"collections": []}
    assert guarded.get("/collections/default/exists", headers=other).json()["result"] == {"exists": False}
    assert guarded.get("/collections/default/exists", headers=own).json()["result"] == {"exists": True}
    for path in ("/indexes/default/search", "/collections/default/points/query"):
        hidden = guarded.post(path, json={"text": "a"}, headers=other)
        absent = guarded.post(path.replace("default", "absent"), json={"text": "a"}, headers=other)
        assert (hidden.status_code, absent.status_code) == (404, 404)
        assert hidden.json()["error"]["message"] == absent.json()["error"]["message"].replace("absent", "default")
    nameless = guarded.post("/search", json={"text": "a"}, headers=other)
    assert nameless.status_code == 403
    assert "limited to another" in nameless.json()["error"]["message"]
    assert guarded.post("/indexes/default/search", json={"text": "a"}, headers=own).status_code == 200
    assert "default" not in guarded.get("/indexes/absent/readyz").text, "names are for those who may see them"


def test_access_tells_what_a_caller_may_do(guarded: httpx.Client, client: httpx.Client, keys: Keys) -> None:
    def told(headers: dict[str, str]) -> list[Any]:
        answer = guarded.get("/access", headers=headers)
        assert answer.status_code == 200
        return list(answer.json().values())

    assert told(keys.headers("own")) == [True, "own", ["search", "write"], ["default"]]
    assert told(keys.headers("admin")) == [True, "admin", SCOPES, None]
    assert told({}) == told({"api-key": "x"}) == told(keys.headers("late")) == [True, None, [], None]
    assert list(client.get("/access").json().values()) == [False, None, SCOPES, None]
    assert client.post("/search", json={"text": "a"}, headers={"api-key": "whatever"}).status_code == 200


def test_what_is_open_to_everybody_stays_so_beside_keys(
    keys: Keys, wire_encoder: FakeEncoder, wire_index: FaissIndex
) -> None:
    with serving(wire_encoder, wire_index, api_keys=keys.path, anonymous_scopes=["search"]) as client:
        assert client.post("/search", json={"text": "a"}).status_code == 200
        assert client.get("/info").status_code == 200
        assert client.post("/embed", json={"items": [{"text": "a"}]}).status_code == 401
        assert client.post("/search", json={"text": "a"}, headers=keys.headers("late")).status_code == 401
        assert client.get("/access").json()["scopes"] == ["search"]


def test_changes_of_the_file_are_taken_and_damage_takes_no_key_away(
    tmp_path: Path, wire_encoder: FakeEncoder, wire_index: FaissIndex
) -> None:
    keys, log = Keys(tmp_path / "keys.json"), io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("anykey.service")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        with serving(wire_encoder, wire_index, api_keys=keys.path) as client:

            def may(name: str) -> bool:
                return client.post("/search", json={"text": "a"}, headers=keys.headers(name)).status_code == 200

            keys.add("new", AccessScope.SEARCH)
            until(lambda: may("new"), "the new key is taken", wait_s=2)
            good = keys.path.read_bytes()
            keys.path.write_bytes(good[: len(good) // 2])
            until(lambda: "api_keys_unreadable" in log.getvalue(), "the damage is logged", wait_s=2)
            assert may("new")
            keys.path.unlink()
            until(lambda: log.getvalue().count("api_keys_unreadable") == 2, "the loss is logged", wait_s=2)
            assert may("new")
            keys.path.write_bytes(written([key for key in keys_in(good, keys.path) if key.name != "new"]))
            until(lambda: not may("new"), "the revoked key is refused", wait_s=2)
            assert may("search")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    said = log.getvalue()
    assert '"api_key": "search"' in said, "the log says who asked"
    for token in keys.tokens.values():
        assert token not in said
    assert not any(key.sha256 in said for key in keys_in(good, keys.path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "no JSON object"),
        (b'{"keys": 3}', "keys: "),
        (b'{"keys": [{"name": "a"}]}', "keys.0.sha256"),
        (b'{"keys": [], "more": 1}', "more"),
    ],
)
def test_a_start_without_its_keys_says_what_is_wrong(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartupError, match=words) as caught:
        create_app(make_settings(api_keys=path))
    assert str(path) in str(caught.value)


def test_two_keys_of_one_name_or_hash_are_damage(tmp_path: Path) -> None:
    one, other = (make_key("shop", [AccessScope.SEARCH]).key for _ in range(2))
    path = tmp_path / "keys.json"
    for twice in ([one, other], [one, one.model_copy(update={"name": "other"})]):
        path.write_bytes(written(twice))
        with pytest.raises(StartupError, match="once"):
            create_app(make_settings(api_keys=path))


def test_commands_make_list_and_revoke_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.json"

    def ran(*words: str) -> tuple[int, str, str]:
        code = run(["keys", *words, "--api-keys", str(path)])
        out, err = capsys.readouterr()
        return code, out.strip(), err

    code, token, said = ran("add", "--name", "shop", "--scopes", "search,embed", "--indexes", "a,b", "--expires", "90d")
    assert (code, "shop" in said, token in said) == (0, True, False)
    assert token.startswith("anykey_")
    assert len(token) == len("anykey_") + 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token not in path.read_text()
    assert token.removeprefix("anykey_") not in path.read_text()
    path.chmod(0o640)
    with ThreadPoolExecutor(4) as threads:  # none is lost, though each writes the whole file
        names = [f"key{number}" for number in range(8)]
        codes = list(threads.map(lambda name: run(["keys", "add", "--api-keys", str(path), "--name", name,
                                                   "--scopes", "search"]), names))  # fmt: skip
    capsys.readouterr()
    assert codes == [0] * 8
    assert stat.S_IMODE(path.stat().st_mode) == 0o640, "who may read it is for its owner to say"
    (shop, *others) = keys_in(path.read_bytes(), path)
    assert (shop.name, shop.indexes, [key.name for key in others]) == ("shop", ("a", "b"), names) or sorted(
        key.name for key in others
    ) == names
    assert shop.expires is not None
    assert timedelta(days=89) < shop.expires - datetime.now(UTC) <= timedelta(days=90)
    _, listed, _ = ran("list")
    assert "search,embed" in listed
    assert "a,b" in listed
    assert all(name in listed for name in names)
    assert ran("revoke", "--name", "shop")[0] == 0
    assert "shop" not in ran("list")[1]
    for words, told in (
        (["add", "--name", "key1", "--scopes", "search"], "there is a key 'key1' already"),
        (["add", "--name", "a b", "--scopes", "search"], "setting 'name'"),
        (["add", "--name", "x", "--scopes", "all"], "setting 'scopes"),
        (["add", "--name", "x", "--scopes", "search", "--expires", "2020-01-01"], "a time to come"),
        (["revoke", "--name", "nobody"], "there is no key 'nobody'"),
    ):
        code, _, error = ran(*words)
        assert (code, told in error, error.count("\n")) == (2, True, 1), error
    path.write_bytes(b"{")
    for words in (["add", "--name", "x", "--scopes", "search"], ["list"], ["revoke", "--name", "x"]):
        code, _, error = ran(*words)
        assert (code, str(path) in error) == (1, True)
        assert path.read_bytes() == b"{", "what cannot be read is not written over"


def test_the_client_sends_its_key(guarded: httpx.Client, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(guarded.base_url)
    with Client(url, api_key=keys.tokens["search"]) as client:
        assert client.search(text="a").hits
        assert client.access().name == "search"
        with pytest.raises(ForbiddenError, match="lacks the scope write"):
            client.delete("red")
    monkeypatch.setenv("ANYKEY_API_KEY", keys.tokens["search"])
    with Client(url) as client:
        assert client.search(text="a").hits
    with Client(url, api_key="") as client, pytest.raises(UnauthorizedError):
        client.search(text="a")
