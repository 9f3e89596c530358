"""Known vectors score exactly what they do through a real index and service, on every dataset.

Where a miniature has vectors and the numbers of its owners' evaluator, these are the encoder's and the expected ones.
Elsewhere vectors are drawn. All numbers of a report are computed once more from the vectors, with trec_eval.
"""

import csv
import json
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import pytrec_eval
from numpy.typing import NDArray
from pyarrow import parquet
from rich.console import Console

from anykey.benchmark.__main__ import main as bench
from anykey.benchmark.dataset import Dataset, Query, Task
from anykey.benchmark.datasets import READERS, open_dataset
from anykey.benchmark.datasets.cirr import SPLIT
from anykey.encoder.item import Item
from anykey.encoder.protocol import ItemEncoder, Role
from anykey.index.faiss_index import FaissIndex
from anykey.index.jobs.build import build_index
from anykey.index.publish.creation import create_index
from anykey.index.settings import BuildSettings
from anykey.index.store.manifest import EncoderFacts
from tests.integration.test_every_dataset_runs import MAKERS, Mini, chance, scope
from tests.oracle_encoder import Content, OracleEncoder, Seen, Spaces, Vector, content_of
from tests.serving import ReadyEncoder, serving
from tests.unit.benchmark.conftest import mini as mini
from tests.unit.benchmark.datasets import test_covr, test_mixbench, test_mmeb

pytestmark = pytest.mark.slow

Number = tuple[str, str, str]  # task, candidates, metric
ALL = "all"
WAIT_MS = 60_000  # far longer than any answer takes


@dataclass
class Known:
    """A dataset with the vectors of all its items.

    Attributes:
        root: Its directory.
        format: Its format.
        queries: Each query's vectors, by task and query.
        keys: Each key's.
        theirs: Numbers of the owners' evaluators.
        digits: How far theirs may be off, as they are rounded.
        flags: How it is measured.
        is_stored: Whether its keys come into the index live, by `anykey-bench store`.
    """

    root: Path
    format: str
    queries: Mapping[tuple[str, str], Spaces]
    keys: Mapping[str, Spaces]
    theirs: Mapping[Number, float] = field(default_factory=dict)
    digits: float = 1e-9
    flags: tuple[str, ...] = ()
    frames: Mapping[Content, Spaces] = field(default_factory=dict)
    is_stored: bool = False

    @property
    def dataset(self) -> Dataset:
        return open_dataset(self.root, self.format, options=self.options)

    @property
    def options(self) -> list[str]:
        return [after for flag, after in zip(self.flags, self.flags[1:], strict=False) if flag == "--options"]

    def encoder(self, kind: type[OracleEncoder] = OracleEncoder) -> OracleEncoder:
        dataset, is_instructed = self.dataset, "--instructions" in self.flags
        queries = [
            (content_of(query, query.instructed if is_instructed else None), self.queries[task.name, query.id])
            for task in dataset.tasks()
            for query in dataset.queries(task)
        ]
        keys = [(content_of(entry), self.keys[entry.key]) for entry in dataset.corpus()]
        return kind(queries, [*keys, *self.frames.items()])


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def mbeir(mini: Mini, folder: Path) -> Known:
    """Items that are alike in all but their vectors are told apart first: pages of two sources, and two photos."""
    root = Path(shutil.copytree(mini("mbeir") / "M-BEIR", folder / "M-BEIR"))
    for pool in root.glob("cand_pool/*/*.jsonl"):
        rows = [
            row | ({"txt": f"InfoSeek: {row['txt']}"} if row["did"].startswith("6:") and row["img_path"] else {})
            for row in rows_of(pool)
        ]
        pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (photo,) = root.rglob("62493095_2.jpg")
    PIL.Image.new("RGB", (9, 9), "red").save(photo)

    vectors = mini("mbeir") / "uniir/embed/CLIP_SF/Large/Instruct/InBatch"

    def stored(path: Path, most: int) -> dict[str, Vector]:
        names = [f"{number // most}:{number % most}" for number in np.load(f"{path}_ids.npy").tolist()]
        return dict(zip(names, np.load(f"{path}_embed.npy").astype(np.float32), strict=True))

    tasks = {task.name for task in open_dataset(root).tasks()}
    queries = {
        (task, name): {ALL: vector}
        for task in tasks
        for name, vector in stored(vectors / "test" / f"{task}_test", 500_000).items()
    }
    keys = {
        name: {ALL: vector} for name, vector in stored(vectors / "cand_pool/mbeir_union_cand_pool", 10_000_000).items()
    }
    rows = json.loads((mini("mbeir") / "expected/metrics.json").read_text())["rows"]
    theirs = {
        (f"mbeir_{row['dataset']}", {"single": "local", "union": "global"}[row["pool"]], metric): value
        for row in rows
        if row["split"] == "test"
        for kind, name in (("hit", "success"), ("true_recall", "recall"))
        for metric, value in ((f"{name}@{each.split('@')[1]}", value) for each, value in row[kind].items())
    }
    return Known(root, "mbeir", queries, keys, theirs, flags=("--instructions", "all"))


def cirr(mini: Mini, folder: Path) -> Known:
    root, vectors = mini("cirr"), np.load(mini("cirr") / "vectors.npz")
    order = json.loads((root / "vectors_order.json").read_text())
    by_pair = dict(zip(map(str, order["val_pairids"]), vectors["val_queries"], strict=True))
    queries = {(task, pair): {ALL: vector} for task in ("cirr", "cirr_subset") for pair, vector in by_pair.items()}
    keys = {name: {ALL: row} for name, row in zip(order["gallery_val"], vectors["gallery_val"], strict=True)}
    found = json.loads((root / "expected/val_metrics.json").read_text())
    formula, owners = found["formula"]["reference removed, split gallery"], found["original"]["CIRPLANT"]
    theirs: dict[Number, float] = {}
    for k in (1, 5, 10, 50):
        theirs["cirr", "split", f"success@{k}"] = formula[f"recall@{k}"] / 100
        theirs["cirr", "split", f"CIRPLANT recall_top{k}"] = owners[f"recall_top{k}"]
    for k in (1, 2, 3):
        theirs["cirr_subset", "subset", f"success@{k}"] = formula[f"recall_subset@{k}"] / 100
        name = f"CIRPLANT recall_inset_top{k}, CoVR Recall_subset@{k}"
        theirs["cirr_subset", "subset", name] = owners[f"recall_inset_top{k}"]
    assert SPLIT == "split"
    return Known(root / "cirr", "cirr", queries, keys, theirs)


def fashioniq(mini: Mini, folder: Path) -> Known:
    """A garment has other vectors in each category's gallery."""
    root, vectors = MAKERS["fashioniq"](mini, folder), np.load(mini("fashioniq") / "vectors.npz")
    order = json.loads((mini("fashioniq") / "vectors_order.json").read_text())
    expected = json.loads((mini("fashioniq") / "expected/val_metrics.json").read_text())["formula"]
    titles = {"original": "split gallery", "reference or target": "reference-or-target gallery"}
    queries, keys, theirs = {}, dict[str, dict[str, Vector]](), {}
    for task in open_dataset(root).tasks():
        category = task.aliases[0]
        for number, row in enumerate(vectors[f"queries_{category}"], start=1):
            queries[task.name, f"{category}:{number}"] = {category: row}
        for name, row in zip(order[f"gallery_{category}"], vectors[f"gallery_{category}"], strict=True):
            keys.setdefault(name, {})[category] = row
        for k in (10, 50):
            value = expected[f"{titles[task.candidates]}, reference kept"][category][f"R@{k}"]
            theirs[task.name, task.candidates, f"success@{k}"] = value / 100
    return Known(root, "fashioniq", queries, keys, theirs)


def covr(mini: Mini, folder: Path, pooling: str) -> Known:
    """Two queries of one frame and one edit are told apart first, and frames that do not differ from the one before."""
    root = Path(shutil.copytree(mini("covr"), folder / "covr"))
    for number, frame in enumerate(root.glob("datasets/WebVid/8M/frames/*/*/*.jpg")):
        picture = PIL.Image.open(frame).convert("RGB")
        picture.putpixel((0, 0), (number % 256, number // 256, 0))
        picture.save(frame, "PNG")
    path = root / test_covr.TEST_CSV
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    rows[12][header.index("edit")] += " once more"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])

    vectors, options = np.load(root / "vectors.npz"), [f"pooling={pooling}"]
    stored = dict(zip(json.loads((root / "vectors_order.json").read_text()), vectors["queries"], strict=True))
    dataset = open_dataset(root, options=options)
    queries = {
        (task.name, query.id): {ALL: stored[key]}
        for task in dataset.tasks()
        for query in dataset.queries(task)
        for key in query.relevant
    }
    keys = {key: {ALL: vector} for key, vector in test_covr.pooled(root, root, pooling).items()}
    frames = dict[Content, Spaces]()
    for entry in dataset.corpus() if pooling == "query" else ():
        frames |= {
            content_of(Query("", images=(image,))): {ALL: vector}
            for image, vector in zip(entry.images, vectors[f"frames:{entry.key}"], strict=True)
        }
    expected = json.loads((root / "expected/recalls.json").read_text())["original"]
    theirs = {
        ("webvid_covr", task.candidates, f"success@{k}"): expected[
            f"webvid8m-covr_test.csv / emb_pool={pooling} / {test_covr.WORDS[task.candidates]}"
        ][f"R{k}"]
        / 100
        for task in dataset.tasks()
        for k in (1, 5, 10, 50)
    }
    flags = ("--options", *options)
    return Known(root, "covr", queries, keys, theirs, 5.1e-5, flags, frames, is_stored=pooling == "query")


def mmeb(mini: Mini, folder: Path) -> Known:
    root = mini("mmeb")
    dataset, vectors = open_dataset(root, "mmeb"), np.load(root / "vectors_v1.npz")
    places = {
        (row["subset"], row["side"], row["text"], row["img_path"]): row["index"]
        for row in rows_of(root / "vectors_v1_keys.jsonl")
    }
    queries, keys = dict[tuple[str, str], Spaces](), dict[str, Spaces]()
    for task in dataset.tasks():
        (path,) = (root / "MMEB-eval" / task.name).glob("*.parquet")
        rows = zip(dataset.queries(task), parquet.read_table(path).to_pylist(), strict=True)
        for (query, row), names in zip(rows, test_mmeb.candidates(dataset, task.name), strict=True):
            place = places[task.name, "qry", row["qry_text"], row["qry_img_path"]]
            queries[task.name, query.id] = {task.name: vectors[f"{task.name}/qry"][place]}
            for name, text, image in zip(names, row["tgt_text"], row["tgt_img_path"], strict=True):
                keys[name] = {task.name: vectors[f"{task.name}/tgt"][places[task.name, "tgt", text, image]]}
    accuracies = json.loads((root / "v1/summary.json").read_text())["normalized"]["acc"]
    theirs = {(name, "own candidates", "success@1"): value for name, value in accuracies.items()}
    return Known(root, "mmeb", queries, keys, theirs)


def mmeb_v2(mini: Mini, folder: Path) -> Known:
    root = mini("mmeb")
    dataset, vectors = open_dataset(root, "mmeb-v2"), np.load(root / "v2/vectors.npz")
    places = json.loads((root / "v2/vectors_cand_names.json").read_text())
    queries, keys = dict[tuple[str, str], Spaces](), dict[str, Spaces]()
    for task in dataset.tasks():
        infos = rows_of(root / f"v2/expected/{task.name}_info.jsonl")
        rows = zip(dataset.queries(task), infos, vectors[f"{task.name}/qry"], strict=True)
        for (query, info, vector), names in zip(rows, test_mmeb.candidates(dataset, task.name), strict=True):
            queries[task.name, query.id] = {task.name: vector}
            for name, known in zip(dict.fromkeys(names), info["cand_names"], strict=False):
                keys[name] = {task.name: vectors[f"{task.name}/tgt"][places[task.name].index(known)]}
    hits = json.loads((root / "v2/summary.json").read_text())["hit1"]
    theirs = {(name, "own candidates", "hit@1, version 2"): value for name, value in hits.items()}
    return Known(root, "mmeb-v2", queries, keys, theirs, flags=("--instructions", "all"))


def mixbench(mini: Mini, format: str) -> Known:
    """A page is the even mixture of its halves, as the script has it at alpha 0.5; a query is its text."""
    root, vectors = mini("mixbench"), np.load(mini("mixbench") / "vectors.npz")
    dataset, modes = open_dataset(root, format), list(rows_of(root / "modes.jsonl"))
    queries, keys, theirs = {}, dict[str, Spaces](), {}
    expected = json.loads((root / "expected/metrics.json").read_text())["subsets"]
    for task in dataset.tasks():
        entries = [entry for entry in dataset.corpus() if entry.pools == (task.pool,)]
        shares = [{"text": 1.0, "image": 0.0, "mixed": 0.5}[row["mode"]] for row in modes if row["subset"] == task.name]
        halves = (test_mixbench.unit(vectors[f"{task.name}/corpus_{half}"].astype(float)) for half in ("text", "image"))
        for entry, share, text, image in zip(entries, shares, *halves, strict=True):
            keys[entry.key] = {ALL: share * text + (1 - share) * image}
        for query, row in zip(dataset.queries(task), vectors[f"{task.name}/query_text"], strict=True):
            queries[task.name, query.id] = {ALL: row}
        value = expected[task.name]["original"]["alpha=0.5"]["ndcg_at_10"]
        theirs[task.name, task.candidates, "ndcg@10"] = value
    return Known(root, format, queries, keys, theirs)


def drawn(mini: Mini, folder: Path, format: str) -> Known:
    """Queries lie between what answers them and anywhere."""
    root, draw = MAKERS[format](mini, folder), np.random.default_rng(0)
    dataset = open_dataset(root, format)
    pages = dict[Content, Spaces]()  # of which several tasks have the same
    keys = {e.key: pages.setdefault(content_of(e), {ALL: draw.normal(size=16)}) for e in dataset.corpus()}
    queries = {
        (task.name, query.id): {ALL: np.mean([keys[key][ALL] for key in query.relevant], 0) + draw.normal(size=16)}
        for task in dataset.tasks()
        for query in dataset.queries(task)
    }
    return Known(root, format, queries, keys)


KNOWN: dict[str, Callable[[Mini, Path], Known]] = {
    "mbeir": mbeir,
    "cirr": cirr,
    "fashioniq": fashioniq,
    "covr": lambda mini, folder: covr(mini, folder, "mean"),
    "covr, middle frame": lambda mini, folder: covr(mini, folder, "middle"),
    "covr, frames weighed": lambda mini, folder: covr(mini, folder, "query"),
    "mmeb": mmeb,
    "mmeb-v2": mmeb_v2,
    "mmeb-v2-documents": lambda mini, folder: drawn(mini, folder, "mmeb-v2-documents"),
    "mixbench": lambda mini, folder: mixbench(mini, "mixbench"),
    "mixbench-2026": lambda mini, folder: mixbench(mini, "mixbench-2026"),
    "karpathy": lambda mini, folder: drawn(mini, folder, "karpathy"),
    "beir": lambda mini, folder: drawn(mini, folder, "beir"),
    "trec": lambda mini, folder: drawn(mini, folder, "trec"),
}


@pytest.fixture(params=list(KNOWN))
def known(request: pytest.FixtureRequest, mini: Mini, tmp_path: Path) -> Known:
    (folder := tmp_path / "dataset").mkdir()
    return KNOWN[request.param](mini, folder)


def test_no_dataset_is_left_out() -> None:
    assert {name.split(",")[0] for name in KNOWN} == READERS.keys()


def measured(known: Known, encoder: ItemEncoder, folder: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    """What the encoder's own index and service score: the exit code, and the report."""
    named = [
        "--dataset",
        str(known.root),
        "--format",
        known.format,
        *(f for o in known.options for f in ("--options", o)),
    ]
    asking = [flag for flag in known.flags if flag not in ("--options", *known.options)]
    output, place = folder / "report", folder / "index"
    if known.is_stored:
        create_index(place, EncoderFacts.of(encoder))
    else:
        assert bench(["corpus", *named, "--output", str(folder / "corpus.jsonl")]) == 0
        settings = BuildSettings(corpus=[folder / "corpus.jsonl"], checkpoint="given", output=place, strict=True)
        build_index(settings, ReadyEncoder(encoder), Console(quiet=True))
    with (
        FaissIndex.open(place) as index,
        serving(encoder, index, writable=known.is_stored, max_images=15, request_deadline_ms=WAIT_MS) as client,
    ):
        served = ["--url", str(client.base_url)]
        if known.is_stored:
            assert bench(["store", *named, *served]) == 0
        code = bench(["quality", *named, *served, "--output", str(output), "--check-keys", *asking, *flags])
    return code, json.loads((output / "results.json").read_text()) if code == 0 else {}


def by_trec_eval(known: Known, dataset: Dataset, task: Task, names: list[str]) -> dict[str, dict[str, float]]:
    """Each query's numbers, from the vectors alone; a relevant key is behind others of its score."""
    queries = dataset.queries(task)
    depth = max(int(name.split("@")[1]) for name in names if "@" in name)
    run: dict[str, dict[str, float]] = {}
    for query in queries:
        ((space, asked),) = known.queries[task.name, query.id].items()
        vectors = {key: np.asarray(known.keys[key][space], np.float64) for key in scope(dataset, task, query)}
        scores = {key: float(vector @ asked / np.linalg.norm(vector)) for key, vector in vectors.items()}
        assert task.ties_lose or len(set(scores.values())) == len(scores)
        best = sorted(scores, key=lambda key: (-scores[key], key in query.relevant))[:depth]
        run[query.id] = {key: -float(rank) for rank, key in enumerate(best)}
    words = {"success": "success", "recall": "recall", "ndcg": "ndcg_cut"}
    theirs = {
        name: "recip_rank" if name == "mrr" else f"{words[name.split('@')[0]]}.{name.split('@')[1]}" for name in names
    }
    qrels = {query.id: dict(query.relevant) for query in queries}
    found = pytrec_eval.RelevanceEvaluator(qrels, set(theirs.values())).evaluate(run)
    return {query: {name: found[query][other.replace(".", "_")] for name, other in theirs.items()} for query in qrels}


def test_known_vectors_score_exactly_what_they_do_through_http(known: Known, tmp_path: Path) -> None:
    code, report = measured(known, known.encoder(), tmp_path, "--search", "approximate,exact")
    assert code == 0
    assert not any("score alike" in warning for warning in report["warnings"])
    rows, dataset = report["results"], known.dataset
    tasks = {(task.name, task.candidates): task for task in dataset.tasks()}
    assert len(rows) == 2 * len(tasks)
    seen = set()
    for row in rows:
        name = row["task"]["name"], row["task"]["candidates"]
        values = by_trec_eval(known, dataset, tasks[name], list(row["metrics"]))
        for metric, value in row["metrics"].items():
            each = [values[query][metric] for query in row["ranks"]]
            assert row["values"][metric] == pytest.approx(each, abs=1e-6), (name, metric)  # written with six digits
            assert value == pytest.approx(float(np.mean(each)), abs=1e-9), (name, metric)
        published = {each["metric"]: each["value"] for each in row["published"]}
        for (task, candidates, metric), theirs in known.theirs.items():
            if (task, candidates) == name:
                # where a published number is our own, it does not stand beside it
                ours = published.get(metric, row["metrics"].get(metric, row["metrics"].get("success@1")))
                assert ours == pytest.approx(theirs, abs=known.digits), (name, metric)
                seen.add((task, candidates, metric))
    assert seen == known.theirs.keys()


class Constant(OracleEncoder):
    """Gives all items one vector."""

    def encode_prepared(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        return np.tile(np.eye(1, self.width, dtype=np.float32), (len(prepared), 1))


class Guessing(OracleEncoder):
    """Gives each item a vector that says nothing about it."""

    def encode_prepared(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        draws = [np.random.default_rng(zlib.crc32(seen.vector_D.tobytes())) for seen in prepared]
        rows = np.array([draw.normal(size=self.width) for draw in draws], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Undefined(OracleEncoder):
    """Gives queries no numbers."""

    def prepare(self, item: Item, role: Role, text_weight: float = 0.5, instruction: str | None = None) -> Any:
        seen = super().prepare(item, role, text_weight, instruction)
        return Seen(np.full_like(seen.vector_D, np.nan)) if role is Role.QUERY else seen


@pytest.mark.parametrize("kind", [Constant, Guessing])
def test_an_encoder_that_knows_nothing_scores_what_chance_does_or_it_is_said(
    known: Known, tmp_path: Path, kind: type[OracleEncoder]
) -> None:
    code, report = measured(known, known.encoder(kind), tmp_path, "--worst", "0")
    assert code == 0
    dataset, is_said = known.dataset, "score alike" in str(report["warnings"])
    assert is_said == (kind is Constant and not all(task.ties_lose for task in dataset.tasks()))
    tasks = {(task.name, task.candidates): task for task in dataset.tasks()}
    for row in report["results"]:
        task, found = tasks[row["task"]["name"], row["task"]["candidates"]], row["metrics"][row["task"]["headline"]]
        mean, spread = chance(dataset, task)
        assert found < 1, task
        if not is_said:  # the order of a corpus may put right answers first, and does in some of these
            assert found <= mean + 5 * spread + 0.01, task


def test_vectors_that_are_no_numbers_end_the_run(known: Known, tmp_path: Path) -> None:
    assert measured(known, known.encoder(Undefined), tmp_path)[0] == 1
