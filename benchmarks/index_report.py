"""The page and the picture on the speed of an index, made from what was measured."""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from anykey.index.vectors.structure_facts import DEFAULT_RECALL, EXACT, SearchParameters
from benchmarks.own_search import in_words
from benchmarks.recorded import beside
from benchmarks.setting import NUM_QUERIES, Setting

PICTURE_NAME = "recall-latency.png"
OURS = "AnyKey, without payload"
MIB = 2**20
NEXT_RUN = "next run"
LOWEST_RECALL = 0.6  # in the picture
ENOUGH_RECALL = DEFAULT_RECALL  # of the points that are compared
COLUMNS = (
    "",
    "structure",
    "searched with",
    "recall@10",
    "one query alone, p50",
    "all at once, a query",
    "build, of which tuning",
    "kept in memory",
    "files",
)
LACKS = {
    "FAISS alone": "the structure that AnyKey chose, re-ranked from vectors in memory: the ceiling. Positions and "
    "scores only: no keys or payload, no filters, no changes, no checksums",
    "autofaiss": "chooses a FAISS index for the memory and tunes it for 10 ms a query. Positions and scores only; it "
    "neither adds nor deletes",
    "Milvus Lite": "payload, filters and changes, in Python on FAISS",
}
_BESIDE = """\
On the same keys and the same {num_queries} fresh queries, on one machine, one after the other, each in its own process;
{num_keys:,} keys unless the row says otherwise. Of each structure, the point with the least latency that has recall@10
of {enough} on these queries, or its best one; and the point that was tuned before it met them, where there is one.

- *Build*: from vectors on disk to files that can be searched, everything included: AnyKey's files for filters and
  their checksums, Milvus Lite's payload. *Tuning* is the part of it in which structures that were not kept were built,
  and searches measured.
- *Kept in memory*: the search structure, and the vectors where searches hold them in memory.
- *Files*: what searches of the row need on disk, vectors included. AnyKey re-ranks from a mapped file of them, which is
  counted here and not as kept in memory; all of it was in the page cache.
"""

OF_CONDITIONS = [
    "Where a condition holds for 1 %, all of its vectors are compared, which lie scattered over memory. How long that "
    "takes is up to the memory; the ratio to a search without a condition grows where that one gets faster.",
    "",
]


def write_report(output: Path, parts: Mapping[str, dict[str, Any]]) -> None:
    """Writes the page, and the picture into the folder of the same name.

    Args:
        output: The Markdown file.
        parts: What was measured: `search`, and `peers` if they were.
    """
    search = parts["search"]
    lines = [*_introduction(search), *_table(search["rows"]), *OF_CONDITIONS]
    if "peers" in parts:
        peers, left_out = beside(search, parts["peers"])
        draw(output.with_suffix("") / PICTURE_NAME, search, peers)
        lines += _peers(search, peers, left_out, f"{output.stem}/{PICTURE_NAME}")
    lines += _tried(search["structure"])
    output.write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw(path: Path, search: Mapping[str, Any], peers: Mapping[str, Any]) -> None:
    """Draws recall over latency of everything that was measured on the same queries."""
    figure, axes = plt.subplots(figsize=(8, 5), dpi=120)
    _draw_ours(axes, search["alone"])
    colours = iter(("tab:green", "tab:orange", "tab:red", "tab:purple", "tab:brown", "tab:pink"))
    for name, found in peers.items():
        size = f", {found['num_keys']:,} keys" if "num_keys" in found else ""
        for structure in _structures(found):
            line = "--" if name.startswith("FAISS") else ":"
            _curve(axes, structure["points"], f"{name}{size}: {structure['factory']}", line, next(colours))
    axes.set(xscale="log", xlabel="one query alone, median (ms)", ylabel="recall@10", ylim=(LOWEST_RECALL, 1.01))
    setting = Setting.of(search)
    axes.set_title(f"{setting.num_keys:,} x {setting.width}, {_machine(search)}", fontsize=9)
    axes.axhline(ENOUGH_RECALL, color="grey", linewidth=0.8)
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(fontsize=7, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)


def _draw_ours(axes: Any, ours: Mapping[str, Any]) -> None:
    _curve(axes, ours["points"], f"AnyKey: {ours['factory']}", "-", "tab:blue")
    for point in ours["points"]:
        if point["tuned"]:
            where = point["p50_ms"], point["recall_at_10"]
            axes.plot(*where, "o", color="tab:blue", label="AnyKey, as tuned", markersize=9)
    if "exact" in ours:
        axes.plot(ours["exact"]["p50_ms"], 1.0, "k*", label="AnyKey, exact", markersize=10)


def _curve(axes: Any, points: list[dict[str, Any]], label: str, line: str, colour: str) -> None:
    """A line through the points that no other beats."""
    best, front = 0.0, []
    for latency_ms, recall in sorted((point["p50_ms"], point["recall_at_10"]) for point in points):
        if recall > best:
            best = recall
            front.append((latency_ms, recall))
    if front:
        axes.plot(*zip(*front, strict=True), line, marker=".", color=colour, label=label)


def _introduction(search: Mapping[str, Any]) -> list[str]:
    structure, setting = search["structure"], Setting.of(search)
    factory = structure["factory"]
    looks = "" if factory == EXACT else f", {in_words(factory, SearchParameters(**structure['search']))}"
    return [
        "# Speed of an index",
        "",
        f"`make perf-index`: {setting.num_keys:,} keys with clustered unit vectors of width {setting.width} "
        f"(float32), three metadata fields each, through `FaissIndex`; {_machine(search)}. Every row asks queries "
        "that no row before it asked.",
        "",
        f"Structure: `{factory}`{looks}; chosen and tuned on {structure['query_source']}.",
        "",
    ]


def _machine(search: Mapping[str, Any]) -> str:
    return f"{Setting.of(search).machine}, FAISS {search['faiss']}"


def _table(rows: list[list[str]]) -> list[str]:
    return ["| | measured | goal |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows), ""]


def _peers(search: Mapping[str, Any], peers: Mapping[str, Any], left_out: list[str], picture: str) -> Iterator[str]:
    num_keys = Setting.of(search).num_keys
    yield "## Beside others"
    yield ""
    yield _BESIDE.format(num_keys=num_keys, num_queries=NUM_QUERIES, enough=ENOUGH_RECALL)
    yield f"![Recall and latency]({picture})"
    yield ""
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---" * len(COLUMNS) + "|"
    everything = {OURS: search["alone"], **peers}
    yield from chain.from_iterable(_rows(name, found) for name, found in everything.items())
    yield ""
    for name, lacks in LACKS.items():
        yield f"- *{name}*: {lacks}."
    for name, found in everything.items():
        if "note" in found:
            yield f"- **{name}**: {found['note']}."
    for sentence in left_out:
        yield f"- Left out: {sentence}."
    yield ""


def _rows(name: str, found: Mapping[str, Any]) -> Iterator[str]:
    if "not_run" in found:
        yield _row(name, f"not measured: {found['not_run']}")
    shown = f"{name}, {found['num_keys']:,} keys with payload" if "num_keys" in found else name
    if "memory_limit" in found:
        shown = f"{name} ({found['memory_limit']})"
    for structure in _structures(found):
        for point in shown_points(structure["points"]):
            yield _row(shown, structure["factory"], *_searched(point), *_built(structure))
        if not structure["points"]:
            yield _row(shown, structure["factory"], *[NEXT_RUN] * 4, *_built(structure))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells + ('',) * (len(COLUMNS) - len(cells)))} |"


def _structures(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The structures that were measured of one name: several, one, or none."""
    structures: list[Mapping[str, Any]] = found.get("structures", [found] if "points" in found else [])
    return structures


def _searched(point: Mapping[str, Any]) -> Iterator[str]:
    yield f"{point['parameters']}{', as tuned' if point.get('tuned') else ''}"
    yield f"{point['recall_at_10']:.4f}"
    filtered = f"; {point['filtered_p50_ms']:.1f} ms with a 1 % filter" if "filtered_p50_ms" in point else ""
    yield f"{point['p50_ms']:.2f} ms{filtered}"
    yield f"{point['at_once_ms']:.3f} ms"


def _built(structure: Mapping[str, Any]) -> Iterator[str]:
    tuning_s = structure.get("tuning_s")
    tuning = "not told apart" if tuning_s is None else f"{tuning_s:,.0f} s" if tuning_s else "none"
    yield f"{structure['build_s']:,.0f} s, {tuning}"
    for name in ("memory_bytes", "files_bytes"):
        yield f"{structure[name] / MIB:,.0f} MiB" if name in structure else "not known"


def shown_points(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was tuned before these queries, and the best point on them, if that is another."""
    if not points:
        return []
    best = best_point(points)
    return [*(point for point in points if point.get("tuned") and point is not best), best]


def best_point(points: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest with enough recall; the one with the best recall where none has."""
    good = [point for point in points if point["recall_at_10"] >= ENOUGH_RECALL]
    if good:
        return min(good, key=lambda point: float(point["p50_ms"]))
    return max(points, key=lambda point: float(point["recall_at_10"]))


def _tried(structure: Mapping[str, Any]) -> Iterator[str]:
    yield "## What was tried"
    yield ""
    yield (
        f"The Pareto front of recall, latency and memory on the queries for tuning ({structure['query_source']}): it "
        "tells structures apart, and is not to be compared with the rows above."
    )
    yield ""
    yield "| structure | searched with | recall@10 | p50 ms | MiB kept in memory |"
    yield "|---|---|---|---|---|"
    for point in structure["front"]:
        looks = in_words(point["factory"], SearchParameters(**point["search"]))
        yield (
            f"| {point['factory']} | {looks} | {point['recall_at_10']:.4f} | {point['latency_p50_ms']:.2f} "
            f"| {point['memory_bytes'] / MIB:,.0f} |"
        )
