"""Whatever the bytes, POST /search answers 200 or a 4xx of the documented shape."""

import json
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import STATUS_BY_TYPE
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


@FUZZ
@given(path=st.text(max_size=30), query=st.text(max_size=10))
def test_any_key_path(client: httpx.Client, path: str, query: str) -> None:
    from urllib.parse import quote

    for suffix in ("", "/image"):
        check_any(client.get(f"/keys/{quote(path, safe='/')}{suffix}?position={quote(query)}"))


def check_any(response: httpx.Response) -> None:
    """200, or a 4xx of the documented shape; nothing about the body of a 200."""
    if response.status_code != 200:
        assert 400 <= response.status_code < 500, response.text
        assert STATUS_BY_TYPE[response.json()["error"]["type"]] == response.status_code
