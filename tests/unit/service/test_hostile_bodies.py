"""Protects the service from small bodies that are dear to read: time and memory stay in proportion to their length."""

import gzip
import json
import socket
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from anykey.index.faiss_index import FaissIndex
from tests.fakes import FakeEncoder
from tests.service_inputs import as_base64, png
from tests.serving import WAIT_S, serving

FORM = {"content-type": "multipart/form-data; boundary=edge"}
JSON = {"content-type": "application/json"}


@contextmanager
def cheaply(most_s: float = 1.0) -> Iterator[None]:
    """Counts the time of the server, which runs in this process, and of no other program."""
    started_s = time.process_time()
    yield
    assert time.process_time() - started_s < most_s


@contextmanager
def within_memory(most_bytes: int) -> Iterator[None]:
    """Counts what Python takes beyond what it has."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()


def form(*heads: str, data: bytes = b"plain") -> bytes:
    """A body of parts with these headers and the same contents."""
    return b"".join(b"--edge\r\n%s\r\n\r\n%s\r\n" % (head.encode(), data) for head in heads) + b"--edge--\r\n"


def refusal(client: httpx.Client, content: bytes, headers: dict[str, str]) -> str:
    """The message of a 400 that comes soon."""
    with cheaply():
        response = client.post("/search", content=content, headers=headers)
    assert response.status_code == 400
    message: str = response.json()["error"]["message"]
    return message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modalities": [0] * 300_000}, "unknown modality 0; known: text, image, fused"),
        ({"image": [0] * 300_000}, "image[0] must be base64, got 0"),
        ({"exclude": [0] * 5}, "exclude[0] must be a string, got 0"),
        ({"within": [0] * 5}, "within[0] must be a string, got 0"),
    ],
    ids=["modalities", "image", "exclude", "within"],
)
def test_a_list_of_wrong_entries_is_refused_at_its_first(client: httpx.Client, fields: Any, message: str) -> None:
    assert refusal(client, json.dumps(fields).encode(), JSON) == message


def test_of_many_unknown_fields_a_few_are_named(client: httpx.Client) -> None:
    body = json.dumps({f"f{n}": 0 for n in range(60_000)}).encode()
    with within_memory(24_000_000):
        assert refusal(client, body, JSON).startswith("unknown fields 'f0', 'f1', 'f2', 'f3', 'f4'; known: ")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body must be JSON, and is empty"),
        (b'{"text": "a\nb"}', "the body must be JSON: Invalid control character at line 1, column 12"),
        (b'{"\\ud800": 1}', "the name of a field must be Unicode text, got '\\ud800'"),
        (b'{"text": "a", "group_by": [1]}', "group_by must be a field of the metadata, as a string or a list of names"),
        (b'{"text": "a", "modalities": []}', "modalities must have at least 1 in it, got 0"),
        (
            b'{"parts": [{"image": {"file": 1e999}}]}',
            'parts[0].image must be base64, or a file of the form such as {"file": 0}',
        ),
        (b'{"vector": [' + b"9" * 400 + b"]}", "vector[0] must be a number, got a number of more than 18 digits"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(client: httpx.Client, body: bytes, message: str) -> None:
    assert refusal(client, body, JSON).startswith(message)


def test_a_form_of_wrong_entries_is_refused_at_its_first(client: httpx.Client) -> None:
    head = 'Content-Disposition: form-data; name="modalities"'
    message = refusal(client, form(head, data=b"x," * 400_000), FORM)
    assert message == "unknown modality 'x'; known: text, image, fused"


def test_part_headers_that_are_dear_to_read_are_read_soon(client: httpx.Client) -> None:
    unclosed = "\r\n".join(['Content-Disposition: form-data; name="' + r"\"" * 2_000] * 7)
    assert refusal(client, form(*[unclosed] * 10), FORM).startswith("unknown field")
    semicolons = 'Content-Disposition: form-data; name="' + ";" * 4_000
    assert "more than 300 semicolons" in refusal(client, form(*[semicolons] * 200), FORM)
    form_type = {"content-type": "multipart/form-data; boundary=edge" + ";" * 50_000}
    assert "more than 300 semicolons" in refusal(client, form(), form_type)


def test_a_file_name_of_many_numbered_letters_is_read(client: httpx.Client) -> None:
    head = f'Content-Disposition: form-data; name="image"; filename="{"&#1092;" * 250}.png"'
    assert client.post("/search", content=form(head, data=png()), headers=FORM).status_code == 200


def test_white_space_in_base64_takes_no_memory(client: httpx.Client) -> None:
    head = 'Content-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Transfer-Encoding: base64'
    spaced = b" ".join(b"%c" % letter for letter in as_base64(png()).encode())
    assert client.post("/search", content=form(head, data=spaced), headers=FORM).status_code == 200
    with within_memory(8_000_000):
        response = client.post("/search", content=form(head, data=b"A " * 240_000), headers=FORM)
    assert response.status_code == 422


def test_gzip_of_many_streams_is_bounded(client: httpx.Client) -> None:
    headers = {**JSON, "content-encoding": "gzip"}
    empty, text = gzip.compress(b"", mtime=0), gzip.compress(b'{"text": "plain"}', mtime=0)
    assert "more than 10000 streams of gzip" in refusal(client, empty * 49_000 + text, headers)
    with cheaply():
        assert client.post("/search", content=empty * 9_999 + text, headers=headers).status_code == 200


@pytest.fixture(scope="module")
def hasty(wire_encoder: FakeEncoder, wire_index: FaissIndex) -> Iterator[httpx.Client]:
    """A service that waits for nobody for long."""
    with serving(wire_encoder, wire_index, body_deadline_ms=400, keep_alive_s=1, max_body_bytes=1024) as client:
        yield client


@contextmanager
def connected(client: httpx.Client) -> Iterator[socket.socket]:
    address = (client.base_url.host, client.base_url.port or 0)
    with socket.create_connection(address, timeout=WAIT_S) as connection:
        yield connection


def until_closed(connection: socket.socket) -> bytes:
    """All that comes until the other side closes the connection."""
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def send_until_refused(connection: socket.socket, piece: bytes, pause_s: float = 0.0) -> None:
    """Sends the same again and again; raises where it is taken no more."""
    for _ in range(200):
        connection.sendall(piece)
        time.sleep(pause_s)


POST = b"POST /search HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b""),
        (b"\r\n", b""),
        (POST + b"X: ", b""),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200"),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\nGET", b"HTTP/1.1 200"),
        (POST + b"Content-Length: 9\r\n\r\n{", b"HTTP/1.1 504"),
        (POST + b"Content-Length: 2000\r\n\r\n{", b"HTTP/1.1 413"),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n1\r\n{\r\n", b"HTTP/1.1 415"),
    ],
)
def test_a_connection_that_asks_nothing_more_is_closed(hasty: httpx.Client, sent: bytes, status: bytes) -> None:
    with connected(hasty) as connection:
        connection.sendall(sent)
        assert until_closed(connection)[:12] == status


def test_a_connection_on_which_the_rest_of_a_body_trickles_is_closed(hasty: httpx.Client) -> None:
    with connected(hasty) as connection:
        connection.sendall(POST + b"Content-Length: 2000\r\n\r\n{")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_until_refused(connection, b" ", pause_s=0.1)


def test_the_rest_of_a_body_that_is_too_long_is_read_and_the_connection_is_kept(hasty: httpx.Client) -> None:
    with connected(hasty) as connection:
        connection.sendall(POST + b"Content-Length: 500000\r\n\r\n" + b" " * 500_000)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413")
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


def test_headers_without_end_are_refused(hasty: httpx.Client) -> None:
    with connected(hasty) as connection:
        connection.sendall(POST + b"X: " + b"a" * 66_000)
        answer = until_closed(connection)
        assert answer.startswith(b"HTTP/1.1 400")
        assert answer.endswith(b"expected a first line and headers of at most 65536 bytes, got more")
    with connected(hasty) as connection, pytest.raises((BrokenPipeError, ConnectionResetError)):
        send_until_refused(connection, b"POST /search" + b"a" * 100_000)
