"""The search page as people use it, in a real browser: on a phone and a desk, with the mouse and the keyboard."""

import ast
import base64
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from tests.browser import CHROMIUM, DRIVER, Browser, browser
from tests.fakes import FakeEncoder
from tests.service_inputs import png
from tests.serving import build_real_index, serving, stored

WAIT_S = 20.0
MARKUP = "<img src=x onerror=\"window.broken='markup'\"><script>window.broken='script'</script>"
ADDRESS = "javascript:window.broken='address'"
BIDI = "user\u202e\u2066// gnp.exe\u2069 \u202d end"
HUGE = "w" * 60_000
KEYS = "return [...document.querySelectorAll('#hits .card')].map(card => card.dataset.key)"
TEXT = "return document.querySelector(arguments[0])?.innerText ?? null"
SIDEWAYS = "return document.scrollingElement.scrollWidth - innerWidth"
OPEN = """
const card = [...document.querySelectorAll("#hits .card")].find(one => one.dataset.key === arguments[0]);
card.querySelector(".open").click();
"""
NAMELESS = """
return [...document.querySelectorAll("button, input, select, a")]
  .filter(one => !(one.ariaLabel || one.labels?.length || one.textContent.trim())).map(one => one.outerHTML);
"""
PRESS = """
const on = document.activeElement === document.body ? document.body : document.activeElement;
const event = new KeyboardEvent("keydown", {key: arguments[0], bubbles: true, cancelable: true});
if (on.dispatchEvent(event) && arguments[0] === "Enter") on.click();
"""
DROP_KEY = """
const data = new DataTransfer();
document.querySelector(arguments[0]).dispatchEvent(new DragEvent("dragstart", {dataTransfer: data, bubbles: true}));
const given = {dataTransfer: data, bubbles: true, cancelable: true};
for (const kind of ["dragenter", "dragover", "drop"])
  document.getElementById("box").dispatchEvent(new DragEvent(kind, given));
"""
GIVE_FILE = """
const bytes = Uint8Array.from(atob(arguments[1]), one => one.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], "it.png", {type: "image/png"}));
const event = arguments[0] === "paste"
  ? new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true})
  : new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true});
document.getElementById("box").dispatchEvent(event);
"""


def colour(number: int) -> tuple[int, int, int]:
    return (250 - 4 * number, 20, 4 * number)


def corpus() -> list[Any]:
    """Sixty pictures from red to blue, texts, pages, and what an attacker would store."""
    pictures = [stored(f"p{n:02}", Item(images=(png(colour(n)),)), ("pictures",), price=n) for n in range(60)]
    return [
        *pictures,
        stored("note", Item(text="five words of some length")),
        stored("page", Item(text="a red page", images=(png((250, 0, 0)),)), maker={"name": "acme", "tags": ["a", "b"]}),
        stored(MARKUP, Item(text=MARKUP), evil=MARKUP),
        stored(ADDRESS, Item(text=ADDRESS, images=(png((9, 9, 9)),)), link=ADDRESS),
        stored(BIDI, Item(text=BIDI)),
        stored("k" * 500, Item(text=HUGE), long={"deep": HUGE}),
        stored(
            "\u0645\u0641\u062a\u0627\u062d",
            Item(text="\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645"),
        ),
    ]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    encoder = FakeEncoder()
    with (
        FaissIndex.open(build_real_index(tmp_path_factory.mktemp("page"), encoder, corpus())) as index,
        serving(encoder, index, root_path="/shop/anykey") as client,
    ):
        yield client


@pytest.fixture(scope="module")
def window(service: httpx.Client) -> Iterator[Browser]:
    if not (CHROMIUM and DRIVER):
        if os.environ.get("ANYKEY_REQUIRE_CHROMIUM") == "1":
            pytest.fail("chromium or chromedriver is missing")
        pytest.skip("chromium or chromedriver is missing; make test installs them where it may")
    with browser() as window:
        yield window


class Page:
    """The search page in a window."""

    def __init__(self, window: Browser, address: str) -> None:
        self.window = window
        self.address = address

    def open(self, query: str = "") -> None:
        self.window.open(self.address + query)
        self.until(lambda: self.run("return document.documentElement.dataset.ready"), "the page is ready")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.window.run(script, *arguments)

    def until(self, is_so: Callable[[], Any], what: str) -> Any:
        give_up_s = time.monotonic() + WAIT_S
        while not (found := is_so()):
            assert time.monotonic() < give_up_s, f"never: {what}; {self.run('return document.body.innerText')[:1500]}"
            time.sleep(0.02)
        return found

    def shown(self) -> list[str]:
        found: list[str] = self.run(KEYS)
        return found

    def until_first(self, key: str) -> None:
        self.until(lambda: self.shown()[:1] == [key], f"{key} is first, not {self.shown()[:3]}")

    def query(self) -> str:
        query: str = self.run("return decodeURIComponent(location.search)")
        return query

    def press(self, key: str) -> None:
        self.run(PRESS, key)

    def text(self, selector: str) -> str:
        text: str = self.until(lambda: self.run(TEXT, selector), f"there is {selector}")
        return text


@pytest.fixture
def page(window: Browser, service: httpx.Client) -> Page:
    window.show_as(1440, 900, prefers_color_scheme="light")
    return Page(window, f"{service.base_url}/shop/anykey/")


def test_the_first_visit_shows_what_there_is_without_a_complaint(page: Page) -> None:
    page.open()
    page.until(lambda: "Images: 60" in page.text("#welcome"), "the index is counted")
    page.until(lambda: page.run("return document.querySelectorAll('#welcome .card').length") >= 12, "a sample")
    loaded = page.run("return performance.getEntriesByType('resource').map(one => one.name)")
    assert loaded
    assert all(one.startswith(page.address) for one in loaded), "nothing of others, and all below the prefix"
    assert page.window.console() == []


def test_words_search_while_they_are_typed_and_the_address_is_the_query(page: Page) -> None:
    page.open()
    page.window.type("#words", "five words of some length")
    page.until_first("note")
    assert page.query() == "?q=five+words+of+some+length"
    page.run("window.stayed = document.querySelector('#hits .card[data-key=note]')")
    page.window.type("#words", "five words of same length")
    page.until(lambda: "same" in page.query(), "the next query")
    page.until_first("note")
    assert page.run("return window.stayed === document.querySelector('#hits .card[data-key=note]')"), "no flicker"
    assert re.match("(Matches|Shown): [1-9]", page.text("#status"))
    page.run("history.back()")
    page.until(lambda: page.run("return !document.getElementById('welcome').hidden && !words.value"), "the first page")
    page.run("history.forward()")
    page.until_first("note")


def test_pictures_are_pasted_dropped_and_picked_and_kept_in_the_session(page: Page, tmp_path: Path) -> None:
    data = base64.b64encode(png(colour(40))).decode()
    page.open()
    page.run(GIVE_FILE, "paste", data)
    page.until_first("p40")
    link = page.query()
    assert link.startswith("?image=")
    page.open(link)
    page.until_first("p40")
    page.run("document.querySelector('.chip .plain:last-child').click()")
    page.until(lambda: page.query() == "", "the chip is gone")
    page.run(GIVE_FILE, "drop", data)
    page.until_first("p40")
    page.window.click("#clear")
    (tmp_path / "picked.png").write_bytes(png(colour(20)))
    page.window.type("#file", str(tmp_path / "picked.png"))
    page.until_first("p20")
    page.open("?image=0123456789abcdef&like=p10")
    page.until(lambda: "link" in page.text("#trouble"), "the lost picture is told")


def test_results_become_parts_and_a_slider_weighs_words_and_pictures(page: Page) -> None:
    page.open("?like=p30&only=image")
    page.until(lambda: set(page.shown()[:2]) == {"p29", "p31"}, "the neighbours of p30")
    page.run(DROP_KEY, "#hits .card[data-key=p31]")
    page.until(lambda: "like=p31" in page.query() and "p31" not in page.shown(), "two results are searched with")
    page.run("document.querySelectorAll('.chip .plain')[2].click()")
    page.until(lambda: "unlike=p31" in page.query(), "the second is negative")
    page.until_first("p29")
    assert page.run("return document.querySelectorAll('.chip.negative').length") == 1
    assert page.run("return document.getElementById('balance').hidden") is True
    page.window.type("#words", "red")
    page.until(lambda: page.run("return !document.getElementById('balance').hidden"), "there is a slider")
    page.run("share.value = 80; share.dispatchEvent(new Event('input', {bubbles: true}))")
    page.until(lambda: "share=0.2" in page.query(), "the slider is in the link")
    page.until(lambda: '"weight":0.4' in code(page), "the request has the weight")
    for name in ("Python", "JavaScript"):
        page.run(
            "[...document.querySelectorAll('#code [role=tab]')].find(one => one.textContent == arguments[0]).click()",
            name,
        )
        assert "p31" in page.text("#code pre")
        if name == "Python":
            ast.parse(page.text("#code pre"))
    page.press("Escape")


def code(page: Page) -> str:
    """The search that is shown, as a request for curl."""
    page.run("document.getElementById('code')?.close(); document.getElementById('show-code').click()")
    return page.text("#code pre")


def test_pages_come_by_scrolling_behind_a_line_and_each_key_once(page: Page) -> None:
    page.open("?like=p00&only=image")
    page.until(lambda: page.run("return document.querySelectorAll('#hits .line').length"), "relevance ends somewhere")
    page.until(
        lambda: page.run("scrollTo(0, document.body.scrollHeight); return true") and len(page.shown()) == 59, "all"
    )
    assert sorted(page.shown()) == [f"p{n:02}" for n in range(1, 60)]
    assert page.shown()[:3] == ["p01", "p02", "p03"]
    page.until(lambda: "all" in page.text("#foot"), "the end is told")


def test_the_keyboard_does_it_all(page: Page) -> None:
    page.open("?like=p10&only=image")
    page.until(lambda: len(page.shown()) > 20, "hits")
    page.run("document.activeElement.blur()")
    page.press("/")
    assert page.run("return document.activeElement.id") == "words"
    page.press("ArrowDown")
    at = "return document.activeElement.closest('li')?.dataset.key"
    first = page.run(at)
    page.press("ArrowRight")
    assert page.run(at) == page.shown()[1]
    page.press("ArrowDown")
    page.press("ArrowUp")
    page.press("ArrowLeft")
    assert page.run(at) == first == page.shown()[0]
    page.press("Enter")
    page.until(lambda: "price" in (page.run(TEXT, "#details") or ""), "details with metadata")
    page.until(lambda: "Why it matched" in (page.run(TEXT, "#details") or ""), "scores of the parts")
    page.press("ArrowRight")
    page.until(lambda: page.text("#details h2") == page.shown()[1], "the next one")
    page.run("history.back()")
    page.until(lambda: not page.run("return document.getElementById('details').open"), "back closes it")
    page.run("document.querySelector('#hits .card .open').focus()")
    page.press("m")
    page.until(lambda: page.query().count("like=") == 2, "more like the first hit")


def test_what_is_stored_never_becomes_markup(page: Page) -> None:
    for key in (MARKUP, ADDRESS, BIDI, "k" * 500):
        page.open()
        page.window.type("#words", "a")
        page.until(lambda: len(page.shown()) > 5, "hits")
        page.run("document.getElementById('words').blur()")
        found = page.until(
            lambda key=key: key in page.shown() or page.run("scrollTo(0, document.body.scrollHeight)"), key
        )
        assert found
        page.run(OPEN, key)
        page.until(
            lambda key=key: page.run("return document.querySelector('#details h2')?.textContent") == key, "details"
        )
        page.until(lambda: page.run("return document.querySelector('#details .facts h3') !== null"), "all of it")
        assert page.run("const all = document.getElementById('details'); return all.scrollWidth - all.clientWidth") == 0
        assert page.run("return window.broken ?? null") is None
        assert page.run("return document.querySelectorAll('#details script, #details iframe').length") == 0
        assert page.run(SIDEWAYS) <= 0
        assert page.run("return [...document.querySelectorAll('a')].every(one => /^https?:/.test(one.href))")
    page.window.console()


def test_it_waits_for_a_service_that_is_away(page: Page) -> None:
    page.open()
    page.window.go_offline(True)
    try:
        page.window.type("#words", "five words of some length")
        page.until(lambda: "does not answer" in (page.run(TEXT, "#trouble") or ""), "the page says so")
    finally:
        page.window.go_offline(False)
    page.until_first("note")
    assert page.run("return document.getElementById('trouble').hidden")
    page.window.console()


def test_what_the_service_refuses_is_told_in_its_own_words(page: Page) -> None:
    page.open("?q=a&pool=none")
    assert "none" in page.text("#trouble")
    page.open("?like=nobody")
    assert "no such key" in page.text("#trouble")
    page.open("?q=a&only=fused&pool=pictures")
    page.until(lambda: "Nothing found" in (page.run(TEXT, "#hits") or ""), "nothing is found")
    page.run("document.querySelector('#hits .act').click()")
    page.until(lambda: len(page.shown()) > 3, "it searches everything")
    page.window.console()


@pytest.mark.parametrize(("width_px", "height_px"), [(390, 844), (1440, 900)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_is_dark_where_everything_is(page: Page, width_px: int, height_px: int, scheme: str) -> None:
    page.window.show_as(width_px, height_px, prefers_color_scheme=scheme)
    page.open("?like=page")
    page.until(lambda: len(page.shown()) > 3, "hits")
    assert page.run(SIDEWAYS) <= 0
    paper = page.run("return getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert (sum(paper) < 150) is (scheme == "dark")
    assert page.run(NAMELESS) == []


def test_it_speaks_another_language(page: Page) -> None:
    page.open()
    page.run("localStorage.setItem('anykey.language', 'de')")
    try:
        page.open()
        assert page.run("return document.documentElement.lang") == "de"
        assert "Wörter" in page.run("return document.getElementById('words').placeholder")
        page.until(lambda: "Bilder: 60" in page.text("#welcome"), "German")
    finally:
        page.run("localStorage.clear()")
