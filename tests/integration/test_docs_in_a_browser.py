"""The page at /docs as a person uses it, in a real browser: every example can be sent, and so can a file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anykey.encoder.item import Item
from anykey.service.openapi import SEARCH_BODY
from tests.browser import Browser, browser, require_browser
from tests.fakes import FakeEncoder
from tests.service_inputs import png
from tests.serving import MemoryIndex, serving, stored

SEARCH = "#operations-search-search_search_post"
EXAMPLES = SEARCH_BODY["requestBody"]["content"]["application/json"]["examples"]
CHOOSE = """
const list = document.querySelector(arguments[0]);
list.querySelectorAll("option").forEach(one => { one.selected = arguments[1].includes(one.value) });
list.dispatchEvent(new Event("change", {bubbles: true}));
"""


@pytest.fixture
def page() -> Iterator[Browser]:
    """The search on /docs, ready to be tried out."""
    require_browser()
    encoder = FakeEncoder()
    keys = [stored("red", Item(images=(png((250, 0, 0)),))), stored("blue", Item(images=(png((0, 0, 250)),)))]
    with serving(encoder, MemoryIndex(encoder, keys)) as client, browser() as window:
        window.open(f"{client.base_url}/docs")
        window.click(f"{SEARCH} .opblock-summary-control")
        window.click(f"{SEARCH} .try-out__btn")
        yield window


def execute(page: Browser) -> Any:
    """What the service answered to what the page sent."""
    page.click(f"{SEARCH} .btn.execute")
    answered = f"{SEARCH} .live-responses-table"
    status = page.text(f"{answered} tbody td.response-col_status")
    assert status.split()[0] == "200", page.text(f"{SEARCH} .responses-wrapper")
    answer = json.loads(page.run("return document.querySelector(arguments[0]).innerText", f"{answered} tbody pre code"))
    page.click(f"{SEARCH} .btn-clear")
    return answer


@pytest.mark.slow
def test_the_page_searches_as_it_stands(page: Browser, tmp_path: Path) -> None:
    for name, example in EXAMPLES.items():
        page.run(CHOOSE, f"{SEARCH} .examples-select select", [name])
        value = example["value"]
        expected = "fused" if {"text", "image"} <= value.keys() else "image" if "image" in value else "text"
        assert execute(page)["query_modality"] == expected

    page.run(CHOOSE, f"{SEARCH} .opblock-section-request-body select.content-type", ["multipart/form-data"])
    (tmp_path / "query.png").write_bytes(png((250, 0, 0)))
    page.type(f"{SEARCH} input[type=file]", str(tmp_path / "query.png"))
    answer = execute(page)
    assert (answer["query_modality"], [hit["key"] for hit in answer["hits"]]) == ("image", ["red", "blue"])

    page.type(f"{SEARCH} tr[data-property-name=text] input[type=text]", "red")
    page.run(CHOOSE, f"{SEARCH} tr[data-property-name=modalities] select", ["image", "text"])
    page.type(f"{SEARCH} tr[data-property-name=k] input[type=text]", "1")
    answer = execute(page)
    assert (answer["query_modality"], len(answer["hits"])) == ("fused", 1)
