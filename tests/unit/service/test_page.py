"""The search page over HTTP: found at the root of the service and of each index, and nothing foreign runs on it."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.service.routes.page import FOLDER
from tests.fakes import FakeEncoder
from tests.serving import MemoryIndex, serving, stored

PREFIX = "/shop/anykey"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    encoder = FakeEncoder()
    with serving(encoder, MemoryIndex(encoder, [stored("a", Item(text="a"))]), root_path=PREFIX) as client:
        client.headers["accept"] = "text/html,application/xhtml+xml,*/*;q=0.8"  # as browsers say
        yield client


class Addresses(HTMLParser):
    """What a page loads, what it says its base is, and what is written into it that a strict policy forbids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.base = ""
        self.forbidden: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag == "base":
            self.base = values["href"] or ""
        elif tag in ("link", "script", "img"):
            self.loaded.append(values.get("href") or values.get("src") or "")
            self.forbidden += [tag] if tag == "script" and "src" not in values else []
        self.forbidden += [tag] if tag == "style" else []
        self.forbidden += [name for name in values if name == "style" or name.startswith("on")]


@pytest.mark.parametrize(
    ("address", "base"),
    [
        (f"{PREFIX}/", f"{PREFIX}/"),
        (PREFIX, f"{PREFIX}/"),
        ("/", f"{PREFIX}/"),
        (f"{PREFIX}/?q=a+red+mug&like=b", f"{PREFIX}/"),
        (f"{PREFIX}/indexes/default/", f"{PREFIX}/indexes/default/"),
    ],
)
def test_the_page_finds_its_files_and_the_service_wherever_it_is(client: httpx.Client, address: str, base: str) -> None:
    answer = client.get(address)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    page = Addresses(answer.text)
    assert page.base == base
    assert page.forbidden == []
    assert len(page.loaded) > 2
    for name in page.loaded:
        assert not name.startswith(("/", "http"))
        file = client.get(base + name)
        assert file.status_code == 200
        assert file.headers["content-type"].split(";")[0] in ("text/javascript", "text/css", "image/svg+xml")
    assert client.get(f"{base}info").status_code == 200


def test_clients_of_qdrant_are_told_its_version_at_the_root(client: httpx.Client) -> None:
    for accepted in ("*/*", "application/json"):
        answer = client.get("/", headers={"accept": accepted})
        assert answer.json()["version"].count(".") == 2
        assert answer.headers["vary"] == "accept"
    assert client.get("/", headers={"accept": "*/*"}, params={"q": "a"}).status_code == 400


def imports(script: str) -> set[str]:
    """Modules that are loaded with one."""
    return set(re.findall(r'^import .*"\./([a-z-]+\.js)"', script, re.MULTILINE))


def test_what_is_loaded_at_first_is_small_and_named_at_once(client: httpx.Client) -> None:
    named = [name for name in Addresses(client.get("/").text).loaded if name.endswith((".js", ".css"))]
    assert named == ["page/style.css", "page/main.js"], "what else is there would be loaded before the first paint"
    read = {name: client.get(f"/page/{name}").text for name in imports(client.get("/page/main.js").text)}
    assert {name for text in read.values() for name in imports(text)} <= read.keys(), "one module after the other"
    others = [client.get(f"/{name}").text for name in [*named, "page/german.js"]]  # or whichever other language
    assert sum(len(text.encode()) for text in [*read.values(), *others]) < 60_000


def test_nothing_but_its_own_files_runs_on_it(client: httpx.Client) -> None:
    for address in ("/", "/page/main.js"):
        headers = client.get(address).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_its_scripts_have_no_way_to_make_markup_of_text() -> None:
    for path in FOLDER.glob("*.js"):
        found = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", path.read_text()
        )
        assert found == [], path.name
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", "".join(p.read_text() for p in FOLDER.glob("*.*")))


def test_every_sentence_is_in_every_language() -> None:
    english, german = (
        "".join((FOLDER / name).read_text() for name in names)
        for names in (("panel-english.js", "languages.js"), ("panel-german.js", "german.js"))
    )
    names = re.findall(r"(\w+): \"", english.partition("const OTHERS")[0])
    assert len(names) == len(set(names))
    assert sorted(names) == sorted(re.findall(r"(\w+): \"", german))
    for name, sentence in re.findall(r"(\w+): \"([^\"]*)\"", german):
        places = re.search(rf"\b{name}: \"([^\"]*)\"", english)
        assert places is not None
        assert sorted(re.findall(r"\{\w+\}", sentence)) == sorted(re.findall(r"\{\w+\}", places[1])), name


def test_a_browser_keeps_it_and_asks_whether_it_is_new(client: httpx.Client) -> None:
    for address in ("/", "/page/style.css"):
        first = client.get(address)
        assert first.headers["cache-control"] == "no-cache"
        assert first.headers["vary"] == "accept"
        again = client.get(address, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.head(address).headers["content-length"] == str(len(first.content))


@pytest.mark.parametrize(
    "path", ["/page/none.js", "/page/index.html", "/page/..%2fapp.py", "/page/", "/page/main.py", "/indexes/none/"]
)
def test_there_is_nothing_else(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_an_index_without_its_slash_leads_to_its_page(client: httpx.Client) -> None:
    answer = client.get(f"{PREFIX}/indexes/default?q=a%20b")
    assert (answer.status_code, answer.headers["location"]) == (307, f"{PREFIX}/indexes/default/?q=a%20b")
    assert client.get("/indexes/none").status_code == 404
