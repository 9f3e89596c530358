"""One self-contained page about a quality run: `report.html` needs no network and no other file."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from anykey.benchmark.dataset import MODALITIES, Mean, Task
from anykey.benchmark.page.thumbnails import addresses
from anykey.benchmark.page.worst import Item, Worst
from anykey.benchmark.report import Report, Section, other_share
from anykey.benchmark.scoring import PERCENTILES, Number, TaskResult, depth_of, published_number
from anykey.program.files import replace_file
from anykey.program.page import arrow, render_page, shown

LEAST_MS = 0.01
_BUCKETS = ((1, 1), (2, 5), (6, 10), (11, 50), (51, None))  # first and last rank


@dataclass(frozen=True)
class Headline:
    """A number to be read first.

    Attributes:
        table: What it was searched among.
        title: What it is a mean over, or the only task.
        metric: The metric; of a mean over tasks with different ones, all of them.
        number: The number.
    """

    table: str
    title: str
    metric: str
    number: Number


@dataclass(frozen=True)
class Bar:
    """Parts of a whole, drawn side by side.

    Attributes:
        title: The row.
        shares: Each part's share, from 0 to 1.
        texts: What stands beside the drawing for each.
        wanted: The part that is looked for; None where there is none.
    """

    title: str
    shares: Sequence[float]
    texts: Sequence[str]
    wanted: int | None = None


@dataclass(frozen=True)
class Times:
    """A logarithmic scale of times on which latencies are drawn.

    Attributes:
        low_ms: Its beginning.
        high_ms: Its end.
    """

    low_ms: float
    high_ms: float

    @classmethod
    def over(cls, results: Sequence[TaskResult]) -> "Times":
        """The powers of ten around all latencies."""
        times_ms = [max(time_ms, LEAST_MS) for result in results for time_ms in result.serving["curve_ms"]]
        low, high = (
            (math.floor(math.log10(min(times_ms))), math.ceil(math.log10(max(times_ms)))) if times_ms else (0, 1)
        )
        return cls(10.0**low, 10.0 ** max(high, low + 1))

    def points(self, curve_ms: Sequence[float], width: float, height: float) -> str:
        """A curve in SVG's words: which share of the answers (upwards) came within which time (rightwards)."""
        span = math.log10(self.high_ms / self.low_ms)
        across = [width * math.log10(max(time_ms, self.low_ms) / self.low_ms) / span for time_ms in curve_ms]
        up = [height * step / (len(curve_ms) - 1) for step in range(len(curve_ms))]
        return " ".join(f"{x:.1f},{height - y:.1f}" for x, y in zip(across, up, strict=True))


@dataclass(frozen=True)
class Bars:
    """A table of bars.

    Attributes:
        title: What it is called.
        names: The parts.
        rows: The bars.
    """

    title: str
    names: Sequence[str]
    rows: Sequence[Bar]


def write_page(path: Path, report: Report) -> None:
    """Writes the page, aside and then renamed.

    Raises:
        OSError: the page cannot be written.
    """
    template = (files("anykey.benchmark.page") / "template.html").read_text(encoding="utf-8")
    filters: dict[str, Callable[..., Any]] = {
        "number": "{:.3f}".format,
        "range": _range,
        "published_number": published_number,
        "other": other_share,
        "search_ms": _search_ms,
        "arrow": arrow,
        "shown": shown,
        "indented": _indented,
    }
    repeated = [section for section in report.sections if _is_repeated(section, report.sections)]
    sections = [section for section in report.sections if section not in repeated]
    page = render_page(
        template,
        filters,
        report=report,
        sections=sections,
        repeated=repeated,
        headlines=[headline for section in sections for headline in _headlines(section)],
        modalities=[_modalities(section, report.service["index"]) for section in sections],
        ranks=[bars for section in sections for bars in _ranks(section, report.parameters["cutoffs"])],
        stages=[(section, _stages(section.results)) for section in report.sections],
        times=Times.over([result for section in report.sections for result in section.results]),
        percentiles=[f"p{percentile}" for percentile in PERCENTILES],
        pictures=addresses(_uses(report.worst)),
    )
    replace_file(path, page.encode())


def _is_repeated(section: Section, sections: Sequence[Section]) -> bool:
    """Whether all its tasks were compared with every key beside a search as users make it."""
    approximate = {result.task for each in sections for result in each.results if not result.exact}
    return all(result.exact and result.task in approximate for result in section.results)


def _headlines(section: Section) -> Iterator[Headline]:
    """The means of a table, or its rows where there is nothing to take a mean over."""
    different: dict[tuple[tuple[Task, float], ...], Mean] = {}  # of two that weigh all tasks alike, the first
    for mean in section.means:
        different.setdefault(tuple(mean.weights.items()), mean)
    for mean in different.values():
        if (number := section.mean(mean, None)) is not None:
            metrics = dict.fromkeys(task.headline for task in mean.weights)
            yield Headline(section.title, mean.name, ", ".join(metrics), number)
    if not section.means:
        for result in section.results:
            yield Headline(section.title, result.task.title, result.task.headline, result.headline)


def _modalities(section: Section, index: Mapping[str, Any]) -> Bars:
    """What the first hits are; and where the whole corpus is searched, what its keys are."""
    rows = [_modality_bar(result.task.title, result.modalities, result.task.key_modality) for result in section.results]
    counts: Mapping[str, int] = index.get("modalities") or {}
    is_whole = any(result.num_keys == index.get("num_keys") for result in section.results)
    if is_whole and (total := sum(counts.values())):
        rows.append(_modality_bar("all keys", {name: count / total for name, count in counts.items()}, None))
    return Bars(section.title, MODALITIES, rows)


def _modality_bar(title: str, shares: Mapping[str, float], wanted: str | None) -> Bar:
    values = [shares.get(name, 0.0) for name in MODALITIES]
    place = MODALITIES.index(wanted) if wanted in MODALITIES else None
    return Bar(title, values, [f"{value:.0%}" for value in values], place)


def _ranks(section: Section, cutoffs: Sequence[int]) -> Iterator[Bars]:
    """How many queries found their first relevant key at which ranks, as deep as hits were asked for."""
    by_depth: dict[int, list[TaskResult]] = {}
    for result in section.results:
        by_depth.setdefault(depth_of(result.task, cutoffs), []).append(result)
    for depth, results in by_depth.items():
        buckets = [(low, min(high or depth, depth)) for low, high in _BUCKETS if low <= depth]
        names = [str(low) if low == high else f"{low}-{high}" for low, high in buckets]
        rows = [_rank_bar(result, buckets) for result in results]
        yield Bars(section.title, [*names, f"not in {depth}"], rows)


def _rank_bar(result: TaskResult, buckets: Sequence[tuple[int, int]]) -> Bar:
    first = [min(ranks, default=None) for ranks in result.ranks]
    counts = [sum(rank is not None and low <= rank <= high for rank in first) for low, high in buckets]
    counts.append(len(first) - sum(counts))
    return Bar(result.task.title, [count / len(first) for count in counts], list(map(str, counts)))


def _stages(results: Sequence[TaskResult]) -> list[str]:
    """Every stage that a service told of, in the order in which they are first seen."""
    return list(dict.fromkeys(stage for result in results for stage in result.serving["stages_ms"]))


def _search_ms(result: TaskResult) -> str:
    """The median time in the service's index; a dash where it did not say."""
    stage = result.serving["stages_ms"].get("search")
    return "-" if stage is None else f"{stage['p50']:.2f}"


def _uses(worst: Sequence[Worst]) -> Counter[bytes]:
    """How often each picture is shown."""
    cases = [case for each in worst for case in each.cases]
    items: list[Item | None] = [case.item for case in cases]
    items += [key.item for case in cases for key in (*case.relevant, *case.hits)]
    return Counter(picture for item in items if item for picture in item.pictures if picture)


def _range(number: Number) -> str:
    return f"{number.low:.3f} to {number.high:.3f}"


def _indented(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
