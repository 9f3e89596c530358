"""A web server of this machine's own, with range requests and entity tags, and what it was asked for."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site(ThreadingHTTPServer):
    """Serves pages from memory.

    Attributes:
        pages: Path to body.
        tags: Path to entity tag; a page without one has no version.
        has_ranges: Whether parts of pages are served.
        tells_sizes: Whether whole pages come with their size.
        requests: Path and `Range` header of every request.
        num_failures: How many of the next requests are answered by 503.
        num_breaks: How many of the next answers that are longer than `breaks_after` bytes break there.
        breaks_after: After how many bytes they do.
        fails_between: No byte between these two places of a page is served: answers break there.
        unread: Paths of pages that are only looked at: one byte of them is served, and no more.
        moved: Path to where a page is that is asked for as a whole; parts are served where it was.
        trickles: Whether a page comes byte by byte, one each 20 ms.
        cookie: What each page sets.
        cookies: Those that came with each request.
        changed: What is served in the place of a page, path to body, once an answer broke.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}
        self.has_ranges = True
        self.tells_sizes = True
        self.num_failures = 0
        self.num_breaks = 0
        self.breaks_after = 0
        self.fails_between: tuple[int, int] | None = None
        self.unread: set[str] = set()
        self.moved: dict[str, str] = {}
        self.trickles = False
        self.cookie: str | None = None
        self.cookies: list[str | None] = []
        self.changed: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.is_closing = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, *_: object) -> None:
        """Keeps quiet: readers go away as they like."""

    def url(self, path: str) -> str:
        """The page's address."""
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class _Handler(BaseHTTPRequestHandler):
    """Answers GET; a page below `/cut` stops halfway, one below `/broken` is an error, `/moved` leads to its rest."""

    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        span = self.headers["Range"]
        self.server.requests.append((self.path, span))
        self.server.cookies.append(self.headers["Cookie"])
        if path.startswith("/moved"):
            self._answer(302, b"", {"Location": path.removeprefix("/moved")})
        elif span is None and path in self.server.moved:
            self._answer(302, b"", {"Location": self.server.moved[path]})
        elif path in self.server.unread and span != "bytes=0-0":
            self._answer(503, b"")
        elif path.startswith("/broken") or self.server.num_failures > 0:
            self.server.num_failures -= 1
            self._answer(503, b"")
        elif (body := self.server.pages.get(path.removeprefix("/cut"))) is None:
            self._answer(404, b"")
        else:
            self._page(path, body, span)

    def log_message(self, *arguments: object) -> None:
        """Keeps quiet."""

    def _page(self, path: str, body: bytes, span: str | None) -> None:
        headers = {"ETag": self.server.tags[path]} if path in self.server.tags else {}
        headers |= {"Set-Cookie": self.server.cookie} if self.server.cookie else {}
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", span or "")
        if match is None or not self.server.has_ranges:
            self._answer(200, body, headers, cut=path.startswith("/cut"))
            return
        start, end = int(match[1]), min(int(match[2] or len(body) - 1), len(body) - 1)
        if start >= len(body):
            self._answer(416, b"", {**headers, "Content-Range": f"bytes */{len(body)}"})
        else:
            headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
            self._answer(206, body[start : end + 1], headers, cut=path.startswith("/cut"), start=start)

    def _answer(
        self, code: int, body: bytes, headers: dict[str, str] | None = None, cut: bool = False, start: int = 0
    ) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        is_told = code != 200 or self.server.tells_sizes
        if is_told:
            self.send_header("Content-Length", str(len(body)))
        if cut or not is_told:
            self.send_header("Connection", "close")
        if is_broken := self.server.num_breaks > 0 and len(body) > self.server.breaks_after:
            self.server.num_breaks -= 1
            self.close_connection = True
            self.server.pages |= self.server.changed
        self.end_headers()  # once all is settled that the reader may settle anew from here on
        with suppress(ConnectionError):  # the reader has jumped elsewhere
            whole = body[: self.server.breaks_after] if is_broken else body
            if (span := self.server.fails_between) and start < span[1] and start + len(body) > span[0]:
                whole = whole[: max(span[0] - start, 0)]
                self.close_connection = True
            for part in map(bytes, zip(whole)) if self.server.trickles else [body[: len(body) // 2] if cut else whole]:
                self.wfile.write(part)
                self.server.is_closing.wait(0.02 * self.server.trickles)


@contextmanager
def serve() -> Iterator[Site]:
    """A running server."""
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.is_closing.set()
            server.shutdown()
            thread.join()
