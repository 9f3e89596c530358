"""Requests that no honest client sends: bombs, polyglots, truncations, deep and huge values, and tricks with HTTP.

They are drawn by a seed, so that a finding can be repeated. Each is the bytes of one connection.
"""

import base64
import functools
import gzip
import io
import json
import random
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress

from PIL import Image

PATIENCE_S = 5.0  # for an answer; to half a request there is none


def requests(number: int, forbidden_url: str, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """So many requests, each with the name of its kind.

    Args:
        number: How many.
        forbidden_url: An address of this machine, which the service must not ask whatever it is told.
        seed: Decides them.
    """
    choice = random.Random(seed)
    kinds: list[Callable[[random.Random, str], bytes]] = [
        _image_bomb,
        _thin_giant,
        _polyglot,
        _truncated_image,
        _noise_as_image,
        _gzip_bomb,
        _truncated_gzip,
        _deep_json,
        _huge_numbers,
        _wrong_types,
        _bidi_and_controls,
        _long_text,
        _asks_elsewhere,
        _multipart_without_end,
        _header_tricks,
        _two_lengths,
        _chunked_and_length,
        _bad_chunks,
        _request_in_a_request,
        _long_path,
        _no_http,
    ]
    for n in range(number):
        make = kinds[n % len(kinds)]
        yield make.__name__.strip("_").replace("_", " "), make(choice, forbidden_url)


def send(host: str, port: int, request: bytes) -> int | None:
    """Sends the bytes of a request and gives the status of its answer; `None` if the connection ended without one."""
    with suppress(OSError), socket.create_connection((host, port), timeout=PATIENCE_S) as connection:
        with suppress(OSError):  # the service may have answered and closed in the middle
            connection.sendall(request)
        head = b""
        while b"\r\n" not in head and (part := connection.recv(4096)):
            head += part
        words = head.split(b" ", 2)
        if len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit():
            return int(words[1])
    return None


def _post(path: str, body: bytes, *headers: str, content_type: str = "application/json") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: anykey", f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "Connection: close", *headers, "", ""]).encode() + body


def _search(**query: object) -> bytes:
    return _post("/search", json.dumps(query).encode())


def _as_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _png(size: tuple[int, int], data: bytes | None = None) -> bytes:
    """A PNG that says this size, whatever its data hold."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 + 3 * min(size[0], 4096)) * 64) if data is None else data
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _jpeg(choice: random.Random) -> bytes:
    output = io.BytesIO()
    Image.new("RGB", (choice.randint(1, 400), choice.randint(1, 400)), (200, 30, 30)).save(output, "JPEG")
    return output.getvalue()


def _image_bomb(choice: random.Random, _: str) -> bytes:
    side = choice.choice([10_000, 30_000, 65_500, 2**31 - 1])
    return _search(image=_as_base64(_png((side, side))))


def _thin_giant(choice: random.Random, _: str) -> bytes:
    return _search(image=_as_base64(_png(choice.choice([(1, 10_000_000), (10_000_000, 1), (3, 200_000)]))))


def _polyglot(choice: random.Random, _: str) -> bytes:
    data = choice.choice([b"GIF89a", b"%PDF-1.7\n", b"PK\x03\x04", b"<svg onload=alert(1)>", b"RIFF\0\0\0\0WEBP"])
    return _search(image=_as_base64(data + _jpeg(choice) + choice.randbytes(200)))


def _truncated_image(choice: random.Random, _: str) -> bytes:
    whole = _jpeg(choice)
    return _search(image=_as_base64(whole[: choice.randrange(len(whole))]))


def _noise_as_image(choice: random.Random, _: str) -> bytes:
    head = choice.choice([b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF", b"II*\0", b"BM", b"\0\0\0\x18ftypavif"])
    return _search(image=_as_base64(head + choice.randbytes(choice.randrange(5_000))))


def _gzip_bomb(choice: random.Random, _: str) -> bytes:
    inner = gzip.compress(choice.choice([b"\n", b" ", b"a"]) * 50_000_000, 9)
    return _post("/search", inner if choice.random() < 0.5 else gzip.compress(inner, 9), "Content-Encoding: gzip")


def _truncated_gzip(choice: random.Random, _: str) -> bytes:
    whole = gzip.compress(json.dumps({"text": "x" * 500}).encode())
    return _post("/search", whole[: choice.randrange(len(whole))], "Content-Encoding: gzip")


def _deep_json(choice: random.Random, _: str) -> bytes:
    depth = choice.choice([100, 5_000, 200_000])
    left, right = choice.choice([("[", "]"), ('{"not":', "}"), ('{"all":[', "]}")])
    return _post("/search", f'{{"text": "a", "filter": {left * depth}1{right * depth}}}'.encode())


def _huge_numbers(choice: random.Random, _: str) -> bytes:
    number = choice.choice(["1e400", "-0", "9" * 5_000, "NaN", "Infinity", "1" + "0" * 400, "-1", "0.1"])
    name = choice.choice(["k", "offset", "min_score", "text_weight", "diversity"])
    return _post("/search", f'{{"text": "a", "{name}": {number}}}'.encode())


def _wrong_types(choice: random.Random, _: str) -> bytes:
    value: object = choice.choice([None, True, [], {}, [[]], {"a": {}}, "x", 7, [None, 1, "a"]])
    names = ["text", "image", "parts", "filter", "pool", "include", "facets", "vector", "key", "k", "group_by"]
    return _search(**{"text": "a", choice.choice(names): value})


def _bidi_and_controls(choice: random.Random, _: str) -> bytes:
    marks = ["\u202e", "\u2066", "\u0000", "\ud800", "\uffff", "\U000e0001", "\x1b[2J", "\r\nX: y", "<|endoftext|>"]
    return _search(text="".join(choice.choices(marks, k=30)), pool=choice.choice(marks))


def _long_text(choice: random.Random, _: str) -> bytes:
    return _search(text=choice.choice(["a", "\u0430\u0301", "\U0001f9d1\u200d"]) * choice.choice([10_000, 3_000_000]))


def _asks_elsewhere(choice: random.Random, forbidden_url: str) -> bytes:
    scheme, _, rest = forbidden_url.partition("://")
    port = rest.rpartition(":")[2]
    urls = [
        forbidden_url,
        f"http://localhost:{port}/",
        f"http://[::ffff:127.0.0.1]:{port}/",
        f"http://2130706433:{port}/",
    ]
    urls += [f"http://127.1:{port}/a.jpg", "file:///etc/passwd", f"gopher://127.0.0.1:{port}/", f"{scheme}:{rest}"]
    url = choice.choice(urls)
    if choice.random() < 0.5:
        return _search(image=url)
    content = [{"type": "image_url", "image_url": {"url": url}}]
    return _post(
        "/v1/embeddings", json.dumps({"model": "x", "messages": [{"role": "user", "content": content}]}).encode()
    )


def _multipart_without_end(choice: random.Random, _: str) -> bytes:
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="' + choice.randbytes(40) + b'"\r\n\r\n'
    body = part + choice.randbytes(choice.randrange(2_000)) + choice.choice([b"", b"\r\n--b", b"\r\n--b--", part * 500])
    return _post("/search", body, content_type="multipart/form-data; boundary=b")


def _header_tricks(choice: random.Random, _: str) -> bytes:
    tricks = ["X: " + "y" * 200_000, "X-Request-Id: \x01\x02", "Content-Encoding: br, gzip, identity", "X\0: y"]
    tricks += [
        "Expect: 100-continue",
        "Range: bytes=0-",
        "Transfer-Encoding: identity",
        "Content-Length : 5",
        " folded: x",
    ]
    return _post("/search", b'{"text": "a"}', *choice.choices(tricks, k=2))


def _two_lengths(choice: random.Random, _: str) -> bytes:
    return _post("/search", b'{"text": "a"}', f"Content-Length: {choice.choice([0, 5, 12, 14, 999])}")


def _chunked_and_length(choice: random.Random, _: str) -> bytes:
    coding = choice.choice(["chunked", "chunked, identity", "xchunked", "Chunked", "gzip, chunked"])
    return _post("/search", b"0\r\n\r\nGET /keys HTTP/1.1\r\nHost: a\r\n\r\n", f"Transfer-Encoding: {coding}")


def _bad_chunks(choice: random.Random, _: str) -> bytes:
    sizes = choice.choice([b"ffffffffffffffff", b"-1", b"5;a=b", b"0x5", b"5\n", b" 5"])
    head = b"POST /search HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + sizes + b'\r\n{"tex\r\n0\r\n\r\n'


def _request_in_a_request(choice: random.Random, _: str) -> bytes:
    inner = b"DELETE /keys/scene-1 HTTP/1.1\r\nHost: a\r\n\r\n"
    line = choice.choice(
        [b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n", b"GET /livez HTTP/1.1\nHost: a\n"]
    )
    return line + b"X: a\r" + inner + b"\r\n\r\n"


def _long_path(choice: random.Random, _: str) -> bytes:
    path = choice.choice(["/keys/" + "a" * 60_000, "/keys/" + "%00%2f..%2f" * 50, "/indexes/" + "../" * 40, "//", "/%"])
    return f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()


def _no_http(choice: random.Random, _: str) -> bytes:
    return choice.choice(
        [b"\x16\x03\x01\x02\0\x01\0\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0" * 5_000, choice.randbytes(3_000)]
    )


def photo(number: int) -> bytes:
    """A small JPEG unlike those of other numbers, as base64: an honest request, for overload.

    There are a few pictures; a comment within makes each of them another file, in microseconds.
    """
    told = b"%012d" % number
    head = b"\xff\xd8\xff\xfe" + struct.pack(">H", 2 + len(told)) + told  # a multiple of three bytes
    return base64.b64encode(head) + _picture(number % 64)


@functools.cache
def _picture(number: int) -> bytes:
    """A JPEG without its first two bytes, as base64."""
    choice = random.Random(number)
    output = io.BytesIO()
    Image.frombytes("RGB", (48, 48), choice.randbytes(3 * 48 * 48)).resize((256, 256)).save(output, "JPEG")
    return base64.b64encode(output.getvalue()[2:])
