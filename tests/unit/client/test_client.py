"""Protects the typed client, waiting and awaited alike, against a served index that is written to."""

import inspect
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from PIL import Image
from pydantic import BaseModel

from anykey.client import (
    AsyncClient,
    BrokenAnswerError,
    BusyError,
    Client,
    ConflictError,
    FailedQuery,
    NoAnswerError,
    NotFoundError,
    Part,
    PreconditionFailedError,
    RefusedError,
    SearchAnswer,
    SnapshotExpiredError,
    answers,
    errors,
)
from anykey.client.inputs import FacetFields, KeyFields, NewKey, Range, SearchFields
from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from anykey.index.search.kept_moments import Keeping
from anykey.service.answers import schemas as answer_schemas
from anykey.service.embedding import schemas as embed_schemas
from anykey.service.errors import STATUS_BY_TYPE
from anykey.service.indexes import schemas as index_schemas
from anykey.service.keys import schemas as key_schemas
from anykey.service.queries import schemas as query_schemas
from tests.fakes import FakeEncoder
from tests.http_handlers import handled
from tests.service_inputs import png
from tests.serving import MemoryIndex, build_real_index, serving, stored

RED, BLUE = png((250, 0, 0)), png((0, 0, 250))


class Awaited:
    """An `AsyncClient` with the face of a `Client`."""

    def __init__(self, portal: BlockingPortal, url: str, **options: Any) -> None:
        self._portal = portal
        self._client = AsyncClient(url, **options)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **fields: Any) -> Any:
            if inspect.isasyncgenfunction(method):
                return self._each(method(*args, **fields))

            async def awaited() -> Any:
                return await method(*args, **fields)

            return self._portal.call(awaited)

        return call

    def _each(self, found: Any) -> Iterator[Any]:
        async def following() -> Any:
            return await anext(found, None)

        while (one := self._portal.call(following)) is not None:
            yield one


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    encoder = FakeEncoder()
    built = build_real_index(
        tmp_path_factory.mktemp("client"), encoder, [stored("kept", Item(text="a key of the build"), ("built",))]
    )
    with (
        FaissIndex.open(built, keeping=Keeping(most=1)) as index,
        serving(encoder, index, writable=True, max_body_bytes=200_000, max_depth=50) as client,
    ):
        yield str(client.base_url)


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture(params=["waiting", "awaited"])
def make(request: pytest.FixtureRequest, portal: BlockingPortal) -> Iterator[Any]:
    """Makes clients of either kind, and closes them."""
    made: list[Any] = []

    def one(url: str, **options: Any) -> Any:
        made.append(Client(url, **options) if request.param == "waiting" else Awaited(portal, url, **options))
        return made[-1]

    yield one
    for client in made:
        client.close()
        client.close()


@pytest.fixture
def client(make: Any, url: str) -> Iterator[Any]:
    """Begins with the key of the build alone."""
    client = make(url)
    yield client
    client.delete_many(exclude=["kept"])


def test_keys_are_stored_shown_changed_and_deleted(client: Any, tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(RED)
    first = client.put("a/b..", text="a mug", image=tmp_path / "red.png", metadata={"price": 3, "none": None})
    assert (first.status, first.is_new) == ("stored", True)
    shown = client.get("a/b..", with_vector=True)
    assert (shown.payload.text, shown.payload.metadata) == ("a mug", {"price": 3, "none": None})
    assert (shown.seq, shown.modality, len(shown.vector)) == (first.seq, "fused", 8)
    assert client.get("a/b..").vector is None
    assert client.image("a/b..") == RED
    patched = client.patch("a/b..", metadata={"price": None, "sold": True}, pools=["shop"], if_seq=first.seq)
    assert client.get("a/b..").payload.metadata == {"none": None, "sold": True}
    assert client.count(pool="shop") == 1
    with pytest.raises(PreconditionFailedError):
        client.delete("a/b..", if_seq=first.seq)
    deleted = client.delete("a/b..", if_seq=patched.seq, undo=True)
    assert (deleted.status, patched.undo_s) == ("deleted", None)
    assert client.undo(deleted.seq).status == "stored"
    again = client.patch("a/b..", metadata={"none": None}, pools=[], overwrite=True, undo=True)
    assert client.get("a/b..").payload.metadata == {"none": None}
    renewed = client.put("a/b..", text="a cup", undo=True)
    assert [client.undo(change.seq).status for change in (renewed,)] == ["stored"]
    with pytest.raises(PreconditionFailedError):
        client.undo(again.seq)
    client.delete("a/b..")
    with pytest.raises(NotFoundError) as found:
        client.get("a/b..")
    assert found.value.status == 404
    assert found.value.request_id


@pytest.mark.parametrize("key", [".", "..", "a/image", "50% off? #1", "Schlüssel 鍵", "a//b"])
def test_a_key_may_have_any_name(client: Any, key: str) -> None:
    client.put(key, text="named")
    assert client.get(key).key == key
    assert client.delete(key).key == key


def test_an_image_is_bytes_a_path_or_of_pillow(client: Any, tmp_path: Path) -> None:
    (tmp_path / "blue.png").write_bytes(BLUE)
    pillow = Image.open(BytesIO(BLUE))
    items = [{"image": BLUE}, {"image": tmp_path / "blue.png"}, {"image": [pillow]}, {"image": RED}]
    answer = client.embed(items, role="key")
    assert answer.vectors[0] == answer.vectors[1] == answer.vectors[2] != answer.vectors[3]
    assert (answer.role, answer.width) == ("key", 8)
    with pytest.raises(TypeError, match=r"pathlib\.Path"):
        client.search(image=str(tmp_path / "blue.png"))


def test_a_search_says_the_same_as_the_wire(client: Any, url: str) -> None:
    client.put_many([{"key": f"k{n}", "text": f"words {n}", "metadata": {"n": n}} for n in range(5)])
    fields = {"include": ["metadata.n", "vector", "part_scores"], "cutoff": "auto", "group_by": "n", "k": 3}
    answer = client.search(parts=[Part(text="words 1"), {"key": "k2", "weight": -0.5}], min_score=-1.0, **fields)
    body = {"parts": [{"text": "words 1"}, {"key": "k2", "weight": -0.5}], "min_score": -1.0, **fields}
    wire = httpx.post(f"{url}/search", json=body, trust_env=False).json()
    assert answer.keys == [hit["key"] for hit in wire["hits"]]
    volatile = {"timings_ms", "cached", "result_cached"}
    assert answer.model_dump(exclude=volatile, exclude_unset=True) == {
        name: value for name, value in wire.items() if name not in volatile
    }
    assert answer.hits[0].part_scores[0].text is not None


def test_a_batch_has_an_answer_or_an_error_for_each_query(client: Any) -> None:
    good, bad = client.search_batch([{"text": "a"}, {"text": " "}]).answers
    assert isinstance(good, SearchAnswer)
    assert good.hits == client.search(text="a").hits
    assert isinstance(bad, FailedQuery)
    assert bad.error.type == "invalid_request"


@pytest.mark.parametrize("k", [3, 4])
def test_pages_are_the_ranking_of_one_moment(client: Any, k: int) -> None:
    client.put_many([{"key": f"k{n}", "text": f"words {n}"} for n in range(8)])
    whole = client.search(text="words", k=20).keys
    pages = client.pages(text="words", k=k)
    begun = next(pages).keys
    client.put("new", text="words")
    assert begun + [key for page in pages for key in page.keys] == whole


def test_pages_of_groups_go_on_to_the_last(client: Any) -> None:
    client.put_many([{"key": f"k{n}", "text": f"words {n}", "metadata": {"n": n // 2}} for n in range(8)])
    pages = list(client.pages(text="words", k=2, group_by="n", group_size=2))
    assert sorted(key for page in pages for key in page.keys) == [*(f"k{n}" for n in range(8)), "kept"]


def test_a_moment_that_is_not_kept_is_told(client: Any) -> None:
    old = client.search(text="a").snapshot
    for n in range(3):
        client.put("other", text=f"{n}")
        client.search(text="a", offset=0)
    with pytest.raises(SnapshotExpiredError):
        client.search(text="a", snapshot=old)


def test_many_keys_are_stored_and_scanned(client: Any) -> None:
    keys = ({"key": f"k{n:04}", "text": "word" if n != 70 else " ", "pools": ["many"]} for n in range(250))
    outcomes = list(client.put_all(keys, at_once=100))
    assert [outcome.key for outcome in outcomes] == [f"k{n:04}" for n in range(250)]
    assert [outcome.key for outcome in outcomes if outcome.error] == ["k0070"]
    assert [key.key for key in client.scan(pool="many", limit=100)] == [f"k{n:04}" for n in range(250) if n != 70]
    assert client.count() == 250
    assert client.delete_many(pool="many", dry_run=True).num_deleted == 249
    assert client.delete_many(["k0001", "k0002", "none"]).num_deleted == 2
    with pytest.raises(RefusedError):
        client.delete_many()
    assert client.delete_many(all=True, dry_run=True).num_deleted == 248


def test_values_are_counted_and_fields_listed(client: Any) -> None:
    keys = [
        {"key": f"mug{n}", "text": "mug", "metadata": {"n": n, "brand": "ab"[n % 2], "sold": n == 0}} for n in range(5)
    ]
    client.put_many([{**key, "pools": ["mugs"]} for key in keys])
    halves = {"field": "n", "ranges": ({"lt": 2}, {"gte": 2, "lte": 3.5})}
    brand, number, sold = client.search(text="mug", k=1, pool="mugs", facets=("brand", halves, "sold")).facets
    assert [(one.value, one.num_keys) for one in brand.values] == [("a", 3), ("b", 2)]
    assert [(one.gte, one.lt, one.num_keys) for one in number.ranges] == [(None, 2, 2), (2, None, 2)]
    assert (number.values, number.num_keys, number.num_missing) == (None, 5, 0)
    assert [one.value for one in sold.values] == [False, True]
    assert [type(one.value) for one in sold.values] == [bool, bool]
    fields = client.fields(limit=1, pool="mugs")
    assert [(field.field, field.num_values) for field in fields] == [("brand", 2), ("n", 5), ("sold", 2)]
    assert (fields[1].numbers.min, fields[1].numbers.max, fields[1].types["number"]) == (0, 4, 5)
    client.delete_many(pool="mugs")


def test_many_images_are_stored_though_one_body_could_not_have_them(client: Any) -> None:
    buffer = BytesIO()
    Image.effect_noise((150, 150), 80).save(buffer, "PNG")
    outcomes = list(client.put_all({"key": f"{n}", "image": buffer.getvalue()} for n in range(12)))
    assert len(buffer.getvalue()) * 12 > 200_000
    assert {outcome.status for outcome in outcomes} == {"stored"}


def test_all_or_nothing(client: Any) -> None:
    keys = [{"key": "good", "text": "a"}, {"key": "bad", "text": " "}]
    with pytest.raises(RefusedError, match=r"keys\[1\]"):
        client.put_many(keys, atomic=True)
    assert client.count() == 1
    answer = client.put_many(keys)
    assert (answer.num_stored, answer.num_failed) == (1, 1)


def test_what_is_served_is_told(client: Any, make: Any, url: str) -> None:
    client.wait_until_ready(5)
    assert client.info().index["num_keys"] >= 1
    listed = client.indexes()
    assert [one.status for one in listed.indexes] == ["ready"]
    named = make(url, index=listed.default)
    named.wait_until_ready(5)
    assert named.search(text="a").hits == client.search(text="a").hits
    with pytest.raises(NotFoundError, match="no index"):
        make(url, index="none").search(text="a")


def test_a_service_that_only_reads_is_told_at_once(make: Any) -> None:
    encoder = FakeEncoder()
    with serving(encoder, MemoryIndex(encoder, [stored("note", Item(text="a"))])) as served:
        client = make(str(served.base_url))
        with pytest.raises(ConflictError) as found:
            client.put("a", text="a")
        assert found.value.type == "read_only"
        with pytest.raises(ConflictError):
            list(client.put_all([{"key": "a", "text": "a"}]))


class Moody(BaseHTTPRequestHandler):
    """Answers with what it has in store, and remembers what it was asked."""

    replies: list[tuple[int, dict[str, str], bytes] | None]
    asked: list[tuple[str, dict[str, str]]]

    def reply(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.asked.append((f"{self.command} {self.path}", {name.lower(): text for name, text in self.headers.items()}))
        reply = self.replies.pop(0)
        self.close_connection = True
        if reply is None:  # goes away without a word
            return
        status, headers, body = reply
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body)), "connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = reply

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def moody() -> Iterator[tuple[str, type[Moody]]]:
    handler = type("OfOneTest", (Moody,), {"replies": [], "asked": []})
    with handled(handler) as url:
        yield url, handler


def failure(kind: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    body = {"error": {"type": kind, "message": "why", "request_id": "r1"}}
    return STATUS_BY_TYPE[kind], headers, json.dumps(body).encode()


STORED = b'{"key":"a","status":"stored","seq":3,"is_new":true,"text_cut":null,"error":null}'


def test_a_busy_service_is_asked_again_with_the_same_idempotency_key(make: Any, moody: tuple[str, type[Moody]]) -> None:
    url, handler = moody
    handler.replies = [
        failure("overloaded", **{"retry-after": "0"}),
        None,
        (503, {}, b"<html>no upstream</html>"),
        (200, {}, STORED),
    ]
    assert make(url).put("a", text="a").seq == 3
    assert [line for line, _ in handler.asked] == ["PUT /keys/a"] * 4
    assert len({headers["idempotency-key"] for _, headers in handler.asked}) == 1
    handler.replies = [(200, {}, STORED), (200, {}, STORED)]
    make(url).put("a", text="a")
    make(url, idempotency_keys=False).put("a", text="a")
    assert handler.asked[4][1]["idempotency-key"] != handler.asked[3][1]["idempotency-key"]
    assert "idempotency-key" not in handler.asked[5][1]


def test_the_last_failure_is_raised(make: Any, moody: tuple[str, type[Moody]]) -> None:
    url, handler = moody
    handler.replies = [failure("not_ready"), failure("overloaded", **{"retry-after": "1"})]
    with pytest.raises(errors.OverloadedError) as found:
        make(url, max_attempts=2).search(text="a")
    assert (found.value.retry_after_s, found.value.request_id, found.value.status) == (1.0, "r1", 429)
    handler.replies = [None, None]
    with pytest.raises(NoAnswerError):
        make(url, max_attempts=2).search(text="a")


def test_a_long_wait_is_left_to_the_caller(make: Any, moody: tuple[str, type[Moody]]) -> None:
    url, handler = moody
    handler.replies = [failure("overloaded", **{"retry-after": "3600"})]
    with pytest.raises(BusyError) as found:
        make(url).search(text="a")
    assert found.value.retry_after_s == 3600


@pytest.mark.parametrize("kind", [kind for kind, status in STATUS_BY_TYPE.items() if status < 500 and status != 429])
def test_what_is_refused_is_not_asked_again(make: Any, moody: tuple[str, type[Moody]], kind: str) -> None:
    url, handler = moody
    handler.replies = [failure(kind)]
    with pytest.raises(errors.error_class(kind, 0)) as found:
        make(url).search(text="a")
    assert found.value.type == kind


@pytest.mark.parametrize(
    "reply", [(200, {}, b"[]"), (200, {}, b"hello"), (302, {"location": "/"}, b""), (404, {}, b"?")]
)
def test_what_no_service_of_ours_says_is_told(
    make: Any, moody: tuple[str, type[Moody]], reply: tuple[int, dict[str, str], bytes]
) -> None:
    url, handler = moody
    handler.replies = [reply]
    with pytest.raises(BrokenAnswerError):
        make(url).search(text="a")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (
            b'{"done":false,"num_lines":1,"num_stored":1,"num_failed":0,"seq":3,'
            b'"error":{"type":"index_unavailable","message":"gone"}}',
            errors.IndexUnavailableError,
        ),
        (b"", BrokenAnswerError),
    ],
)
def test_a_stream_that_breaks_off_is_told_behind_its_outcomes(
    make: Any, moody: tuple[str, type[Moody]], body: bytes, kind: type[Exception]
) -> None:
    url, handler = moody
    handler.replies = [(200, {}, STORED + b"\n" + body if body else body)]
    outcomes = make(url).put_all([{"key": "a", "text": "a"}, {"key": "b", "text": "b"}])
    if body:
        assert next(outcomes).key == "a"
    with pytest.raises(kind):
        next(outcomes)


def test_nothing_listens(make: Any) -> None:
    client = make("http://127.0.0.1:9", max_attempts=1)
    with pytest.raises(NoAnswerError, match=r"127\.0\.0\.1:9/info"):
        client.info()
    with pytest.raises(NoAnswerError):
        client.wait_until_ready(0.2)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("localhost:8000", {}),
        ("http://a", {"max_attempts": 0}),
        ("http://a", {"timeout_s": 0}),
    ],
)
def test_options_that_cannot_be_meant_are_refused(url: str, options: dict[str, Any]) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match=r"must be|must begin"):
            kind(url, **options)


def test_a_token_is_sent_and_not_shown(make: Any, moody: tuple[str, type[Moody]]) -> None:
    url, handler = moody
    handler.replies = [(200, {}, b'{"num_keys": 7}')]
    client = make(url, api_key="secret")
    assert client.count() == 7
    assert handler.asked[0][1]["authorization"] == "Bearer secret"
    assert "secret" not in repr(Client("http://a", api_key="secret")._options)


def test_both_clients_have_the_same_methods() -> None:
    def faces(kind: type) -> dict[str, list[str]]:
        methods = {name: method for name, method in vars(kind).items() if not name.startswith("_")}
        return {name: list(inspect.signature(method).parameters) for name, method in methods.items()}

    assert faces(Client) == faces(AsyncClient)


def test_every_error_of_the_wire_has_a_class_of_its_own() -> None:
    kinds = {kind: errors.error_class(kind, 0) for kind in STATUS_BY_TYPE}
    assert {kind: found.wire_type for kind, found in kinds.items()} == {kind: kind for kind in STATUS_BY_TYPE}
    for kind, status in STATUS_BY_TYPE.items():
        group = errors.error_class("of a newer service", status)
        assert issubclass(kinds[kind], group), kind


@pytest.mark.parametrize(
    ("wire", "typed"),
    [
        (answer_schemas.SearchResponse, answers.SearchAnswer),
        (answer_schemas.WireHit, answers.Hit),
        (answer_schemas.HitPayload, answers.Payload),
        (answer_schemas.PartScores, answers.PartScores),
        (answer_schemas.HitGroup, answers.HitGroup),
        (answer_schemas.Reranking, answers.Reranking),
        (answer_schemas.Cutoff, answers.Cutoff),
        (answer_schemas.GroupSearch, answers.GroupSearch),
        (answer_schemas.Facet, answers.Facet),
        (answer_schemas.FacetValue, answers.ValueCount),
        (answer_schemas.FacetRangeCount, answers.RangeCount),
        (key_schemas.FieldsResponse, answers.FieldsPage),
        (key_schemas.FieldInfo, answers.FieldInfo),
        (key_schemas.FieldExtent, answers.Extent),
        (key_schemas.KeyResponse, answers.StoredKey),
        (embed_schemas.ItemVector, answers.ItemVector),
        (index_schemas.IndexesResponse, answers.IndexesAnswer),
        (index_schemas.ListedIndex, answers.ListedIndex),
        (index_schemas.LeftChanges, answers.LeftChanges),
        (key_schemas.KeyOutcome, answers.KeyOutcome),
        (key_schemas.ChangesResponse, answers.ChangesAnswer),
        (key_schemas.DeletedResponse, answers.Deleted),
        (key_schemas.StreamSummary, answers.StreamSummary),
        (key_schemas.KeysResponse, answers.KeysPage),
        (key_schemas.CountResponse, answers.Count),
    ],
)
def test_every_member_of_an_answer_is_typed(wire: type[BaseModel], typed: type[BaseModel]) -> None:
    assert set(wire.model_fields) <= set(typed.model_fields)


def test_every_field_of_a_request_can_be_sent() -> None:
    assert set(query_schemas.SearchRequest.model_fields) <= set(SearchFields.__annotations__)
    assert set(query_schemas.PartRequest.model_fields) <= set(vars(Part()))
    assert set(query_schemas.FacetRequest.model_fields) == set(FacetFields.__annotations__)
    assert set(query_schemas.FacetRange.model_fields) == set(Range.__annotations__)
    assert set(key_schemas.NewKeyFields.model_fields) == set(KeyFields.__annotations__)
    assert set(key_schemas.KeyRequest.model_fields) == set(NewKey.__annotations__)


def test_vectors_are_refused_where_an_item_has_none(client: Any) -> None:
    answer = client.embed([{"text": "a"}, {"text": " "}])
    with pytest.raises(ValueError, match="item 1"):
        _ = answer.vectors
    assert client.search(vector=answer.items[0].vector).hits
