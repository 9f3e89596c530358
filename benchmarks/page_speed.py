"""Measures the search page in a real Chromium: `python -m benchmarks.page_speed --output docs/results/page.md`.

How long it takes from asking for the page to the first paint, with an empty cache and with a full one, and whether
frames are dropped while a thousand hits are scrolled. The service runs beside the browser, over pictures that are drawn
here. Its encoder is a stand-in that costs nothing, for only the page is measured.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
from PIL import Image

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from benchmarks.speed_report import processor
from tests.browser import Browser, browser
from tests.fakes import FakeEncoder
from tests.serving import build_real_index, serving, stored

WIDTH_PX, HEIGHT_PX = 1440, 900
FRAME_MS = 1000 / 60
PAINT_GOAL_MS = 100.0
BYTES_GOAL = 60_000
NAMES = {"first": "for the first time", "again": "when their pictures are there"}  # of kinds of scrolling
LATE = 1.5  # frames: one that takes longer has dropped another
WAIT_S = 120.0

IS_READY = "return document.documentElement.dataset.ready === '1'"
PAINT = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
LOADED = """
return performance.getEntriesByType("resource").filter(one => /[.](js|css)$/.test(new URL(one.name).pathname))
  .reduce((sum, one) => sum + one.decodedBodySize, 0);
"""
SHOWN = "scrollTo(0, document.body.scrollHeight); return document.querySelectorAll('#hits .card').length"
SCROLL = """
const [frames] = arguments;
const last = document.body.scrollHeight - innerHeight;
scrollTo(0, 0);
window.frameTimes = [];
window.isScrolled = false;
let before = null;
const step = (now) => {
  if (before !== null) frameTimes.push(now - before);
  before = now;
  scrollTo(0, last * frameTimes.length / frames);
  if (frameTimes.length < frames) requestAnimationFrame(step);
  else isScrolled = true;
};
requestAnimationFrame(step);
"""


@dataclass(frozen=True)
class Load:
    """What is measured.

    Attributes:
        num_keys: Pictures of the index, all of which are hits.
        num_visits: First visits with an empty cache, and as many with a full one.
        num_frames: Frames in which all hits are scrolled through.
        rounds: How often they are.
    """

    num_keys: int = 1000
    num_visits: int = 20
    num_frames: int = 600
    rounds: int = 3


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        paint_ms: Times to the first paint, by what the browser's cache held.
        frames_ms: Lengths of all frames, by the kind of scrolling.
        main_ms: Processor time of the page's main thread for a frame, of each round, by the kind of scrolling.
        num_bytes: Scripts and styles of the first visit.
    """

    paint_ms: Mapping[str, list[float]]
    frames_ms: Mapping[str, list[float]]
    main_ms: Mapping[str, list[float]]
    num_bytes: int


def main(argv: list[str] | None = None) -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write")
    for name, value in vars(Load()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    options = vars(parser.parse_args(argv))
    output: Path = options.pop("output")
    load = Load(**options)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(load, Path(folder))
    output.write_text(report(load, found), encoding="utf-8")


def measure(load: Load, folder: Path) -> Found:
    """Measures all of it, with the index in this folder."""
    with _served(load.num_keys, folder) as address, browser() as window:
        window.show_as(WIDTH_PX, HEIGHT_PX, prefers_color_scheme="light")
        _open(window, address)  # warms both
        num_bytes = window.run(LOADED)
        paint_ms: dict[str, list[float]] = {"empty": [], "full": []}
        for _ in range(load.num_visits):
            window.forget()
            paint_ms["empty"].append(_paint_ms(window, address))
            paint_ms["full"].append(_paint_ms(window, address))
        return Found(paint_ms, *_scrolled(window, address, load), num_bytes)


@contextmanager
def _served(num_keys: int, folder: Path) -> Iterator[str]:
    """A service over drawn pictures; gives its address."""
    draw = np.random.default_rng(0)
    keys = [stored(f"photo {n:04}", Item(images=(_photo(draw),)), number=n) for n in range(num_keys)]
    encoder = FakeEncoder()
    with FaissIndex.open(build_real_index(folder, encoder, keys)) as index, serving(encoder, index) as client:
        yield f"{client.base_url}/"


def _photo(draw: np.random.Generator) -> bytes:
    """A JPEG of 512 x 384 with soft colours."""
    image = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        (512, 384), Image.Resampling.BICUBIC
    )
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


def _open(window: Browser, address: str) -> None:
    window.open(address)
    _wait(lambda: window.run(IS_READY), "the page is ready")


def _paint_ms(window: Browser, address: str) -> float:
    _open(window, address)
    _wait(lambda: window.run(PAINT) is not None, "it is painted")
    found: float = window.run(PAINT)
    return found


def _scrolled(window: Browser, address: str, load: Load) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Lengths of frames, and what each costs the main thread, while all hits are scrolled through.

    Once for the first time, and once when their pictures are there.
    """
    frames: dict[str, list[float]] = {"first": [], "again": []}
    main: dict[str, list[float]] = {kind: [] for kind in frames}
    for _ in range(load.rounds):
        window.forget()
        _open(window, f"{address}?q=photo&only=image")
        _wait(lambda: window.run(SHOWN) >= load.num_keys, "all hits are there")
        for kind in frames:
            before_ms = window.main_thread_ms()
            window.run(SCROLL, load.num_frames)
            _wait(lambda: window.run("return isScrolled"), "the end is reached", pause_s=0.5)
            main[kind].append((window.main_thread_ms() - before_ms) / load.num_frames)
            frames[kind] += window.run("return frameTimes")
    return frames, main


def _wait(is_so: Callable[[], Any], what: str, pause_s: float = 0.05) -> None:
    give_up_s = time.monotonic() + WAIT_S
    while not is_so():
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"never: {what}")
        time.sleep(pause_s)


def report(load: Load, found: Found) -> str:
    """The page for docs/results/."""
    lines = [
        "# The search page",
        "",
        f"`make perf-page` opens the page in Chromium without a screen, {WIDTH_PX} x {HEIGHT_PX}, beside the service, "
        f"on {processor()} without a GPU, so that the processor paints. The index has {load.num_keys:,} drawn photos.",
        "",
        "| | median | 19 of 20 within | goal |",
        "|---|---|---|---|",
    ]
    for cache, times in found.paint_ms.items():
        goal = f"< {PAINT_GOAL_MS:.0f} ms"
        lines.append(f"| first paint, {cache} cache | {median(times):.0f} ms | {_within(times):.0f} ms | {goal} |")
    for kind, times in found.frames_ms.items():
        what = f"a frame while {load.num_keys:,} hits are scrolled {NAMES[kind]}"
        lines.append(f"| {what} | {median(times):.1f} ms | {_within(times):.1f} ms | {FRAME_MS:.1f} ms |")
    for kind, times in found.main_ms.items():
        what = f"of it, processor time of the page's main thread, {NAMES[kind]}"
        lines.append(f"| {what} | {median(times):.1f} ms | | |")
    late = {kind: sum(one > LATE * FRAME_MS for one in times) for kind, times in found.frames_ms.items()}
    lines += [
        "",
        f"Of {len(found.frames_ms['first']):,} frames {late['first']:,} came late (more than {LATE} times their time) "
        f"for the first time, and {late['again']:,} when the pictures were there. Scripts and styles of the first "
        f"visit are {found.num_bytes:,} bytes (goal: less than {BYTES_GOAL:,}).",
        "",
    ]
    return "\n".join(lines)


def _within(times: list[float]) -> float:
    return quantiles(times, n=20)[-1] if len(times) > 1 else times[0]


if __name__ == "__main__":
    main()
