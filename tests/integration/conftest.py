"""One browser and one service for all that is tried out on the search page."""

from collections.abc import Iterator

import httpx
import pytest

from anykey.index.faiss_index import FaissIndex
from tests.browser import Browser, browser, require_browser
from tests.fakes import FakeEncoder
from tests.search_page import Page, corpus
from tests.serving import build_real_index, serving


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service over the corpus of the search page's tests, below a prefix."""
    encoder = FakeEncoder()
    with (
        FaissIndex.open(build_real_index(tmp_path_factory.mktemp("page"), encoder, corpus())) as index,
        serving(encoder, index, root_path="/shop/anykey") as client,
    ):
        yield client


@pytest.fixture(scope="session")
def window() -> Iterator[Browser]:
    """A browser, where there is one."""
    require_browser()
    with browser() as window:
        yield window


@pytest.fixture
def page(window: Browser, searched: httpx.Client) -> Page:
    """The search page on a desk, by day."""
    window.show_as(1440, 900, prefers_color_scheme="light")
    return Page(window, f"{searched.base_url}/shop/anykey/")
