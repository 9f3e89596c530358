"""The search page as axe-core judges it: in each state, by day and by night, on a phone and on a desk."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.search_page import Page

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / os.environ.get("ANYKEY_CLIENTS", ".venv-clients")
# In dark colours nothing but the colours differs, and cards after the first ones are as these are.
JUDGE = """
const only = arguments[0] === "dark" ? {runOnly: ["color-contrast"]} : {};
const what = {exclude: [[".grid > li:nth-child(n+7)"]]};
const how = {resultTypes: ["violations"], preload: false, ...only};
return axe.run(what, how).then(({violations}) => violations.map(one =>
  `${one.id}: ${one.help}: ${one.nodes.map(node => node.target.join(" ")).join(", ")}`));
"""
PALE = "return [...document.querySelectorAll('.grid')].filter(grid => getComputedStyle(grid).opacity < 1).length"


@pytest.fixture(scope="module")
def axe() -> str:
    found = sorted(CLIENTS.glob("lib/python*/site-packages/axe_playwright_python/axe.min.js"))
    if not found:
        if os.environ.get("ANYKEY_REQUIRE_CHROMIUM") == "1":
            pytest.fail("axe-core is missing")
        pytest.skip("axe-core is missing; make clients installs it")
    return found[-1].read_text(encoding="utf-8")


@pytest.mark.parametrize(("width_px", "height_px"), [(390, 844), pytest.param(1440, 900, marks=pytest.mark.slow)])
def test_nothing_is_wrong_in_any_state(page: Page, axe: str, width_px: int, height_px: int) -> None:
    wrong: dict[str, Any] = {}

    def judge(state: str) -> None:
        for scheme in ("light", "dark"):
            still = {"prefers_color_scheme": scheme, "prefers_reduced_motion": "reduce"}
            page.window.show_as(width_px, height_px, **still)
            if folder := os.environ.get("ANYKEY_SCREENSHOTS"):
                page.window.screenshot(Path(folder) / f"{state}-{width_px}-{scheme}.png")
            page.until(lambda: page.run(PALE) == 0, "nothing is pale for being old")
            if found := page.run(JUDGE, scheme):
                wrong[f"{state}, {scheme}"] = found

    page.window.show_as(width_px, height_px, prefers_color_scheme="light")
    page.open()
    page.run(axe)
    page.until(lambda: page.run("return document.querySelectorAll('#welcome .card').length") > 12, "the first visit")
    judge("first visit")
    page.run("document.querySelector('#welcome .card .plain').click()")
    page.write("#words", "a red")
    page.until(lambda: page.shown() and page.run("return !document.getElementById('balance').hidden"), "hits")
    judge("results")
    page.click("#hits .open")
    page.until(lambda: page.run("return document.querySelector('#details .why')"), "details")
    judge("details")
    page.click("#details header button:last-child")
    page.click("#show-code")
    page.text("#code pre")
    judge("code")
    page.click("#code header button")
    page.click("#options .act")
    page.click("#filters .values button", "acme")
    page.click("#filters details:last-of-type summary", "JSON")
    page.write("#filters textarea", "{")
    page.says("#filters .verdict", "expected")
    judge("filters")
    page.click("#filters header button")
    page.click("#options button", "Pages")
    page.text("#hits .nothing")
    judge("nothing found")
    page.write("#words", "a " * 6000)
    page.text("#trouble")
    judge("refused")
    page.run("document.getElementById('foot-key').click()")  # which is there where a key is wanted
    page.text("#key form")
    judge("a key is asked for")
    page.click("#key header button")
    page.click("#foot-model")
    page.text("#facts .tree")
    judge("facts")
    page.open("?q=a&exact=1&fold=1")
    page.run(axe)
    page.text("#compared")
    judge("exact")
    page.window.go_offline(True)
    try:
        page.write("#words", "away")
        page.says("#trouble", "does not answer. Trying again in 2 s")
        judge("away")  # which may last: what is there is not pale meanwhile
    finally:
        page.window.go_offline(False)
    page.window.console()
    assert wrong == {}
