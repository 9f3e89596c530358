"""The page of a quality run as a person sees it: on a phone, in the dark, on paper, and from the keyboard."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from anykey.benchmark.page.page import write_page
from tests.browser import Browser, browser, require_browser
from tests.quality_pages import miniature, report_of
from tests.serving import until

OPEN_ALL = "document.querySelectorAll('details').forEach(one => { one.open = true })"
WIDTH = "return document.scrollingElement.scrollWidth"
BROKEN = "return [...document.images].filter(one => !one.complete || !one.naturalWidth).length"
ASKED_FOR = (
    "return performance.getEntriesByType('resource').map(one => one.name).filter(one => !one.startsWith('data:'))"
)
BRIGHTNESS = """
const numbers = getComputedStyle(document.body)[arguments[0]].match(/[0-9.]+/g).slice(0, 3).map(Number);
return numbers.reduce((sum, one) => sum + one) / 3;
"""
SHOWN = """
return [...document.querySelectorAll("details:not([open]) table")].every(
    one => one.checkVisibility({contentVisibilityAuto: true}) && one.getBoundingClientRect().height > 0);
"""
SCROLLING = """
const wide = [...document.querySelectorAll(".scroll")].filter(one => one.scrollWidth > one.clientWidth);
return wide.map(one => one.tabIndex == 0 && Boolean(one.getAttribute("aria-label")));
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The page of all rows of M-BEIR in miniature."""
    require_browser()
    folder = tmp_path_factory.mktemp("page")
    write_page(folder / "report.html", report_of(miniature(folder)))
    with browser() as window:
        window.open((folder / "report.html").as_uri())
        yield window


def test_all_of_it_loads_from_the_one_file_and_without_a_complaint(page: Browser) -> None:
    assert page.run("return document.images.length") > 100
    page.run(OPEN_ALL)
    assert page.run(BROKEN) == 0
    assert page.run(ASKED_FOR) == []
    assert page.console() == []


def test_a_phone_shows_it_without_scrolling_sideways(page: Browser) -> None:
    page.show_as(360, 740)
    page.run(OPEN_ALL)
    assert page.run(WIDTH) == 360
    scrolling = page.run(SCROLLING)
    assert scrolling, "wide tables scroll inside themselves"
    assert all(scrolling), "the keyboard reaches them, and they have names"


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_it_is_dark_where_everything_is(page: Browser, tmp_path: Path, scheme: str, is_dark: bool) -> None:
    page.show_as(1000, 1400, prefers_color_scheme=scheme)
    paper, ink = (page.run(BRIGHTNESS, name) for name in ("backgroundColor", "color"))
    assert (paper < 50 and ink > 200) if is_dark else (paper > 240 and ink < 50)


def test_paper_has_what_is_folded_on_a_screen_and_is_never_dark(page: Browser) -> None:
    page.show_as(1030, 700, media="print", prefers_color_scheme="dark")  # A4 between its margins
    page.run(OPEN_ALL.replace("true", "false"))
    until(lambda: bool(page.run(SHOWN)), "what is folded is laid out, as it is with the next frame")
    assert page.run(WIDTH) == 1030, "no table is cut off"
    assert page.run(BRIGHTNESS, "backgroundColor") == 255


def test_headings_come_in_order(page: Browser) -> None:
    levels = page.run("return [...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(one => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    assert page.run("return [...document.images].every(one => one.alt)")
