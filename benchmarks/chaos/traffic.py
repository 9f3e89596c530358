"""Load that knows what is right: searches whose best hit is known, and changes whose acknowledgements are kept.

The client goes on, whatever happens. What it is answered is counted; an answer that is wrong, and an acknowledged
change that is gone, are kept with what was expected.
"""

import asyncio
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType

import httpx

from benchmarks.chaos.world import NUM_KEYS, key_of, text_of

SEARCHERS, WRITERS, KEYS_OF_A_WRITER = 3, 2, 40
PAUSE_S = 0.03
TIMEOUT_S = 40.0
RIGHT_SCORE = 0.9999


@dataclass
class Tally:
    """What became of requests since it was begun.

    Attributes:
        outcomes: By kind of request and status, or what came in its place.
        faults: Wrong answers and lost changes, in words.
        slowest_s: The longest time to an answer.
        last_refusal_s: When a request was last not answered with 200, by `time.monotonic`; 0 for never.
    """

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    last_refusal_s: float = 0.0

    def of(self, *kinds: str) -> Counter[str]:
        """Outcomes of some kinds of requests, by status."""
        found: Counter[str] = Counter()
        for (kind, outcome), count in self.outcomes.items():
            if kind in kinds:
                found[outcome] += count
        return found


@dataclass
class Written:
    """A key that a writer changes, and what may be stored of it: one text, or several while an outcome is unknown."""

    key: str
    may_be: set[str | None] = field(default_factory=lambda: {None})
    is_busy: bool = False
    revision: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether it is sure what is stored."""
        return len(self.may_be) == 1 and not self.is_busy

    @property
    def text(self) -> str | None:
        """What is stored, once that is settled; `None` for nothing."""
        return next(iter(self.may_be))


class Traffic:
    """Searchers and writers in a thread of their own; a context manager that ends them.

    Attributes:
        tally: What became of requests since `begin`.
    """

    def __init__(self, url: str) -> None:
        self.tally = Tally()
        self._url = url
        self._stop = threading.Event()
        self._written = [[Written(f"written-{w}-{n}") for n in range(KEYS_OF_A_WRITER)] for w in range(WRITERS)]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def begin(self) -> None:
        """Counts from here on."""
        self.tally = Tally()

    async def _run(self) -> None:
        limits = httpx.Limits(max_keepalive_connections=0)  # a connection of before a kill would be one more error
        async with httpx.AsyncClient(base_url=self._url, timeout=TIMEOUT_S, trust_env=False, limits=limits) as client:
            searchers = (self._search_on(client, random.Random(n)) for n in range(SEARCHERS))
            writers = (self._write_on(client, random.Random(n), keys) for n, keys in enumerate(self._written))
            await asyncio.gather(*searchers, *writers)
            await asyncio.gather(*(self._settle(client, written) for keys in self._written for written in keys))

    async def _ask(
        self, client: httpx.AsyncClient, kind: str, method: str, path: str, **sent: object
    ) -> httpx.Response | None:
        tally, begin_s = self.tally, time.monotonic()
        try:
            response = await client.request(method, path, **sent)  # type: ignore[arg-type]
            outcome = str(response.status_code)
        except httpx.TransportError as error:
            response, outcome = None, "no answer" if isinstance(error, httpx.TimeoutException) else "no connection"
        tally.outcomes[kind, outcome] += 1
        end_s = time.monotonic()
        tally.slowest_s = max(tally.slowest_s, end_s - begin_s)
        if outcome not in ("200", "404"):
            tally.last_refusal_s = end_s
            await asyncio.sleep(0.1)  # as a client would that was refused
        return response

    async def _search_on(self, client: httpx.AsyncClient, choice: random.Random) -> None:
        while not self._stop.is_set():
            written = choice.choice(choice.choice(self._written))
            text, key = written.text if written.is_settled else None, written.key
            if text is None:
                number = choice.randrange(NUM_KEYS)
                text, key = text_of(number), key_of(number)
            revision = written.revision
            response = await self._ask(client, "search", "POST", "/search", json={"text": text, "k": 3})
            is_unchanged = key != written.key or (written.is_settled and written.revision == revision)
            if response is not None and response.status_code == 200 and is_unchanged:
                first = next(iter(response.json()["hits"]), None)
                if first is None or first["key"] != key or first["score"] < RIGHT_SCORE:
                    self.tally.faults.append(f"a search for the text of {key} found {first} first")
            await asyncio.sleep(PAUSE_S)

    async def _write_on(self, client: httpx.AsyncClient, choice: random.Random, keys: list[Written]) -> None:
        while not self._stop.is_set():
            written = choice.choice(keys)
            if len(written.may_be) > 1:
                await self._settle(client, written)
            else:
                await self._change(client, written, choice.random() < 0.2)
            await asyncio.sleep(PAUSE_S)

    async def _change(self, client: httpx.AsyncClient, written: Written, is_deleted: bool) -> None:
        written.revision += 1
        text = None if is_deleted else f"{written.key} in revision {written.revision}"
        written.is_busy = True
        written.may_be = {*written.may_be, text}
        path = f"/keys/{written.key}"
        if text is None:
            response = await self._ask(client, "change", "DELETE", path)
        else:
            response = await self._ask(client, "change", "PUT", path, json={"text": text})
        if response is not None and response.status_code in (200, 404):
            written.may_be = {text}
        written.is_busy = False

    async def _settle(self, client: httpx.AsyncClient, written: Written) -> None:
        """Looks what is stored, which must be what was acknowledged or, where nothing was, either of two."""
        response = await self._ask(client, "look", "GET", f"/keys/{written.key}")
        if response is None or response.status_code not in (200, 404):
            return
        found = response.json()["payload"]["text"] if response.status_code == 200 else None
        if found not in written.may_be:
            self.tally.faults.append(f"{written.key} holds {found!r}, and should hold one of {written.may_be}")
        written.may_be = {found}

    def check(self) -> None:
        """Looks up every key that was written, in the thread that asks; what is lost is a fault of the tally."""
        with httpx.Client(base_url=self._url, timeout=TIMEOUT_S, trust_env=False) as client:
            for written in (written for keys in self._written for written in keys):
                revision, text, was_settled = written.revision, written.text, written.is_settled
                response = client.get(f"/keys/{written.key}")
                found = response.json()["payload"]["text"] if response.status_code == 200 else None
                if was_settled and written.is_settled and written.revision == revision and found != text:
                    self.tally.faults.append(f"{written.key} holds {found!r}, and {text!r} was acknowledged")
