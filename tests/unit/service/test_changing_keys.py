"""Protects the routes that change keys: what is stored, what is answered, and what is refused with which words."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from anykey.encoder.item import Item
from anykey.encoder.protocol import Role
from anykey.index.faiss_index import FaissIndex
from tests.fakes import FakeEncoder
from tests.service_inputs import as_base64, png
from tests.serving import build_real_index, serving, stored

RED, BLUE = png((250, 0, 0)), png((0, 0, 250))
LIMITS = {"max_keys": 100, "max_within": 4, "max_exclude": 4, "max_images": 2, "max_image_bytes": 20_000}


@pytest.fixture(scope="module")
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture(scope="module")
def empty_dir(encoder: FakeEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = [stored("kept", Item(text="a key of the build"), ("built",), price=1)]
    return build_real_index(tmp_path_factory.mktemp("changing"), encoder, kept)


@pytest.fixture(scope="module")
def whole(encoder: FakeEncoder, empty_dir: Path) -> Iterator[httpx.Client]:
    with (
        FaissIndex.open(empty_dir) as index,
        serving(encoder, index, writable=True, max_text_chars=200, max_body_bytes=200_000, **LIMITS) as client,
    ):
        yield client


@pytest.fixture
def client(whole: httpx.Client) -> Iterator[httpx.Client]:
    """Begins with the key of the build alone."""
    yield whole
    whole.post("/keys/delete", json={"exclude": ["kept"]}).raise_for_status()


def vector_of(encoder: FakeEncoder, item: Item) -> list[float]:
    prepared = encoder.prepare(item, Role.KEY)
    vector: list[float] = encoder.encode_prepared([prepared])[0].tolist()
    return vector


def shown(client: httpx.Client, key: str) -> dict[str, Any]:
    response = client.get(f"/keys/{key}", params={"include": "vector"})
    response.raise_for_status()
    found: dict[str, Any] = response.json()
    return found


def refusal(response: httpx.Response) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["type"], error["message"]


@pytest.mark.parametrize(
    ("fields", "item", "modality"),
    [
        ({"text": "a red mug"}, Item(text="a red mug"), "text"),
        ({"image": as_base64(RED)}, Item(images=(RED,)), "image"),
        ({"text": " ", "image": as_base64(RED)}, Item(images=(RED,)), "image"),
        ({"text": "red", "image": as_base64(RED)}, Item(text="red", images=(RED,)), "fused"),
        ({"image": [as_base64(RED), as_base64(BLUE)]}, Item(images=(RED, BLUE)), "image"),
    ],
)
def test_a_key_is_stored_with_the_vector_of_all_that_it_has(
    client: httpx.Client, encoder: FakeEncoder, fields: dict[str, Any], item: Item, modality: str
) -> None:
    more = {"metadata": {"price": 3}, "pools": ["shop", "all"]}
    response = client.put("/keys/sku-1", json={**fields, **more})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["key"], answer["status"], answer["is_new"], answer["error"]) == ("sku-1", "stored", True, None)
    found = shown(client, "sku-1")
    assert response.headers["etag"] == f'"{answer["seq"]}"' == f'"{found["seq"]}"'
    assert (found["modality"], found["pools"]) == (modality, ["all", "shop"])
    assert found["payload"]["metadata"] == {"price": 3}
    assert found["payload"]["text"] == item.text
    np.testing.assert_allclose(found["vector"], vector_of(encoder, item), atol=1e-6)
    for position, image in enumerate(item.images):
        assert client.get(found["payload"]["image_urls"][position]).content == image
    best = client.post("/search", json={name: value for name, value in fields.items()} | {"k": 1}).json()["hits"][0]
    assert (best["key"], round(best["score"], 3)) == ("sku-1", 1.0)


def test_a_vector_is_stored_as_it_is_told_and_scaled(client: httpx.Client, encoder: FakeEncoder) -> None:
    numbers = np.arange(1, encoder.width + 1, dtype=np.float32)
    unit_D = numbers / np.linalg.norm(numbers)
    encoded = base64.b64encode(numbers.astype("<f4").tobytes()).decode()
    answer = client.put(
        "/keys",
        json={
            "keys": [
                {"key": "numbers", "vector": numbers.tolist()},
                {"key": "base64", "vector": encoded, "modality": "image"},
                {"key": "with text", "vector": (numbers * 1e30).tolist(), "text": "words"},
            ]
        },
    ).json()
    assert (answer["num_stored"], answer["num_failed"]) == (3, 0), answer
    for key, modality in (("numbers", "text"), ("base64", "image"), ("with text", "text")):
        found = shown(client, key)
        assert found["modality"] == modality
        np.testing.assert_allclose(found["vector"], unit_D, atol=1e-6)
    assert shown(client, "numbers")["payload"]["text"] is None


def test_each_key_of_a_list_has_an_outcome_of_its_own(client: httpx.Client) -> None:
    keys = [
        {"key": "good", "text": "a good one"},
        {"key": "no image", "image": as_base64(b"these are no bytes of an image")},
        {"key": "broken", "image": "%%%"},
        {"text": "no name"},
        {"key": "good", "text": "the same again", "if_seq": 0},
    ]
    response = client.put("/keys", json={"keys": keys})
    answer = response.json()
    assert response.status_code == 200
    errors = [outcome["error"] and outcome["error"]["type"] for outcome in answer["outcomes"]]
    kinds = [None, "undecodable_image", "invalid_request", "invalid_request", "precondition_failed"]
    assert errors == kinds
    assert [outcome["key"] for outcome in answer["outcomes"]] == ["good", "no image", "broken", None, "good"]
    assert [outcome["status"] for outcome in answer["outcomes"]] == ["stored", *["failed"] * 4]
    assert answer["outcomes"][2]["error"]["message"].startswith("keys[2].image")
    assert answer["outcomes"][3]["error"]["message"].startswith("keys[3].key")
    assert (answer["num_stored"], answer["num_failed"]) == (1, 4)
    assert shown(client, "good")["seq"] == answer["outcomes"][0]["seq"]


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ({"key": "b", "image": as_base64(b"no image")}, (422, "undecodable_image")),
        ({"key": "b"}, (400, "invalid_request")),
        ({"key": "b", "text": "x", "if_seq": 10**6}, (412, "precondition_failed")),
        ({"key": "b", "vector": [1.0]}, (400, "invalid_request")),
    ],
)
def test_an_atomic_list_is_stored_whole_or_not_at_all(
    client: httpx.Client, bad: dict[str, Any], expected: tuple[int, str]
) -> None:
    wanted = {"atomic": True, "keys": [{"key": "a", "text": "a"}, bad, {"key": "c", "text": "c"}]}
    before = client.get("/keys/kept").json()["seq"]
    status, kind, message = refusal(client.put("/keys", json=wanted))
    assert (status, kind) == expected
    assert message.startswith("keys[1]")
    assert message.endswith("nothing was stored")
    assert client.get("/keys/a").status_code == 404
    assert client.get("/keys/c").status_code == 404
    wanted["keys"] = [{"key": "a", "text": "a"}, {"key": "c", "text": "c"}]
    assert client.put("/keys", json=wanted).json()["num_stored"] == 2
    assert client.get("/keys/kept").json()["seq"] == before


def test_the_only_key_is_answered_with_its_own_status(client: httpx.Client) -> None:
    assert refusal(client.put("/keys", json={"key": "x", "image": as_base64(b"no")}))[:2] == (422, "undecodable_image")
    answer = client.put("/keys", json={"key": "x", "text": "yes"})
    assert (answer.status_code, answer.json()["status"]) == (200, "stored")
    assert answer.json()["is_new"]
    assert not client.put("/keys", json={"key": "x", "text": "again"}).json()["is_new"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-None-Match": "*"}, 412),
        ({"If-Match": "*"}, 200),
        ({"If-Match": '"1000000"'}, 412),
        ({"If-Match": 'W/"SEQ"'}, 200),
        ({"If-Match": '"SEQ"'}, 200),
        ({"If-Match": '"1", "2"'}, 400),
        ({"If-Match": "SEQ"}, 400),
        ({"If-None-Match": '"SEQ"'}, 400),
        ({"If-Match": "*", "If-None-Match": "*"}, 400),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_a_change_may_depend_on_the_number_of_the_stored_key(
    client: httpx.Client, method: str, headers: dict[str, str], status: int
) -> None:
    seq = client.put("/keys/x", json={"text": "first"}).json()["seq"]
    sent = {name: value.replace("SEQ", str(seq)) for name, value in headers.items()}
    body = {"PUT": {"text": "second"}, "PATCH": {"metadata": {"n": 1}}}.get(method)
    response = client.request(method, "/keys/x", json=body, headers=sent)
    assert response.status_code == status, response.text
    if status != 200:
        assert client.get("/keys/x").json()["seq"] == seq


def test_what_is_not_there_can_be_made_but_not_matched(client: httpx.Client) -> None:
    assert client.put("/keys/new", json={"text": "n"}, headers={"If-Match": "*"}).status_code == 412
    assert client.put("/keys/new", json={"text": "n"}, headers={"If-None-Match": "*"}).status_code == 200
    assert client.put("/keys/newer", json={"text": "n", "if_seq": 0}).status_code == 200
    message = refusal(client.put("/keys/newer", json={"text": "n", "if_seq": 0}, headers={"If-Match": "*"}))[2]
    assert message == "expected one of If-Match, If-None-Match and if_seq, once"
    seq = client.get("/keys/newer").json()["seq"]
    for headers in ([("If-Match", "*"), ("If-Match", f'"{seq}"')], [("If-Match", f'"{seq}"'), ("If-Match", "*")]):
        message = refusal(client.put("/keys/newer", json={"text": "n"}, headers=headers))[2]
        assert message == "expected one of If-Match, If-None-Match and if_seq, once"


@pytest.mark.parametrize("body", [b'{"if_seq": 1}', b"not json"])
def test_a_body_that_nobody_reads_keeps_a_key_from_being_deleted(client: httpx.Client, body: bytes) -> None:
    client.put("/keys/x", json={"text": "t"})
    answer = client.request("DELETE", "/keys/x", content=body, headers={"Content-Type": "application/json"})
    assert refusal(answer)[2] == "expected no body; what must be stored is said by If-Match"
    answer = client.request("DELETE", "/keys/x", content=iter([body]))  # in chunks, without a length
    assert refusal(answer)[:2] == (400, "invalid_request")
    assert client.get("/keys/x").status_code == 200


@pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/keys", {"keys": [{"key": "x", "text": "second"}]}),
        ("POST", "/keys/delete", {"keys": ["x"]}),
        ("POST", "/keys/undo", {"seq": 1}),
    ],
)
def test_a_condition_that_is_about_no_single_key_is_refused(
    client: httpx.Client, method: str, path: str, body: dict[str, Any], name: str
) -> None:
    seq = client.put("/keys/x", json={"text": "first"}).json()["seq"]
    status, _, message = refusal(client.request(method, path, json=body, headers={name: "*"}))
    assert (status, message.split(";")[0]) == (400, "If-Match and If-None-Match are for one key")
    assert client.get("/keys/x").json()["seq"] == seq


def test_a_patch_merges_metadata_and_replaces_pools_and_leaves_the_rest(client: httpx.Client) -> None:
    client.put("/keys/x", json={"text": "t", "image": as_base64(RED), "metadata": {"a": 1, "b": {"c": 2, "d": 3}}})
    before = shown(client, "x")
    response = client.patch("/keys/x", json={"metadata": {"a": None, "b": {"c": 4}, "e": [1]}, "pools": ["p"]})
    assert (response.status_code, response.json()["status"]) == (200, "stored")
    after = shown(client, "x")
    assert after["payload"]["metadata"] == {"b": {"c": 4, "d": 3}, "e": [1]}
    assert after["pools"] == ["p"]
    assert after["vector"] == before["vector"]
    assert after["seq"] == response.json()["seq"] > before["seq"]
    assert client.get("/keys/x/image").content == RED
    filtered = {"text": "t", "filter": {"field": "b.c", "eq": 4}}
    assert [hit["key"] for hit in client.post("/search", json=filtered).json()["hits"]] == ["x"]
    assert refusal(client.patch("/keys/gone", json={"pools": []}))[:2] == (404, "not_found")
    assert refusal(client.patch("/keys/x", json={}))[:2] == (400, "invalid_request")
    assert refusal(client.patch("/keys/x", json={"text": "t"}))[:2] == (400, "invalid_request")
    whole = {"metadata": {"g": None, "h": {"i": None}}, "overwrite": True}
    client.patch("/keys/x", json=whole).raise_for_status()
    assert shown(client, "x")["payload"]["metadata"] == whole["metadata"]
    assert refusal(client.patch("/keys/x", json={"pools": [], "overwrite": True}))[:2] == (400, "invalid_request")


def test_a_deleted_key_is_gone_at_once(client: httpx.Client) -> None:
    client.put("/keys/x", json={"text": "gone soon"})
    response = client.delete("/keys/x")
    assert (response.status_code, response.json()["status"]) == (200, "deleted")
    assert "etag" not in response.headers
    assert client.get("/keys/x").status_code == 404
    assert refusal(client.delete("/keys/x"))[:2] == (404, "not_found")
    assert "x" not in [hit["key"] for hit in client.post("/search", json={"text": "gone soon"}).json()["hits"]]


def fill(client: httpx.Client) -> None:
    keys = [{"key": f"k{n}", "text": f"text {n}", "metadata": {"n": n}, "pools": [f"p{n % 2}"]} for n in range(5)]
    assert client.put("/keys", json={"keys": keys}).json()["num_stored"] == 5


@pytest.mark.parametrize(
    ("fields", "gone"),
    [
        ({"keys": ["k1", "k3", "k1", "unknown"]}, ["k1", "k3"]),
        ({"filter": {"field": "n", "gte": 3}}, ["k3", "k4"]),
        ({"pool": "p0", "exclude": ["k2"]}, ["k0", "k4"]),
        ({"within": ["k0", "unknown"]}, ["k0"]),
        ({"within": []}, []),
        ({"keys": []}, []),
        ({"modalities": ["image"]}, []),
        ({"all": True}, ["k0", "k1", "k2", "k3", "k4", "kept"]),
    ],
)
def test_keys_are_deleted_by_name_or_scope_and_counted_first(
    client: httpx.Client, fields: dict[str, Any], gone: list[str]
) -> None:
    fill(client)
    kept = client.get("/keys/kept").json()
    everything = [key["key"] for key in client.get("/keys").json()["keys"]]
    dry = client.post("/keys/delete", json={**fields, "dry_run": True}).json()
    assert (dry["num_deleted"], dry["dry_run"]) == (len(gone), True)
    answer = client.post("/keys/delete", json=fields).json()
    assert (answer["num_deleted"], answer["dry_run"]) == (len(gone), False)
    left = [key["key"] for key in client.get("/keys").json()["keys"]]
    assert left == [key for key in everything if key not in gone]
    if "kept" in gone:
        client.put("/keys/kept", json={"text": kept["payload"]["text"], "pools": ["built"], "metadata": {"price": 1}})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "all are absent"),
        ({"all": True, "pool": "p0"}, "got all and a scope"),
        ({"keys": ["a"], "pool": "p0"}, "got keys and pool"),
        ({"keys": ["a"], "all": True}, "got keys and all"),
        ({"keys": ["a", "b", "c", "d", "e"]}, "at most 4 keys, got 5"),
        ({"keys": "a"}, "keys must be a list, got 'a'"),
        ({"pool": "unknown"}, "unknown pool"),
        ({"filter": {"field": "n"}}, "filter"),
        ({"everything": True}, "unknown field 'everything'"),
    ],
)
def test_what_would_delete_too_much_by_accident_is_refused(
    client: httpx.Client, fields: dict[str, Any], words: str
) -> None:
    fill(client)
    status, kind, message = refusal(client.post("/keys/delete", json=fields))
    assert (status, kind) == (400, "invalid_request")
    assert words in message
    assert client.get("/keys/k0").status_code == 200


def test_lists_go_through_all_keys_of_a_scope_once(client: httpx.Client) -> None:
    fill(client)
    for scope, expected in (
        ({}, ["k0", "k1", "k2", "k3", "k4", "kept"]),
        ({"pool": "p0"}, ["k0", "k2", "k4"]),
        ({"filter": json.dumps({"field": "n", "lt": 3})}, ["k0", "k1", "k2"]),
        ({"modalities": "text, fused", "pool": "p1"}, ["k1", "k3"]),
        ({"modalities": "image"}, []),
    ):
        for limit in (1, 2, 5):
            names: list[str] = []
            cursor: str | None = ""
            while cursor is not None:
                more = {"cursor": cursor} if cursor else {}
                page = client.get("/keys", params={**scope, **more, "limit": limit}).json()
                assert 1 <= len(page["keys"]) <= limit or not expected
                names += [key["key"] for key in page["keys"]]
                cursor = page["cursor"]
            assert names == expected
            narrowed = {**scope}
            if "filter" in scope:
                narrowed["filter"] = json.loads(scope["filter"])
            if "modalities" in scope:
                narrowed["modalities"] = [name.strip() for name in scope["modalities"].split(",")]
            assert client.post("/keys/count", json=narrowed).json()["num_keys"] == len(expected)


@pytest.mark.parametrize(
    "parameters",
    [
        "limit=0",
        "limit=101",
        "limit=x",
        "cursor=",
        "cursor=%25",
        "cursor=!",
        "k=1",
        "pool=nowhere",
        "filter=%7B",
        "modalities=video",
    ],
)
def test_a_wrong_list_is_refused(client: httpx.Client, parameters: str) -> None:
    assert refusal(client.get(f"/keys?{parameters}"))[:2] == (400, "invalid_request")


def test_a_key_that_is_known_is_not_sent_again(client: httpx.Client) -> None:
    etag = client.put("/keys/x", json={"text": "t"}).headers["etag"]
    assert client.get("/keys/x", headers={"If-None-Match": etag}).status_code == 304
    changed = client.patch("/keys/x", json={"pools": ["p"]}).headers["etag"]
    response = client.get("/keys/x", headers={"If-None-Match": etag})
    assert (response.status_code, response.headers["etag"]) == (200, changed)


def test_names_that_are_hard_to_put_into_an_address_are_stored_like_any(client: httpx.Client) -> None:
    for address, name in (
        ("/keys/a%2Fb", "a/b"),
        ("/keys/a/b", "a/b"),
        ("/keys/count", "count"),
        ("/keys/delete", "delete"),
        ("/keys/a%2Fimage", "a/image"),
        ("/keys/%E9%8D%B5", "\u9375"),
        ("/keys/a%0Ab", "a\nb"),
        ("/keys/a%00b", "a\0b"),
    ):
        assert client.put(address, json={"text": "t"}).json()["key"] == name
        assert client.get(address).json()["key"] == name
        assert client.patch(address, json={"pools": ["p"]}).json()["key"] == name
        assert client.delete(address).json()["key"] == name
    assert refusal(client.put("/keys/a/image", json={"text": "t"}))[:2] == (405, "method_not_allowed")
    assert refusal(client.put("/keys/%20", json={"text": "t"}))[:2] == (400, "invalid_request")
    assert refusal(client.put("/keys/%FF", json={"text": "t"}))[:2] == (400, "invalid_request")
    assert client.put("/keys/x", json={"key": "y", "text": "t"}).status_code == 400


def test_a_form_stores_a_key_with_its_images_as_files(client: httpx.Client, encoder: FakeEncoder) -> None:
    fields = {"text": "both", "metadata": '{"a": [1]}', "pools": "p, q", "if_seq": "0"}
    files = [("image", ("red.png", RED, "image/png")), ("image", ("blue.png", BLUE, "image/png"))]
    answer = client.put("/keys/form", data=fields, files=files)
    assert answer.status_code == 200, answer.text
    found = shown(client, "form")
    assert (found["pools"], found["payload"]["metadata"]) == (["p", "q"], {"a": [1]})
    item = Item(text="both", images=(RED, BLUE))
    np.testing.assert_allclose(found["vector"], vector_of(encoder, item), atol=1e-6)
    assert client.get("/keys/form/image?position=1").content == BLUE
    assert client.put("/keys", data={"key": "named", "text": "t"}, files={"image": RED}).json()["key"] == "named"
    assert refusal(client.put("/keys/form", data=fields, files=files))[:2] == (412, "precondition_failed")
    wrong = client.put("/keys/form", data={"text": "t", "colour": "red"}, files={"image": RED})
    assert "unknown field 'colour'" in refusal(wrong)[2]


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({}, "invalid_request", "expected text, image, both or a vector"),
        ({"text": " "}, "invalid_request", "expected text, image, both or a vector"),
        ({"text": 1}, "invalid_request", "text must be a string, got 1"),
        ({"text": "x" * 201}, "item_too_large", "text has 201 characters, at most 200"),
        ({"text": "\ud800"}, "invalid_request", "half a surrogate pair"),
        ({"image": ["a", "b", "c"]}, "item_too_large", "3 images, at most 2"),
        ({"image": "http://localhost/x.png"}, "invalid_request", "addresses are not fetched"),
        ({"image": as_base64(bytes(20_001))}, "item_too_large", "20001 bytes, at most 20000"),
        ({"image": ""}, "invalid_request", "image[0] is empty"),
        ({"vector": []}, "invalid_request", "vector: expected a vector that is not zero, got no numbers"),
        ({"vector": [0.0] * 32}, "invalid_request", "vector: expected a vector that is not zero, got 32 numbers that"),
        ({"vector": [1, "2"]}, "invalid_request", "vector[1] must be a number, got '2'"),
        ({"vector": [1, None]}, "invalid_request", "vector[1] must be a number, got null"),
        ({"vector": {}}, "invalid_request", "vector must be a list of numbers, or base64 of float32, got an object"),
        ({"vector": [1.0, 2.0]}, "invalid_request", "numbers, as the model gives, got 2"),
        ({"vector": "AAA="}, "invalid_request", "base64 of float32, 4 bytes each, got 2 bytes"),
        ({"vector": "AADAfw=="}, "invalid_request", "finite"),
        ({"text": "t", "modality": "image"}, "invalid_request", "modality is for a vector"),
        ({"text": "t", "metadata": []}, "invalid_request", "metadata must be an object, got a list"),
        ({"text": "t", "metadata": None}, "invalid_request", "metadata must be an object, got null"),
        ({"text": "t", "pools": "p"}, "invalid_request", "pools must be a list, got 'p'"),
        ({"text": "t", "pools": [" "]}, "invalid_request", "pools[0]: expected a name that is not blank"),
        ({"text": "t", "if_seq": -1}, "invalid_request", "if_seq must be at least 0, got -1"),
        ({"text": "t", "if_seq": "1"}, "invalid_request", "if_seq must be a whole number, got '1'"),
        ({"text": "t", "colour": "red"}, "invalid_request", "unknown field 'colour'"),
    ],
)
def test_a_key_that_cannot_be_stored_is_refused_in_a_sentence(
    client: httpx.Client, fields: dict[str, Any], kind: str, words: str
) -> None:
    response = client.put("/keys/x", content=json.dumps(fields), headers={"Content-Type": "application/json"})
    status, found, message = refusal(response)
    assert found == kind, message
    assert words in message
    assert 400 <= status < 500
    assert client.get("/keys/x").status_code == 404


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "must be JSON"),
        (b"[]", "must be a JSON object, got a list"),
        (b'{"keys": {}}', "keys must be a list of objects, got an object"),
        (b'{"keys": []}', "expected 1 to 100 keys, got 0"),
        (b'{"keys": ' + b"[" + b"1," * 100 + b"1]}", "expected 1 to 100 keys, got 101"),
        (b'{"keys": [{}], "atomic": 1}', "atomic must be true or false, got 1"),
        (b'{"keys": [{}], "text": "x"}', "unknown field 'text' beside keys"),
        (b'{"text": "x"}', "key is absent"),
        (b'{"key": "a", "text": "b", "metadata": ' + b'{"a":' * 200 + b"1" + b"}" * 201, "levels deep"),
        (b'{"key": "a", "text": "b", "metadata": ' + b"[" * 90_000 + b"]" * 90_000 + b"}", "levels deep"),
        (
            b'{"key": "a", "text": "b", "metadata": {"n": [{"m": 1e999}]}}',
            "metadata.n[0].m must be a finite number",
        ),
        (
            b'{"key": "a", "text": "b", "metadata": {"n": "\\ud800"}}',
            "metadata.n: half a surrogate pair",
        ),
        (b'{"key": "a", "text": "b", "metadata": {"\\ud800": 1}}', "the name metadata.\\ud800: half a surrogate pair"),
        (b'{"keys": [{"key": "a"}], "atomic": true}', "keys[0]: expected text, image, both or a vector"),
    ],
)
def test_a_body_that_says_nothing_to_store_is_refused(client: httpx.Client, body: bytes, words: str) -> None:
    response = client.put("/keys", content=body, headers={"Content-Type": "application/json"})
    status, kind, message = refusal(response)
    assert (status, kind) == (400, "invalid_request"), message
    assert words in message


def test_methods_and_types_that_are_not_taken_are_told(client: httpx.Client) -> None:
    wrong = client.post("/keys/x", json={"text": "t"})
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "DELETE, GET, HEAD, PATCH, PUT"
    assert client.request("DELETE", "/keys").headers["allow"] == "GET, HEAD, PUT"
    assert refusal(client.put("/keys/x", content=b"text=t", headers={"Content-Type": "text/plain"}))[0] == 415
    assert refusal(client.patch("/keys/x", data={"a": "b"}, files={"f": b"x"}))[0] == 415
    assert "takes undo" in refusal(client.put("/keys/x?if_seq=1", json={"text": "t"}))[2]
    assert (
        client.put("/keys/x", content=b"x" * 300_000, headers={"Content-Type": "application/json"}).status_code == 413
    )


def test_a_service_that_may_not_change_keys_says_so(encoder: FakeEncoder, empty_dir: Path) -> None:
    with FaissIndex.open(empty_dir) as index, serving(encoder, index) as reader:
        for method, address, body in (
            ("PUT", "/keys", {"key": "a", "text": "b"}),
            ("PUT", "/keys/a", {"text": "b"}),
            ("PATCH", "/keys/a", {"pools": []}),
            ("DELETE", "/keys/a", None),
            ("POST", "/keys/delete", {"all": True}),
        ):
            status, kind, message = refusal(reader.request(method, address, json=body))
            assert (status, kind) == (409, "read_only")
            assert "this service changes no keys" in message
        assert reader.get("/keys").json()["keys"][0]["key"] == "kept"
        assert reader.post("/keys/count").status_code == 415
        assert reader.post("/keys/count", json={}).json()["num_keys"] == 1


def once(client: httpx.Client, method: str, address: str, name: str, body: Any = None) -> httpx.Response:
    return client.request(method, address, json=body, headers={"Idempotency-Key": name})


@pytest.mark.parametrize(
    ("method", "address", "body"),
    [
        ("PUT", "/keys/x", {"text": "again"}),
        (
            "PUT",
            "/keys",
            {"keys": [{"key": "x", "text": "a"}, {"key": "y", "image": "%%%"}, {"key": "z", "text": "b"}]},
        ),
        ("PUT", "/keys", {"atomic": True, "keys": [{"key": "x", "text": "a"}, {"key": "z", "text": "b"}]}),
        ("PATCH", "/keys/x", {"metadata": {"n": 1}}),
        ("DELETE", "/keys/x", None),
        ("POST", "/keys/delete", {"keys": ["x", "y"]}),
        ("POST", "/keys/delete", {"filter": {"field": "old", "eq": True}}),
    ],
)
def test_a_request_with_an_idempotency_key_is_done_once_and_answered_alike(
    client: httpx.Client, request: pytest.FixtureRequest, method: str, address: str, body: Any
) -> None:
    name = request.node.name
    client.put("/keys/x", json={"text": "before", "metadata": {"old": True}})
    first = once(client, method, address, name, body)
    assert (first.status_code, first.headers.get("idempotency-replayed")) == (200, None)
    client.put("/keys/x", json={"text": "changed meanwhile"})
    seq = client.get("/keys/x").json()["seq"]
    second = once(client, method, address, name, body)
    assert (second.status_code, second.headers["idempotency-replayed"]) == (200, "true")
    assert without_cuts(second.json()) == without_cuts(first.json())
    assert client.get("/keys/x").json()["seq"] == seq
    other = once(client, "PUT", "/keys/another", name, {"text": "another request"})
    assert refusal(other)[:2] == (422, "idempotency_key_reused")
    assert client.get("/keys/another").status_code == 404


def without_cuts(answer: dict[str, Any]) -> dict[str, Any]:
    """What is remembered of an answer; whether a text was cut is known of the first one only."""
    outcomes = answer.get("outcomes", [answer])
    for outcome in outcomes:
        outcome.pop("text_cut", None)
    return answer


def test_what_failed_with_an_idempotency_key_may_be_mended_and_sent_again(client: httpx.Client) -> None:
    wrong = once(client, "PUT", "/keys/x", "mend", {"image": as_base64(b"no image")})
    assert refusal(wrong)[:2] == (422, "undecodable_image")
    again = once(client, "PUT", "/keys/x", "mend", {"image": as_base64(b"no image")})
    assert refusal(again)[:2] == (422, "undecodable_image")
    assert once(client, "PUT", "/keys/x", "mended", {"image": as_base64(RED)}).status_code == 200


def test_an_error_that_is_remembered_says_so(client: httpx.Client) -> None:
    missing = once(client, "DELETE", "/keys/later", "remembered 404")
    assert (missing.status_code, missing.headers.get("idempotency-replayed")) == (404, None)
    first = {"Idempotency-Key": "remembered 412", "If-Match": "*"}
    unmet = client.put("/keys/later", json={"text": "t"}, headers=first)
    assert (unmet.status_code, unmet.headers.get("idempotency-replayed")) == (412, None)
    client.put("/keys/later", json={"text": "t"})
    missing = once(client, "DELETE", "/keys/later", "remembered 404")
    unmet = client.put("/keys/later", json={"text": "t"}, headers=first)
    assert (missing.status_code, missing.headers["idempotency-replayed"]) == (404, "true")
    assert (unmet.status_code, unmet.headers["idempotency-replayed"]) == (412, "true")


@pytest.mark.parametrize("name", ["", "x" * 256, "\u00e9"])
def test_an_idempotency_key_is_a_short_line_of_ascii(client: httpx.Client, name: str) -> None:
    headers = {"Idempotency-Key": name.encode("latin-1")}
    response = client.put("/keys/x", json={"text": "t"}, headers=headers)
    assert refusal(response)[:2] == (400, "invalid_request")


def test_an_index_that_may_not_be_written_to_is_told_from_one_that_is_away(
    encoder: FakeEncoder, tmp_path: Path
) -> None:
    place = build_real_index(tmp_path, encoder, [stored("kept", Item(text="a key of the build"))])
    (place / ".lock").unlink(missing_ok=True)
    (place / ".lock").symlink_to("/sys/anykey")  # where nobody may make a file, root included
    with FaissIndex.open(place) as index, serving(encoder, index, writable=True) as client:
        for name in ("new", "other"):
            refused = client.put(f"/keys/{name}", json={"text": "new"})
            assert (refused.status_code, refused.json()["error"]["type"]) == (409, "read_only")
            assert "may not write to the index's files" in refused.json()["error"]["message"]
            assert "/sys" not in refused.text
        assert client.post("/search", json={"text": "a key of the build", "k": 1}).status_code == 200


def test_what_is_told_of_the_index_has_the_change_before(client: httpx.Client) -> None:
    def told() -> int:
        num_keys: int = client.get("/info").json()["index"]["num_keys"]
        return num_keys

    before = told()
    for number in range(3):
        client.put(f"/keys/told-{number}", json={"text": "a mug"})
        assert told() == before + number + 1
    client.post("/keys/delete", json={"keys": [f"told-{number}" for number in range(3)]})
    assert told() == before
