"""What is sent: the queries of a dataset, mixed, or the searches of a log in their order."""

import asyncio
import base64
import itertools
import json
import math
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from anykey.benchmark.dataset import Query
from anykey.benchmark.errors import DatasetError, DatasetFormatError

AT = "at_s"  # when a search of a log was sent, in seconds from any moment
LOGGED = "logged"  # what the service's query log says of the answer
BY_HASH = "sha256:"  # begins an image that lies beside the log, in the folder `images`
ASKED_WITH = frozenset({"text", "image", "key", "vector", "words", "parts"})
SMALL_BYTES = 32 * 1024  # of what is read and encoded between two answers; the rest is, in a thread


@dataclass(frozen=True)
class Request:
    """One search to send.

    Attributes:
        encode: Gives the JSON body of POST /search.
        is_small: Whether that takes no time.
        is_repeat: Whether the same was sent before.
    """

    encode: Callable[[], bytes]
    is_small: bool
    is_repeat: bool

    async def body(self) -> bytes:
        """The body; files are read in a thread, so that the answers to others are taken meanwhile.

        Raises:
            OSError: an image or the log cannot be read.
        """
        return self.encode() if self.is_small else await asyncio.to_thread(self.encode)


class Traffic(Protocol):
    """Searches without an end."""

    @property
    def times_s(self) -> Sequence[float]:
        """When each was sent once, in seconds from the first; empty where nobody knows."""

    def requests(self) -> Iterator[Request]:
        """The searches from the first on."""

    def facts(self) -> dict[str, Any]:
        """What the report says of them."""


@dataclass(frozen=True)
class Mix:
    """The queries of a dataset in a random order, each once before any comes again, and then in another order.

    Attributes:
        queries: The queries.
        body_of: The body of the query at a position.
        repeat_share: Share of the requests that repeat an earlier one, besides.
        seed: The same seed gives the same order.
        times_s: Nothing: a dataset has no pace.
    """

    queries: Sequence[Query]
    body_of: Callable[[int], Mapping[str, Any]]
    repeat_share: float
    seed: int
    times_s: Sequence[float] = ()

    def requests(self) -> Iterator[Request]:
        """The searches from the first on."""
        for position, is_repeat in drawn(len(self.queries), self.repeat_share, self.seed):
            is_small = not self.queries[position].images
            yield Request(partial(self._body, position), is_small, is_repeat)

    def facts(self) -> dict[str, Any]:
        """How many queries there are, of which modalities."""
        kinds = Counter(query.modality for query in self.queries)
        return {"num_queries": len(self.queries), "modalities": dict(kinds), "repeat_share": self.repeat_share}

    def _body(self, position: int) -> bytes:
        return _encoded(self.body_of(position))


class Log:
    """A log of searches: a JSONL file of bodies of POST /search, each with `at_s` or none of them.

    The service's query log is one. Its bodies stay in the file. Behind the last comes the first again. Searches with
    images of which the log kept nothing but the hash are left out.

    Args:
        path: The file.

    Attributes:
        times_s: When each was sent, in seconds from the first; empty where the log does not say.
        num_left_out: How many cannot be sent again.

    Raises:
        DatasetError: there is no such file, or a line is no search, or comes before the one above it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts, self._sizes, self._modalities = array("q"), array("q"), Counter[str]()
        moments_s = array("d")
        self.num_left_out = 0
        for number, start, line in _lines(path):
            row = _row(path, number, line)
            if any(not place.is_file() for place in images_beside(row, path.parent)):
                self.num_left_out += 1
                continue
            moments_s.append(_moment_s(path, number, row, moments_s))
            self._starts.append(start)
            self._sizes.append(len(line))
            self._modalities[_modality(row)] += 1
        if not self._starts:
            only = ", but for those whose images were not kept" if self.num_left_out else ""
            raise DatasetFormatError(path, None, f"it holds no search{only}")
        has_times = not math.isnan(moments_s[0])
        self.times_s: Sequence[float] = [moment_s - moments_s[0] for moment_s in moments_s] if has_times else []

    def requests(self) -> Iterator[Request]:
        """The searches from the first on."""
        for number in itertools.count():
            position = number % len(self._starts)
            is_small = self._sizes[position] <= SMALL_BYTES
            yield Request(partial(self._body, position), is_small, number >= len(self._starts))

    def facts(self) -> dict[str, Any]:
        """How many searches there are, and what they ask with."""
        facts = {"num_queries": len(self._starts), "modalities": dict(self._modalities)}
        return {**facts, "num_left_out": self.num_left_out} if self.num_left_out else facts

    def _body(self, position: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(self._starts[position])
            row = json.loads(file.read(self._sizes[position]))
        return _encoded(sendable(row, self._path.parent))


def sendable(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The body of `POST /search` in a line of a log.

    Args:
        row: The line.
        folder: Where the log is, with its images.

    Raises:
        OSError: an image cannot be read.
    """

    def image(value: Any) -> Any:
        if isinstance(value, list):
            return [image(each) for each in value]
        if not isinstance(value, str) or not value.startswith(BY_HASH):
            return value
        return base64.b64encode(_image_place(value, folder).read_bytes()).decode()

    body = {name: value for name, value in row.items() if name not in (AT, LOGGED)}
    for asked in (body, *body.get("parts", ())):
        if "image" in asked:
            asked["image"] = image(asked["image"])
    return body


def images_beside(row: Mapping[str, Any], folder: Path) -> list[Path]:
    """Where the images of a line are that are named by their hash."""
    found = []
    parts = row.get("parts")
    for asked in (row, *(parts if isinstance(parts, list) else ())):
        images = asked.get("image") if isinstance(asked, dict) else None
        for image in images if isinstance(images, list) else [images]:
            if isinstance(image, str) and image.startswith(BY_HASH):
                found.append(_image_place(image, folder))
    return found


def _image_place(image: str, folder: Path) -> Path:
    return folder / "images" / Path(image.removeprefix(BY_HASH)).name


def drawn(num_queries: int, repeat_share: float, seed: int) -> Iterator[tuple[int, bool]]:
    """Positions of queries without an end, and whether each was sent before.

    Args:
        num_queries: How many there are. All are sent in a random order, then all again in another.
        repeat_share: Share of the positions that repeat, besides, any that was sent before.
        seed: The same seed gives the same positions.
    """
    rng = random.Random(seed)
    sent: list[int] = []
    for num_passes in itertools.count():
        for position in rng.sample(range(num_queries), num_queries):
            while sent and rng.random() < repeat_share:
                yield rng.choice(sent), True
            yield position, num_passes > 0
            if not num_passes:
                sent.append(position)


def _encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number from 1, place in the file, and bytes of each line that is not empty."""
    start = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, start, line
                start += len(line)
    except OSError as error:
        raise DatasetError(f"log {path}: {error.strerror or error}") from error


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DatasetFormatError(path, number, f"no JSON: {error}") from error
    if not isinstance(row, dict) or not (ASKED_WITH & row.keys()):
        wanted = ", ".join(sorted(ASKED_WITH))
        raise DatasetFormatError(path, number, f"expected a body of POST /search, with one of {wanted}")
    return row


def _moment_s(path: Path, number: int, row: Mapping[str, Any], before_s: Sequence[float]) -> float:
    """When a search was sent; not a number where the log does not say."""
    moment_s = row.get(AT)
    if moment_s is None and AT not in row:
        moment_s = math.nan
    elif isinstance(moment_s, bool) or not isinstance(moment_s, int | float) or not math.isfinite(moment_s):
        raise DatasetFormatError(path, number, f"expected seconds as {AT}, got {moment_s!r}")
    if before_s and math.isnan(before_s[0]) != math.isnan(moment_s):
        raise DatasetFormatError(path, number, f"expected {AT} in all lines or in none")
    if before_s and moment_s < before_s[-1]:
        raise DatasetFormatError(path, number, f"{AT} is {moment_s:g}, before the line above: sort the log by {AT}")
    return float(moment_s)


def _modality(row: Mapping[str, Any]) -> str:
    if not {"text", "image"} & row.keys():
        return "other"
    if not row.get("image"):
        return "text"
    return "fused" if row.get("text") else "image"
