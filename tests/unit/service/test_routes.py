"""Protects the wire over a live server: answers, refusals of bad input, headers, and the shape of every error."""

import gzip
import json
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from anykey.index.faiss_index import FaissIndex
from anykey.service.logs import JsonFormatter
from tests.factories import build_with, write_jsonl
from tests.fakes import FakeEncoder
from tests.pictures import huge_png, png_chunk
from tests.service_inputs import as_base64, jpeg, png, png_header
from tests.serving import MemoryIndex, serving
from tests.unit.service.conftest import MAX_PIXELS

TEXT_FILE = b"this is a text file named like a picture"


def check_error(response: httpx.Response, status: int, kind: str) -> str:
    """The documented shape; gives the message back."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"type", "message", "request_id"}
    assert body["error"]["type"] == kind
    assert body["error"]["request_id"] == response.headers["x-request-id"]
    message = body["error"]["message"]
    assert isinstance(message, str)
    assert message
    return message


def search(client: httpx.Client, **fields: Any) -> Any:
    response = client.post("/search", json=fields)
    assert response.status_code == 200, response.text
    return response.json()


def keys_of(answer: Any) -> list[str]:
    return [hit["key"] for hit in answer["hits"]]


def test_a_text_finds_keys(client: httpx.Client) -> None:
    answer = search(client, text="five words of some length", k=3)
    assert answer["query_modality"] == "text"
    first = answer["hits"][0]
    assert (first["key"], first["rank"], first["modality"]) == ("note", 1, "text")
    assert first["score"] == pytest.approx(1.0)
    assert first["payload"] == {"text": "five words of some length", "metadata": {}, "image_urls": []}
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3]
    assert answer["index_version"] == "1"
    assert answer["model_fingerprint"].startswith("sha256:")


def test_an_image_finds_keys_as_json_and_as_a_file(client: httpx.Client) -> None:
    as_json = search(client, image=as_base64(png((250, 0, 0))), k=2)
    form = client.post("/search", files={"image": ("q.png", png((250, 0, 0)))}, data={"k": "2"}).json()
    assert as_json["query_modality"] == form["query_modality"] == "image"
    assert keys_of(as_json)[0] == "red"
    assert as_json["hits"] == form["hits"]
    assert as_json["hits"][0]["payload"] == {"text": None, "metadata": {"price": 3}, "image_urls": ["/keys/red/image"]}


def test_text_and_image_are_fused_and_the_weight_moves_the_balance(client: httpx.Client) -> None:
    query = {"text": "a red page", "image": as_base64(png((250, 0, 0))), "k": 1}
    assert keys_of(search(client, **query)) == ["page"]
    assert search(client, **query)["query_modality"] == "fused"
    assert keys_of(search(client, **query, text_weight=0)) == ["red"]


def test_several_images_are_frames_of_one_item(client: httpx.Client) -> None:
    frames = [as_base64(png((250, 0, 0))), as_base64(png((0, 0, 250)))]
    assert keys_of(search(client, image=frames, k=1)) == ["two frames"]


def test_modalities_pool_and_exclude_restrict_the_answer(client: httpx.Client) -> None:
    image = as_base64(png((250, 0, 0)))
    assert keys_of(search(client, image=image, modalities=["text"], pool="pages")) == ["note"]
    assert set(keys_of(search(client, image=image, pool="pictures"))) == {"red", "blue"}
    assert keys_of(search(client, image=image, k=2, pool="pictures", exclude=["red"])) == ["blue"]


CHEAP = {"field": "price", "lt": 5}


@pytest.mark.parametrize(
    ("narrowed", "expected"),
    [
        ({"filter": CHEAP}, ["red"]),
        ({"filter": {"and": [{"not": CHEAP}, {"field": "price", "exists": True}]}}, []),
        ({"filter": {"not": CHEAP}, "modalities": ["image"]}, ["blue", "two frames"]),
        ({"within": ["note", "a/b:c", "no such key"]}, ["a/b:c", "note"]),
        ({"within": ["note", "red"], "filter": CHEAP}, ["red"]),
        ({"within": ["note", "red"], "exclude": ["red"]}, ["note"]),
        ({"within": ["note", "red"], "pool": "pictures"}, ["red"]),
        ({"within": []}, []),
    ],
    ids=str,
)
def test_filter_and_within_restrict_the_answer(client: httpx.Client, narrowed: Any, expected: list[str]) -> None:
    assert sorted(keys_of(search(client, text="plain", k=100, **narrowed))) == expected


def test_filter_and_within_restrict_the_answer_to_a_form(client: httpx.Client) -> None:
    files = {"image": ("q.png", png((0, 0, 250)))}
    data = {"k": "100", "filter": json.dumps(CHEAP), "within": "red,note"}
    as_form = client.post("/search", files=files, data=data).json()
    assert keys_of(as_form) == ["red"]
    as_json = search(client, image=as_base64(png((0, 0, 250))), k=100, filter=CHEAP, within=["red", "note"])
    assert as_form["hits"] == as_json["hits"]
    refused = client.post("/search", files=files, data={"filter": '{"field": "price", "lt": "5", "gt": 1}'})
    assert "filter at " in check_error(refused, 400, "invalid_request")


def test_a_wrong_filter_or_too_many_keys_are_refused(client: httpx.Client) -> None:
    wrong = client.post("/search", json={"text": "a", "filter": {"or": [{"field": "price", "eq": []}]}})
    assert check_error(wrong, 400, "invalid_request").startswith("filter at or[0].eq: expected a string, a number")
    many = client.post("/search", json={"text": "a", "within": ["a"] * 6})
    assert check_error(many, 400, "invalid_request") == "within: at most 5 keys, got 6"
    assert client.get("/info").json()["limits"]["max_within"] == 5


def test_stage_times_are_given_and_add_up(client: httpx.Client) -> None:
    times = search(client, text="never asked before, so not cached")["timings_ms"]
    assert list(times) == ["read", "decode", "queue", "encode", "search", "rerank", "total"]
    assert all(time >= 0 for time in times.values())
    assert sum(times.values()) - times["total"] <= times["total"] + 0.01


def test_a_repeated_query_comes_from_the_cache_with_the_same_hits(client: httpx.Client) -> None:
    query = {"text": "asked twice", "image": as_base64(png((7, 7, 7)))}
    first, second = search(client, **query), search(client, **query)
    assert (first["cached"], second["cached"]) == (False, True)
    assert first["hits"] == second["hits"]
    assert [second["timings_ms"][stage] for stage in ("decode", "queue", "encode")] == [0, 0, 0]
    assert search(client, **query, text_weight=0.7)["cached"] is False
    assert search(client, **query, k=1, modalities=["text"])["cached"] is True


def test_an_instruction_is_embedded_with_the_query_and_is_part_of_what_the_cache_knows_it_by(
    client: httpx.Client,
) -> None:
    """The fake encoder reads it before the text."""
    query = {"text": "page of letters", "k": 9}
    plain = search(client, **query)
    first, second = (search(client, **query, instruction="find a long") for _ in range(2))
    assert (first["cached"], second["cached"]) == (False, True)
    assert first["hits"] == second["hits"]
    assert first["hits"] == search(client, text="find a long page of letters", k=9)["hits"] != plain["hits"]
    assert search(client, **query, instruction="")["hits"] == plain["hits"]
    form = {"text": (None, "page of letters"), "k": (None, "9"), "instruction": (None, "find a long")}
    assert client.post("/search", files=form).json()["hits"] == first["hits"]
    assert client.post("/search", files={**form, "instruction": (None, "")}).json()["hits"] == plain["hits"]


def test_an_instruction_is_as_long_as_a_text_at_most(client: httpx.Client) -> None:
    assert search(client, text="a", instruction="x" * 500)["hits"]
    refused = client.post("/search", json={"text": "a", "instruction": "x" * 501})
    message = "instruction has 501 characters, at most 500 are accepted"
    assert check_error(refused, 413, "item_too_large") == message
    assert "instruction" in check_error(
        client.post("/search", json={"text": "a", "instruction": 3}), 400, "invalid_request"
    )


@pytest.mark.parametrize(("num_words", "is_cut"), [(60, False), (61, True)])
def test_a_text_longer_than_the_models_context_is_said_to_be_cut(
    client: httpx.Client, num_words: int, is_cut: bool
) -> None:
    text = " ".join(["w"] * num_words)
    assert client.get("/info").json()["model"]["context_length"] == 62
    answers = [search(client, text=text), search(client, text=text), search(client, text=text, image=as_base64(png()))]
    assert [answer["text_cut"] for answer in answers] == [is_cut] * 3
    assert answers[1]["cached"] is True
    assert search(client, image=as_base64(png()))["text_cut"] is False


@pytest.mark.parametrize("k", [0, 10**9, "x", True, -1, 1.5, None])
def test_a_wrong_k_names_its_bounds(client: httpx.Client, k: Any) -> None:
    message = check_error(client.post("/search", json={"text": "a", "k": k}), 400, "invalid_request")
    assert "from 1 to 1000" in message


def test_an_unknown_modality_or_pool_is_refused_with_those_known(client: httpx.Client) -> None:
    modality = client.post("/search", json={"text": "a", "modalities": ["video"]})
    assert "text, image, fused" in check_error(modality, 400, "invalid_request")
    pool = client.post("/search", json={"text": "a", "pool": "nowhere\u2603"})
    assert "known: pages, pictures" in check_error(pool, 400, "invalid_request")


@pytest.mark.parametrize("fields", [{}, {"text": ""}, {"text": "  "}, {"k": 3}, {"text": None, "image": None}], ids=str)
def test_a_query_without_text_and_image_is_refused(client: httpx.Client, fields: Any) -> None:
    assert "text, image, or both" in check_error(client.post("/search", json=fields), 400, "invalid_request")
    form = {name: str(value) for name, value in fields.items() if value is not None}
    files = {"image": ("", b"")}
    check_error(client.post("/search", data=form, files=files), 400, "invalid_request")


@pytest.mark.parametrize(
    "data",
    [TEXT_FILE, jpeg()[:-200], png()[:30], b"\x89PNG\r\n\x1a\n", b"GIF89a", bytes(500)],
    ids=lambda d: ascii(d[:8]),
)
def test_what_is_no_whole_image_cannot_be_decoded(client: httpx.Client, data: bytes) -> None:
    check_error(client.post("/search", files={"image": ("photo.jpg", data, "image/jpeg")}), 422, "undecodable_image")
    check_error(client.post("/search", json={"image": as_base64(data), "text": "a"}), 422, "undecodable_image")


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(client: httpx.Client) -> None:
    bomb = png_header(30_000, 30_000)
    assert len(bomb) < 200
    for response in (
        client.post("/search", files={"image": ("big.png", bomb)}),
        client.post("/search", json={"image": as_base64(bomb)}),
    ):
        check_error(response, 413, "item_too_large")
    message = check_error(
        client.post("/search", files={"image": ("big.png", png_header(1001, 1000))}), 413, "item_too_large"
    )
    assert f"at most {MAX_PIXELS}" in message


@pytest.mark.parametrize("size_px", [(80_000, 1), (1, 80_000)])
def test_a_thin_image_is_refused_before_a_model_makes_it_enormous(
    client: httpx.Client, size_px: tuple[int, int]
) -> None:
    thin = huge_png(*size_px)
    message = check_error(client.post("/search", files={"image": ("thin.png", thin)}), 413, "item_too_large")
    assert "the longer side may be at most 200 times the shorter" in message
    check_error(client.post("/search", json={"image": as_base64(thin)}), 413, "item_too_large")
    assert client.get("/info").json()["limits"]["max_image_aspect"] == 200


def test_an_image_with_broken_exif_is_searched_by_its_pixels(client: httpx.Client) -> None:
    sound = png()
    broken = sound[:33] + png_chunk(b"eXIf", b"Exif\0\0nonsense") + sound[33:]
    found = [client.post("/search", json={"image": as_base64(image)}).json()["hits"] for image in (sound, broken)]
    assert found[0] == found[1]


def test_texts_images_and_bodies_over_a_limit_are_refused(client: httpx.Client) -> None:
    check_error(client.post("/search", json={"text": "a" * 501}), 413, "item_too_large")
    check_error(client.post("/search", json={"image": as_base64(bytes(200_001))}), 413, "item_too_large")
    check_error(client.post("/search", json={"image": [as_base64(png())] * 9}), 413, "item_too_large")
    check_error(client.post("/search", json={"text": "a" * 1_000_001}), 413, "item_too_large")


def test_a_body_without_a_length_is_refused_as_soon_as_it_is_too_long(client: httpx.Client) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 3_000_000:
            sent += 50_000
            yield b" " * 50_000

    response = client.post("/search", content=endless(), headers={"content-type": "application/json"})
    assert "more than 1000000 bytes" in check_error(response, 413, "item_too_large")


def test_a_chunked_body_within_the_limit_is_read(client: httpx.Client) -> None:
    chunks = iter([b'{"text"', b': "plain", "k', b'": 1}'])
    response = client.post("/search", content=chunks, headers={"content-type": "application/json"})
    assert keys_of(response.json()) == ["plain"]


@pytest.mark.parametrize(
    "content_type",
    [
        *("", "text/plain", "application/x-www-form-urlencoded", "image/jpeg", "\u00e9"),
        "application/json; charset=utf-16",
    ],
)
def test_another_content_type_is_refused(client: httpx.Client, content_type: str) -> None:
    response = client.post("/search", content=b"{}", headers=[(b"content-type", content_type.encode("latin-1"))])
    check_error(response, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe\x00", b'{"text": NaN}', b"[" * 50_000, gzip.compress(b'{"text": "a"}', mtime=0)],
    ids=lambda b: ascii(b[:9]),
)
def test_a_broken_body_is_refused(client: httpx.Client, body: bytes) -> None:
    for content_type in ("application/json", "multipart/form-data; boundary=x", "multipart/form-data"):
        response = client.post("/search", content=body, headers={"content-type": content_type})
        check_error(response, 400, "invalid_request")


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "X-GZip": lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:]),
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "identity": bytes,
    "identity, gzip": gzip.compress,
    "": bytes,
}


@pytest.mark.parametrize("encoding", COMPRESSIONS)
def test_a_compressed_body_is_read(client: httpx.Client, encoding: str) -> None:
    request = client.build_request("POST", "/search", data={"text": "plain", "k": "1"}, files={"image": ("", b"")})
    form = (request.read(), request.headers["content-type"])
    for body, content_type in ((b'{"text": "plain", "k": 1}', "application/json; charset=UTF-8"), form):
        headers = {"content-type": content_type, "content-encoding": encoding}
        response = client.post("/search", content=COMPRESSIONS[encoding](body), headers=headers)
        assert keys_of(response.json()) == ["plain"], response.text


def test_a_compressed_body_is_bounded_by_what_it_holds(client: httpx.Client) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    bomb = gzip.compress(bytes(100_000_000), 1)
    within = client.post("/search", content=gzip.compress(b" " * 999_970 + b'{"text": "plain"}'), headers=headers)
    assert within.status_code == 200
    started_s = time.monotonic()
    response = client.post("/search", content=bomb, headers=headers)
    assert "more than 1000000 bytes without its gzip" in check_error(response, 413, "item_too_large")
    assert time.monotonic() - started_s < 2


@pytest.mark.parametrize(
    ("encoding", "body", "status", "said"),
    [
        ("br", b"{}", 415, "expected Content-Encoding gzip, deflate or none, got 'br'"),
        ("gzip, gzip", b"{}", 415, "got 'gzip, gzip'"),
        ("gzip", b'{"text": "plain"}', 400, "not what its Content-Encoding says, gzip"),
        ("gzip", gzip.compress(b'{"text": "plain"}', mtime=0)[:-4], 400, "cut short"),
        ("gzip", gzip.compress(b'{"text": "plain"}', mtime=0) + b"more", 400, "not what its Content-Encoding says"),
        ("gzip", b"", 400, "cut short"),
        ("deflate", gzip.compress(b'{"text": "plain"}', mtime=0), 400, "not what its Content-Encoding says, deflate"),
    ],
)
def test_a_compression_that_is_not_read_is_refused(
    client: httpx.Client, encoding: str, body: bytes, status: int, said: str
) -> None:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    kind = "unsupported_media_type" if status == 415 else "invalid_request"
    assert said in check_error(client.post("/search", content=body, headers=headers), status, kind)


def test_a_body_of_two_types_or_another_transfer_encoding_is_refused(client: httpx.Client) -> None:
    two = [("content-type", "application/json"), ("content-type", "text/plain")]
    response = client.post("/search", content=b'{"text": "plain"}', headers=two)
    assert check_error(response, 400, "invalid_request") == "expected one Content-Type, got 2"
    head = b"POST /search HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    body = gzip.compress(b'{"text": "plain"}')
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=20) as connection:
        connection.sendall(head + b"Transfer-Encoding: gzip, chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        answer = b"".join(iter(lambda: connection.recv(10_000), b""))
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert b"expected Transfer-Encoding chunked or none, got 'gzip, chunked'" in answer


WHOLE_BODIES = {
    b"application/json": b'{"text": "plain", "exclude": ["' + b"x" * 3000 + b'"]}',
    b"multipart/form-data; boundary=x": b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\nplain\r\n'
    b'--x\r\nContent-Disposition: form-data; name="exclude"\r\n\r\n' + b"x" * 3000 + b"\r\n--x--\r\n",
}


@pytest.mark.parametrize("content_type", WHOLE_BODIES)
@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("is_lost", [False, True])
def test_a_body_whose_middle_is_lost_is_not_searched_with(
    client: httpx.Client, content_type: bytes, is_chunked: bool, is_lost: bool
) -> None:
    """What is left would be a whole body by itself, with another key to leave out."""
    body = WHOLE_BODIES[content_type]
    length = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % len(body)
    head = b"POST /search HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: %s\r\n" % content_type
    sent = b"".join(b"%x\r\n%s\r\n" % (1000, body[n : n + 1000]) for n in range(0, 3000, 1000)) if is_chunked else body
    sent += b"%x\r\n%s\r\n0\r\n\r\n" % (len(body[3000:]), body[3000:]) if is_chunked else b""
    middle = len(sent) // 2
    sent = sent[: middle - 200] + sent[middle + 200 :] if is_lost else sent
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=20) as connection:
        connection.sendall(head + length + b"\r\n\r\n" + sent)
        if is_lost and not is_chunked:  # else the rest would be waited for
            connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(10_000), b""))
    assert answer.startswith(b"HTTP/1.1 200 ") is not is_lost
    assert not (is_lost and is_chunked) or answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("POST", "/search?k=5", "unknown parameter 'k' in the address, which takes none; send it in the body"),
        ("POST", "/keys/delete?undo=true", "which takes none; DELETE /keys/{key} takes it"),
        ("GET", "/info?verbose=", "unknown parameter 'verbose'"),
        ("GET", "/keys/red?position=0", "unknown parameter 'position'"),
        ("GET", "/keys/shelf%2Fimage?position=0", "unknown parameter 'position'"),
        ("GET", "/keys/red/image?pos=1", "unknown parameter 'pos' in the address, which takes position, width"),
        ("GET", "/keys/two%20frames/image?position=0&position=1", "parameter 'position' is given more than once"),
    ],
)
def test_parameters_of_an_address_are_used_or_refused(client: httpx.Client, method: str, path: str, said: str) -> None:
    response = client.request(method, path, json={"text": "plain"} if method == "POST" else None)
    assert said in check_error(response, 400, "invalid_request")


def test_a_health_check_may_have_parameters(client: httpx.Client) -> None:
    for path in ("/livez", "/readyz"):
        assert client.get(f"{path}?from=balancer").status_code == 200


GETS = [
    "/livez",
    "/readyz",
    "/info",
    "/keys/red",
    "/keys/red/image",
    "/keys/none",
    "/docs",
    "/openapi.json",
    "/nowhere",
]


@pytest.mark.parametrize("path", GETS)
def test_head_is_get_without_the_body(client: httpx.Client, path: str) -> None:
    get, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    changing = {"date", "x-request-id"} | ({"content-length"} if path == "/info" else set())
    assert head.headers.keys() == get.headers.keys()
    assert all(head.headers[name] == value for name, value in get.headers.items() if name not in changing)


def test_head_of_what_is_no_get_says_what_is_taken(client: httpx.Client) -> None:
    head = client.head("/search")
    assert (head.status_code, head.headers["allow"], head.content) == (405, "POST", b"")
    assert client.post("/info").headers["allow"] == "GET, HEAD"


def test_head_is_logged_as_head(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    client.head("/info")
    (record,) = [record for record in caplog.records if getattr(record, "event", "") == "request"]
    assert (vars(record)["method"], vars(record)["route"]) == ("HEAD", "/info")


def test_one_bad_image_does_not_harm_its_neighbours(client: httpx.Client) -> None:
    from concurrent.futures import ThreadPoolExecutor

    bodies = [{"text": f"good {n}"} if n % 2 else {"image": as_base64(TEXT_FILE)} for n in range(20)]
    with ThreadPoolExecutor(10) as pool:
        statuses = list(pool.map(lambda body: client.post("/search", json=body).status_code, bodies))
    assert statuses == [422, 200] * 10


def test_a_key_is_shown_with_its_payload(client: httpx.Client) -> None:
    assert client.get("/keys/red").json() == {
        "key": "red",
        "modality": "image",
        "pools": ["pictures"],
        "seq": 1,
        "payload": {"text": None, "metadata": {"price": 3}, "image_urls": ["/keys/red/image"]},
    }


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/keys/a%2Fb%3Ac", "a/b:c"),
        ("/keys/a/b:c", "a/b:c"),
        ("/keys/shelf%2Fimage", "shelf/image"),
        ("/keys%2Fa/b:c", "a/b:c"),
        ("/keys%2fshelf%2fimage", "shelf/image"),
        ("/keys/Schl%C3%BCssel%20%E9%8D%B5%20%2541", "Schl\u00fcssel \u9375 %41"),
        ("/keys/two%20frames", "two frames"),
    ],
)
def test_a_key_of_any_letters_is_found(client: httpx.Client, path: str, key: str) -> None:
    response = client.get(path)
    assert response.status_code == 200, response.text
    assert response.json()["key"] == key


def test_the_addresses_in_a_hit_lead_to_the_images(client: httpx.Client) -> None:
    for hit in search(client, text="a", k=100)["hits"]:
        for address in hit["payload"]["image_urls"]:
            assert client.get(address).headers["content-type"] == "image/png"


def test_an_image_is_sent_as_it_was_indexed_and_only_as_an_image(client: httpx.Client) -> None:
    response = client.get("/keys/two%20frames/image?position=1")
    assert response.content == png((0, 0, 250))
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "max-age" in response.headers["cache-control"]
    etag = response.headers["etag"]
    again = client.get("/keys/two%20frames/image?position=1", headers={"if-none-match": f'"x", W/{etag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    other = client.get("/keys/two%20frames/image", headers={"if-none-match": etag})
    assert other.status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/keys/none", "/keys/none/image", "/keys/note/image", "/keys/red/image?position=1", "/keys/", "/nowhere"],
)
def test_what_is_not_there_is_not_found(client: httpx.Client, path: str) -> None:
    check_error(client.get(path), 404, "not_found")


@pytest.mark.parametrize("position", ["-1", "x", "1e9", "99999999999999999999", "1.5"])
def test_a_wrong_position_is_refused(client: httpx.Client, position: str) -> None:
    assert "position" in check_error(client.get(f"/keys/red/image?position={position}"), 400, "invalid_request")


def test_a_path_that_is_no_utf8_is_refused(client: httpx.Client) -> None:
    check_error(client.get("/keys/%ff%fe"), 400, "invalid_request")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/search"), ("POST", "/keys/red"), ("POST", "/info"), ("PATCH", "/nowhere")]
)
def test_another_method_is_refused_in_the_documented_shape(client: httpx.Client, method: str, path: str) -> None:
    response = client.request(method, path)
    if path == "/nowhere":
        check_error(response, 404, "not_found")
    else:
        check_error(response, 405, "method_not_allowed")
        assert response.json()["error"]["message"].endswith(f"not {response.request.method}")
        assert "allow" in response.headers


def test_info_says_what_is_served(client: httpx.Client) -> None:
    info = client.get("/info").json()
    assert info["name"] == "anykey"
    assert info["index"]["modalities"] == {"text": 3, "image": 3, "fused": 3}
    assert info["index"]["pools"] == {"pages": 2, "pictures": 2}
    assert info["model"]["width"] == 8
    assert info["limits"]["max_k"] == 1000
    assert {"batcher", "cache"} <= set(info["counters"])


def test_an_image_that_is_gone_is_not_found_and_its_key_and_path_are_not_logged(
    tmp_path: Path, wire_encoder: FakeEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    image = tmp_path / "photo.png"
    image.write_bytes(png())
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"key": "my key", "image": "photo.png"}])
    build_with(corpus, tmp_path / "index", wire_encoder, images="reference")
    image.unlink()
    with FaissIndex.open(tmp_path / "index") as index, serving(wire_encoder, index) as client:
        answer = client.get("/keys/my%20key/image", headers={"x-request-id": "r-1"})
    check_error(answer, 404, "not_found")
    (record,) = [record for record in caplog.records if getattr(record, "event", "") == "image_unavailable"]
    line = JsonFormatter().format(record)
    assert json.loads(line)["request_id"] == "r-1"
    assert "my key" not in line
    assert "photo" not in line


def test_health_checks_answer(client: httpx.Client) -> None:
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready", "failing": {}, "problems": {}}


@pytest.mark.parametrize("request_id", ["abc-123", "A" * 128, "0.1_2"])
def test_a_request_id_is_kept(client: httpx.Client, request_id: str) -> None:
    for path in ("/livez", "/nowhere"):
        assert client.get(path, headers={"x-request-id": request_id}).headers["x-request-id"] == request_id


@pytest.mark.parametrize("request_id", ["", "A" * 129, "a b", "<script>", "\u00e9"])
def test_an_unusable_request_id_is_replaced(client: httpx.Client, request_id: str) -> None:
    headers = [(b"x-request-id", request_id.encode("latin-1"))]
    made = client.get("/livez", headers=headers).headers["x-request-id"]
    assert len(made) == 32
    assert made.isalnum()


def test_other_origins_are_not_allowed_by_default(client: httpx.Client) -> None:
    response = client.get("/info", headers={"origin": "http://elsewhere.example"})
    assert "access-control-allow-origin" not in response.headers


class BrokenIndex(MemoryIndex):
    """Fails in a way that nobody foresaw."""

    def search(self, *_: Any, **__: Any) -> Any:
        """Fails."""
        raise ZeroDivisionError


@pytest.fixture(scope="module")
def shared_client(wire_encoder: FakeEncoder) -> Iterator[httpx.Client]:
    """A client of a service that a web shop may call, over an index that fails."""
    with serving(wire_encoder, BrokenIndex(wire_encoder, []), cors_origins=["http://shop.example"]) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "fields", "status"),
    [
        ("POST", "/search", {"text": "a"}, 500),
        ("POST", "/search", {"text": ""}, 400),
        ("POST", "/search?k=1", {}, 400),
        ("GET", "/search", None, 405),
        ("GET", "/nowhere", None, 404),
        ("GET", "/info", None, 200),
        ("HEAD", "/readyz", None, 200),
    ],
)
def test_every_answer_may_be_read_by_the_origins_that_are_allowed(
    method: str, path: str, fields: Any, status: int, shared_client: httpx.Client
) -> None:
    headers = {"origin": "http://shop.example", "x-forwarded-prefix": "/a"}
    response = shared_client.request(method, path, json=fields, headers=headers)
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == "http://shop.example"
    assert response.headers["vary"] == "Origin"
    exposed = response.headers["access-control-expose-headers"].lower().split(", ")
    assert {"x-request-id", "retry-after"} <= set(exposed)
    refused = shared_client.request(method, path, json=fields, headers={**headers, "x-forwarded-prefix": "//b"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (400, "http://shop.example")
    preflight = shared_client.options(
        path, headers={"origin": "http://shop.example", "access-control-request-method": method}
    )
    assert preflight.status_code == 200
    assert len(preflight.headers["x-request-id"]) == 32


def test_what_is_kept_for_one_origin_is_not_given_to_another(shared_client: httpx.Client) -> None:
    assert shared_client.get("/info").headers["vary"] == "Origin", "though no origin was named"


def test_the_documentation_page_is_there(client: httpx.Client) -> None:
    assert "swagger" in client.get("/docs").text.lower()
