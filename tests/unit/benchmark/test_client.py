"""The client retries what asks for it, and believes no answer that is not a ranking."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from anykey.benchmark.client import Answer, SearchClient
from anykey.benchmark.connection import pause_after
from anykey.benchmark.errors import EndpointNotReadyError, EndpointUnreachableError, RequestFailedError
from tests.unit.benchmark.fake_service import FINGERPRINT, VERSION, FakeService, Hits, serving

GOOD = [("1:1", 0.9, "image"), ("1:2", 0.5, "text")]


def service(hits: Hits = GOOD) -> FakeService:
    return FakeService(lambda body: hits, {"p": 2}, 2)


def search(url: str, max_attempts: int = 3, body: dict[str, Any] | None = None) -> Answer:
    async def ask() -> Answer:
        async with SearchClient(url, max_attempts=max_attempts) as client:
            return await client.search("q1", body or {"text": "A dog.", "k": 10})

    return asyncio.run(ask())


def wait(url: str, timeout_s: float) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        async with SearchClient(url) as client:
            await client.wait_until_ready(timeout_s)
            return await client.info()

    return asyncio.run(ask())


@contextlib.contextmanager
def closed_port() -> Iterator[str]:
    with socket.socket() as held:  # bound and not listening: connections are refused, nobody else gets the port
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@contextlib.asynccontextmanager
async def answering(beginning: bytes, part: bytes) -> AsyncIterator[str]:
    """The address of a server that answers with a beginning, and then a part of the rest each 20 ms, without an end."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            writer.write(beginning)
            while not reader.at_eof():
                writer.write(part)
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(2**16), 0.02)
        await writer.wait_closed()
        answers.release()

    answers = asyncio.Semaphore(0)
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await answers.acquire()  # of the last request at least, so that its connection is closed


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


def test_an_answer_that_never_ends_is_none() -> None:
    async def ask(beginning: bytes, part: bytes) -> None:
        async with answering(beginning, part) as url, SearchClient(url, timeout_s=0.2, max_attempts=2) as client:
            with pytest.raises(EndpointUnreachableError, match=r"nothing answers at .*: no whole answer in 1 s"):
                await client.wait_until_ready(0.0)
            with pytest.raises(EndpointUnreachableError, match=r"GET .*/info: no whole answer in 0\.2 s"):
                await client.info()
            with pytest.raises(EndpointUnreachableError, match=r"query q1: no answer: no whole answer in 0\.2 s"):
                await client.search("q1", {"text": "A dog.", "k": 10})

    async def ask_all() -> None:
        body, headers, silence = (
            (HEAD + b"content-length: 99999999\r\n\r\n", b" "),
            (HEAD, b"x-more: 1\r\n"),
            (b"", b""),
        )
        await asyncio.gather(*(ask(*answer) for answer in (body, headers, silence)))

    asyncio.run(asyncio.wait_for(ask_all(), 20.0))


def test_an_answer_that_cannot_be_unpacked_is_none() -> None:
    async def ask() -> None:
        garbled = HEAD + b"content-encoding: gzip\r\ncontent-length: 4\r\n\r\nnone"
        async with answering(garbled, b"") as url, SearchClient(url) as client:
            with pytest.raises(EndpointUnreachableError):
                await client.info()

    asyncio.run(asyncio.wait_for(ask(), 20.0))


def test_an_answer_carries_hits_timings_and_versions() -> None:
    with serving(service()) as fake:
        answer = search(fake.url)
    assert answer.keys == ["1:1", "1:2"]
    assert [hit.modality for hit in answer.hits] == ["image", "text"]
    assert answer.timings_ms == {"encode": 2.0, "search": 1.0, "total": 3.0}
    assert answer.versions == (VERSION, FINGERPRINT)
    assert answer.latency_s > 0
    assert answer.num_retries == 0


def test_an_index_without_versions_answers_without_one() -> None:
    with serving(service()) as fake:
        fake.version = None
        assert search(fake.url).versions == (None, FINGERPRINT)


def test_an_overloaded_service_is_asked_again() -> None:
    with serving(service()) as fake:
        fake.turned_away = 2
        answer = search(fake.url)
    assert answer.num_retries == 2
    assert len(fake.bodies) == 3


def test_a_service_that_stays_overloaded_fails_the_query_by_name() -> None:
    with serving(service()) as fake:
        fake.turned_away = 99
        with pytest.raises(RequestFailedError, match=r"query q1: 429 overloaded: .* after 3 tries"):
            search(fake.url)
    assert len(fake.bodies) == 3


def test_a_refused_query_is_not_asked_again() -> None:
    with serving(service()) as fake:
        fake.failures["A dog."] = (422, {"error": {"type": "undecodable_image", "message": "no image"}})
        with pytest.raises(RequestFailedError, match="query q1: 422 undecodable_image: no image"):
            search(fake.url)
    assert len(fake.bodies) == 1


@pytest.mark.parametrize(
    ("header", "attempt", "pause_s"),
    [
        ("3", 0, 3.0),
        ("0", 5, 0.0),
        ("9999", 0, 30.0),
        ("-1", 0, 0.0),
        (None, 0, 0.25),
        (None, 2, 1.0),
        ("soon", 1, 0.5),
    ],
)
def test_retry_after_decides_the_pause_within_bounds(header: str | None, attempt: int, pause_s: float) -> None:
    assert pause_after(header, attempt) == pause_s


@pytest.mark.parametrize(
    ("hits", "said"),
    [
        ([], "no hits"),
        ([("1:1", 0.9, "image"), ("1:1", 0.5, "image")], "a key comes twice"),
        ([("1:1", 0.5, "image"), ("1:2", 0.9, "image")], "not finite and falling"),
        ([("1:1", float("nan"), "image")], "not finite and falling"),
    ],
)
def test_hits_that_are_no_ranking_fail_the_query(hits: Hits, said: str) -> None:
    with serving(service(hits)) as fake, pytest.raises(RequestFailedError, match=f"query q1: .*{said}"):
        search(fake.url)


@pytest.mark.parametrize("body", [None, [], {"hits": 3}, {"hits": [{"key": "1:1"}]}, {"hits": []}])
def test_a_body_of_another_shape_fails_the_query(body: Any) -> None:
    with serving(service()) as fake:
        fake.failures["A dog."] = (200, body)
        with pytest.raises(RequestFailedError, match="query q1: the answer lacks or garbles"):
            search(fake.url)


def test_waiting_ends_when_the_service_becomes_ready() -> None:
    with serving(service()) as fake:
        fake.ready_after = 1
        info = wait(fake.url, timeout_s=30)
    assert info["index"]["pools"] == {"p": 2}


def test_a_service_that_is_not_ready_in_time_is_named() -> None:
    with serving(service()) as fake:
        fake.ready_after = 10**6
        with pytest.raises(EndpointNotReadyError, match=r"was not ready in 0 s: 503 not_ready: loading"):
            wait(fake.url, timeout_s=0)


def test_an_address_where_nothing_listens_is_named() -> None:
    with closed_port() as url:
        with pytest.raises(EndpointUnreachableError, match=f"nothing answers at {url}"):
            wait(url, timeout_s=0)
        with pytest.raises(EndpointUnreachableError, match="query q1: no answer"):
            search(url, max_attempts=1)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://[", ""])
def test_an_address_that_is_no_http_url_is_named(url: str) -> None:
    with pytest.raises(EndpointUnreachableError):
        wait(url, timeout_s=0)
