"""MixBench's releases are read as they are, and rankings of fixed vectors score as its own script says."""

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from numpy.typing import NDArray
from pyarrow import parquet

from anykey.benchmark.__main__ import main
from anykey.benchmark.client import Answer
from anykey.benchmark.dataset import Dataset, Hit, Query, image_bytes
from anykey.benchmark.datasets import open_dataset
from anykey.benchmark.datasets.mixbench import script_ndcg
from anykey.benchmark.errors import DatasetError
from anykey.benchmark.scoring import TaskResult, score
from tests.unit.benchmark.fake_service import FakeService, Hits, serving

SUBSETS = ["MSCOCO", "Google_WIT", "VisualNews", "OVEN"]
WORDS = {"text": "text", "image": "image", "mixed": "fused"}  # theirs and ours
ALPHAS = ["0.0", "0.3", "0.5", "0.7", "1.0"]


@pytest.fixture(scope="module")
def root(mini: Callable[[str], Path]) -> Path:
    return mini("mixbench")


@pytest.fixture(scope="module")
def dataset(root: Path) -> Dataset:
    return open_dataset(root, "mixbench")


@pytest.fixture(scope="module")
def expected(root: Path) -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads((root / "expected/metrics.json").read_text())["subsets"]
    return numbers


@pytest.fixture(scope="module")
def modes(root: Path) -> dict[str, list[str]]:
    """Theirs of every key, by subset, in the order of the corpus."""
    found: dict[str, list[str]] = {}
    for row in lines_of(root / "modes.jsonl"):
        found.setdefault(row["subset"], []).append(row["mode"])
    return found


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def answer(hits: Sequence[Hit]) -> Answer:
    return Answer(tuple(hits), 0.0, {}, False, 0, ("1", "f"))


def scored(dataset: Dataset, subset: str, rankings: Sequence[Sequence[Hit]]) -> TaskResult:
    """A subset scored from its rankings, in the order of its queries."""
    (task,) = (task for task in dataset.tasks() if task.name == subset)
    queries = dataset.queries(task)
    answers = {query.id: answer(hits) for query, hits in zip(queries, rankings, strict=True)}
    published = dataset.published(task, queries, rankings)
    return score(task, 1, queries, answers, [1, 5, 10], published=published)


# What MixBench's own script and trec_eval say of fixed vectors.


def unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return scaled


def rankings_of_vectors(
    root: Path, dataset: Dataset, subset: str, modes: Sequence[str], alpha: float, without_means: bool
) -> list[list[Hit]]:
    """The first ten of each query; a page's vector is a mixture of its halves, as the script makes it."""
    stored = np.load(root / "vectors.npz")
    share = {"text": 1.0, "image": 0.0, "mixed": alpha}
    text_of = np.array([[share[mode]] for mode in modes])
    halves = unit(stored[f"{subset}/corpus_text"]), unit(stored[f"{subset}/corpus_image"])
    keys, queries = text_of * halves[0] + (1 - text_of) * halves[1], unit(stored[f"{subset}/query_text"])
    if without_means:
        keys = keys - text_of * stored["doc_text_mean"] - (1 - text_of) * stored["doc_image_mean"]
        queries = queries - stored["qry_text_mean"]
    scores = unit(queries) @ unit(keys).T
    entries = [entry for entry in dataset.corpus() if entry.pools == (subset,)]
    return [
        [Hit(entries[place].key, float(row[place]), entries[place].modality) for place in np.argsort(-row)[:10]]
        for row in scores
    ]


@pytest.mark.parametrize("without_means", [False, True])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_ndcg_of_fixed_vectors_is_that_of_the_script(
    root: Path,
    dataset: Dataset,
    expected: dict[str, Any],
    modes: dict[str, list[str]],
    alpha: str,
    without_means: bool,
) -> None:
    name = "ndcg_at_10_means_removed" if without_means else "ndcg_at_10"
    for subset in SUBSETS:
        rankings = rankings_of_vectors(root, dataset, subset, modes[subset], float(alpha), without_means)
        result = scored(dataset, subset, rankings)
        assert result.headline.value == pytest.approx(expected[subset]["original"][f"alpha={alpha}"][name], abs=1e-9)
        assert result.published == (), "with one answer each both definitions agree"
        assert script_ndcg(rankings[0], dataset.queries(result.task)[0].relevant) == pytest.approx(
            result.values["ndcg@10"][0]
        )


@pytest.mark.parametrize("kind", ["plain", "means_removed"])
def test_numbers_of_the_runs_are_those_of_trec_eval(
    root: Path, dataset: Dataset, expected: dict[str, Any], kind: str
) -> None:
    modality = {entry.key: entry.modality for entry in dataset.corpus()}
    for subset in SUBSETS:
        hits: dict[str, list[Hit]] = {}
        for line in (root / f"runs/{subset}.{kind}.trec").read_text().splitlines():
            query, _, key, _, value, _ = line.split()
            hits.setdefault(query, []).append(Hit(f"{subset}/{key}", float(value), modality[f"{subset}/{key}"]))
        result = scored(dataset, subset, [hits[query.id] for query in dataset.queries(task_of(dataset, subset))])
        theirs = expected[subset]["trec"]
        assert result.headline.value == pytest.approx(theirs[kind]["ndcg_cut_10"], abs=1e-9)
        for k in (1, 5, 10):
            assert result.numbers[f"success@{k}"].value == pytest.approx(theirs[kind][f"success_{k}"], abs=1e-9)
        first = Counter(ranked[0].modality for ranked in hits.values())
        shares = {word: first[WORDS[word]] / len(hits) for word in WORDS}
        assert shares == pytest.approx(theirs[f"{kind}, modality of the top hit"], abs=1e-9)


def task_of(dataset: Dataset, subset: str) -> Any:
    return next(task for task in dataset.tasks() if task.name == subset)


def test_the_number_of_the_script_stands_beside_ours_where_they_differ(root: Path, tmp_path: Path) -> None:
    cases = json.loads((root / "expected/special_cases.json").read_text())
    seen = set()
    for name, case in cases.items():
        theirs = case["MixBench_ndcg_at_10"]
        if any(value == "nan" for value in case["scores"]):
            continue  # ends a run: tests of the client
        own = write(tmp_path / name, {f"d{n}": {"text": f"t{n}"} for n in range(len(case["scores"]))}, case["qrels"])
        order = sorted(range(len(case["scores"])), key=lambda n: (-case["scores"][n], f"d{n}" not in case["qrels"]))
        ranked = [Hit(f"own/d{number}", case["scores"][number], "text") for number in order]
        result = scored(open_dataset(own, "mixbench"), "own", [ranked])
        if isinstance(theirs, str):
            assert result.published == (), "the script does not take so few keys"
        elif result.headline.value == pytest.approx(theirs, abs=1e-9):
            assert result.published == ()
        else:
            assert [each.values for each in result.published] == [[pytest.approx(theirs, abs=1e-9)]]
            seen.add(name)
        if "equal" not in name:
            assert result.headline.value == pytest.approx(case["trec_ndcg_cut_10"], abs=1e-9)
    assert {"three positives, one in the top ten", "graded", "ten equal scores, one positive among them"} <= seen


# What queries and keys are.


def test_both_releases_hold_the_same(root: Path, dataset: Dataset, modes: dict[str, list[str]]) -> None:
    later = open_dataset(root, "mixbench-2026")
    assert [task.name for task in dataset.tasks()] == [task.name for task in later.tasks()] == SUBSETS
    for subset in SUBSETS:
        ours, theirs = ([e for e in each.corpus() if e.pools == (subset,)] for each in (dataset, later))
        assert [entry.modality for entry in ours] == [WORDS[mode] for mode in modes[subset]]
        assert [contents(entry.text, entry.images) for entry in ours] == [
            contents(entry.text, entry.images) for entry in theirs
        ]
        assert [entry.key for entry in ours] == [entry.key for entry in theirs]
        assert dataset.keys(subset) == later.keys(subset) == {entry.key for entry in ours}
        asked = [each.queries(task_of(each, subset)) for each in (dataset, later)]
        assert [(q.id, q.relevant, contents(q.text, q.images)) for q in asked[0]] == [
            (q.id, q.relevant, contents(q.text, q.images)) for q in asked[1]
        ]
    assert dataset.num_keys() == later.num_keys() == 99


def contents(text: str | None, images: Sequence[Any]) -> tuple[str | None, list[bytes]]:
    return text, [image_bytes(image) for image in images]


def test_an_answer_of_the_query_s_own_name_counts_and_a_query_has_all_its_parts(dataset: Dataset) -> None:
    for query in dataset.queries(task_of(dataset, "MSCOCO")):
        assert query.relevant == {f"MSCOCO/{query.id}": 1}
    for query in dataset.queries(task_of(dataset, "OVEN")):
        assert (query.modality, query.text) == ("fused", "what shape is this?")


def test_a_release_is_found_in_its_own_folder_and_beside_the_other(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="may be mixbench or mixbench-2026: say which with --format"):
        open_dataset(root)
    for name in ("MixBench25", "MixBench2026"):
        inside = open_dataset(root / name)
        assert [task.name for task in inside.tasks()] == SUBSETS
        assert len(inside.queries(inside.tasks()[0])) == 30
    with pytest.raises(DatasetError, match=r"is no MixBench: expected files such as MSCOCO/mixed_corpus\.jsonl"):
        open_dataset(tmp_path, "mixbench").tasks()


# Endpoints, over HTTP.


def quality(dataset: Path, url: str, output: Path, *more: str) -> list[str]:
    given = ["quality", "--dataset", str(dataset), "--url", url, "--output", str(output), "--ready-timeout-s", "5"]
    return [*given, *more]


@pytest.mark.parametrize("format", ["mixbench", "mixbench-2026"])
def test_an_endpoint_that_knows_the_answers_scores_one(root: Path, tmp_path: Path, format: str) -> None:
    dataset = open_dataset(root, format)
    known: dict[tuple[Any, ...], Query] = {}
    for task in dataset.tasks():
        for query in dataset.queries(task):
            image = base64.b64encode(image_bytes(query.images[0])).decode() if query.images else None
            known[task.pool, query.text, image] = query
    keys = {entry.key: entry for entry in dataset.corpus()}

    def oracle(body: Mapping[str, Any]) -> Hits:
        gold = known[body["pool"], body.get("text"), body.get("image")].relevant
        ranked = sorted(dataset.keys(body["pool"]), key=lambda key: (key not in gold, key))
        return [(key, 0.9 if key in gold else 0.4, keys[key].modality) for key in ranked]

    pools = {subset: len(dataset.keys(subset)) for subset in SUBSETS}
    with serving(FakeService(oracle, pools, dataset.num_keys())) as fake:
        assert main(quality(root, fake.url, tmp_path, "--format", format)) == 0
    report = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert report["warnings"] == []
    assert {result["metrics"]["ndcg@10"] for result in report["results"]} == {1.0}
    assert [result["num_keys"] for result in report["results"]] == [30, 33, 12, 24]
    assert [mean["name"] for mean in report["means"]] == ["mean over tasks"]
    sent = [body for body in fake.bodies if body["pool"] == "OVEN"]
    assert len(sent) == 10
    assert all(body["text"] and body["image"] for body in sent)
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "## Mixed pool" in page
    assert "| first 10 hits: text, image, fused |" in page


def test_the_corpus_of_either_release_is_a_file_with_the_images_beside_it(root: Path, tmp_path: Path) -> None:
    rows = {}
    for format in ("mixbench", "mixbench-2026"):
        output = tmp_path / format / "corpus.jsonl"
        assert main(["corpus", "--dataset", str(root), "--format", format, "--output", str(output)]) == 0
        rows[format] = list(lines_of(output))
    assert len(rows["mixbench"]) == 99
    for one, other in zip(*rows.values(), strict=True):
        assert (one["key"], one.get("text"), one["pool"]) == (other["key"], other.get("text"), other["pool"])
        images = [[Path(path).read_bytes() for path in row.get("image", [])] for row in (one, other)]
        assert images[0] == images[1]


# What is wrong is named before a query is sent.


def write(root: Path, keys: Mapping[str, Mapping[str, Any]], relevant: Mapping[str, int], **query: Any) -> Path:
    """A release of 2025 with one subset and one query."""
    subset = root / "MixBench25/own"
    (subset / "qrels").mkdir(parents=True)
    rows = [{"corpus_id": key, "text": None, "image": None, **fields} for key, fields in keys.items()]
    (subset / "mixed_corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (subset / "queries.jsonl").write_text(json.dumps({"query_id": "q", "text": "what?", "image": None, **query}) + "\n")
    lines = ["query_id\tcorpus_id\tscore", *(f"q\t{key}\t{grade}" for key, grade in relevant.items())]
    (subset / "qrels/qrels.tsv").write_text("\n".join(lines) + "\n")
    return root


KEYS = {"a": {"text": "one"}, "b": {"text": "two"}}


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("queries.jsonl", {"query_id": "q", "text": "again"}, r"queries\.jsonl:2: query 'q' comes a second time"),
        (
            "queries.jsonl",
            {"query_id": "r", "text": "x"},
            r"queries\.jsonl:2: query 'r' has no judgement in .*qrels\.tsv",
        ),
        ("queries.jsonl", {"query_id": "r"}, r"queries\.jsonl:2: 'r' has neither text nor image"),
        (
            "queries.jsonl",
            {"query_id": "r", "image": "x.jpg"},
            r"queries\.jsonl:2: image .*images/x\.jpg does not exist",
        ),
        ("queries.jsonl", {"text": "x"}, r"queries\.jsonl:2: query_id must be a name, got None"),
        ("queries.jsonl", {"query_id": "r", "text": 3}, r"queries\.jsonl:2: text must be a text or null, got int"),
        ("queries.jsonl", {"query_id": "r", "image": 3}, r"queries\.jsonl:2: image is neither a file's name nor"),
        ("mixed_corpus.jsonl", {"corpus_id": "a", "text": "x"}, r"mixed_corpus\.jsonl:3: key 'a' comes a second time"),
        (
            "mixed_corpus.jsonl",
            {"corpus_id": "c", "text": " "},
            r"mixed_corpus\.jsonl:3: 'c' has neither text nor image",
        ),
        ("qrels/qrels.tsv", "q\tz\t1", r"qrels\.tsv:3: key 'z' is not in the mixed corpus of own"),
        ("qrels/qrels.tsv", "s\ta\t1", r"qrels\.tsv: 1 judged queries do not exist, the first is s"),
        ("qrels/qrels.tsv", "q\ta", r"qrels\.tsv:3: expected query_id, corpus_id and score, got 2 columns"),
        ("qrels/qrels.tsv", "q\tb\thigh", r"qrels\.tsv:3: score must be a whole number, got 'high'"),
    ],
)
def test_a_wrong_line_is_named_before_the_first_query(tmp_path: Path, file: str, line: Any, said: str) -> None:
    own = write(tmp_path, KEYS, {"a": 1})
    with (own / "MixBench25/own" / file).open("a") as opened:
        opened.write((line if isinstance(line, str) else json.dumps(line)) + "\n")
    dataset = open_dataset(own)
    with pytest.raises(DatasetError, match=said):
        dataset.queries(dataset.tasks()[0])
    with serving(FakeService(lambda body: [("own/a", 1.0, "text")], {"own": 2}, 2)) as fake:
        assert main(quality(own, fake.url, tmp_path / "out")) == 2
    assert fake.bodies == []


def test_a_judgement_of_zero_is_none(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path, KEYS, {"a": 0}))
    with pytest.raises(DatasetError, match="query 'q' has no judgement"):
        dataset.queries(dataset.tasks()[0])


def test_other_names_of_files_and_fields_are_known(tmp_path: Path) -> None:
    own = write(tmp_path, KEYS, {"b": 1}) / "MixBench25/own"
    (own / "queries.jsonl").unlink()
    (own / "query.jsonl").write_text('{"id": 7, "text": "what?"}\n')
    (own / "qrels").rename(own / "qrel")
    (own / "qrel/qrels.tsv").write_text("id\tcorpus_id\tscore\n7\tb\t1\n")
    dataset = open_dataset(tmp_path)
    (query,) = dataset.queries(dataset.tasks()[0])
    assert (query.id, query.relevant) == ("7", {"own/b": 1})


def test_missing_files_are_named(tmp_path: Path) -> None:
    later = tmp_path / "MixBench2026/own"
    later.mkdir(parents=True)
    for name in ("queries", "mixed_corpus"):
        row = {"id": "a", "text": "one", "image": {"bytes": None, "path": None}}
        parquet.write_table(pyarrow.Table.from_pylist([row]), later / f"{name}.parquet")
    dataset = open_dataset(tmp_path)
    (task,) = dataset.tasks()
    with pytest.raises(
        DatasetError, match=r"MixBench2026/own/qrels/qrels\.tsv: .*nor does any of .*MixBench25/own/qrels"
    ):
        dataset.queries(task)
    write(tmp_path, KEYS, {"a": 1})
    (tmp_path / "MixBench25/own/queries.jsonl").unlink()
    earlier = open_dataset(tmp_path, "mixbench")
    with pytest.raises(
        DatasetError, match=r"own/queries\.jsonl: the file does not exist, nor does any of .*query\.jsonl"
    ):
        earlier.queries(task)
    parquet.write_table(pyarrow.Table.from_pylist([{"id": "a"}]), later / "mixed_corpus.parquet")
    with pytest.raises(DatasetError, match=r"mixed_corpus\.parquet: no column 'text', there are: id"):
        open_dataset(tmp_path, "mixbench-2026").num_keys()
