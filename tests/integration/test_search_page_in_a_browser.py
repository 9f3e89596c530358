"""The search page as people use it, in a real browser: on a phone and a desk, with the mouse and the keyboard."""

import ast
import base64
import re
from pathlib import Path

import pytest

from tests.search_page import ADDRESS, ARABIC, BIDI, MARKUP, TEXT, Page, colour
from tests.service_inputs import png

SIDEWAYS = "return document.scrollingElement.scrollWidth - innerWidth"
LOADED = """
const files = performance.getEntriesByType("resource").map(one =>
  [new URL(one.name).pathname.split("/").at(-1), one.decodedBodySize]);
return Object.fromEntries(files.filter(([name]) => /[.](js|css)$/.test(name)));
"""
OPEN = """
const card = [...document.querySelectorAll("#hits .card")].find(one => one.dataset.key === arguments[0]);
card.querySelector(".open").click();
"""
NAMELESS = """
return [...document.querySelectorAll("button, input, select, a")]
  .filter(one => !(one.ariaLabel || one.labels?.length || one.textContent.trim())).map(one => one.outerHTML);
"""
CUT = "return [...document.querySelectorAll('#hits .below')].map(one => one.scrollWidth - one.clientWidth)"
CHOOSE_POOL = """
const pool = document.querySelectorAll("#options select")[1];
pool.value = arguments[0];
pool.dispatchEvent(new Event("change"));
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


def test_the_first_visit_shows_what_there_is_without_a_complaint(page: Page) -> None:
    page.window.console()  # of other tests
    page.open()
    page.until(lambda: "Images: 60" in page.text("#welcome"), "the index is counted")
    page.until(lambda: page.run("return document.querySelectorAll('#welcome .card').length") >= 12, "a sample")
    loaded = page.run("return performance.getEntriesByType('resource').map(one => one.name)")
    assert loaded
    assert all(one.startswith(page.address) for one in loaded), "nothing of others, and all below the prefix"
    files = page.run(LOADED)
    assert sum(files.values()) < 60_000, "of scripts and styles"
    assert not {"panels.js", "panels.css", "filters.js", "details.js", "code.js", "german.js"} & files.keys()
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


def test_a_phone_takes_a_photo_and_what_is_no_picture_is_refused(page: Page, tmp_path: Path) -> None:
    page.window.show_as(390, 844)
    page.open()
    assert page.run("return [camera.accept, camera.getAttribute('capture')]") == ["image/*", "environment"]
    (tmp_path / "taken.png").write_bytes(png(colour(30)))
    page.window.type("#camera", str(tmp_path / "taken.png"))
    page.until_first("p30")
    page.run(GIVE_FILE, "drop", base64.b64encode(b"no picture").decode())
    page.says("#trouble", "cannot decode")
    page.click(".chip:last-of-type .plain", "Remove")
    page.until(lambda: page.run("return document.getElementById('trouble').hidden"), "all is well without it")
    page.window.console()


def test_keys_addresses_and_requests_are_copied(page: Page) -> None:
    page.window.allow_clipboard()
    copied = "return navigator.clipboard.readText()"
    page.open("?like=p30&only=image&fold=1")
    page.until(lambda: page.shown(), "hits")
    folded = page.run("return [...document.querySelectorAll('#hits .folded')].map(one => one.title)")
    assert any("similar" in one for one in folded), "near-duplicates are folded"
    for width_px in (390, 1440):
        page.window.show_as(width_px, 900)
        assert max(page.run(CUT)) <= 0, "all that is below a card fits"
    page.click("#hits .open")
    key = page.until(lambda: page.run(TEXT, "#details h2"), "details")
    page.text("#details .curating")  # all of it is there
    page.window.click("#details .act:nth-child(3)")
    page.until(lambda: page.run(copied) == key, "the key")
    page.window.click("#details .act:nth-child(4)")
    page.until(lambda: page.run(copied) == f"{page.address}keys/{key}/image", "the address of its image")
    page.window.click("#details .act:nth-child(5)")
    with page.window.other():
        page.until(lambda: page.run("return document.images[0]?.naturalWidth"), "the image itself")
    page.click("#details header button:last-child")
    page.click("#show-code")
    page.window.click("#code .row .act")
    page.until(lambda: page.run(copied) == page.text("#code pre"), "the request")
    for stage in ("decode", "queue", "encode", "search", "total"):
        assert stage in page.text("#code")
    page.press("Escape")


def test_text_from_right_to_left_runs_so(page: Page) -> None:
    page.open(f"?q={ARABIC}")
    said = "return [...document.querySelectorAll('#hits .card')].find(one => one.dataset.key === arguments[0])"
    page.until(lambda: ARABIC in page.shown() or page.run("scrollTo(0, document.body.scrollHeight)"), "it is found")
    assert page.run(f"{said}.querySelector('.said').matches(':dir(rtl)')", ARABIC)
    assert page.run("return words.matches(':dir(rtl)')")


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
    page.until(lambda: page.run(at) == page.shown()[1], "the second hit has the focus")
    page.press("ArrowDown")
    page.press("ArrowUp")
    page.press("ArrowLeft")
    page.until(lambda: page.run(at) == first == page.shown()[0], "the first one again")
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
    page.run(CHOOSE_POOL, "pictures")
    page.until(lambda: "pool=pictures" in page.query(), "a pool is chosen")
    page.until(lambda: page.shown() and all(len(key) == 3 for key in page.shown()), "only its keys are shown")
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
