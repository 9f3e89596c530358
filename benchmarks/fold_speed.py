"""Measures searches while changes are folded: `python -m benchmarks.fold_speed --output docs/results/folding.md`.

An index with a version is searched by one thread at a set pace, from the intended times on, by turns while nothing else
happens and while a version is made of a batch of live changes: once in a thread of the same process, and once in a
process of its own. The same queries come in every turn.

Shape legend: Q = queries, D = width.
"""

import argparse
import gc
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from anykey.index.faiss_index import FaissIndex
from anykey.index.key_index import NewKey
from anykey.index.publish.creation import create_index
from anykey.index.store.manifest import EncoderFacts
from anykey.program.settings import plain_console
from benchmarks.search_speed import ClusteredVectors
from benchmarks.setting import processor

FoldIn = Literal["thread", "process"]
BATCH_KEYS = 5_000
NUM_QUERIES = 1_000
GOAL = 1.5  # times the idle p99


@dataclass(frozen=True)
class Load:
    """What is measured.

    Attributes:
        num_keys: Keys that the first version covers.
        num_changes: Keys that are stored live before each fold.
        width: D.
        searches_per_s: The pace.
        k: Hits per search.
        rounds: How often each is measured.
        idle_s: How long an idle turn is.
    """

    num_keys: int = 100_000
    num_changes: int = 50_000
    width: int = 512
    searches_per_s: float = 10.0
    k: int = 10
    rounds: int = 3
    idle_s: float = 60.0


@dataclass(frozen=True)
class Turn:
    """What one turn gave.

    Attributes:
        latencies_ms: From the intended time of each search to its answer.
        seconds: How long it took, or the fold.
    """

    latencies_ms: tuple[float, ...]
    seconds: float

    @property
    def p50_ms(self) -> float:
        """The median."""
        return statistics.median(self.latencies_ms)

    @property
    def p99_ms(self) -> float:
        """What all but one in a hundred stay below."""
        return float(np.quantile(self.latencies_ms, 0.99))


@dataclass(frozen=True)
class Round:
    """One fold, and what was before it.

    Attributes:
        folded: All keys are in a version.
        idle: So many more have been stored live, and nothing happens.
        folding: A version is made of them.
    """

    folded: Turn
    idle: Turn
    folding: Turn


def measure(load: Load, folder: Path, fold_in: FoldIn) -> Iterator[Round]:
    """The rounds of one way to fold."""
    index_dir = folder / fold_in
    drawn = ClusteredVectors(load.num_keys, load.width)
    create_index(index_dir, EncoderFacts(name="drawn", fingerprint="sha256:drawn", width=load.width, fusion="raw"))
    queries_QD = drawn.draw(NUM_QUERIES)
    with FaissIndex.open(index_dir, writable=True, compact_after=0, fold_in=fold_in) as index:
        fill(index, drawn, 0, load.num_keys)
        index.compact()
        for number in range(load.rounds):
            folded = while_idle(index, queries_QD, load)
            fill(index, drawn, load.num_keys + number * load.num_changes, load.num_changes)
            idle = while_idle(index, queries_QD, load)
            yield Round(folded, idle, while_folding(index, queries_QD, load))


def fill(index: FaissIndex, drawn: ClusteredVectors, first: int, num_keys: int) -> None:
    """Stores keys live."""
    for start in range(first, first + num_keys, BATCH_KEYS):
        size = min(BATCH_KEYS, first + num_keys - start)
        vectors_BD = drawn.draw(size)
        keys = [
            NewKey(f"key-{start + place:07}", vector_D, text=f"text {start + place}", metadata={"group": place % 100})
            for place, vector_D in enumerate(vectors_BD)
        ]
        index.upsert(keys)


def while_idle(index: FaissIndex, queries_QD: NDArray[np.float32], load: Load) -> Turn:
    """Searches while nothing else happens."""
    search_for(index, queries_QD, load, lambda waited_s: waited_s > load.idle_s / 10)  # what is new is taken in
    gc.collect()
    return search_for(index, queries_QD, load, lambda waited_s: waited_s > load.idle_s)


def while_folding(index: FaissIndex, queries_QD: NDArray[np.float32], load: Load) -> Turn:
    """Searches from the beginning of a fold until its version answers."""
    fold = threading.Thread(target=index.compact)
    started_s = time.perf_counter()
    fold.start()
    turn = search_for(index, queries_QD, load, lambda _: not fold.is_alive())
    fold.join()
    return Turn(turn.latencies_ms, time.perf_counter() - started_s)


def search_for(
    index: FaissIndex, queries_QD: NDArray[np.float32], load: Load, is_over: Callable[[float], bool]
) -> Turn:
    """Searches at the set pace; a search that is late makes the next ones late, and that counts."""
    started_s, latencies_ms = time.perf_counter(), []
    while not is_over(time.perf_counter() - started_s):
        number = len(latencies_ms)
        due_s = started_s + number / load.searches_per_s
        with suppress(ValueError):  # it is late
            time.sleep(due_s - time.perf_counter())
        index.search(queries_QD[number % len(queries_QD)][None], load.k)
        latencies_ms.append(1e3 * (time.perf_counter() - due_s))
    return Turn(tuple(latencies_ms), time.perf_counter() - started_s)


def table(found: Mapping[FoldIn, Sequence[Round]]) -> Iterator[str]:
    """Lines of Markdown; ratios of turns right after one another, times in milliseconds."""
    ratios, turns = "p50, folding / idle | p99, folding / idle", ("all folded", "idle", "folding")
    yield f"| made in | {ratios} | {' | '.join(f'{turn} p50, p99' for turn in turns)} | takes |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for fold_in, rounds in found.items():
        p50 = _in_words([each.folding.p50_ms / each.idle.p50_ms for each in rounds])
        p99 = _in_words([each.folding.p99_ms / each.idle.p99_ms for each in rounds])
        times = [_times([getattr(each, name) for each in rounds]) for name in ("folded", "idle", "folding")]
        seconds = statistics.median(each.folding.seconds for each in rounds)
        yield f"| a {fold_in} | {p50} | {p99} | {' | '.join(times)} | {seconds:.0f} s |"


def _times(turns: Sequence[Turn]) -> str:
    p50_ms = statistics.median(turn.p50_ms for turn in turns)
    return f"{p50_ms:.1f}, {statistics.median(turn.p99_ms for turn in turns):.1f} ms"


def _in_words(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=Load.num_keys)
    parser.add_argument("--changes", type=int, default=Load.num_changes)
    parser.add_argument("--width", type=int, default=Load.width)
    parser.add_argument("--searches-per-s", type=float, default=Load.searches_per_s)
    parser.add_argument("--rounds", type=int, default=Load.rounds)
    parser.add_argument("--idle-s", type=float, default=Load.idle_s)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--folder", type=Path, help="where there is room for the indexes")
    arguments = parser.parse_args()
    load = Load(
        num_keys=arguments.keys,
        num_changes=arguments.changes,
        width=arguments.width,
        searches_per_s=arguments.searches_per_s,
        rounds=arguments.rounds,
        idle_s=arguments.idle_s,
    )
    console, found = plain_console(), dict[FoldIn, list[Round]]()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        for fold_in in reversed(get_args(FoldIn)):
            found[fold_in] = []
            for each in measure(load, folder, fold_in):
                found[fold_in].append(each)
                times = ", ".join(f"{turn.p99_ms:.1f} ms {name}" for name, turn in vars(each).items())
                console.print(f"{fold_in}: p99 {times}")
    finally:
        shutil.rmtree(folder)
    lines = "\n".join(table(found))
    console.print(lines)
    if arguments.output is not None:
        facts = {"table": lines, "machine": processor(), "goal": GOAL, **vars(load)}
        arguments.output.write_text(PAGE.format(**facts), encoding="utf-8")


PAGE = """# Searches while changes are folded

One thread searches for {k} hits, {searches_per_s:g} times a second, in an index of keys of width {width}. First its
{num_keys:,} keys are in a version (all folded). Then {num_changes:,} more have been stored live, and nothing else
happens (idle): each search compares with all of those. Then a version is made of them, until it answers (folding).
Latency counts from the time when a search was due. Such a round is measured {rounds} times, each with more keys. Ratios
are of turns right after one another: the median, and the lowest and the highest in brackets. The goal is a p99 of at
most {goal:g}x idle.

{table}

`make perf-fold` on {machine}.
"""


if __name__ == "__main__":
    main()
