"""Whatever the bytes, POST /search answers 200 or a 4xx of the documented shape."""

import gzip
import json
import zlib
from typing import Any
from urllib.parse import quote

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anykey.service.errors import STATUS_BY_TYPE
from tests.service_inputs import as_base64, jpeg, png, png_header

FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
CONTENT_TYPES = st.sampled_from(
    ["application/json", "application/json; charset=latin-1", "multipart/form-data; boundary=x", "text/plain", ""]
)
IMAGES = st.sampled_from([png(), jpeg(), jpeg()[:300], png_header(30_000, 30_000), b"GIF89a", b""])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | IMAGES.map(as_base64),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELD_NAMES = st.sampled_from(
    [
        "text",
        "image",
        "k",
        "modalities",
        "pool",
        "exclude",
        "filter",
        "within",
        "text_weight",
        "instruction",
        "rerank",
        "unknown",
        "__proto__",
        "",
    ]
)
LIKELY = {
    "text": st.text(max_size=40),
    "image": IMAGES.map(as_base64) | st.lists(IMAGES.map(as_base64), max_size=3),
    "k": st.integers(-5, 1200),
    "modalities": st.lists(st.sampled_from(["text", "image", "fused", "video"]), max_size=4),
    "pool": st.sampled_from(["pages", "pictures", "none"]),
    "exclude": st.lists(st.text(max_size=8), max_size=7),
    "filter": st.recursive(
        st.fixed_dictionaries(
            {"field": st.text(max_size=4) | st.just("price")},
            optional={
                name: SCALARS | st.lists(SCALARS, max_size=3)
                for name in ("eq", "in", "gt", "gte", "lt", "lte", "exists")
            },
        ),
        lambda part: st.fixed_dictionaries(
            {}, optional={"and": st.lists(part, max_size=3), "or": st.lists(part, max_size=3), "not": part}
        ),
        max_leaves=5,
    ),
    "within": st.lists(st.text(max_size=8) | st.sampled_from(["red", "note"]), max_size=7),
    "text_weight": st.floats(),
    "exact": st.booleans() | SCALARS,
    "instruction": st.text(max_size=20),
    "rerank": st.dictionaries(st.sampled_from(["model", "top", "tops"]), SCALARS, max_size=3) | SCALARS,
}


def check(response: httpx.Response) -> None:
    """200, or a 4xx of the documented shape."""
    if response.status_code == 200:
        assert response.json()["hits"] is not None
        return
    assert 400 <= response.status_code < 500, response.text
    error = response.json()["error"]
    assert set(error) == {"type", "message", "request_id"}
    assert STATUS_BY_TYPE[error["type"]] == response.status_code
    assert len(error["message"]) < 2000


@FUZZ
@given(body=st.binary(max_size=300), content_type=CONTENT_TYPES)
def test_any_bytes(client: httpx.Client, body: bytes, content_type: str) -> None:
    check(client.post("/search", content=body, headers={"content-type": content_type}))


@FUZZ
@given(value=JSON_VALUES | st.dictionaries(FIELD_NAMES, JSON_VALUES, max_size=5))
def test_any_json(client: httpx.Client, value: Any) -> None:
    body = json.dumps(value).encode()
    check(client.post("/search", content=body, headers={"content-type": "application/json"}))


@FUZZ
@given(fields=st.fixed_dictionaries({}, optional=LIKELY))
def test_almost_valid_json(client: httpx.Client, fields: Any) -> None:
    body = json.dumps(fields).encode()
    check(client.post("/search", content=body, headers={"content-type": "application/json"}))


@FUZZ
@given(
    parts=st.lists(
        st.tuples(
            FIELD_NAMES, st.binary(max_size=40) | IMAGES, st.sampled_from([None, "", "a.jpg", 'b";x="']), st.booleans()
        ),
        max_size=6,
    ),
    cut=st.integers(0, 60),
)
def test_any_form(client: httpx.Client, parts: list[tuple[str, bytes, str | None, bool]], cut: int) -> None:
    body = b""
    for name, data, filename, has_type in parts:
        head = f'Content-Disposition: form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
        head += "\r\nContent-Type: image/png" if has_type else ""
        body += b"--x\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n"
    body += b"--x--\r\n"
    body = body[: len(body) - cut] if cut > 30 else body
    check(client.post("/search", content=body, headers={"content-type": "multipart/form-data; boundary=x"}))


PART_HEADERS = st.lists(
    st.sampled_from(
        [
            'Content-Disposition: form-data; name="text"',
            'Content-Disposition: form-data; name="image"',
            "Content-Disposition: form-data; name=image; filename*=utf-8''%D1%84.png",
            'Content-Disposition: form-data; name="_charset_"',
            'Content-Disposition: form-data; name="filter"',
            "Content-Disposition: ;;;=\xff",
            "Content-Type: text/plain; charset=utf-16",
            "Content-Type: text/plain; charset=iso-8859-1",
            "Content-Type: text/plain; charset=\x00",
            "Content-Type: multipart/mixed",
            "Content-Transfer-Encoding: base64",
            "Content-Transfer-Encoding: quoted-printable",
            "Content-Transfer-Encoding: x",
            "Content-Encoding: gzip",
        ]
    ),
    max_size=4,
)


@FUZZ
@given(parts=st.lists(st.tuples(PART_HEADERS, st.binary(max_size=40) | IMAGES | st.just(b"latin-1")), max_size=4))
def test_any_headers_of_parts(client: httpx.Client, parts: list[tuple[list[str], bytes]]) -> None:
    body = b"".join(b"--x\r\n%s\r\n\r\n%s\r\n" % ("\r\n".join(lines).encode("latin-1"), data) for lines, data in parts)
    headers = {"content-type": "multipart/form-data; boundary=x"}
    check(client.post("/search", content=body + b"--x--\r\n", headers=headers))


@FUZZ
@given(
    encoding=st.sampled_from(["gzip", "deflate", "gzip, deflate", "identity", "br", "", ",", "GZIP;q=1"]),
    compress=st.sampled_from([gzip.compress, zlib.compress, bytes]),
    content=st.binary(max_size=60) | st.just(b'{"text": "a"}') | st.just(b'{"text": "a"}' + b" " * 1_100_000),
    cut=st.integers(0, 30),
    more=st.binary(max_size=5),
)
def test_any_compression(
    client: httpx.Client, encoding: str, compress: Any, content: bytes, cut: int, more: bytes
) -> None:
    body = compress(content)
    body = body[: len(body) - cut] + more if cut > 15 else body + more
    check(
        client.post("/search", content=body, headers={"content-type": "application/json", "content-encoding": encoding})
    )


@FUZZ
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "OPTIONS", "TRACE"]),
    path=st.sampled_from(
        ["/", "//", "/search", "/info", "/livez", "/keys/red", "/keys/red/image", "/openapi.json", "/a/docs"]
    )
    | st.text(max_size=10).map(lambda text: "/" + quote(text)),
    query=st.text(max_size=10),
    prefix=st.none() | st.sampled_from(["/a", "/keys", "/a/", "//a", ",", "/a,/b"]) | st.text("/.,%a~", max_size=8),
)
def test_any_address(client: httpx.Client, method: str, path: str, query: str, prefix: str | None) -> None:
    headers = {} if prefix is None else {"x-forwarded-prefix": prefix.strip()}
    response = client.request(method, f"{client.base_url}{path}?{quote(query)}", headers=headers)
    if method == "HEAD":
        assert response.status_code < 500
        assert response.content == b""
    else:
        check_any(response)


@FUZZ
@given(path=st.text(max_size=30), query=st.text(max_size=10))
def test_any_key_path(client: httpx.Client, path: str, query: str) -> None:
    for suffix in ("", "/image"):
        check_any(client.get(f"/keys/{quote(path, safe='/')}{suffix}?position={quote(query)}"))


def check_any(response: httpx.Response) -> None:
    """200, or a 4xx of the documented shape; nothing about the body of a 200."""
    if response.status_code != 200:
        assert 400 <= response.status_code < 500, response.text
        assert STATUS_BY_TYPE[response.json()["error"]["type"]] == response.status_code
