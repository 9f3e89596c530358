"""A real browser without a screen, driven over the W3C's WebDriver protocol."""

import base64
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WAIT_S = 60.0
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name for a reference to an element
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,2400"]


class Browser:
    """One window."""

    def __init__(self, session: httpx.Client) -> None:
        self._session = session

    def open(self, address: str) -> None:
        """Goes to a page and waits until it is loaded."""
        self._ask("POST", "url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a piece of JavaScript returns."""
        return self._ask("POST", "execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector: str) -> str:
        """The first element that fits a CSS selector, as soon as there is one."""
        give_up_s = time.monotonic() + WAIT_S
        while time.monotonic() < give_up_s:
            found = self._ask("POST", "elements", {"using": "css selector", "value": selector})
            if found:
                element: str = found[0][ELEMENT]
                return element
        raise AssertionError(f"there is no {selector} on the page: {self.run('return document.body.innerText')[:2000]}")

    def click(self, selector: str) -> None:
        """Clicks an element as a person does, when it is there."""
        element = self.find(selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", {ELEMENT: element})
        self._ask("POST", f"element/{element}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Empties a field and types into it; into one for files, the path of a file."""
        element = self.find(selector)
        if not self.run("return arguments[0].type == 'file'", {ELEMENT: element}):
            self._ask("POST", f"element/{element}/clear", {})
        self._ask("POST", f"element/{element}/value", {"text": text})

    def text(self, selector: str) -> str:
        """The text of an element."""
        text: str = self._ask("GET", f"element/{self.find(selector)}/text")
        return text

    def screenshot(self, path: Path) -> None:
        """Writes a picture of the window."""
        path.write_bytes(base64.b64decode(self._ask("GET", "screenshot")))

    def console(self) -> list[str]:
        """What the page's console said since it was last asked, errors of loading included."""
        return [entry["message"] for entry in self._ask("POST", "se/log", {"type": "browser"})]

    def show_as(self, width_px: int, height_px: int, **media: str) -> None:
        """Shows the page on a screen of this size, with media features such as `prefers_color_scheme="dark"`.

        `media="print"` shows it as on paper.
        """
        kind = media.pop("media", "")
        size = {"width": width_px, "height": height_px, "deviceScaleFactor": 1, "mobile": True}
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self._command("Emulation.setDeviceMetricsOverride", size)
        self._command("Emulation.setEmulatedMedia", {"media": kind, "features": features})

    def allow_clipboard(self) -> None:
        """Lets pages read what they copied."""
        self._command("Browser.grantPermissions", {"permissions": ["clipboardReadWrite"]})

    @contextmanager
    def other(self) -> Iterator[None]:
        """Looks at the newest of the windows that a page opened, and closes it afterwards."""
        here = self._ask("GET", "window")
        give_up_s = time.monotonic() + WAIT_S
        while not (others := [one for one in self._ask("GET", "window/handles") if one != here]):
            assert time.monotonic() < give_up_s, "no window was opened"
            time.sleep(0.02)
        self._ask("POST", "window", {"handle": others[-1]})
        try:
            yield
        finally:
            self._ask("DELETE", "window")
            self._ask("POST", "window", {"handle": here})

    def forget(self) -> None:
        """Empties the cache."""
        self._command("Network.enable", {})
        self._command("Network.clearBrowserCache", {})

    def main_thread_ms(self) -> float:
        """Processor time that the page's main thread has taken so far, whatever else the machine does."""
        self._command("Performance.enable", {"timeDomain": "threadTicks"})
        metrics = self._command("Performance.getMetrics", {})["metrics"]
        return float(1000 * next(one["value"] for one in metrics if one["name"] == "TaskDuration"))

    def go_offline(self, is_offline: bool) -> None:
        """Takes the network away, or gives it back."""
        unbounded = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self._command("Network.enable", {})
        self._command("Network.emulateNetworkConditions", {"offline": is_offline, **unbounded})

    def _command(self, name: str, parameters: dict[str, Any]) -> Any:
        """A command of Chromium's own protocol."""
        return self._ask("POST", "goog/cdp/execute", {"cmd": name, "params": parameters})

    def _ask(self, method: str, command: str, body: Any = None) -> Any:
        response = self._session.request(method, command, json=body)
        value = response.json()["value"]
        assert response.status_code == 200, f"{command}: {json.dumps(value)[:2000]}"
        return value


def require_browser() -> None:
    """Skips a test where there is no browser, and fails it where one is required, as in CI."""
    if CHROMIUM and DRIVER:
        return
    if os.environ.get("ANYKEY_REQUIRE_CHROMIUM") == "1":
        pytest.fail("chromium or chromedriver is missing")
    pytest.skip("chromium or chromedriver is missing; make test installs them where it may")


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser with a profile of its own, closed afterwards."""
    assert CHROMIUM
    assert DRIVER
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        tempfile.TemporaryDirectory() as home,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S, trust_env=False) as driver,
    ):
        process = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, cwd=home)
        try:
            session = _begin(driver, [*ARGUMENTS, f"--user-data-dir={home}"])
            address = f"http://127.0.0.1:{port}/session/{session}"
            driver.base_url = address
            try:
                yield Browser(driver)
            finally:  # the whole address, as the driver knows none that ends with a slash
                assert driver.delete(address).status_code == 200, "the browser was not closed"
        finally:
            process.terminate()
            process.wait()


def _begin(driver: httpx.Client, arguments: list[str]) -> str:
    options = {"binary": CHROMIUM, "args": arguments}
    wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    body = {"capabilities": {"alwaysMatch": wanted}}
    give_up_s = time.monotonic() + WAIT_S
    while True:
        try:
            response = driver.post("/session", json=body)
            break
        except httpx.ConnectError:
            assert time.monotonic() < give_up_s, "the driver never listened"
    assert response.status_code == 200, response.text
    session: str = response.json()["value"]["sessionId"]
    return session
