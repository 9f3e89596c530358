"""Curating on the search page in a real browser: keys that are added, edited, deleted and brought back by hand."""

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from anykey.index.key_index import NewKey
from anykey.index.milvus_index import MilvusIndex
from anykey.index.store.manifest import EncoderFacts
from tests.browser import Browser, browser, require_browser
from tests.engines import needs_milvus
from tests.fakes import FakeEncoder
from tests.integration.test_search_page_in_a_browser import BIDI, MARKUP, NAMELESS, OPEN, SIDEWAYS, Page
from tests.integration.test_search_page_is_accessible import JUDGE, axe  # noqa: F401
from tests.service_inputs import png
from tests.serving import build_real_index, serving, stored

GIVE_PHOTOS = """
const data = new DataTransfer();
for (const [name, bytes, type] of arguments[0])
  data.items.add(new File([Uint8Array.from(atob(bytes), one => one.charCodeAt(0))], name, {type}));
const at = document.querySelector("#adding .place");
for (const kind of ["dragenter", "dragover", "drop"])
  at.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
"""
TYPE = """
const field = document.querySelector(arguments[0]);
field.value = arguments[1];
for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, {bubbles: true}));
"""
PRESS_BUTTON = """
const all = [...document.querySelectorAll(arguments[0] + " button")];
all.find(one => one.textContent.trim() === arguments[1] && !one.disabled)?.click();
return all.map(one => one.textContent.trim());
"""
STATES = """
return [...document.querySelectorAll("#adding .added li")]
  .map(one => [one.querySelector(".entry").value, one.querySelector(".state").textContent]);
"""


def colour(number: int) -> tuple[int, int, int]:
    return (250 - 20 * number, 20, 20 * number)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    metadata = {
        "price": 1.5,
        "title": "old",
        "sold": False,
        "none": None,
        "size": {"w": 1, "h": 2},
        "large": 2**60 + 1,
        "__proto__": "x",
    }
    keys = [
        stored("page", Item(text="a red page", images=(png((250, 0, 0)),)), ("shop",), **metadata),
        *[stored(f"note {n}", Item(text=f"a note {n}"), ("notes",), n=n) for n in range(8)],
        stored(MARKUP, Item(text=MARKUP), **{MARKUP: MARKUP}),
        stored(BIDI, Item(text=BIDI), evil=BIDI),
    ]
    directory = tmp_path_factory.mktemp("curating")
    build_real_index(directory, FakeEncoder(), keys)
    return directory / "index"


@pytest.fixture(scope="module")
def service(directory: Path) -> Iterator[httpx.Client]:
    encoder = FakeEncoder()
    with (
        FaissIndex.open(directory) as index,
        serving(encoder, index, writable=True, root_path="/shop/anykey", max_image_bytes=2**20) as client,
    ):
        client.base_url = f"{str(client.base_url).rstrip(chr(47))}/shop/anykey"
        yield client


@pytest.fixture(scope="module")
def window(service: httpx.Client) -> Iterator[Browser]:
    require_browser()
    with browser() as window:
        yield window


class Curated(Page):
    """The search page as a curator uses it."""

    def details(self, key: str, words: str = "a note") -> None:
        """Finds a key and opens it, ready to be changed."""
        self.open(f"?q={words}")
        self.until(lambda: key in self.shown(), f"{key!r} is found")
        self.run(OPEN, key)
        self.until(
            lambda: self.run("return document.querySelector('#details .curating')?.innerText"), "what may be done"
        )

    def choose(self, place: str, name: str) -> None:
        """Presses a button when it is there."""
        self.until(lambda: name in self.run(PRESS_BUTTON, place, name), f"{place} has {name}")

    def fill(self, selector: str, text: str) -> None:
        self.until(lambda: self.run("return document.querySelector(arguments[0]) !== null", selector), selector)
        self.run(TYPE, selector, text)

    def notice(self, words: str) -> None:
        self.until(lambda: words in (self.run("return document.getElementById('notices')?.innerText") or ""), words)

    def photos(self, *photos: tuple[str, bytes, str]) -> None:
        """Drops photos on the form for new keys."""
        self.run(GIVE_PHOTOS, [[name, base64.b64encode(data).decode(), kind] for name, data, kind in photos])


@pytest.fixture
def page(window: Browser, service: httpx.Client) -> Curated:
    window.show_as(1440, 900, prefers_color_scheme="light")
    return Curated(window, str(service.base_url))


def stored_key(service: httpx.Client, key: str) -> dict[str, Any]:
    found: dict[str, Any] = service.get(
        f"keys/{httpx.QueryParams({'k': key})}".replace("k=", "").replace("+", "%20")
    ).json()
    return found


def test_a_text_is_added_with_fields_of_their_types_and_taken_back(page: Curated, service: httpx.Client) -> None:
    page.open()
    page.window.console()  # of other tests
    page.window.click("#add")
    page.fill("#add-text", "A Note nobody wrote: \u0645\u0631\u062d\u0628\u0627")
    assert page.run(STATES) == [["a-note-nobody-wrote-\u0645\u0631\u062d\u0628\u0627", ""]]
    for place, (name, kind, value) in enumerate(
        [("n", "number", "2.5"), ("ok", "truth", "true"), ("deep", "json", '{"a": [1, null]}')], 1
    ):
        page.choose("#adding", "Add a field")
        row = f"#adding .member:nth-child({place})"
        page.run(TYPE, f"{row} input", name)
        page.run(TYPE, f"{row} select", kind)
        page.run(TYPE, f"{row} > :nth-child(3)", value)
    page.fill("#adding .pools .entry", "mine")
    page.choose("#adding", "Add")
    page.notice("is added")
    key = "a-note-nobody-wrote-\u0645\u0631\u062d\u0628\u0627"
    found = stored_key(service, key)
    assert found["payload"]["metadata"] == {"n": 2.5, "ok": True, "deep": {"a": [1, None]}}
    assert found["pools"] == ["mine"]
    page.choose("#notices", "Undo")
    page.notice("as it was before")
    assert service.get(f"keys/{key}").status_code == 404
    assert page.window.console() == []


def test_dropped_photos_are_keys_of_their_own_each_with_its_error(page: Curated, service: httpx.Client) -> None:
    page.open()
    page.window.click("#add")
    page.until(lambda: page.run("return document.querySelector('#adding .place') !== null"), "the form")
    photos = [(f"IMG {n}.png", png(colour(n)), "image/png") for n in range(8)]
    page.photos(*photos, ("broken.png", b"no picture", "image/png"), ("note 1.png", png((1, 2, 3)), "image/png"))
    page.until(lambda: len(page.run(STATES)) == 10, "ten keys to be")
    page.run(TYPE, "#adding li:nth-child(10) .entry", "note 1")
    page.choose("#adding", "Add 10 keys")
    page.notice("Keys added: 8.")
    failed = dict(page.run(STATES))
    assert "cannot decode" in failed["broken"]
    assert "already" in failed["note 1"]
    assert service.get("keys/img-3/image").content == png(colour(3)), "as it was dropped"
    page.run("document.querySelector('#adding .added .plain').click()")
    page.run(TYPE, "#adding li .entry", "another name")
    page.choose("#adding", "Add")
    page.notice("another name is added")
    page.choose("#notices .notice:first-child", "Undo")
    page.notice("Taken back: 8.")
    assert service.post("keys/count", json={"within": [f"img-{n}" for n in range(8)]}).json()["num_keys"] == 0
    service.delete("keys/another%20name").raise_for_status()
    page.window.console()


def test_metadata_are_edited_and_what_was_not_touched_stays_exact(page: Curated, service: httpx.Client) -> None:
    before = stored_key(service, "page")
    page.details("page")
    page.choose("#details", "Edit")
    page.until(lambda: page.run("return document.querySelectorAll('#details .member').length") == 7, "all fields")
    names = page.run(
        "return [...document.querySelectorAll('#details .member > input:first-child')].map(one => one.value)"
    )
    row = {name: f"#details .member:nth-child({place})" for place, name in enumerate(names, 1)}
    page.run(TYPE, f"{row['price']} > :nth-child(3)", "two")
    page.choose("#details", "Save")
    assert "expected a number" in page.text("#details form .trouble")
    page.run(TYPE, f"{row['price']} > :nth-child(3)", "2")
    page.run(TYPE, f"{row['size']} > :nth-child(3)", '{"w": 3}')
    page.run(f"document.querySelector({row['title']!r} + ' .plain').click()")
    page.run("document.querySelector('#details .pools .chip .plain').click()")
    page.fill("#details .pools .entry", "sale")
    page.choose("#details", "Save")
    page.notice("Saved")
    after = stored_key(service, "page")
    expected = {**before["payload"]["metadata"], "price": 2, "size": {"w": 3}}
    del expected["title"]
    assert after["payload"]["metadata"] == expected
    assert expected["large"] == 2**60 + 1
    assert after["pools"] == ["sale"]
    page.choose("#details #notices", "Undo")
    page.notice("as it was before")
    assert {**stored_key(service, "page"), "seq": 0} == {**before, "seq": 0}
    page.until(lambda: "old" in page.text("#details .tree"), "the details show it")


def test_a_deleted_key_comes_back_whole_and_is_found_again(page: Curated, service: httpx.Client) -> None:
    before = service.get("keys/page?include=vector").json()
    page.details("page", "a red page")
    page.choose("#details", "Delete")
    page.notice("page is deleted")
    page.until(lambda: "page" not in page.shown() and page.shown(), "the next search goes without it")
    assert not page.run("return document.getElementById('details').open")
    page.choose("#notices", "Undo")
    page.until(lambda: "page" in page.shown(), "it is found again")
    assert {**service.get("keys/page?include=vector").json(), "seq": 0} == {**before, "seq": 0}


def test_what_others_changed_meanwhile_is_never_overwritten(page: Curated, service: httpx.Client) -> None:
    page.details("note 2")
    page.choose("#details", "Edit")
    page.fill("#details .member > :nth-child(3)", "77")
    service.patch("keys/note%202", json={"metadata": {"n": 5}}).raise_for_status()
    page.choose("#details", "Save")
    page.until(lambda: "changed elsewhere" in page.text("#details form .trouble"), "it is told")
    assert stored_key(service, "note 2")["payload"]["metadata"] == {"n": 5}
    page.choose("#details", "Show it as it is now")
    page.until(lambda: "5" in page.text("#details .tree"), "as it is now")
    page.choose("#details", "Delete")
    page.notice("note 2 is deleted")
    service.put("keys/note%202", json={"text": "somebody else's"}).raise_for_status()
    page.choose("#notices", "Undo")
    page.notice("changed again since")
    assert stored_key(service, "note 2")["payload"]["text"] == "somebody else's"
    page.window.console()


@pytest.mark.parametrize("key", [MARKUP, BIDI])
def test_hostile_names_are_edited_as_what_they_are(page: Curated, service: httpx.Client, key: str) -> None:
    before = stored_key(service, key)["payload"]["metadata"]
    page.details(key, "a")
    page.choose("#details", "Edit")
    page.choose("#details", "Add a field")
    page.fill("#details .member:nth-child(2) > input", "__proto__")
    page.run(TYPE, "#details .member:nth-child(2) > :nth-child(3)", MARKUP)
    page.choose("#details", "Save")
    page.notice("Saved")
    assert stored_key(service, key)["payload"]["metadata"] == {**before, "__proto__": MARKUP}
    assert page.run("return window.broken ?? null") is None
    assert page.run(SIDEWAYS) <= 0


def test_a_reader_is_told_why_nothing_can_be_changed_in_either_language(page: Curated, directory: Path) -> None:
    encoder = FakeEncoder()
    with FaissIndex.open(directory) as index, serving(encoder, index) as client:
        reader = Curated(page.window, f"{str(client.base_url).rstrip(chr(47))}/")
        reader.open()
        try:
            for language, sentence in (("en", "only reads its index"), ("de", "liest seinen Index nur")):
                reader.run("localStorage.setItem('anykey.language', arguments[0])", language)
                reader.details("note 3")
                assert sentence in reader.text("#details .curating")
                assert reader.run("return document.querySelectorAll('#details .curating button').length") == 0
                reader.run("document.getElementById('details').close()")
                reader.window.click("#add")
                reader.until(lambda sentence=sentence: sentence in reader.text("#adding"), "why nothing is added")
                assert reader.run("return document.querySelector('#adding form')") is None
        finally:
            reader.run("localStorage.clear()")


@needs_milvus
def test_keys_of_a_milvus_collection_are_curated_without_undo(page: Curated, tmp_path: Path) -> None:
    encoder = FakeEncoder()
    facts = EncoderFacts(name="fake", fingerprint=encoder.fingerprint, width=encoder.width, fusion=encoder.fusion)
    texts = ["a note", "a note of others"]
    with (
        MilvusIndex.create(str(tmp_path / "keys.db"), "keys", facts, images_dir=str(tmp_path / "images")) as index,
        serving(encoder, index, writable=True) as client,
    ):
        vectors = encoder.encode([Item(text=text) for text in texts])
        index.upsert(
            [NewKey(text, vector, text=text, metadata={"n": 1}) for text, vector in zip(texts, vectors, strict=True)]
        )
        curator = Curated(page.window, f"{str(client.base_url).rstrip(chr(47))}/")
        curator.open()
        curator.window.click("#add")
        curator.until(lambda: curator.run("return document.querySelector('#adding .place') !== null"), "the form")
        photos = [(f"{name}.png", png((250, 0, 0)), "image/png") for name in ("red", "taken")]
        curator.photos(*photos)
        curator.until(lambda: len(curator.run(STATES)) == 2, "two keys to be")
        curator.run(TYPE, "#adding li:nth-child(2) .entry", "a note")
        curator.choose("#adding", "Add 2 keys")
        curator.notice("red is added")
        assert "already" in dict(curator.run(STATES))["a note"], "what is there is never replaced"
        assert client.get("keys/red/image").content == png((250, 0, 0))
        curator.details("a note")
        curator.choose("#details", "Edit")
        curator.fill("#details .member > :nth-child(3)", "2.5")
        curator.choose("#details", "Save")
        curator.notice("Saved")
        assert stored_key(client, "a note")["payload"]["metadata"] == {"n": 2.5}
        assert "Undo" not in curator.run(PRESS_BUTTON, "#details", "nothing")
        curator.click("#details .danger")
        curator.says("#details .danger", "Delete for good? Press again")
        assert client.get("keys/a%20note").status_code == 200
        curator.click("#details .danger")
        curator.notice("a note is deleted")
        assert client.get("keys/a%20note").status_code == 404
        curator.until(lambda: "a note" not in curator.shown() and curator.shown(), "the next search goes without it")
        curator.window.console()


@pytest.mark.parametrize(("width_px", "height_px", "scheme"), [(390, 844, "dark"), (1440, 900, "light")])
def test_the_forms_fit(page: Curated, width_px: int, height_px: int, scheme: str) -> None:
    page.window.show_as(width_px, height_px, prefers_color_scheme=scheme)
    folder = os.environ.get("ANYKEY_SCREENSHOTS")
    page.details("page")
    if folder:
        page.window.screenshot(Path(folder) / f"details-{width_px}-{scheme}.png")
    page.choose("#details", "Edit")
    page.until(lambda: page.run("return document.querySelectorAll('#details .member').length") > 3, "all fields")
    assert page.run("const all = document.getElementById('details'); return all.scrollWidth - all.clientWidth") <= 0
    if folder:
        page.window.screenshot(Path(folder) / f"edit-{width_px}-{scheme}.png")
    page.run("document.getElementById('details').close()")
    page.window.click("#add")
    page.until(lambda: page.run("return document.querySelector('#adding .place') !== null"), "the form")
    page.photos(*[(f"IMG {n}.png", png(colour(n)), "image/png") for n in range(3)])
    page.until(lambda: len(page.run(STATES)) == 3, "three keys to be")
    page.choose("#adding", "Add a field")
    assert page.run("const all = document.getElementById('adding'); return all.scrollWidth - all.clientWidth") <= 0
    assert page.run(NAMELESS) == []
    if folder:
        page.window.screenshot(Path(folder) / f"add-{width_px}-{scheme}.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong_with_the_forms(page: Curated, axe: str, scheme: str) -> None:  # noqa: F811
    page.window.show_as(390, 844, prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    page.open()
    page.run(axe)
    page.window.click("#add")
    page.fill("#add-text", "a note")
    page.choose("#adding", "Add a field")
    page.until(lambda: page.run("return document.querySelector('#adding .member')"), "a field")
    assert page.run(JUDGE, scheme) == []
    page.details("page")
    page.choose("#details", "Edit")
    page.until(lambda: page.run("return document.querySelector('#details .member')"), "fields")
    page.run(axe)
    assert page.run(JUDGE, scheme) == []
