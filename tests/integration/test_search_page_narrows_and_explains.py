"""The search page in a real browser: filters, exact search, several indexes, going back, and services that are busy."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from anykey.index.search.kept_moments import Keeping
from tests.browser import Browser
from tests.fakes import FakeEncoder
from tests.search_page import BIDI, MARKUP, Page, colour
from tests.service_inputs import png
from tests.serving import GatedEncoder, MemoryIndex, build_real_index, counters, serving, stored, until
from tests.unit.service.test_access import Keys
from tests.unit.service.test_indexes import serving_several
from tests.unit.service.test_ranking import make

FILTERS = "#options .act"
CHIPS = "return [...document.querySelectorAll('#filters-shown .chip .label')].map(one => one.textContent)"
RED, BLUE = "p00", "p59"


def filters_of(page: Page) -> list[Any]:
    """The conditions in the address."""
    found = page.run("return new URLSearchParams(location.search).getAll('filter')")
    return [json.loads(one) for one in found]


def wait_for_filters(page: Page, *conditions: Any) -> None:
    page.until(lambda: filters_of(page) == list(conditions), f"the filters are {conditions}")


def section(field: str) -> str:
    """Values of a field in the panel, by the name of its search field, which is there even where it is not shown."""
    return f'#filters details:has(input[aria-label$=": {field}"])'


def test_values_and_bounds_narrow_and_going_back_widens(page: Page, searched: httpx.Client) -> None:
    page.open("?like=p30")
    page.until(lambda: len(page.shown()) > 3, "hits")
    page.click(FILTERS)
    brand, price, made = section("brand"), section("price"), section("made")
    page.click(f"{brand} .values button", "acme\n20")
    acme = {"field": "brand", "eq": "acme"}
    wait_for_filters(page, acme)
    page.until(lambda: page.shown()[0] == "p19", "only acme's")
    assert page.run(CHIPS) == ["brand: acme"]
    page.says(f"{brand} .values", "40")  # the other value still counts, for both can be asked for
    page.click(f"{brand} .values button", "other")
    wait_for_filters(page, {"field": "brand", "in": ["acme", "other"]})
    page.click(f"{brand} .values button", "other")
    page.write(f"{price} input[type=number]", "5")
    wait_for_filters(page, acme, {"field": "price", "gte": 5})
    page.write(f"{price} input[type=number]:last-of-type", "9.5")
    narrow = {"field": "price", "gte": 5, "lte": 9.5}
    wait_for_filters(page, acme, narrow)
    page.until(lambda: sorted(page.shown()) == ["p05", "p06", "p07", "p08", "p09"], "those within the bounds")
    page.write(f"{made} input[type=date]:last-of-type", "2024-01-08")
    wait_for_filters(page, acme, narrow, {"field": "made", "lt": "2024-01-09"})
    page.until(lambda: sorted(page.shown()) == ["p05", "p06", "p07"], "until that day, which is one of them")
    counted = searched.post("/keys/count", json={"filter": {"and": filters_of(page)}}).json()
    assert counted["num_keys"] == 3
    page.click("#filters-shown .chip .plain", "Only this")
    wait_for_filters(page, {"not": acme}, narrow, {"field": "made", "lt": "2024-01-09"})
    page.says("#hits .nothing", "not brand: acme")  # what to loosen, by name
    page.click("#hits .act", "price")
    wait_for_filters(page, {"not": acme}, {"field": "made", "lt": "2024-01-09"})
    for _ in range(2):
        page.run("history.back()")
    wait_for_filters(page, acme, narrow, {"field": "made", "lt": "2024-01-09"})
    assert page.run("return document.getElementById('filters').open")
    page.click("#filters header button")
    page.until(lambda: not page.run("return document.getElementById('filters').open"), "it is closed")
    page.open("?" + page.run("return location.search.slice(1)"))
    page.until(lambda: page.run(CHIPS) == ["brand: acme", "price ≥ 5, ≤ 9.5", "made < 2024-01-09"], "a link has them")


def test_back_and_the_button_close_the_panel_on_a_phone(page: Page) -> None:
    page.window.show_as(390, 844)
    page.open("?like=p30")
    is_open = "return document.getElementById('filters')?.open ?? false"
    page.click(FILTERS)
    page.until(lambda: page.run(is_open), "it is open")
    page.run("history.back()")
    page.until(lambda: not page.run(is_open), "back closes it")
    assert page.query() == "?like=p30"
    page.run("history.forward()")
    page.until(lambda: page.run(is_open), "forward opens it")
    page.click("#filters .done")
    page.until(lambda: not page.run(is_open), "its button closes it")


def test_a_filter_as_json_is_checked_while_it_is_typed(page: Page) -> None:
    page.open("?like=p30&only=image")
    page.click(FILTERS)
    page.click("#filters details:last-of-type summary", "JSON")
    verdicts = {
        '{"field": "price" "lt": 20}': "Line 1, column 19: ',' or a closing bracket is expected here",
        '{"field": "price",\n "lt": nothing}': "Line 2, column 8: a value is expected here",
        '{"field": "price", lt: 20}': "Line 1, column 20: a name in double quotes is expected here",
        '{"field": "price", "lt": 20}}': "Line 1, column 29: nothing more is expected here",
        '{"field": "price", "lt": 20, "lt": 30}': "Line 1, column 30: this name is there twice",
        '{"field": "price", "eq": 9007199254740993}': "Line 1, column 26: browsers cannot keep this number exactly",
        "[1, ]": "Line 1, column 5: a value is expected here",
        '{"field": "price", "lt": [20]}': "filter at lt: expected a string, a number or a boolean, got a list",
        "{}": "expected 'field', 'and', 'or' or 'not' in it, got nothing",
        '{"field": "price", "lt": 20}': "Fits 20 keys.",
    }
    for text, verdict in verdicts.items():
        page.write("#filters textarea", text)
        page.says("#filters .verdict", verdict)
    wait_for_filters(page, {"field": "price", "lt": 20})
    page.write(
        "#filters textarea", '{"and": [{"field": "price", "lt": 3}, {"or": [{"field": "brand", "eq": "acme"}]}]}'
    )
    page.until(lambda: len(filters_of(page)) == 2, "each condition has a chip of its own")
    page.until(lambda: sorted(page.shown()) == ["p00", "p01", "p02"], "they are searched with")
    page.run("document.activeElement.blur()")
    page.click("#filters-shown .chip .plain", "Remove: price")
    page.until(lambda: "acme" in page.run("return document.querySelector('#filters textarea').value"), "both agree")
    page.open("?like=p30&filter=oops")
    page.says("#trouble", "filter")
    page.click("#filters-shown .chip .plain", "Remove")
    page.until(lambda: len(page.shown()) > 3, "what is wrong can be taken away")
    page.window.console()


def test_names_and_values_of_others_stay_text_in_filters(page: Page) -> None:
    page.open("?q=a")
    page.click(FILTERS)
    page.click("#filters details:has(bdi) .values button", MARKUP[:30])
    page.until(lambda: MARKUP in json.dumps(filters_of(page)).replace('\\"', '"'), "the value is a filter")
    page.until(lambda: page.shown() == [MARKUP], "which finds its key")
    page.open(
        f"?like=p30&filter={json.dumps({'field': MARKUP, 'in': [BIDI, 'x' * 900]})}&pool=none".replace("#", "%23")
    )
    page.until(lambda: len(page.run(CHIPS)) == 1, "a chip")
    assert page.run("return window.broken ?? null") is None
    assert page.run("return document.querySelectorAll('#filters-shown img, #filters-shown script').length") == 0
    assert page.run("return document.scrollingElement.scrollWidth - innerWidth") <= 0
    page.window.console()


def test_going_back_shows_what_was_found_without_asking_again(page: Page) -> None:
    page.open("?like=p00&only=image")
    page.until(lambda: page.run("scrollTo(0, 1e6)") or len(page.shown()) == 59, "all pages of hits")
    page.run("scrollTo(0, 700)")
    before = page.shown()
    page.run("window.place = scrollY; document.querySelector('#hits .plain').click()")
    page.until(lambda: page.run("scrollTo(0, 1e6)") or len(page.shown()) == 58, "others are shown, all of them")
    found = page.times_asked("/search")
    page.run("history.back()")
    page.until(lambda: page.shown() == before, "the earlier ones are shown")
    assert page.run("return Math.abs(scrollY - window.place)") < 2
    assert page.run("return document.querySelectorAll('#hits .line').length") == 1
    page.run("history.forward()")
    page.until(lambda: page.shown() != before, "and the later ones")
    assert page.times_asked("/search") == found


def test_exact_search_is_shown_beside_the_approximate_one(window: Browser, tmp_path: Path) -> None:
    window.show_as(1440, 900)
    with (
        FaissIndex.open(make(tmp_path / "clustered", "IVF16,Flat"), exact_allowed=0) as index,
        serving(FakeEncoder(), index) as client,
    ):
        page = Page(window, f"{client.base_url}/")
        page.open("?q=a+to+the+four+words")
        page.until(lambda: len(page.shown()) > 3, "hits")
        page.click("#show-code")
        page.click("#code input[type=checkbox]")
        page.until(lambda: "exact=1" in page.query(), "it is in the link")
        summary = page.text("#compared summary")
        body = {"text": "a to the four words", "k": 50}
        exact, usual = (
            [hit["key"] for hit in client.post("/search", json={**body, "exact": is_exact}).json()["hits"]]
            for is_exact in (True, False)
        )
        found = len(set(exact) & set(usual))
        assert f"has {found} of the first 50 hits (recall {found / 50:.3f})" in summary
        moved = sum(key in usual and usual.index(key) != place for place, key in enumerate(exact))
        assert f"{moved} moved, {50 - found} came, {50 - found} went" in summary
        changed = {key for place, key in enumerate(exact) if key not in usual or usual.index(key) != place}
        marked = "return [...document.querySelectorAll('#hits .card:has(.mark)')].map(card => card.dataset.key)"
        page.until(lambda: set(page.run(marked)) == changed & set(page.shown()), "hits say where they were")
        page.click("#compared button")
        page.until(lambda: "exact" not in page.query(), "back to approximate search")


def test_an_index_that_compares_all_says_that_nothing_differs(page: Page) -> None:
    page.open("?q=a&exact=1")
    page.says("#compared", "the answers are the same")


def test_a_menu_leads_from_index_to_index_with_what_is_written(window: Browser, tmp_path: Path) -> None:
    with serving_several(tmp_path, "away") as client:
        page = Page(window, f"{client.base_url}/")
        page.open("?q=a+note&pool=warm")
        options = "return [...document.querySelectorAll('#home + label option')].map(one => one.textContent)"
        page.until(lambda: len(page.run(options)) == 3, "the menu")
        assert page.run(options) == ["photos", "notes", "away (does not answer)"]
        page.run("const menu = document.querySelector('#home + label select'); menu.value = 'notes'; menu.onchange()")
        page.until(lambda: page.run("return location.pathname") == "/indexes/notes/", "the other index's page")
        page.until(lambda: page.query() == "?q=a+note" and "note" in page.shown(), "what was written went along")
        page.click("#foot-model")
        page.says("#facts", "fingerprint")
        assert "num_keys" in page.text("#facts")
        window.open(f"{page.address}indexes/away/?q=a")
        page.says("#trouble", "The service is not ready. Trying again in")
        page.window.console()


@pytest.fixture
def gated() -> Iterator[GatedEncoder]:
    encoder = GatedEncoder()
    yield encoder
    encoder.gate.set()


def test_an_overloaded_service_is_asked_again_when_it_says(window: Browser, gated: GatedEncoder) -> None:
    keys = [stored("note", Item(text="a note")), stored("other", Item(text="something else entirely"))]
    index = MemoryIndex(gated, keys)
    gated.wait_until_entered()  # for the keys
    with serving(gated, index, max_queue_items=1, max_batch_items=1, request_deadline_ms=30_000) as client:
        page = Page(window, f"{client.base_url}/")
        page.open()
        gated.gate.clear()
        busy = [
            threading.Thread(target=client.post, args=("/search",), kwargs={"json": {"text": f"{n}"}}) for n in (1, 2)
        ]
        busy[0].start()
        gated.wait_until_entered()
        busy[1].start()
        until(lambda: counters(client, "batcher")["queued"] == 1, "the queue is full")
        page.write("#words", "a note")
        page.says("#trouble", "The service is busy. Trying again in")
        page.write("#words", "something else entirely")  # what waited is given up
        gated.gate.set()
        page.until_first("other")
        assert page.run("return document.getElementById('trouble').hidden")
        for thread in busy:
            thread.join()
        page.window.console()


def test_more_hits_come_when_the_moment_of_the_first_ones_is_over(window: Browser, tmp_path: Path) -> None:
    window.show_as(390, 844)
    keys = [stored(f"p{n:02}", Item(images=(png(colour(n)),))) for n in range(60)]
    with (
        FaissIndex.open(
            build_real_index(tmp_path, FakeEncoder(), keys), writable=True, keeping=Keeping(most=1)
        ) as index,
        serving(FakeEncoder(), index) as client,
    ):
        page = Page(window, f"{client.base_url}/")
        page.open("?like=p00&only=image")
        page.until(lambda: len(page.shown()) > 3, "hits")
        before = page.shown()
        for number in (58, 59):  # the moment that is kept is that of the last answer
            index.delete([f"p{number}"])
            client.post("search", json={"text": "a"}).raise_for_status()
        page.until(lambda: page.run("scrollTo(0, document.body.scrollHeight)") or len(page.shown()) == 57, "all")
        assert page.shown()[: len(before)] == before
        assert len(set(page.shown())) == 57
        page.says("#status", "The index has changed meanwhile")
        page.window.console()


def test_a_key_is_asked_for_kept_for_the_tab_and_shown_nowhere(window: Browser, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    token = keys.tokens["search"]
    index = MemoryIndex(
        FakeEncoder(), [stored("red", Item(images=(png((250, 0, 0)),))), stored("note", Item(text="a note"))]
    )
    is_loaded = "return [...document.querySelectorAll('#hits .seen')].some(one => one.naturalWidth > 0)"
    with serving(FakeEncoder(), index, api_keys=keys.path) as client:
        page = Page(window, f"{client.base_url}/")
        window.open(page.address + "?q=a+note")
        for wrong, sentence in (("none of them", "ASCII"), ("none", "key"), (keys.tokens["embed"], "search")):
            page.write("#key-field", wrong)
            page.click("#key [type=submit]")
            page.says("body", sentence)
        page.says("#trouble", "search")  # 403: it is a key, but not for this
        page.click("#foot-key")
        page.write("#key-field", token)
        page.click("#key [type=submit]")
        page.until_first("note")
        page.until(lambda: page.run(is_loaded), "images are fetched with the key")
        page.click("#hits .open", "image")
        page.until(
            lambda: page.run("return document.querySelector('#details .images img')?.naturalWidth"), "large ones too"
        )
        page.text("#details .curating")  # all of it is there
        window.allow_clipboard()
        window.click("#details .act:nth-child(4)")
        page.says("#details .actions", "only with an API key")
        assert page.run("return navigator.clipboard.readText()") == f"{page.address}keys/red/image"
        window.click("#details .act:nth-child(5)")  # its image, in a window of its own
        with window.other():
            page.until(lambda: page.run("return document.images[0]?.naturalWidth"), "it is shown without its address")
        page.click("#details header button:last-child")
        page.click("#show-code")
        for name in ("curl", "Python", "JavaScript"):
            page.click("#code [role=tab]", name)
            written = page.text("#code pre")
            assert token not in written
            assert "ANYKEY_API_KEY" in written or "apiKey" in written
        assert token not in page.run("return document.documentElement.outerHTML + location.href")
        page.open("?q=a+note")
        page.until_first("note")
        page.click("#foot-key")
        page.click("#key .act", "Forget")
        page.until(lambda: page.run("return document.querySelector('#key[open]')"), "it asks again")
        assert page.run("return sessionStorage.getItem('anykey.key')") is None
        page.window.console()
