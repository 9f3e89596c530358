"""The search page in a real browser, and what it is tried out on."""

import time
from collections.abc import Callable
from typing import Any

from anykey.encoder.item import Item
from tests.browser import Browser
from tests.service_inputs import png
from tests.serving import stored

WAIT_S = 20.0
MARKUP = "<img src=x onerror=\"window.broken='markup'\"><script>window.broken='script'</script>"
ADDRESS = "javascript:window.broken='address'"
BIDI = "user\u202e\u2066// gnp.exe\u2069 \u202d end"
HUGE = "w" * 60_000
ARABIC = "\u0645\u0641\u062a\u0627\u062d"
KEYS = "return [...document.querySelectorAll('#hits .card')].map(card => card.dataset.key)"
TEXT = "return document.querySelector(arguments[0])?.innerText ?? null"
PRESS = """
const on = document.activeElement === document.body ? document.body : document.activeElement;
const event = new KeyboardEvent("keydown", {key: arguments[0], bubbles: true, cancelable: true});
if (on.dispatchEvent(event) && arguments[0] === "Enter") on.click();
"""
CLICK = """
const found = [...document.querySelectorAll(arguments[0])].find(one =>
  (one.innerText + " " + (one.ariaLabel ?? "")).includes(arguments[1] ?? ""));
found?.click();
return found !== undefined;
"""
WRITE = """
const field = document.querySelector(arguments[0]);
field.focus();
field.value = arguments[1];
for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, {bubbles: true}));
"""
ASKED = """
return performance.getEntriesByType("resource").filter(one => new URL(one.name).pathname.endsWith(arguments[0])).length
"""


def colour(number: int) -> tuple[int, int, int]:
    """One of sixty colours from red to blue."""
    return (250 - 4 * number, 20, 4 * number)


def corpus() -> list[Any]:
    """Sixty pictures from red to blue, texts, pages, and what an attacker would store."""
    pictures = [
        stored(
            f"p{n:02}",
            Item(images=(png(colour(n)),)),
            ("pictures",),
            price=n,
            brand="acme" if n < 20 else "other",
            made=f"2024-{1 + n // 28:02}-{1 + n % 28:02}",
        )
        for n in range(60)
    ]
    return [
        *pictures,
        stored("note", Item(text="five words of some length")),
        stored("page", Item(text="a red page", images=(png((250, 0, 0)),)), maker={"name": "acme", "tags": ["a", "b"]}),
        stored(MARKUP, Item(text=MARKUP), (), evil=MARKUP, **{MARKUP: MARKUP}),
        stored(ADDRESS, Item(text=ADDRESS, images=(png((9, 9, 9)),)), link=ADDRESS),
        stored(BIDI, Item(text=BIDI), bidi=BIDI),
        stored("k" * 500, Item(text=HUGE), long={"deep": HUGE}),
        stored(ARABIC, Item(text="\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645")),
    ]


class Page:
    """The search page in a window."""

    def __init__(self, window: Browser, address: str) -> None:
        self.window = window
        self.address = address

    def open(self, query: str = "") -> None:
        """Goes to a link, and waits until what it asks for is shown."""
        self.window.open(self.address + query)
        self.until(lambda: self.run("return document.documentElement.dataset.ready"), "the page is ready")

    def run(self, script: str, *arguments: Any) -> Any:
        """What a piece of JavaScript returns."""
        return self.window.run(script, *arguments)

    def until(self, is_so: Callable[[], Any], what: str) -> Any:
        """Waits until something is so; gives what it is."""
        give_up_s = time.monotonic() + WAIT_S
        while not (found := is_so()):
            assert time.monotonic() < give_up_s, f"never: {what}; {self.run('return document.body.innerText')[:1500]}"
            time.sleep(0.02)
        return found

    def shown(self) -> list[str]:
        """Keys of the hits, best first."""
        found: list[str] = self.run(KEYS)
        return found

    def until_first(self, key: str) -> None:
        """Waits until a key is the best hit."""
        self.until(lambda: self.shown()[:1] == [key], f"{key} is first, not {self.shown()[:3]}")

    def query(self) -> str:
        """The query in the address."""
        query: str = self.run("return decodeURIComponent(location.search)")
        return query

    def press(self, key: str) -> None:
        """Presses a key where the focus is."""
        self.run(PRESS, key)

    def click(self, selector: str, name: str = "") -> None:
        """Clicks the first element that fits and says or is called this, as soon as there is one."""
        self.until(lambda: self.run(CLICK, selector, name), f"there is {selector} {name}")

    def write(self, selector: str, text: str) -> None:
        """Writes into a field, in one go."""
        self.until(lambda: self.run("return document.querySelector(arguments[0]) !== null", selector), selector)
        self.run(WRITE, selector, text)

    def text(self, selector: str) -> str:
        """What an element shows, as soon as that is something."""
        text: str = self.until(lambda: self.run(TEXT, selector), f"there is {selector}")
        return text

    def says(self, selector: str, text: str) -> None:
        """Waits until an element says this."""
        self.until(lambda: text in (self.run(TEXT, selector) or ""), f"{selector} says {text!r}")

    def times_asked(self, ending: str) -> int:
        """How often this page has asked an address that ends so."""
        asked: int = self.run(ASKED, ending)
        return asked
