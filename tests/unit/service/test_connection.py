"""Protects the service from more connections than it may have: those that are served go on, the rest are told."""

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from anykey.encoder.item import Item
from anykey.service.app import create_app
from tests.serving import WAIT_S, GatedEncoder, MemoryIndex, make_settings, running, serving, stored, until
from tests.unit.service.test_tls import make_certificate

MOST = 16
LIVE = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /search HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
ASKED = b'{"text": "a note"}'
FULL = b"HTTP/1.1 503"
REFUSED = 'anykey_refusals_total{reason="connections_full"}'


@pytest.fixture
def encoder() -> Iterator[GatedEncoder]:
    encoder = GatedEncoder()
    yield encoder
    encoder.gate.set()


@contextmanager
def service(encoder: GatedEncoder, **settings: object) -> Iterator[httpx.Client]:
    index = MemoryIndex(encoder, [stored("note", Item(text="a note"))])
    encoder.wait_until_entered()
    with serving(encoder, index, max_connections=MOST, **settings) as client:
        client.headers["connection"] = "close"
        yield client


@pytest.fixture
def small(encoder: GatedEncoder) -> Iterator[httpx.Client]:
    """A service that takes few connections, whose encoder the test holds."""
    with service(encoder) as client:
        yield client


def connect(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=WAIT_S)


def answer(connection: socket.socket) -> bytes:
    """All that comes until the other side closes the connection."""
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def metric(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(name + " ")).rpartition(" ")[2])


@contextmanager
def searches(client: httpx.Client, encoder: GatedEncoder, number: int = MOST) -> Iterator[list[Future[bytes]]]:
    """So many searches under way, each on a connection of its own, until the block ends; then their answers."""
    encoder.gate.clear()
    with ThreadPoolExecutor(number) as pool, ExitStack() as stack:
        connections = [stack.enter_context(connect(client)) for _ in range(number)]
        for connection in connections:  # each has its place before anybody else comes
            connection.sendall(b"HEAD" + LIVE.removeprefix(b"GET"))
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        for connection in connections:
            connection.sendall(POST.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) % len(ASKED) + ASKED)
        until(lambda: metric(client, "anykey_requests_under_way") > number, "all searches are under way")
        answers = [pool.submit(answer, connection) for connection in connections]
        try:
            yield answers
        finally:
            encoder.gate.set()
        for each in answers:
            assert each.result(WAIT_S).startswith(b"HTTP/1.1 200")


def test_one_more_than_allowed_is_told_and_those_under_way_are_answered(
    small: httpx.Client, encoder: GatedEncoder
) -> None:
    with searches(small, encoder):
        for body in (ASKED, b'{"text": "' + b"a" * 3_000_000 + b'"}'):
            with connect(small) as connection:
                connection.sendall(POST % len(body) + body)
                head, _, told = answer(connection).partition(b"\r\n\r\n")
            assert head.startswith(FULL)
            assert b"\r\nretry-after: 1\r\n" in head
            assert b"\r\nconnection: close\r\n" in head
            assert json.loads(told)["error"]["type"] == "too_many_connections"
        assert small.post("/search", json={"text": "a note"}).status_code == 503
        until(lambda: metric(small, REFUSED) == 3, "the three have left, and no other was refused")
    until(lambda: small.post("/search", json={"text": "a note"}).status_code == 200, "there is room again")


def test_probes_are_answered_where_there_is_no_room_but_not_without_end(
    small: httpx.Client, encoder: GatedEncoder
) -> None:
    with searches(small, encoder), ExitStack() as stack:
        for path in ("/livez", "/readyz", "/readyz?a=b", "/metrics"):
            response = small.get(path, headers={"connection": "keep-alive"})
            assert (response.status_code, response.headers["connection"]) == (200, "close")
        assert small.get("/livezz").status_code == 503
        held = 0
        while not is_refused(stack.enter_context(connect(small)), LIVE[:-2]):  # the end of the head does not come
            held += 1
        assert held >= MOST


def test_a_connection_that_asks_nothing_gives_its_place(small: httpx.Client) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(small)) for _ in range(MOST)]
        idle[1].sendall(b"GET /li")  # and comes no further
        time.sleep(1.1)
        idle[0].sendall(LIVE)
        assert idle[0].recv(65_536).startswith(b"HTTP/1.1 200")  # so that it is the last to give its place
        for _ in range(4):
            newer = stack.enter_context(connect(small))
            newer.sendall(LIVE)
            assert newer.recv(12) == b"HTTP/1.1 200"
        ended = [connection for connection in idle if has_ended(connection)]
        assert len(ended) == 4
        assert idle[0] not in ended
        for connection in set(idle).difference(ended):
            connection.sendall(LIVE)
            assert connection.recv(12) == b"HTTP/1.1 200", "only as many are closed as are needed"
        assert metric(small, "anykey_connections_displaced_total") == 4


def test_a_crowd_of_connections_is_bounded_and_all_are_answered(small: httpx.Client, encoder: GatedEncoder) -> None:
    with searches(small, encoder), ExitStack() as stack:
        with ExitStack() as crowded:
            crowd = [crowded.enter_context(connect(small)) for _ in range(MOST - 1)]
            assert metric(small, "anykey_connections") == MOST + 1, "and the one that asks"
            for connection in crowd:
                connection.sendall(POST % len(ASKED) + ASKED)
            assert all(answer(connection).startswith(FULL) for connection in crowd)
        until(lambda: metric(small, REFUSED) == len(crowd), "all have left")
        silent = [stack.enter_context(connect(small)) for _ in range(MOST + 5)]
        until(lambda: metric(small, REFUSED) >= len(crowd) + 5, "more than are refused at a time are not kept")
        assert sum(has_ended(connection) for connection in silent) in (5, 6), "the first ones, one for a probe"
        assert answer(silent[-1]).startswith(FULL), "who asks nothing is told, too, in a while"


def is_refused(connection: socket.socket, asked: bytes) -> bool:
    """Whether what is asked is answered 503 soon."""
    connection.sendall(asked)
    connection.settimeout(0.1)
    try:
        return connection.recv(12) == FULL
    except TimeoutError:
        return False


def has_ended(connection: socket.socket) -> bool:
    """Whether the other side has closed the connection without a word."""
    connection.settimeout(0.05)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    finally:
        connection.settimeout(WAIT_S)


def test_over_tls_too(tmp_path: Path, encoder: GatedEncoder) -> None:
    make_certificate(tmp_path, "one")
    trusted = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    settings = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}
    with service(encoder, **settings) as plain, ExitStack() as stack:

        def secure() -> socket.socket:
            return stack.enter_context(trusted.wrap_socket(connect(plain), server_hostname="127.0.0.1"))

        slow = [secure() for _ in range(MOST)]
        for connection in slow:
            connection.sendall(POST % 100)  # the body does not come
        asking = secure()
        asking.sendall(POST % len(ASKED) + ASKED)
        assert answer(asking).startswith(FULL)
        probe = secure()
        probe.sendall(LIVE)
        assert answer(probe).startswith(b"HTTP/1.1 200")
        slow[0].sendall(b" " * (100 - len(ASKED)) + ASKED)
        assert slow[0].recv(12) == b"HTTP/1.1 200"


@contextmanager
def slow_service(encoder: GatedEncoder, turn_s: float) -> Iterator[tuple[httpx.Client, threading.Event]]:
    """A service each of whose event loop's turns takes so long, from the request for `/slow` until the event is set."""
    is_over = threading.Event()

    async def slow(request: Request) -> Response:
        loop = asyncio.get_running_loop()

        def turn() -> None:
            if not is_over.is_set():
                time.sleep(turn_s)
                loop.call_soon(turn)

        turn()
        return Response()

    index = MemoryIndex(encoder, [stored("note", Item(text="a note"))])
    encoder.wait_until_entered()
    app = create_app(make_settings(), encoder=encoder, index=index)
    app.router.routes.append(Route("/slow", slow))
    with running(app) as client:
        client.headers["connection"] = "close"
        try:
            yield client, is_over
        finally:
            is_over.set()


def test_all_who_wait_are_taken_up_in_one_turn_of_the_event_loop(encoder: GatedEncoder) -> None:
    with slow_service(encoder, turn_s=0.05) as (client, _), ExitStack() as stack:
        client.get("/slow")
        begun_s = time.monotonic()
        connections = [stack.enter_context(connect(client)) for _ in range(100)]
        for connection in connections:
            connection.sendall(LIVE)
        assert all(connection.recv(12) == b"HTTP/1.1 200" for connection in connections)
        assert time.monotonic() - begun_s < 2.5, "one a turn would take five seconds"


def test_who_comes_while_the_event_loop_is_behind_for_long_is_told_so(encoder: GatedEncoder) -> None:
    with slow_service(encoder, turn_s=0.2) as (client, is_over):
        assert client.post("/search", json={"text": "a note"}).status_code == 200
        client.get("/slow")
        begun_s = time.monotonic()
        until(lambda: client.post("/search", json={"text": "a note"}).status_code == 429, "it is noticed")
        assert time.monotonic() - begun_s > 1.0, "what lasts less is no reason"
        refusal = client.post("/search", json={"text": "a note"})
        assert (refusal.status_code, refusal.json()["error"]["type"]) == (429, "overloaded")
        assert refusal.headers["retry-after"] == "1"
        assert client.get("/readyz").status_code == 200
        assert metric(client, REFUSED) >= 2
        is_over.set()
        until(lambda: client.post("/search", json={"text": "a note"}).status_code == 200, "as soon as it is not behind")
