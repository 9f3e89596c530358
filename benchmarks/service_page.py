"""The page on the service's speed, in Markdown, with a picture of latency over load for each kind of request."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

OURS = "AnyKey"
_INTRODUCTION = """
`make perf-service` asks AnyKey, clip-retrieval 2.45 (`back`) and infinity 0.0.78 in turns, with the same random weights
of a ViT-B/32, the same texts and the same bytes of JPEGs (512 x 384), none of them twice. Searches are
among {keys} keys with a text and metadata, for 10 hits; each service has the index that it makes by itself.
{machines}, which the client shares.

Throughput is that of 32 clients who each ask again as soon as they are answered. Latency is of requests that come at a
rate by chance, whatever is under way, and runs from the moment when a request was due. Everybody has a turn in each
round; ratios are of one round, and their median is shown.
"""
COMPARED = {
    "text": "Searches by text",
    "image": "Searches by photo",
    "embed-text": "Texts embedded",
    "embed-image": "Photos embedded",
}
DEADLINE_MS = 10_000.0  # the service's default for a request
FLAT = 1.05  # memory of the last quarter of the overload over that of the first
Parts = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Goal:
    """What is to be reached.

    Attributes:
        part: Where it is measured.
        what: In words.
        found: What was found.
        bound: What it should be.
        is_least: Whether that is the least it should be, or the most.
        unit: Of both.
    """

    part: str
    what: str
    found: Callable[[Mapping[str, Any]], float]
    bound: float
    is_least: bool
    unit: str = ""

    def row(self, part: Mapping[str, Any]) -> str:
        """A row of the table."""
        value = self.found(part)
        is_reached = value >= self.bound if self.is_least else value <= self.bound
        sign, verdict = (">=" if self.is_least else "<="), ("reached" if is_reached else "**not reached**")
        shown = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
        return f"| {self.what} | {sign} {self.bound:,g}{self.unit} | **{shown}{self.unit}** | {verdict} |"


GOALS = (
    Goal("text", "searches by text: throughput over clip-retrieval's", lambda part: throughput(part), 5, True),
    Goal("text", "their p50 over clip-retrieval's, at the same rate", lambda part: p50(part), 0.5, False),
    Goal("image", "searches by photo: throughput over clip-retrieval's", lambda part: throughput(part), 3, True),
    Goal(
        "saturation",
        "photos searched for at saturation over what the encoder alone embeds at most",
        lambda part: share_of_encoder(part, "image", "single"),
        0.9,
        True,
    ),
    Goal(
        "saturation",
        "texts searched for at saturation, 32 in a request, over the same",
        lambda part: share_of_encoder(part, "text", "batched"),
        0.9,
        True,
    ),
    Goal("overhead", "p50 beyond encoder and index", lambda part: beyond_ms(part), 2, False, " ms"),
    Goal("cached", "p50 of a query that was asked before, at 1,000/s", lambda part: cached_ms(part), 2, False, " ms"),
    Goal("overload", "10x overload: p99 of answers", lambda part: part["latency_ms"]["p99"], DEADLINE_MS, False, " ms"),
    Goal("overload", "10x overload: p99 of refusals", lambda part: part["refusal_ms"]["p99"], 20, False, " ms"),
    Goal("overload", "10x overload: memory at the end over the beginning", lambda part: growth(part), FLAT, False),
)


def throughput(part: Mapping[str, Any]) -> float:
    """Ours over the other's, the median of the rounds."""
    ours, other = part["most_per_s"][OURS], part["most_per_s"][_other(part)]
    return median(mine / theirs for mine, theirs in zip(ours, other, strict=True))


def p50(part: Mapping[str, Any]) -> float:
    """Ours over the other's at the same rate, the median of the rounds."""
    ours, other = part["at_light"][OURS], part["at_light"][_other(part)]
    pairs = zip(ours, other, strict=True)
    return median(mine["latency_ms"]["p50"] / theirs["latency_ms"]["p50"] for mine, theirs in pairs)


def share_of_encoder(part: Mapping[str, Any], kind: str, way: str) -> float:
    """The service's throughput over the encoder's in its best batch size, the median of the rounds."""
    size = _best_size(part[kind]["alone"])
    pairs = zip(part[kind][way], part[kind]["alone"], strict=True)
    return median(service / rates[size] for service, rates in pairs)


def _best_size(rounds: Sequence[Mapping[str, float]]) -> str:
    """The batch size at which most is embedded; by the median of the rounds, for the best of each is chance, too."""
    return max(rounds[0], key=lambda size: median(rates[size] for rates in rounds))


def beyond_ms(part: Mapping[str, Any]) -> float:
    """What a request takes beyond encoder and index, the median of the rounds."""
    rounds = zip(part["service"], part["encoder"], part["index"], strict=True)
    return median(service - encoder - index for service, encoder, index in rounds)


def cached_ms(part: Mapping[str, Any]) -> float:
    """The median of the rounds."""
    return median(run["latency_ms"]["p50"] for run in part["runs"])


def growth(part: Mapping[str, Any]) -> float:
    """Memory in the last quarter of the overload over that in the first."""
    memory = part["memory_bytes"]
    quarter = max(1, len(memory) // 4)
    return median(memory[-quarter:]) / median(memory[:quarter])


def write_page(path: Path, parts: Parts) -> None:
    """Writes the page and its pictures, of what was measured.

    Args:
        path: The page; pictures go into the folder of its name.
        parts: What was recorded, by name.
    """
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for name in COMPARED:
        if name in parts:
            (folder / f"{name}.png").write_bytes(picture(COMPARED[name], parts[name]["curves"]))
    path.write_text("\n".join(page(parts, folder.name)) + "\n", encoding="utf-8")


def page(parts: Parts, folder: str) -> Iterator[str]:
    """The lines of the page."""
    yield "# The service, beside others"
    yield from _introduction(parts)
    yield "| | goal | found | |"
    yield "|---|---:|---:|---|"
    yield from (goal.row(parts[goal.part]) for goal in GOALS if goal.part in parts)
    for name, title in COMPARED.items():
        if name in parts:
            yield from _compared(title, parts[name], f"{folder}/{name}.png")
    for name, lines in OWN.items():
        if name in parts:
            yield from lines(parts[name])


def _introduction(parts: Parts) -> Iterator[str]:
    machines = sorted({part["machine"] for part in parts.values()})
    keys = " or ".join(f"{number:,}" for number in sorted({part["num_keys"] for part in parts.values()}))
    yield _INTRODUCTION.format(keys=keys, machines="; ".join(machines))


def _compared(title: str, part: Mapping[str, Any], path: str) -> Iterator[str]:
    yield f"\n## {title}\n"
    rate = f"{part['light_rate']:.1f}"
    yield f"| | answers/s, rounds | AnyKey's over it | p50 at {rate}/s, ms | p99, ms | AnyKey's p50 over it |"
    yield "|---|---|---:|---:|---:|---:|"
    for name, most in part["most_per_s"].items():
        light = part["at_light"][name]
        middle = {p: median(run["latency_ms"][p] for run in light) for p in ("p50", "p99")}
        ratios = ("1", "1") if name == OURS else (f"{throughput(part):.2f}", f"{p50(part):.2f}")
        rounds = ", ".join(f"{found:.1f}" for found in most)
        yield f"| {name} | {rounds} | {ratios[0]} | {middle['p50']:.1f} | {middle['p99']:.1f} | {ratios[1]} |"
    yield f"\n![Latency over load]({path})\n"
    yield "| | requests/s | answers/s | p50, ms | p90, ms | p99, ms | not answered |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name, curve in part["curves"].items():
        yield from (_at_rate(name, point) for point in curve)


def _at_rate(name: str, point: Mapping[str, Any]) -> str:
    times = point["latency_ms"]
    shown = " | ".join(f"{times[p]:.1f}" if times else "-" for p in ("p50", "p90", "p99"))
    return (
        f"| {name} | {point['rate']:.1f} | {point['answered_per_s']:.1f} | {shown} | "
        f"{point['due'] - point['answered']} of {point['due']} |"
    )


def _saturation(part: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## At saturation\n"
    yield (
        f"What the encoder ({part['way']}) embeds at most in a process of its own, with texts and photos prepared in\n"
        "threads beside it, in the best of some batch sizes; and what the service answers at most, HTTP, search and\n"
        "payload included, to single requests and to requests with 32 queries (`POST /search/batch`). Clients ask\n"
        "again as soon as they are answered, as many of them as get most.\n"
    )
    yield "| | encoder alone, items/s | single, answers/s | of the encoder's | 32 together | of the encoder's |"
    yield "|---|---:|---:|---:|---:|---:|"
    for kind, name in (("text", "texts"), ("image", "photos")):
        found = part[kind]
        size = _best_size(found["alone"])
        alone = median(rates[size] for rates in found["alone"])
        cells = [f"{median(found[way]):.1f} | {share_of_encoder(part, kind, way):.2f}" for way in ("single", "batched")]
        yield f"| {name} | {alone:.1f} | {' | '.join(cells)} |"
    taken = {name: part[kind].get("cores") for kind, name in (("text", "texts"), ("image", "photos"))}
    for name, cores in taken.items():
        if cores:
            yield f"\nFor single {name}, {_cores(cores)}."


def _cores(rounds: Sequence[Mapping[str, float]]) -> str:
    """What the service and its client took of the machine, in words."""
    service, client = (median(cores[name] for cores in rounds) for name in ("service", "client"))
    return f"the service took {service:.2f} cores, and the client {client:.2f}"


def _overhead(part: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## A lone query\n"
    yield (
        f"Texts that come {part['rate']:g} times a second, evenly. The encoder and the index are timed in a process\n"
        "without a service, at the same pace, in turns with it.\n"
    )
    yield "| | p50, ms |"
    yield "|---|---:|"
    for name in ("service", "encoder", "index"):
        yield f"| {'from due to answered' if name == 'service' else f'the {name} alone'} | {median(part[name]):.2f} |"
    yield f"| beyond both | {beyond_ms(part):.2f} |"
    stages = ", ".join(f"{stage} {ms:.2f}" for stage, ms in part["stages"].items())
    yield f"\nBy the service's own clocks, the medians are, in milliseconds: {stages}."


def _cached(part: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## Queries that were asked before\n"
    yield f"Fifty texts in turn, {part['rate']:,.0f} requests a second, evenly.\n"
    yield "| round | answers/s | p50, ms | p90, ms | p99, ms | sent late by the client |"
    yield "|---:|---:|---:|---:|---:|---:|"
    for number, run in enumerate(part["runs"], 1):
        times = run["latency_ms"]
        shown = " | ".join(f"{times[p]:.2f}" for p in ("p50", "p90", "p99"))
        yield f"| {number} | {run['answered_per_s']:.0f} | {shown} | {run['late']} of {run['due']} |"
    cores = [run["cores"] for run in part["runs"] if "cores" in run]
    yield f"\nEight clients at once get {median(part['most_per_s']):,.0f} answers a second."
    if cores:
        yield f"At {part['rate']:,.0f} a second, {_cores(cores)}."


def _overload(part: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## Overload\n"
    memory = [value / 2**20 for value in part["memory_bytes"]]
    refused, answers = part["refusal_ms"], part["latency_ms"]
    errors = ", ".join(f"{count:,} with {name}" for name, count in sorted(part["errors"].items())) or "none"
    yield (
        f"Photos at {part['rate']:.0f} requests a second, ten times what is answered at most, for {len(memory)} s.\n"
        f"Of {part['due']:,} requests {part['answered']:,} were answered; others were answered {errors}. The client\n"
        f"had too many under way to send {part['not_sent']:,} of them.\n"
    )
    yield "| | p50, ms | p99, ms | longest, ms |"
    yield "|---|---:|---:|---:|"
    for name, times in (("answers", answers), ("refusals", refused)):
        if times:
            yield f"| {name} | {times['p50']:.1f} | {times['p99']:.1f} | {times['max']:.1f} |"
    if cores := part.get("cores"):
        yield f"\nMeanwhile {_cores([cores])}."
    if memory:
        yield f"\nMemory was {memory[0]:,.0f} MiB first, {memory[-1]:,.0f} MiB last and {max(memory):,.0f} MiB at most."


def _client(part: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## The client\n"
    yield "What it sends at most where every request is answered at once with the same, and what each costs it.\n"
    yield "| | requests/s | processor time each, ms |"
    yield "|---|---:|---:|"
    for kind, name in (("known", "queries that were asked before"), ("image", "photos")):
        yield f"| {name} | {part[kind]['most_per_s']:,.0f} | {part[kind]['client_ms']:.3f} |"


OWN: Mapping[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {
    "saturation": _saturation,
    "overhead": _overhead,
    "cached": _cached,
    "overload": _overload,
    "client": _client,
}


def picture(title: str, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """A PNG: p50 and p99 over the rate of requests, of each service."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        points = [point for point in curve if point["latency_ms"]]
        rates = [point["rate"] for point in points]
        for percent, line in (("p50", "o-"), ("p99", "s--")):
            times_ms = [point["latency_ms"][percent] for point in points]
            axes.plot(rates, times_ms, line, color=f"C{number}", markersize=4, label=f"{name}, {percent}")
    axes.set_title(f"{title}: latency from when a request was due", fontsize="medium")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("requests due in a second")
    axes.set_ylabel("latency in ms")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.grid(which="both", color="0.9")
    axes.legend(fontsize="small")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()


def _other(part: Mapping[str, Any]) -> str:
    return next(name for name in part["most_per_s"] if name != OURS)
