"""Protects the reading of forms: files, values, repeats, and bodies that are no form."""

import base64
import re

import httpx
import pytest

from anykey.encoder.item import Item, Modality
from anykey.index.filtering.conditions import In
from anykey.index.key_index import Scope
from anykey.service.errors import InvalidRequestError, ItemTooLargeError
from anykey.service.queries.query import ItemPart, Query, Reranked
from anykey.service.requests.multipart import parse_parts, query_from_multipart
from anykey.service.schemas import Limits
from tests.service_inputs import as_base64, jpeg, png

TYPE = "multipart/form-data; boundary=edge"


def form(*parts: tuple[str, bytes]) -> bytes:
    """A body of parts, each given as its header lines and its contents."""
    return b"".join(b"--edge\r\n%s\r\n\r\n%s\r\n" % (head.encode(), data) for head, data in parts) + b"--edge--\r\n"


def field(name: str, value: bytes | str) -> tuple[str, bytes]:
    return f'Content-Disposition: form-data; name="{name}"', value.encode() if isinstance(value, str) else value


def file(name: str, data: bytes, filename: str = "x.jpg") -> tuple[str, bytes]:
    head = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\nContent-Type: image/jpeg'
    return head, data


def read(limits: Limits, *parts: tuple[str, bytes]) -> Query:
    return query_from_multipart(form(*parts), TYPE, limits)


def test_every_field_reaches_the_query(limits: Limits) -> None:
    query = read(
        limits,
        file("image", png()),
        file("image", jpeg()),
        field("text", "a c\u00e4t"),
        field("k", "7"),
        field("modalities", "image, fused"),
        field("modalities", "text"),
        field("exclude", "a,b"),
        field("exclude", "c"),
        field("pool", "pets"),
        field("filter", '{"field": "colour", "in": ["red", "blue"]}'),
        field("within", "a, b"),
        field("within", "d"),
        field("text_weight", "0.25"),
        field("exact", "true"),
        field("instruction", "find, please"),
        field("rerank", '{"top": 20}'),
    )
    assert query == Query(
        (ItemPart(Item(text="a c\u00e4t", images=(png(), jpeg())), 0.25, "find, please"),),
        exact=True,
        k=7,
        scope=Scope(
            modalities=frozenset(Modality),
            pool="pets",
            condition=In(("colour",), ("red", "blue")),
            within=frozenset("abd"),
            exclude=frozenset("abc"),
        ),
        rerank=Reranked(None, 20),
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("cheap", r"^field filter must be JSON: Expecting value at column 1$"),
        ('{"field": "a"', r"^field filter must be JSON: "),
        (b"\xff", r"^field filter must be UTF-8, byte 0 is not$"),
        ('{"field": "a", "eq": NaN}', r"NaN is no JSON number$"),
        ('{"field": "a", "eq": 1, "eq": 2}', r"^field 'eq' is given more than once$"),
        ("[" * 100_000, r"^field filter must be JSON nested at most a few levels deep$"),
        ('"cheap"', r"^filter: expected a condition, which is an object, got a string$"),
        ('{"field": "a", "size": 1}', r"^filter: expected no more than 'field', "),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_a_filter_that_is_none_is_refused(value: str | bytes, message: str, limits: Limits) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        read(limits, field("text", "a"), field("filter", value))


def test_a_filter_may_say_that_it_is_json_and_may_be_no_file(limits: Limits) -> None:
    head, data = field("filter", '{"field": "a", "exists": true}')
    assert read(limits, field("text", "a"), (f"{head}\r\nContent-Type: application/json", data)).scope.condition
    with pytest.raises(InvalidRequestError, match="field 'filter' must be a value, got a file"):
        read(limits, field("text", "a"), (f'{head}; filename="f.json"', data))
    with pytest.raises(InvalidRequestError, match="field filter is given more than once"):
        read(limits, field("text", "a"), (head, data), (head, data))


def test_too_many_keys_to_search_within_are_refused(limits: Limits) -> None:
    with pytest.raises(InvalidRequestError, match=r"^within: at most 4 keys, got 5$"):
        read(limits, field("text", "a"), field("within", "a,b,c,d,e"))


def test_what_httpx_sends_is_read(limits: Limits) -> None:
    request = httpx.Request(
        "POST", "http://x/", data={"text": "a", "exclude": ["k1", "k2"]}, files={"image": ("p.png", png())}
    )
    query = query_from_multipart(request.read(), request.headers["content-type"], limits)
    assert query.item == Item(text="a", images=(png(),))
    assert query.scope.exclude == {"k1", "k2"}


def test_an_image_without_a_file_name_is_read_as_base64(limits: Limits) -> None:
    assert read(limits, field("image", as_base64(png()))).item.images == (png(),)


@pytest.mark.parametrize(
    "head",
    [
        """Content-Disposition: form-data; name="image"; filename*=utf-8''%D1%84%D0%BE.jpg""",
        """Content-Disposition: form-data; name="image"; filename*="UTF-8''a.jpg"; filename="a.jpg\"""",
        """Content-Disposition: form-data; FILENAME*=iso-8859-1'en'%A3.jpg; name=image""",
        """Content-Disposition: form-data; name="image"; filename*0="long"; filename*1="name.jpg\"""",
        """Content-Disposition: form-data; name="image"; filename""",
    ],
)
def test_a_part_with_a_file_name_of_any_form_is_a_file(head: str, limits: Limits) -> None:
    assert read(limits, (head, png())).item.images == (png(),)


def test_a_file_name_within_another_parameter_makes_no_file(limits: Limits) -> None:
    head = """Content-Disposition: form-data; x="; filename*=utf-8''a.jpg"; name="text\""""
    assert read(limits, (head, b"a cat")).item == Item(text="a cat")


@pytest.mark.parametrize(
    ("lines", "data"),
    [
        ("Content-Type: text/plain; charset=ISO-8859-1\r\nContent-Transfer-Encoding: 8bit", b"un caf\xe9"),
        ("Content-Type: text/plain; charset=windows-1252", b"un caf\xe9"),
        ("Content-Type: text/plain; charset=UTF-8\r\nContent-Transfer-Encoding: base64", b"dW4gY2Fm\r\nw6k="),
        ("Content-Transfer-Encoding: quoted-printable", b"un caf=C3=A9"),
        ("Content-Transfer-Encoding: Binary\r\nContent-Encoding: identity", "un caf\u00e9".encode()),
    ],
)
def test_a_field_is_read_in_the_letters_and_the_form_it_says(lines: str, data: bytes, limits: Limits) -> None:
    head, _ = field("text", "")
    assert read(limits, (f"{head}\r\n{lines}", data)).item.text == "un caf\u00e9"
    as_file, _ = file("image", b"")
    encoded = base64.encodebytes(png())
    assert read(limits, (f"{as_file}\r\nContent-Transfer-Encoding: base64", encoded)).item.images == (png(),)


def test_a_form_may_name_the_letters_of_all_its_fields(limits: Limits) -> None:
    query = read(limits, field("text", b"caf\xe9"), field("_charset_", "latin-1"), field("pool", b"\xe9"))
    assert query.item is not None
    assert (query.item.text, query.scope.pool) == ("caf\u00e9", "\u00e9")
    by_type = query_from_multipart(form(field("text", b"caf\xe9")), f'{TYPE}; charset="ISO-8859-1"', limits)
    assert by_type.item.text == "caf\u00e9"


@pytest.mark.parametrize(
    ("lines", "data", "message"),
    [
        ("Content-Type: text/plain; charset=punycode", b"a", "charset 'punycode' is not read; send UTF-8"),
        ("Content-Type: text/plain; charset=nonsense", b"a", "charset 'nonsense' is not read; send UTF-8"),
        ("Content-Type: text/plain; charset=us-ascii", b"caf\xe9", "field text must be ASCII, byte 3 is not"),
        ("Content-Transfer-Encoding: uuencode", b"a", "field 'text': unknown Content-Transfer-Encoding 'uuencode'"),
        ("Content-Transfer-Encoding: base64", b"a", "field 'text' is not base64, its Content-Transfer-Encoding"),
        ("Content-Encoding: gzip", b"a", "a part of the multipart body has a Content-Encoding"),
        ("Content-Type: multipart/mixed; boundary=y", b"--y", "field 'text' holds parts of its own"),
    ],
)
def test_a_part_that_cannot_be_read_as_it_says_is_refused(
    lines: str, data: bytes, message: str, limits: Limits
) -> None:
    head, _ = field("text", "")
    with pytest.raises(InvalidRequestError, match=re.escape(message)):
        read(limits, (f"{head}\r\n{lines}", data))


def test_boxes_and_files_a_browser_leaves_empty_are_absent(limits: Limits) -> None:
    parts = [file("image", b"", filename=""), field("text", "a"), field("k", ""), field("pool", "")]
    parts += [field("filter", ""), field("within", "")]
    assert read(limits, *parts) == Query((ItemPart(Item(text="a")),))


@pytest.mark.parametrize("name", ["text", "k", "pool", "text_weight"])
def test_a_value_given_twice_is_refused(limits: Limits, name: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"field {name} is given more than once"):
        read(limits, file("image", png()), field(name, "1"), field(name, "1"))


@pytest.mark.parametrize("k", ["0", "-3", "1000000000", "9" * 5000, "x", "1.5", "1e3", "\u0665"])
def test_a_wrong_k_is_refused_with_its_bounds(limits: Limits, k: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"k must be a whole number from 1 to 1000, got "):
        read(limits, field("text", "a"), field("k", k))


@pytest.mark.parametrize("weight", ["nan", "inf", "-1", "x"])
def test_a_wrong_text_weight_is_refused(limits: Limits, weight: str) -> None:
    with pytest.raises(InvalidRequestError, match="text_weight must be a number from 0 to 1"):
        read(limits, field("text", "a"), field("text_weight", weight))


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [field("text", "a"), field("colour", "red")],
        [file("picture", b"x")],
        [file("text", b"a cat")],
        [field("text", b"\xff\xfe")],
        [file("image", b"")],
        [field("", "a")],
        [("X-Other: 1", b"a")],
        [field("modalities", "video")],
    ],
    ids=lambda parts: ascii(parts)[:50],
)
def test_a_form_that_makes_no_query_is_refused(limits: Limits, parts: list[tuple[str, bytes]]) -> None:
    with pytest.raises(InvalidRequestError):
        read(limits, *parts)


def test_a_file_over_the_limit_is_too_large(limits: Limits) -> None:
    with pytest.raises(ItemTooLargeError, match="image has 10001 bytes, at most 10000"):
        read(limits, file("image", b"x" * 10_001))


@pytest.mark.parametrize(
    "body",
    [b"", b"hello", b"--edge", b"--edge\r\n", form(field("text", "a"))[:-8], b"--other\r\n\r\n--other--", b"\r\n" * 50],
    ids=ascii,
)
def test_a_malformed_body_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        parse_parts(body, TYPE)


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "x" * 300],
)
def test_a_missing_or_absurd_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(InvalidRequestError, match="boundary"):
        parse_parts(form(field("text", "a")), content_type)


def test_too_many_parts_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="more than 4096 parts"):
        parse_parts(form(*[field("exclude", "a")] * 4097), TYPE)
