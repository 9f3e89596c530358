"""The page and the picture on the speed of an index, made from what was measured."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt

from tests.performance.embedding_speed import keys_per_s

PICTURE_NAME = "recall-latency.png"
MIB = 2**20
LOWEST_RECALL = 0.6  # in the picture
LACKS = {
    "FAISS alone": "the structure that AnyKey chose, re-ranked from vectors in memory: the ceiling. Positions and "
    "scores only: no keys or payload, no filters, no changes, nothing on disk, no checksums",
    "autofaiss": "chooses a FAISS index for the memory and tunes it for 10 ms a query. Positions and scores only; it "
    "neither adds nor deletes",
    "Milvus Lite": "payload, filters and changes, in Python on FAISS",
}


def write_report(output: Path, parts: Mapping[str, dict[str, Any]]) -> None:
    """Writes the page, and the picture into the folder of the same name.

    Args:
        output: The Markdown file.
        parts: What was measured: `search`, and `peers` and `embedding` if they were.
    """
    search = parts["search"]
    lines = [*_introduction(search), *_table(search["rows"])]
    if "peers" in parts:
        draw(output.with_suffix("") / PICTURE_NAME, search, parts["peers"])
        lines += _peers(search, parts["peers"], f"{output.stem}/{PICTURE_NAME}")
    if "embedding" in parts:
        lines += _embedding(parts["embedding"])
    lines += _tried(search["structure"])
    output.write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw(path: Path, search: Mapping[str, Any], peers: Mapping[str, Any]) -> None:
    """Draws recall over latency of everything that was measured."""
    figure, axes = plt.subplots(figsize=(8, 5), dpi=120)
    front = search["structure"]["front"]
    ours = [(point["latency_p50_ms"], point["recall_at_10"]) for point in front if point["factory"] != "exact"]
    _curve(axes, ours, "AnyKey, all structures that were tried", "-", "tab:blue")
    exact = [point["latency_p50_ms"] for point in front if point["factory"] == "exact"]
    axes.plot(exact, [1.0] * len(exact), "k*", label="AnyKey, exact", markersize=10)
    measured = search["structure"]["measured"]
    chosen = (measured["latency_p50_ms"], measured["recall_at_10"])
    axes.plot(*chosen, "o", color="tab:blue", label=f"AnyKey's choice: {search['structure']['factory']}", markersize=9)
    colours = iter(("tab:green", "tab:orange", "tab:red", "tab:purple", "tab:brown", "tab:pink"))
    for name, found in peers.items():
        for structure in found.get("structures", [found] if "points" in found else []):
            points = [(point["p50_ms"], point["recall_at_10"]) for point in structure["points"]]
            size = f", {found['num_keys']:,} keys" if "num_keys" in found else ""
            label = f"{name}{size}: {structure['factory'].partition(' (')[0]}"
            _curve(axes, points, label, "--" if name.startswith("FAISS") else ":", next(colours))
    axes.set(xscale="log", xlabel="one query alone, median (ms)", ylabel="recall@10", ylim=(LOWEST_RECALL, 1.01))
    axes.set_title(f"{search['num_keys']:,} x {search['width']}, {search['machine']}", fontsize=9)
    axes.axhline(0.98, color="grey", linewidth=0.8)
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(fontsize=7, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)


def _curve(axes: Any, points: list[tuple[float, float]], label: str, line: str, colour: str) -> None:
    """A line through the points that no other beats."""
    best, front = 0.0, []
    for latency_ms, recall in sorted(points):
        if recall > best:
            best = recall
            front.append((latency_ms, recall))
    axes.plot(*zip(*front, strict=True), line, marker=".", color=colour, label=label)


def _introduction(search: Mapping[str, Any]) -> list[str]:
    structure = search["structure"]
    return [
        "# Speed of an index",
        "",
        f"`make perf-index`: {search['num_keys']:,} keys with clustered unit vectors of width {search['width']} "
        f"(float32), three metadata fields each, through `FaissIndex`; {search['machine']}. Every row asks queries "
        "that no row before it asked.",
        "",
        f"Chosen structure: `{structure['factory']}`, {structure['search']['probes']} probes, "
        f"{structure['search']['rerank']} re-ranked; {structure['memory_bytes'] / MIB:,.0f} MiB, built in "
        f"{structure['build_seconds']:.0f} s.",
        "",
    ]


def _table(rows: list[list[str]]) -> list[str]:
    return ["| | measured | goal |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows), ""]


def _peers(search: Mapping[str, Any], peers: Mapping[str, Any], picture: str) -> Iterator[str]:
    yield "## Beside others"
    yield ""
    yield (
        f"On the same vectors and machine, one after the other, each in its own process; {search['num_keys']:,} keys "
        "unless the row says otherwise. Of each, the point with the least latency that has recall@10 of 0.98, or its "
        "best one."
    )
    yield ""
    yield f"![Recall and latency]({picture})"
    yield ""
    yield "| | structure | recall@10 | one query alone, p50 | all at once, a query | build | structure's size |"
    yield "|---|---|---|---|---|---|---|"
    ours = search["structure"]
    yield (
        f"| AnyKey, without payload | {ours['factory']} | {ours['measured']['recall_at_10']:.4f} "
        f"| {ours['measured']['latency_p50_ms']:.2f} ms | {ours['measured']['ms_per_query']:.3f} ms "
        f"| {ours['build_seconds']:,.0f} s | {ours['memory_bytes'] / MIB:,.0f} MiB |"
    )
    for name, found in peers.items():
        if "not_run" in found:
            yield f"| {name} | not measured: {found['not_run']} | | | | | |"
        for structure in found.get("structures", [found] if "points" in found else []):
            yield _peer_row(name, structure, found.get("num_keys"))
    yield ""
    for name, lacks in LACKS.items():
        yield f"- *{name}*: {lacks}."
    yield ""


def _peer_row(name: str, structure: Mapping[str, Any], num_keys: int | None) -> str:
    point = best_point(structure["points"])
    shown = f"{name}, {num_keys:,} keys with payload" if num_keys else name
    size = f"{structure['index_bytes'] / MIB:,.0f} MiB" if "index_bytes" in structure else ""
    filtered = f"; {point['filtered_p50_ms']:.1f} ms with a 1 % filter" if "filtered_p50_ms" in point else ""
    return (
        f"| {shown} | {structure['factory']} | {point['recall_at_10']:.4f} | {point['p50_ms']:.2f} ms{filtered} "
        f"| {point['at_once_ms']:.3f} ms | {structure['build_s']:,.0f} s | {size} |"
    )


def best_point(points: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest with recall@10 of 0.98; the one with the best recall where none has."""
    good = [point for point in points if point["recall_at_10"] >= 0.98]
    if good:
        return min(good, key=lambda point: float(point["p50_ms"]))
    return max(points, key=lambda point: float(point["recall_at_10"]))


def _embedding(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## Embedding"
    yield ""
    if "not_run" in found:
        yield f"Not measured: {found['not_run']}."
        yield ""
        return
    yield (
        f"`anykey-index embed` against `clip-retrieval inference` 2.45: {found['num_keys']:,} keys, "
        f"{found['architecture']} with the same random weights, fp32, batches of {found['batch_size']}, WebDataset "
        "shards of drawn JPEGs of 512 x 384, whole commands in turns. A rate is that of the keys beyond the first "
        f"{found['num_few']}, so without the start. Both gave the same image vectors (least cosine "
        f"{found['least_cosine']:.5f}). With texts, clip-retrieval keeps two vectors a key, AnyKey the fused one."
    )
    yield ""
    yield "| | AnyKey | clip-retrieval | ratio, median of rounds | whole command |"
    yield "|---|---|---|---|---|"
    for work, runs in found["work"].items():
        ours, theirs = (keys_per_s(runs[name], found["num_keys"]) for name in ("AnyKey", "clip-retrieval"))
        ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
        whole = [median(runs[name]["seconds"]) for name in ("AnyKey", "clip-retrieval")]
        yield (
            f"| {work} | {median(ours):.1f} keys/s | {median(theirs):.1f} keys/s "
            f"| {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {whole[0]:.0f} s, {whole[1]:.0f} s |"
        )
    yield ""


def _tried(structure: Mapping[str, Any]) -> Iterator[str]:
    yield "## What was tried"
    yield ""
    yield "The Pareto front of recall, latency and memory on the queries for tuning."
    yield ""
    yield "| structure | probes | re-ranked | recall@10 | p50 ms | MiB |"
    yield "|---|---|---|---|---|---|"
    for point in structure["front"]:
        yield (
            f"| {point['factory']} | {point['search']['probes']} | {point['search']['rerank']} "
            f"| {point['recall_at_10']:.4f} | {point['latency_p50_ms']:.2f} | {point['memory_bytes'] / MIB:,.0f} |"
        )
