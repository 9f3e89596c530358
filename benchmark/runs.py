"""TREC run files: six columns `qid Q0 key rank score tag`.

trec_eval ignores the rank column, sorts by score in float32, and breaks ties by descending key. So that every
tool sees the ranking that was measured, scores are written strictly falling: a score that is not below its
predecessor is lowered to the next float32 beneath it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from anykey.benchmark.dataset import Hit, Task


def write_run(path: Path, rankings: Mapping[str, Sequence[Hit]], tag: str) -> None:
    """Writes one run file.

    Args:
        path: The file.
        rankings: Query id to hits, best first.
        tag: Name of the run, without white space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for query, hits in rankings.items():
            scores = strictly_falling([hit.score for hit in hits])
            for rank, (hit, score) in enumerate(zip(hits, scores, strict=True), start=1):
                file.write(f"{query} Q0 {hit.key} {rank} {score:.9g} {tag}\n")


def run_name(task: Task, split: str, depth: int, exact: bool) -> str:
    """Name of a run, in UniIR's pattern: "single" is the local pool, "union" the whole corpus."""
    words = {"local": "single_pool", "global": "union_pool"}
    candidates = words.get(task.candidates, re.sub(r"\W+", "_", task.candidates))
    name = re.sub(r"[^\w.-]+", "_", task.name)
    return f"{name}_{candidates}_{split}_k{depth}{'_exact' if exact else ''}"


def strictly_falling(scores: Sequence[float]) -> Iterator[float]:
    """The scores as float32, ties and rounding undone by the smallest steps that keep the order.

    >>> list(strictly_falling([0.5, 0.25]))
    [0.5, 0.25]
    """
    lowest = np.float32(np.inf)
    for score in scores:
        lowest = min(np.float32(score), np.nextafter(lowest, np.float32(-np.inf)))
        yield float(lowest)
