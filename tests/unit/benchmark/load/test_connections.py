"""Connections are kept, replaced when they end, and give whole answers or an error."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing

import pytest

from anykey.benchmark.errors import EndpointUnreachableError
from anykey.benchmark.load.connections import BrokenAnswerError, Connections
from tests.unit.benchmark.test_client import closed_port

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n"
LAST = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[tuple[str, list[list[bytes]]]]:
    """A server that answers the requests of all connections in this order, and then ends each; what each was asked."""
    asked: list[list[bytes]] = []
    left = iter(answers)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(mine := [])
        with closing(writer):
            while True:
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                    size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                    mine.append(head + await reader.readexactly(size))
                except (asyncio.IncompleteReadError, ConnectionError):
                    return
                answer = next(left, b"")
                writer.write(answer)
                if answer not in (OK, CHUNKED):
                    return

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
        await asyncio.sleep(0.02)  # in which the server sees that its connections ended


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 20.0))


@pytest.mark.parametrize("answer", [OK, CHUNKED])
def test_one_connection_serves_requests_that_follow_each_other(answer: bytes) -> None:
    async def work() -> None:
        async with answering(answer, answer, answer) as (url, asked), Connections(f"{url}/shop/") as connections:
            for number in range(3):
                reply = await connections.post("/search", b"%d" % number)
                assert (reply.status, reply.body) == (200, b"ok")
                assert 0 <= asyncio.get_running_loop().time() - reply.received_s < 5
            assert len(asked) == 1
            assert [request.split(b"\r\n")[0] for request in asked[0]] == [b"POST /shop/search HTTP/1.1"] * 3
            assert [request[-1:] for request in asked[0]] == [b"0", b"1", b"2"]

    run(work)


def test_requests_at_once_have_a_connection_each() -> None:
    async def work() -> None:
        async with answering(*[OK] * 5) as (url, asked), Connections(url) as connections:
            await asyncio.gather(*[connections.post("/search", b"{}") for _ in range(4)])
            await connections.post("/search", b"{}")
            assert sorted(map(len, asked)) == [1, 1, 1, 2]

    run(work)


def test_a_connection_that_the_server_ends_is_replaced() -> None:
    async def work() -> None:
        async with answering(LAST, OK) as (url, asked), Connections(url) as connections:
            for _ in range(2):
                assert (await connections.post("/search", b"{}")).body == b"ok"
            assert len(asked) == 2

    run(work)


@pytest.mark.parametrize("answer", [b"", OK[:-1], b"nonsense\r\n\r\n"], ids=["nothing", "a part", "no HTTP"])
def test_an_answer_that_is_not_whole_is_an_error(answer: bytes) -> None:
    async def work() -> None:
        async with answering(answer, OK) as (url, _), Connections(url) as connections:
            with pytest.raises(BrokenAnswerError):
                await connections.post("/search", b"{}")
            assert (await connections.post("/search", b"{}")).body == b"ok"

    run(work)


def test_an_address_where_nothing_listens_is_named() -> None:
    async def work(url: str) -> None:
        with pytest.raises(EndpointUnreachableError, match=f"nothing answers at {url}"):
            async with Connections(url):
                pass

    with closed_port() as url:
        run(lambda: work(url))


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", ""])
def test_what_is_no_address_is_named(url: str) -> None:
    with pytest.raises(EndpointUnreachableError, match="is no URL"):
        Connections(url)
