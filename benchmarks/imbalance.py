"""What GCL loses where most rows are an image alone or a text alone, and what drawing the pairs more often wins back.

    python -m benchmarks.imbalance --photos path/to/flickr8k --image-weights path/to/mobilenetv1_100.safetensors

A start is trained with CLIP's loss on two thirds of the training photos. The rows are the last third: of some both
halves are kept, of the others one. For each mix of rows a linear map behind each of the start's towers is trained for
equally many steps, with every seed, and success is that of the test photos. Through the trainer itself the towers are
trained too: from all pairs, or with --towers from every mix. Runs that are there already are not run again. A second
table needs no training: start and tuned towers search corpora in which one kind of key is twenty times as frequent as
the others. The numbers go into docs/results/imbalance.json, and the tables of docs/results/imbalance.md are printed.
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from rich.console import Console

from anykey.program.settings import plain_console
from anykey.sources.pairs import Pair, open_pairs
from anykey.training.data import open_table
from anykey.training.families.opening import load_family
from anykey.training.family import Family
from anykey.training.features import trunk_features
from anykey.training.gaps import centre
from anykey.training.run_settings import run_settings
from anykey.training.settings import TrainSettings
from anykey.training.table import PairTable
from anykey.training.trainer import train
from anykey.training.validation import MODALITIES, HeldOut, embed_held_out, gains_by_rank, gains_of_queries, measure
from benchmarks import linear_maps
from benchmarks.speed_report import processor
from tests.drawn_pairs import write_tar

ROWS, STEPS = 2000, 60
NEVER = 1e-9  # a source's weight, of which no row is drawn
CORPORA = {"1 : 1 : 1": (1, 1, 1), "20 : 1 : 1": (20, 1, 1), "1 : 20 : 1": (1, 20, 1), "1 : 1 : 20": (1, 1, 20)}
DEALS = 20
PARTS = 9  # of the test photos, each as many as another dataset has
FROM_TEXT = ("t>i", "t>t", "t>it")
COMMON = {
    "lock_image": True,
    "temperature": 0.01,
    "learn_temperature": False,
    "batch_size": 256,
    "learning_rate": 1e-3,
    "weight_decay": 0.5,
    "drop_tokens": 0.1,
    "val_every_epochs": 1000,
    "report": False,
}
START = {
    "architecture": "training/recipes/imbalance-model.json",
    "image_padding": "same",
    "resize_mode": "squash",
    "loss": "clip",
    "num_epochs": 15,
}


@dataclass(frozen=True)
class Mix:
    """What becomes of the rows.

    Attributes:
        pairs: Rows that stay pairs.
        images: Rows that become an image alone.
        texts: Rows that become captions alone.
    """

    pairs: int
    images: int = 0
    texts: int = 0

    @property
    def alone(self) -> int:
        """Rows that lost a half."""
        return self.images + self.texts

    def sources(self, rows: Sequence[Pair]) -> dict[str, list[Pair]]:
        """The rows by what became of them.

        Images of rows that are captions alone come last and are never drawn: so each mix has the same images in the
        same order, and all runs share their features.
        """
        first, second = self.pairs, self.pairs + self.images
        return {
            "pairs": list(rows[:first]),
            "images": [replace(row, captions=()) for row in rows[first:second]],
            "texts": [replace(row, image=None) for row in rows[second : second + self.texts]],
            "unused": [replace(row, captions=()) for row in rows[second:]],
        }


@dataclass(frozen=True)
class Variant:
    """A mix and how its rows are drawn.

    Attributes:
        mix: The rows.
        drawn: `as they are`; `halves`: pairs as often as all others together; `pairs`: no others.
        loss: What is minimised.
    """

    mix: Mix
    drawn: str
    loss: str = "gcl"

    @property
    def name(self) -> str:
        """Name of its runs."""
        rows = f"{self.mix.pairs}-{self.mix.images}-{self.mix.texts}"
        return f"{rows}-{self.drawn.replace(' ', '-')}" + ("" if self.loss == "gcl" else f"-{self.loss}")

    def weights(self) -> dict[str, float]:
        """How often a pass draws each source."""
        pairs = self.mix.alone / self.mix.pairs if self.drawn == "halves" else 1.0
        others = NEVER if self.drawn == "pairs" else 1.0
        return {"pairs": pairs, "images": others, "texts": others, "unused": NEVER}

    def num_drawn(self) -> int:
        """Rows that a pass draws."""
        counts = {"pairs": self.mix.pairs, "images": self.mix.images, "texts": self.mix.texts}
        return sum(round(self.weights()[source] * count) for source, count in counts.items())


def plan(rows: int) -> list[Variant]:
    """What is trained: all pairs first."""
    few, some, half = (round(rows / (1 + ratio)) for ratio in (20, 5, 1))
    ways = ("as they are", "halves", "pairs")

    def both(pairs: int) -> Mix:
        images = (rows - pairs) // 2
        return Mix(pairs, images, rows - pairs - images)

    uneven = (Mix(few, texts=rows - few), Mix(few, images=rows - few))
    return [
        Variant(Mix(rows), "pairs"),
        Variant(Mix(rows), "pairs", "clip"),
        *(Variant(both(few), way) for way in ways),
        *(Variant(mix, way) for mix in uneven for way in ways[:2]),
        *(Variant(both(some), way) for way in ways),
        *(Variant(both(half), way) for way in ("as they are", "pairs")),  # halves are what it is
    ]


class Bench:
    """Runs the plan and measures what each run leaves."""

    def __init__(self, arguments: argparse.Namespace, console: Console) -> None:
        self._arguments = arguments
        self._console = console
        self._work: Path = arguments.work
        self._rows: list[Pair] | None = None
        self._tables: dict[str, tuple[PairTable, torch.Tensor]] = {}

    def start(self) -> TrainSettings:
        """Trains the start."""
        arguments = self._arguments
        values = {**START, "data": arguments.start_data, "image_weights": arguments.image_weights}
        values |= {"val_data": arguments.val}
        if arguments.architecture:
            values |= {"architecture": arguments.architecture}
        return self._train("start/seed-0", 0, values)

    def tune(self, variant: Variant, seed: int, start: TrainSettings) -> TrainSettings:
        """Trains a variant from the start."""
        names = self._write(variant.mix)
        weights = variant.weights()
        batch = min(COMMON["batch_size"], variant.num_drawn())
        values = {
            "start": str(start.output / "last"),
            "data": [str(names[source]) for source in names],
            "data_weights": [weights[source] for source in names],
            "loss": variant.loss,
            "clip_weight": 0.0,
            "num_epochs": self._arguments.steps / (variant.num_drawn() // batch),
        }
        return self._train(f"{variant.name}/seed-{seed}", seed, values)

    def measure(self, variant: str, seed: int, settings: TrainSettings, corpora_too: bool) -> dict[str, Any]:
        """What a run reaches, as trained and centred, in the mixed pool and, if wanted, in corpora of other shares."""
        path = settings.output / "imbalance.json"
        if path.exists():
            return dict(json.loads(path.read_text()))
        family = load_family(settings.output / "last", torch.device("cpu"), None)
        test, validation = (self._held_out(family, name) for name in ("test", "val"))
        ways = {"as trained": test, "centred": centre(test, validation)}
        row: dict[str, Any] = {"variant": variant, "seed": seed, "loss": settings.loss.value}
        row |= {way: rotations(held_out) for way, held_out in ways.items()}
        if corpora_too:
            row |= {"corpora": {way: corpora(held_out) for way, held_out in ways.items()}}
        path.write_text(json.dumps(row, indent=1) + "\n")
        return row

    def map_all(self, start: TrainSettings, variants: Sequence[Variant], seeds: Sequence[int]) -> list[dict[str, Any]]:
        """What linear maps behind the start's towers reach, of every variant and seed."""
        family = load_family(start.output / "last", torch.device("cpu"), None)
        rows, test, validation = (self._features(family, name) for name in ("data", "test", "val"))
        elsewhere = self._features(family, "elsewhere") if self._arguments.elsewhere else None
        found = []
        for variant in variants:
            mix, weights = variant.mix, variant.weights()
            kind_P = torch.arange(3).repeat_interleave(torch.tensor([mix.pairs, mix.images, mix.texts]))
            by_kind = {kind: weights[source] for kind, source in enumerate(("pairs", "images", "texts"))}
            for seed in seeds:
                maps = linear_maps.tune(rows, kind_P, by_kind, variant.loss, self._arguments.steps, seed)
                held_out = maps.held_out(test)
                ways = {"as trained": held_out, "centred": centre(held_out, maps.held_out(validation))}
                numbers = {way: rotations(vectors) for way, vectors in ways.items()}
                if elsewhere is not None:
                    numbers |= across(held_out, maps.held_out(elsewhere))
                found.append({"variant": variant.name, "seed": seed, "loss": variant.loss, **numbers})
        return found

    def _features(self, family: Family, name: str) -> linear_maps.Features:
        return linear_maps.Features.of(family, *self._table(family, name))

    def print_tables(self, found: dict[str, Any]) -> None:
        """Prints the tables of the page, in Markdown."""
        for line in [*mixes_table(found["maps"]), "", *mixes_table(found["rows"]), "", *corpora_table(found["rows"])]:
            self._console.print(line, highlight=False, soft_wrap=True)

    def _held_out(self, family: Family, name: str) -> HeldOut:
        return embed_held_out(family, *self._table(family, name))

    def _table(self, family: Family, name: str) -> tuple[PairTable, torch.Tensor]:
        """Pairs, and what the trunk makes of their images; read once for all runs."""
        if name not in self._tables:
            limits = run_settings("the pairs", {"data": getattr(self._arguments, name)})
            table = open_table(open_pairs(limits.data), family, limits)
            cache = self._work / "features"
            self._tables[name] = (table, trunk_features(family, table, False, cache, lambda done: None)[0])
        return self._tables[name]

    def _train(self, folder: str, seed: int, values: dict[str, Any]) -> TrainSettings:
        given = {
            **COMMON,
            **values,
            "output": self._work / "runs" / folder,
            "feature_cache": self._work / "features",
            "seed": seed,
        }
        settings = run_settings(folder, given)
        train(settings, self._console)
        return settings

    def _write(self, mix: Mix) -> dict[str, Path]:
        """Shards of a mix, by source; empty ones are left out."""
        if self._rows is None:
            pairs = open_pairs(self._arguments.data)
            self._rows = [pairs[position] for position in range(min(len(pairs), self._arguments.rows))]
        folder = self._work / "mixes" / f"{mix.pairs}-{mix.images}-{mix.texts}"
        paths = {}
        for name, rows in mix.sources(self._rows).items():
            if rows:
                paths[name] = folder / f"{name}.tar"
                if not paths[name].exists():
                    folder.mkdir(parents=True, exist_ok=True)
                    write_tar(paths[name], list(_members(rows)))
        return paths


COLUMNS = {
    "local pools": ("as trained", "local/mean/success@10"),
    "mixed pool": ("as trained", "mixed/mean/success@10"),
    "mixed, t>i": ("as trained", "mixed/t>i/success@10"),
    "mixed, centred": ("centred", "mixed/mean/success@10"),
    "gap i-t": ("as trained", "gap/i-t"),
}


def mixes_table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """success@10 of every run, the mean over its seeds and, of several, their standard deviation in brackets."""
    yield f"| run | seeds | {' | '.join(COLUMNS)} |"
    yield f"|---|---:|{'---:|' * len(COLUMNS)}"
    for name in dict.fromkeys(row["variant"] for row in rows):
        runs = [row for row in rows if row["variant"] == name]
        cells = [_cell([run[way][number] for run in runs]) for way, number in COLUMNS.values()]
        yield f"| {name} | {len(runs)} | {' | '.join(cells)} |"


def _cell(values: Sequence[float]) -> str:
    spread = f" ({stdev(values):.3f})" if len(values) > 1 else ""
    return f"{mean(values):.3f}{spread}"


def corpora_table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Of the first seed: success@10 of texts in corpora of other shares; in brackets among keys of that kind alone."""
    yield f"| run | image : text : page | {' | '.join(FROM_TEXT)} |"
    yield f"|---|---|{'---:|' * len(FROM_TEXT)}"
    for row in rows:
        if row["seed"] == 0:
            for way, found in row.get("corpora", {}).items():
                for shares, numbers in found.items():
                    cells = [f"{numbers[name]:.2f} ({numbers[f'own/{name}']:.2f})" for name in FROM_TEXT]
                    yield f"| {row['variant']}, {way} | {shares} | {' | '.join(cells)} |"


def rotations(held_out: HeldOut) -> dict[str, float]:
    """success@10 and gaps, the mean over the three ways to deal out the mixed pool."""
    num_pairs = len(held_out.has_second_P) // len(MODALITIES) * len(MODALITIES)
    rows_P = torch.arange(num_pairs)
    dealt = [measure(held_out.rows(rows_P.roll(shift)), cutoffs=(10,)) for shift in range(len(MODALITIES))]
    return {name: sum(numbers[name] for numbers in dealt) / len(dealt) for name in dealt[0]}


def across(held_out: HeldOut, elsewhere: HeldOut) -> dict[str, dict[str, float]]:
    """Measures of another dataset's pairs, and of as many of the test pairs, in pools of the same size."""
    rows_P = torch.arange(len(held_out.has_second_P))
    parts = [rotations(held_out.rows(part)) for part in rows_P.split(len(elsewhere.has_second_P))[:PARTS]]
    own = {name: mean(numbers[name] for numbers in parts) for name in parts[0]}
    return {"elsewhere": rotations(elsewhere), "as few": own}


def corpora(held_out: HeldOut) -> dict[str, dict[str, float]]:
    """success@10 of a text's image, text and page in corpora of images, texts and pages in these shares.

    Each held-out photo is one key of the corpus; which, is dealt anew `DEALS` times, and the mean is told. `own/t>i`
    is the same search among the keys of that kind alone.
    """
    gains = gains_by_rank([10], [])
    found: dict[str, dict[str, float]] = {}
    for name, shares in CORPORA.items():
        sums: dict[str, list[float]] = {}
        for deal in range(DEALS):
            dealt = replace(held_out, dealt_P=_deal(len(held_out.has_second_P), shares, deal))
            for combination in FROM_TEXT:
                sums.setdefault(combination, []).append(_success(dealt, "mixed", combination, gains))
                own = dealt.rows((dealt.modalities == MODALITIES.index(combination[2:])).nonzero().flatten())
                sums.setdefault(f"own/{combination}", []).append(_success(own, "local", combination, gains))
        found[name] = {combination: sum(values) / len(values) for combination, values in sums.items()}
    return found


def _success(held_out: HeldOut, pool: str, combination: str, gains: dict[str, Any]) -> float:
    _, gained = gains_of_queries(held_out, pool, combination, gains)
    return float(gained["success@10"].mean())


def _deal(num_pairs: int, shares: Sequence[int], seed: int) -> torch.Tensor:
    """Which modality each key has, in these shares, at random."""
    ends = [round(num_pairs * sum(shares[: place + 1]) / sum(shares)) for place in range(len(shares))]
    kinds = torch.bucketize(torch.arange(num_pairs), torch.tensor(ends), right=True)
    return kinds[torch.randperm(num_pairs, generator=torch.Generator().manual_seed(seed))]


def _members(rows: Sequence[Pair]) -> Iterator[tuple[str, bytes]]:
    for number, row in enumerate(rows):
        if isinstance(row.image, bytes):
            yield f"{number:05}.jpg", row.image
        elif row.image is not None:
            yield f"{number:05}{row.image.suffix}", row.image.read_bytes()
        if row.captions:
            yield f"{number:05}.json", json.dumps({"captions": row.captions}).encode()


def main() -> None:
    """Runs what is not there yet, and writes the page and its numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of Flickr8k's shards, in place of the four below")
    for name in ("start-data", "data", "val", "test"):
        parser.add_argument(f"--{name}", nargs="+", default=None)
    parser.add_argument("--image-weights", type=Path)
    parser.add_argument("--architecture", help="another model for the start")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--elsewhere", nargs="+", default=[], help="pairs of another dataset, to test the maps on")
    parser.add_argument("--towers", action="store_true", help="train every mix through the trainer, too: minutes each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/imbalance"), help="runs, mixes and features")
    parser.add_argument("--output", type=Path, default=Path("docs/results/imbalance.json"))
    arguments = parser.parse_args()
    if arguments.photos:
        arguments.start_data = [str(arguments.photos / f"train-0000{number}.tar") for number in (1, 2)]
        arguments.data = [str(arguments.photos / "train-00000.tar")]
        arguments.val, arguments.test = ([str(arguments.photos / f"{name}.tar")] for name in ("val", "test"))
    bench, variants = Bench(arguments, plain_console()), plan(arguments.rows)
    start = bench.start()
    maps = bench.map_all(start, variants, arguments.seeds)
    rows = [bench.measure("start", 0, start, corpora_too=True)]
    for variant in variants if arguments.towers else variants[:1]:
        settings = bench.tune(variant, arguments.seeds[0], start)
        rows.append(bench.measure(variant.name, arguments.seeds[0], settings, variant.mix.alone == 0))
    found = {"machine": f"{processor()}, {os.cpu_count()} cores, no GPU", "maps": maps, "rows": rows}
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    bench.print_tables(found)


if __name__ == "__main__":
    main()
