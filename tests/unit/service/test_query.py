"""Protects the reading of JSON queries: what is accepted, what is refused and with which words, and the cache key."""

import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from anykey.encoder.item import Item, Modality
from anykey.index.filtering.conditions import And, Exists, Not, Range
from anykey.index.key_index import Scope
from anykey.service.errors import InvalidRequestError, ItemTooLargeError
from anykey.service.queries.known import KnownQueries
from anykey.service.queries.query import ItemPart, Query, Reranked, decode_base64, query_from_json
from anykey.service.queries.strict_json import parse_json
from anykey.service.schemas import Limits
from tests.service_inputs import as_base64, png


def read(fields: Any, limits: Limits) -> Query:
    return query_from_json(json.dumps(fields).encode(), limits)


def test_every_field_reaches_the_query(limits: Limits) -> None:
    query = read(
        {
            "text": "a cat",
            "image": [as_base64(png()), "data:image/png;base64," + as_base64(png((0, 0, 0)))],
            "k": 3,
            "modalities": ["image", "fused"],
            "pool": "pets",
            "exclude": ["a", "b", "a"],
            "filter": {"and": [{"field": "price", "lt": 20}, {"field": "sold", "exists": False}]},
            "within": ["b", "c", "b"],
            "text_weight": 1,
            "instruction": "find it",
            "exact": True,
            "rerank": {"model": "mini", "top": 20},
        },
        limits,
    )
    assert query == Query(
        (ItemPart(Item(text="a cat", images=(png(), png((0, 0, 0)))), 1.0, "find it"),),
        k=3,
        scope=Scope(
            modalities=frozenset({Modality.IMAGE, Modality.FUSED}),
            pool="pets",
            condition=And((Range(("price",), lt=20), Not(Exists(("sold",))))),
            within=frozenset({"b", "c"}),
            exclude=frozenset({"a", "b"}),
        ),
        exact=True,
        rerank=Reranked("mini", 20),
    )


@pytest.mark.parametrize("value", [1, 0, "true", None, []])
def test_exact_is_true_or_false_and_nothing_else(limits: Limits, value: object) -> None:
    with pytest.raises(InvalidRequestError, match=r"exact must be true or false, got "):
        read({"text": "a", "exact": value}, limits)


def test_null_is_as_good_as_absent(limits: Limits) -> None:
    absent = dict.fromkeys(["image", "modalities", "pool", "filter", "within", "instruction", "rerank"])
    assert read({"text": "a", **absent}, limits) == read({"text": "a"}, limits)


def test_a_byte_order_mark_is_skipped(limits: Limits) -> None:
    assert query_from_json(b'\xef\xbb\xbf{"text": "a"}', limits) == read({"text": "a"}, limits)


def test_no_keys_to_search_within_are_not_all_keys(limits: Limits) -> None:
    assert read({"text": "a", "within": []}, limits).scope.within == frozenset()


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("cheap", r"^filter: expected a condition, which is an object, got a string$"),
        ([], r"^filter: expected a condition, which is an object, got a list$"),
        ({}, r"^filter: expected 'field', 'and', 'or' or 'not' in it, got nothing$"),
        ({"field": "a", "eq": None}, r"^filter at eq: expected a string, a number or a boolean, got null"),
        ({"and": [{"field": "a", "eq": 1}, {"field": "a", "in": [1, {}]}]}, r"^filter at and\[1\]\.in\[1\]: expected"),
        ({"field": "a", "lt": True}, r"^filter at lt: expected a number or a string, got a boolean$"),
        ({"field": "a", "eq": 10**30}, r"^filter at eq: expected an integer of 64 bits"),
        ({"field": "a" * 2000, "eq": 1}, r"^filter at field: expected at most 1,024 bytes"),
        ({"field": "a", "eq": "\ud800"}, r"^filter at eq: expected Unicode, got half a surrogate pair"),
    ],
)
def test_a_wrong_filter_is_refused_with_the_place_and_the_reason(condition: Any, message: str, limits: Limits) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        read({"text": "a", "filter": condition}, limits)


def nested(depth: int) -> Any:
    condition: Any = {"field": "a", "eq": 1}
    for _ in range(depth - 1):
        condition = {"not": condition}
    return condition


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (nested(17), "expected conditions at most 16 deep"),
        ({"or": [{"field": "a", "eq": 1}] * 1_000}, "expected at most 1,000 conditions"),
        ({"field": "a", "in": [1] * 10_001}, "expected at most 10,000 values in all 'in' lists"),
    ],
    ids=["deep", "many", "long"],
)
def test_a_filter_beyond_its_limits_is_refused(condition: Any, message: str, limits: Limits) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        read({"text": "a", "filter": condition}, limits)


def test_a_filter_at_its_limits_is_read(limits: Limits) -> None:
    assert read({"text": "a", "filter": nested(16)}, limits).scope.condition is not None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            '{"queries": [{"text": "c"}, {"text": "a", "text": "b"}]}',
            "queries[1]: field 'text' is given more than once",
        ),
        ('{"queries": [{"text": "a", "k": NaN}, {"k": NaN}]}', "queries[0]: JSON is expected: NaN is no JSON number"),
        ('{"keys": [{}, {"metadata": {"a": [3, {"x": 1, "x": 2}]}}]}', "keys[1]: field 'x' is given more than once"),
        ('{"a": {"b": 1}, "a": 2}', "field 'a' is given more than once"),
        ('{"\u00e9": [Infinity]}', "\\xe9[0]: JSON is expected: Infinity is no JSON number"),
        ("[1, NaN]", "[1]: JSON is expected: NaN is no JSON number"),
    ],
)
def test_what_is_no_json_is_told_with_the_entry_that_it_is_in(body: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        parse_json(body.encode(), "the body")
    assert refused.value.message == message


def test_a_filter_with_a_field_given_twice_is_refused(limits: Limits) -> None:
    body = b'{"text": "a", "filter": {"field": "price", "lt": 1, "lt": 2}}'
    with pytest.raises(InvalidRequestError, match="field 'lt' is given more than once"):
        query_from_json(body, limits)


@pytest.mark.parametrize(("name", "most"), [("exclude", 3), ("within", 4)])
def test_too_many_keys_are_refused_before_they_are_looked_at(name: str, most: int, limits: Limits) -> None:
    assert read({"text": "a", name: ["key"] * most}, limits)
    with pytest.raises(InvalidRequestError, match=f"^{name}: at most {most} keys, got {most + 1}$"):
        read({"text": "a", name: [0] * (most + 1)}, limits)


@pytest.mark.parametrize("keys", ["key", [1], [None], {"key": 1}, ["\ud800"]])
def test_keys_to_search_within_must_be_names(keys: Any, limits: Limits) -> None:
    with pytest.raises(InvalidRequestError, match=r"^within"):
        read({"text": "a", "within": keys}, limits)


@pytest.mark.parametrize("k", [0, -1, 10**9, 10**30, "x", "5", True, 2.5, 10.0, None, [1], {}])
def test_a_wrong_k_is_refused_with_its_bounds(limits: Limits, k: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"k must be a whole number from 1 to 1000, got "):
        read({"text": "a", "k": k}, limits)


@pytest.mark.parametrize("weight", ["NaN", "Infinity", "-Infinity", "1e999", "-0.1", "1.1", '"0.5"', "true", "[]"])
def test_a_text_weight_outside_0_to_1_is_refused(limits: Limits, weight: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"text_weight must be a number from 0 to 1|is no JSON number"):
        query_from_json(f'{{"text": "a", "text_weight": {weight}}}'.encode(), limits)


def test_an_unknown_modality_is_refused_with_those_known(limits: Limits) -> None:
    with pytest.raises(InvalidRequestError, match=r"unknown modality 'video'; known: text, image, fused"):
        read({"text": "a", "modalities": ["image", "video"]}, limits)


def test_an_unknown_field_is_refused_by_name(limits: Limits) -> None:
    with pytest.raises(InvalidRequestError, match=r"unknown field 'top_k'; known: text, text_weight, "):
        read({"text": "a", "top_k": 5}, limits)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"text": ""},
        {"text": " \n\t"},
        {"image": []},
        {"text": "", "image": None},
        {"text": 5},
        {"text": ["a"]},
        {"text": "a", "modalities": []},
        {"text": "a", "modalities": "image"},
        {"text": "a", "exclude": "key"},
        {"text": "a", "exclude": [1]},
        {"text": "a", "exclude": ["1", "2", "3", "4"]},
        {"text": "a", "pool": 5},
        {"image": ""},
        {"image": {"data": "x"}},
    ],
    ids=str,
)
def test_fields_that_make_no_query_are_refused(limits: Limits, fields: Any) -> None:
    with pytest.raises(InvalidRequestError):
        read(fields, limits)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"5",
        b'"text"',
        b"[]",
        b"{",
        b'{"text": "a"',
        b'{"text": "a"}}',
        b"\xff\xfe",
        b'{"text": "\xff"}',
        b'{"text": "a", "text": "b"}',
        b'{"text": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"text": "a", "pool": "\\udfff"}',
        b'{"text": "a", "exclude": ["\\ud800"]}',
        b'{"text": "a", "k": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"text": ' * 20_000,
        b'{"a":' * 500 + b"1" + b"}" * 500,
        '{"text": "a"}'.encode("utf-16"),
        b"\x00",
    ],
    ids=lambda body: ascii(body[:30]),
)
def test_a_body_that_is_no_json_query_is_refused(limits: Limits, body: bytes) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        query_from_json(body, limits)
    assert caught.value.message.isascii(), "a message must survive any encoding"
    assert len(caught.value.message) < 400


def test_messages_do_not_repeat_long_contents(limits: Limits) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read({"text": "a", "k": "secret" * 1000}, limits)
    assert len(caught.value.message) < 200


def test_a_text_over_the_limit_is_too_large(limits: Limits) -> None:
    assert read({"text": "a" * 100}, limits).item == Item(text="a" * 100)
    with pytest.raises(ItemTooLargeError, match="101 characters, at most 100"):
        read({"text": "a" * 101}, limits)


def test_more_images_than_the_limit_are_too_large(limits: Limits) -> None:
    with pytest.raises(ItemTooLargeError, match="3 images, at most 2"):
        read({"image": [as_base64(png())] * 3}, limits)


def test_an_image_over_the_limit_is_too_large_before_it_is_decoded(limits: Limits) -> None:
    assert read({"image": as_base64(b"x" * 10_000)}, limits).item == Item(images=(b"x" * 10_000,))
    for num_bytes in (10_001, 100_000):
        with pytest.raises(ItemTooLargeError, match="at most 10000"):
            read({"image": as_base64(b"x" * num_bytes)}, limits)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "%%%",
            "abcde",
            "ab=c",
            "ab==cdef",
            "====",
            "abcd====",
            "=",
            "\u00e9\u00e9",
            "a\u00a0bc",
            "ab.d",
            "a\ud800bc",
        ),
        *("data:image/png;base64", "data:image/png;base64,abc%", "data:image/png;base64,ab%3D%3Dcdef"),
        *("http://host/cat.jpg", " HTTPS://host/cat.jpg", "File:///etc/passwd"),
    ],
)
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"^image\[1\]"):
        decode_base64(text, "image[1]", 1000)


LETTERS = bytes(range(256)) * 5 + b"?>"  # its base64 has both letters that differ from alphabet to alphabet


@pytest.mark.parametrize(
    "spell",
    [
        lambda plain: plain,
        lambda plain: plain.rstrip("="),
        lambda plain: plain.replace("+", "-").replace("/", "_"),
        lambda plain: f" \r\n{plain[:30]}\r\n\t{plain[30:]}\n",
        lambda plain: f"data:image/png;base64,{plain}",
        lambda plain: f"\nDATA:image/png;BASE64,{plain}",
        lambda plain: f"Data:;base64,{plain.rstrip('=')}",
        lambda plain: f"data:image/png;charset=x;base64 ,{quote(plain, safe='')}",
        lambda plain: f"data:image/png,{quote(LETTERS)}",
    ],
)
def test_base64_is_taken_however_it_is_spelt(spell: Callable[[str], str]) -> None:
    assert decode_base64(spell(as_base64(LETTERS)), "image", 2000) == LETTERS


@pytest.mark.parametrize("num_bytes", [0, 1, 2, 3, 786_431, 786_432, 786_433, 1_600_001])
def test_long_base64_is_decoded_whole(num_bytes: int) -> None:
    data = (LETTERS * 1300)[:num_bytes]
    folded = base64.encodebytes(data).decode("ascii")
    for text in (as_base64(data), as_base64(data).rstrip("="), folded):
        assert decode_base64(text, "image", 2_000_000) == data
    if num_bytes:
        with pytest.raises(InvalidRequestError):
            decode_base64("AA==" + as_base64(data), "image", 2_000_000)


def test_the_content_hash_separates_what_differs_and_joins_what_does_not() -> None:
    image, other = png(), png((1, 2, 3))
    parts = [
        ItemPart(Item(text="a")),
        ItemPart(Item(text="b")),
        ItemPart(Item(images=(image,))),
        ItemPart(Item(images=(other,))),
        ItemPart(Item(images=(image, other))),
        ItemPart(Item(images=(other, image))),
        ItemPart(Item(images=(image + other,))),
        ItemPart(Item(text="a", images=(image,))),
        ItemPart(Item(text="a", images=(image,)), text_weight=0.6),
        ItemPart(Item(text="a"), instruction=""),
        ItemPart(Item(text="a"), instruction="find"),
        ItemPart(Item(text="finda")),
        ItemPart(Item(text="a", images=(image,)), text_weight=0.6, instruction="find"),
        ItemPart(Item(images=(image,)), instruction="find"),
    ]
    assert len({part.content_hash("model") for part in parts}) == len(parts)
    assert parts[0].content_hash("model") != parts[0].content_hash("other model")
    assert ItemPart(Item(text="a"), 0.6, weight=-2.0, where="parts[1]").content_hash("model") == parts[0].content_hash(
        "model"
    )
    assert ItemPart(Item(text="  ", images=(image,))).content_hash("model") == parts[2].content_hash("model")


def test_known_queries_are_what_reading_anew_gives_and_take_bounded_memory(limits: Limits) -> None:
    bodies = [json.dumps({"text": f"query {number}", "k": 1 + number % 3}).encode() for number in range(40)]
    bodies.append(json.dumps({"image": as_base64(bytes(5000))}).encode())
    known = KnownQueries(limits, max_bytes=10 * 3050)
    for body in [*bodies, *bodies[-5:], *bodies]:
        assert known.read(bytearray(body)) == query_from_json(body, limits)
        assert len(known) <= 10
    assert known.read(bodies[39]) is known.read(bytearray(bodies[39]))
    assert known.read(bodies[39]).digest == query_from_json(bodies[39], limits).digest
    for broken in (b"{}", b'{"k": 3, "k": 4}', b"nothing"):
        for _ in range(2):
            with pytest.raises(InvalidRequestError):
                known.read(broken)
