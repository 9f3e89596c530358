"""MMEB's tables of both versions are read as they are, score as VLM2Vec says, and favour no collapsed model."""

import base64
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from anykey.benchmark.__main__ import main
from anykey.benchmark.client import Answer
from anykey.benchmark.dataset import Dataset, Hit, Query, Task, image_bytes
from anykey.benchmark.datasets import open_dataset
from anykey.benchmark.errors import DatasetError
from anykey.benchmark.scoring import TaskResult, hits_needed, mean_number, score
from tests.unit.benchmark.fake_service import FakeService, Hits, serving

Scores = Callable[[str, int], Sequence[float]]  # subset and row -> a score for each candidate of the row


@pytest.fixture(scope="module")
def root(mini: Callable[[str], Path]) -> Path:
    return mini("mmeb")


@pytest.fixture(scope="module")
def first(root: Path) -> Dataset:
    return open_dataset(root, "mmeb")


@pytest.fixture(scope="module")
def second(root: Path) -> Dataset:
    return open_dataset(root, "mmeb-v2")


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def candidates(dataset: Dataset, subset: str) -> list[list[str]]:
    """The keys of each row's candidates, gold first: numbered as they come for the first time."""
    folder = {"MMEB": "MMEB-eval"}.get(dataset.name, "MMEB_Test_Instruct")
    (path,) = (dataset.root / folder / subset).glob("*.parquet")
    numbers: dict[tuple[str, str], str] = {}
    return [
        [
            numbers.setdefault((text.strip(), image), f"{subset}/{len(numbers)}")
            for text, image in zip(row["tgt_text"], row["tgt_img_path"], strict=True)
        ]
        for row in parquet.read_table(path).to_pylist()
    ]


def answer(keys: Sequence[str], scores: Sequence[float], most: int) -> Answer:
    """A service's answer of so many hits, where ties come in the order of the candidates and so help the gold."""
    by_key = dict(zip(reversed(keys), map(float, reversed(scores)), strict=True))
    best = sorted(dict.fromkeys(keys), key=lambda key: -by_key[key])[:most]
    return Answer(tuple(Hit(key, by_key[key], "text") for key in best), 0.0, {}, False, 0, ("1", "f"))


def scored(dataset: Dataset, scores: Scores) -> dict[Task, TaskResult]:
    """Every task scored from each candidate's score."""
    found = {}
    for task in dataset.tasks():
        queries = dataset.queries(task)
        most = hits_needed(task, [50], queries)
        answers = {
            query.id: answer(keys, scores(task.name, row), most)
            for row, (query, keys) in enumerate(zip(queries, candidates(dataset, task.name), strict=True))
        }
        published = dataset.published(task, queries, [answers[query.id].hits for query in queries])
        found[task] = score(task, 1, queries, answers, [50], published=published)
    return found


def values_of(result: TaskResult, metric: str) -> list[float]:
    """A published number of each query; ours where the published one is the same."""
    theirs = [each.values for each in result.published if each.metric == metric]
    return list(theirs[0]) if theirs else list(result.values["success@1"])


# What VLM2Vec's own code says of fixed vectors.


@pytest.fixture(scope="module")
def rows_of_vectors(root: Path) -> dict[tuple[str, str, str, str], int]:
    return {
        (row["subset"], row["side"], row["text"], row["img_path"]): row["index"]
        for row in lines_of(root / "vectors_v1_keys.jsonl")
    }


@pytest.mark.parametrize("form", ["raw", "normalized"])
def test_success_at_1_of_fixed_vectors_is_the_accuracy_of_version_1(
    root: Path, first: Dataset, rows_of_vectors: dict[tuple[str, str, str, str], int], form: str
) -> None:
    vectors = dict(np.load(root / "vectors_v1.npz"))
    if form == "normalized":
        vectors = {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in vectors.items()}

    def scores(subset: str, row: int) -> list[float]:
        (path,) = (root / "MMEB-eval" / subset).glob("*.parquet")
        raw = parquet.read_table(path).slice(row, 1).to_pylist()[0]
        query = vectors[f"{subset}/qry"][rows_of_vectors[subset, "qry", raw["qry_text"], raw["qry_img_path"]]]
        pairs = zip(raw["tgt_text"], raw["tgt_img_path"], strict=True)
        places = [rows_of_vectors[subset, "tgt", text, image] for text, image in pairs]
        return [float(vectors[f"{subset}/tgt"][place] @ query) for place in places]

    results = scored(first, scores)
    summary = json.loads((root / "v1/summary.json").read_text())[form]
    assert {task.name: result.headline.value for task, result in results.items()} == pytest.approx(summary["acc"])
    preds = {(row["subset"], row["row"]): row["pred"] for row in lines_of(root / "v1" / form / "scores.jsonl")}
    for task, result in results.items():
        assert [preds[task.name, row] == 0 for row in range(len(result.queries))] == list(result.values["success@1"])
        assert "accuracy, version 1" not in [each.metric for each in result.published]
    means = {mean.name: mean_number(mean, results, None) for mean in first.means(list(results))}
    wanted = {f"mean over {name}": value for name, value in summary["meta_task_mean"].items()}
    wanted["mean over tasks"] = summary["overall_mean_over_subsets"]
    found = {name: mean.value for name, mean in means.items() if mean is not None and name in wanted}
    assert found == pytest.approx(wanted, abs=1e-9)
    pages = means["mean over text -> image,text"]
    assert pages is not None
    assert pages.value == pytest.approx(summary["acc"]["WebQA"], abs=1e-9)


def test_the_published_number_by_name_is_the_hit_at_1_of_version_2(root: Path, second: Dataset) -> None:
    vectors = np.load(root / "v2/vectors.npz")
    places = json.loads((root / "v2/vectors_cand_names.json").read_text())
    infos = {task.name: list(lines_of(root / f"v2/expected/{task.name}_info.jsonl")) for task in second.tasks()}

    def scores(subset: str, row: int) -> list[float]:
        named = [places[subset].index(name) for name in infos[subset][row]["cand_names"]]
        return [float(vectors[f"{subset}/tgt"][place] @ vectors[f"{subset}/qry"][row]) for place in named]

    results = scored(second, scores)
    summary = json.loads((root / "v2/summary.json").read_text())
    for task, result in results.items():
        theirs = [
            row["prediction"][0] in row["label"] for row in lines_of(root / f"v2/expected/{task.name}_pred.jsonl")
        ]
        assert values_of(result, "hit@1, version 2") == theirs
        assert sum(theirs) / len(theirs) == pytest.approx(summary["hit1"][task.name], abs=1e-9)
    differing = {task.name for task, result in results.items() if result.published}
    assert differing == {"WebQA"}, "there alone two candidates have one picture"


@pytest.mark.parametrize("by_image", [False, True])
def test_a_rival_with_the_gold_s_picture_is_right_for_version_2_where_texts_ask(own: Path, by_image: bool) -> None:
    pages = {"tgt_text": ["<|image_1|> gold", "<|image_1|> rival", "other"], "tgt_img_path": ["b.png", "b.png", ""]}
    write(own / "MMEB-eval/pages/x.parquet", [{**ROW, **pages, "qry_img_path": "a.png" if by_image else ""}])
    (result,) = scored(open_dataset(own), lambda subset, row: [0.5, 0.9, 0.1]).values()
    assert list(result.values["success@1"]) == [0]
    assert values_of(result, "accuracy, version 1") == [0]
    assert values_of(result, "hit@1, version 2") == [0 if by_image else 1]


CASES = [
    *("case_constant_12", "case_constant_40", "case_tie_with_gold_40", "case_distractor_name_twice"),
    *("case_two_candidates", "case_gold_name_three_times"),
]


@pytest.mark.parametrize("name", CASES)
def test_ties_are_lost_and_published_numbers_say_who_would_win_them(root: Path, tmp_path: Path, name: str) -> None:
    case = json.loads((root / "cases.json").read_text())[name]
    row = {
        "qry_text": "which?",
        "qry_img_path": "",
        "tgt_text": case["names"],
        "tgt_img_path": [""] * len(case["names"]),
    }
    write(tmp_path / "MMEB-eval/case/test.parquet", [row] * len(case["scores"]))
    (result,) = scored(open_dataset(tmp_path), lambda subset, number: case["scores"][number]).values()
    gold = case["names"][0]
    behind = [
        {name for value, name in zip(scores, case["names"], strict=True) if name != gold and value >= scores[0]}
        for scores in case["scores"]
    ]
    for k in (1, 5, 10):
        assert list(result.values[f"success@{k}"]) == [float(len(names) < k) for names in behind]
    assert values_of(result, "accuracy, version 1") == [float(pred == 0) for pred in case["v1_pred"]]
    assert values_of(result, "hit@1, version 2") == [float(first == gold) for first, *_ in case["v2"]["prediction"]]


# What queries and keys are.


def test_texts_are_those_of_the_owners_parsers_without_markers(root: Path, first: Dataset, second: Dataset) -> None:
    rows = list(lines_of(root / "v2/inputs/gme.jsonl"))  # whose texts have no marker
    assert len(rows) == 128
    asked = [
        {(task.name, int(q.id)): q for task in each.tasks() for q in each.queries(task)} for each in (first, second)
    ]
    for row in rows:
        whole = row["query_text"].split()
        in_one, apart = (queries[row["subset"], row["row"]] for queries in asked)
        assert (in_one.text or "").split() == whole
        assert (apart.instructed or "").split() == whole
        assert whole == [*(apart.instruction or "").split(), *(apart.text or "").split()]
        assert [path.name for path in apart.images if isinstance(path, Path)] == [
            Path(image).name for image in row["query_image"] or [] if image for image in image
        ]


def test_a_key_is_a_candidate_without_instruction_and_named_in_order(first: Dataset, second: Dataset) -> None:
    for dataset in (first, second):
        entries = {entry.key: entry for entry in dataset.corpus()}
        assert len(entries) == dataset.num_keys() == 310
        kinds = Counter((entry.pools[0], entry.modality) for entry in entries.values())
        assert {kinds[task.name, task.key_modality] for task in dataset.tasks() if task.key_modality} == {
            *(6, 8, 23, 24, 125, 16, 22, 14)
        }
        assert entries["VisDial/0"].text is None, "all its candidates have the text 'Represent the given image.'"
        assert entries["OK-VQA/0"].text == "orange"
        for task in dataset.tasks():
            for query, keys in zip(dataset.queries(task), candidates(dataset, task.name), strict=True):
                assert query.relevant == {keys[0]: 1}
                assert query.within == tuple(sorted(set(keys)))
    told_apart = next(entry for entry in second.corpus() if entry.key == "WebQA/0")
    assert told_apart.text == "grey field with one white star, right (0)"


def test_the_meta_task_selects_tasks_and_titles_say_the_modalities(second: Dataset) -> None:
    titles = {task.name: (task.title, task.aliases) for task in second.tasks()}
    assert list(titles)[:3] == ["VOC2007", "N24News", "OK-VQA"]
    assert titles["WebQA"] == ("WebQA text -> image,text", ("retrieval", "ind", "WebQA"))
    assert titles["RefCOCO-Matching"][1] == ("grounding", "ood", "RefCOCO-Matching")


def test_where_both_versions_are_the_format_must_be_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="may be mmeb or mmeb-v2: say which with --format"):
        open_dataset(root)
    with pytest.raises(DatasetError, match="is no MMEB: expected tables such as MMEB-eval/CIRR"):
        open_dataset(tmp_path, "mmeb").tasks()


# What is wrong is named before a query is sent.

ROW: dict[str, Any] = {
    "qry_text": "<|image_1|>\nWhat is it?\n",
    "qry_img_path": "a.png",
    "tgt_text": ["<|image_1|> cat", "dog"],
    "tgt_img_path": ["b.png", ""],
}


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).write_bytes(b"x")
    return tmp_path


def test_a_subset_of_an_unknown_name_is_read_over_several_files(own: Path) -> None:
    for name in ("test-00001.parquet", "test-00000.parquet"):
        write(own / "MMEB-eval/birds" / name, [ROW])
    dataset = open_dataset(own)
    (task,) = dataset.tasks()
    assert (task.title, task.key_modality, task.aliases) == ("birds other", None, ("other", "birds"))
    assert [query.id for query in dataset.queries(task)] == ["0", "1"]
    assert [(entry.key, entry.text, entry.images) for entry in dataset.corpus()] == [
        ("birds/0", "cat", (own / "images/b.png",)),
        ("birds/1", "dog", ()),
    ]
    assert dataset.queries(task)[1].text == "What is it?"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tgt_img_path": ["b.png"]}, "x.parquet:2: 2 tgt_text and 1 tgt_img_path"),
        ({"tgt_text": [], "tgt_img_path": []}, "x.parquet:2: no candidates, the first of which would be the gold"),
        ({"tgt_text": None}, "x.parquet:2: no candidates"),
        ({"tgt_text": ["cat", "<|image_1|>\n"]}, "x.parquet:2: candidate 1 has neither text nor image"),
        ({"qry_text": " ", "qry_img_path": ""}, "x.parquet:2: the query has neither text nor image"),
        ({"qry_img_path": "c.png"}, r"x.parquet:2: image .*images/c.png does not exist"),
    ],
)
def test_a_wrong_row_is_named_before_the_first_query(own: Path, change: dict[str, Any], said: str) -> None:
    write(own / "MMEB-eval/WebQA/x.parquet", [ROW, {**ROW, **change}])
    with serving(FakeService(lambda body: [("WebQA/0", 1.0, "text")], {}, 2)) as fake:
        dataset = open_dataset(own)
        with pytest.raises(DatasetError, match=said):
            dataset.queries(dataset.tasks()[0])
        assert main([*quality(own, fake.url, own / "out"), "--format", "mmeb"]) == 2
    assert fake.bodies == []


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("qry_text", 3, "x.parquet:1: qry_text must be a text, got int"),
        ("tgt_text", "cat", "x.parquet:1: tgt_text must be a list of texts"),
        ("tgt_img_path", [1, 2], "x.parquet:1: tgt_img_path must be a list of texts"),
    ],
)
def test_a_column_of_another_type_is_named(own: Path, column: str, value: Any, said: str) -> None:
    write(own / "MMEB-eval/WebQA/x.parquet", [{**ROW, column: value}])
    with pytest.raises(DatasetError, match=said):
        open_dataset(own).num_keys()


def test_files_that_are_no_tables_of_mmeb_are_named(own: Path) -> None:
    table = own / "MMEB-eval/WebQA/x.parquet"
    write(table, [{"text": "a"}])
    with pytest.raises(DatasetError, match=r"x\.parquet: no column 'qry_text', there are: text"):
        open_dataset(own).num_keys()
    table.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DatasetError, match=r"x\.parquet: unreadable after row 0: .*is no readable Parquet file"):
        open_dataset(own).num_keys()
    parquet.write_table(pyarrow.Table.from_pylist([ROW]).slice(0, 0), table)
    with pytest.raises(DatasetError, match="WebQA has no rows"):
        open_dataset(own).num_keys()


def test_tables_of_version_1_in_place_of_version_2_are_named(own: Path) -> None:
    write(own / "MMEB_Test_Instruct/WebQA/x.parquet", [ROW])
    with pytest.raises(DatasetError, match=r"x\.parquet: no column 'qry_inst', there are: qry_text"):
        open_dataset(own, "mmeb-v2").num_keys()


def test_images_that_are_in_no_folder_are_named_with_the_folders(own: Path) -> None:
    write(own / "MMEB-eval/WebQA/x.parquet", [{**ROW, "qry_img_path": "WebQA/a.png"}])
    with pytest.raises(DatasetError, match=r"x\.parquet:1: image WebQA/a\.png is in none of the folders eval_images, "):
        open_dataset(own).num_keys()


def test_a_missing_image_of_a_key_is_named_by_the_corpus(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(own / "MMEB-eval/WebQA/x.parquet", [ROW, {**ROW, "tgt_img_path": ["b.png", "c.png"]}])
    assert main(["corpus", "--dataset", str(own), "--output", str(own / "corpus.jsonl")]) == 2
    assert "x.parquet:2: image" in capsys.readouterr().err.replace("\n", " ")


# Endpoints that know everything, nothing, or are broken, over HTTP.


def quality(dataset: Path, url: str, output: Path) -> list[str]:
    return ["quality", "--dataset", str(dataset), "--url", url, "--output", str(output), "--worst", "0"]


def measured(
    dataset: Dataset, format: str, answer: Callable[[Mapping[str, Any]], Hits], output: Path
) -> dict[str, Any]:
    """The report of `anykey-bench quality` on a service that gives these answers."""
    with serving(FakeService(answer, {}, dataset.num_keys())) as fake:
        assert main([*quality(dataset.root, fake.url, output), "--format", format]) == 0
    report: dict[str, Any] = json.loads((output / "results.json").read_text(encoding="utf-8"))
    inside = ["the queries' texts hold the instructions, whatever --instructions says"]
    assert report["warnings"] == (inside if format == "mmeb" else [])
    return report


@pytest.mark.parametrize("format", ["mmeb", "mmeb-v2"])
def test_an_endpoint_that_knows_the_answers_scores_one(root: Path, tmp_path: Path, format: str) -> None:
    dataset = open_dataset(root, format)

    def asked(text: str | None, image: str | None, within: Sequence[str]) -> tuple[Any, ...]:
        return text, image, tuple(within)

    known: dict[tuple[Any, ...], Query] = {}
    for task in dataset.tasks():
        for query in dataset.queries(task):
            image = base64.b64encode(image_bytes(query.images[0])).decode() if query.images else None
            known[asked(query.text, image, query.within or ())] = query

    def oracle(body: Mapping[str, Any]) -> Hits:
        query = known[asked(body.get("text"), body.get("image"), body["within"])]
        ranked = sorted(body["within"], key=lambda key: key not in query.relevant)
        return [(key, 0.9 if key in query.relevant else 0.4, "text") for key in ranked]

    report = measured(dataset, format, oracle, tmp_path)
    assert {result["metrics"]["success@1"] for result in report["results"]} == {1.0}
    assert [mean["metrics"]["headline"] for mean in report["means"]] == [pytest.approx(1.0, abs=1e-12)] * 8
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| mean over grounding |  | 20 |" in page
    assert "| mean over tasks |  | 128 |" in page
    assert "A relevant key that scores like others counts as behind them." in page
    assert [result["published"] for result in report["results"]] == [[]] * 11
    assert {result["task"]["name"]: result["num_keys"] for result in report["results"]}["VisDial"] == 15
    assert {result["task"]["headline"] for result in report["results"]} == {"success@1"}


def test_a_constant_endpoint_scores_zero_where_version_1_would_say_one(second: Dataset, tmp_path: Path) -> None:
    report = measured(second, "mmeb-v2", lambda body: [(key, 0.5, "text") for key in body["within"]], tmp_path)
    for result in report["results"]:
        assert result["metrics"]["success@1"] == 0, result["task"]
    by_name = {result["task"]["name"]: result for result in report["results"]}
    few, many = by_name["VOC2007"], by_name["OK-VQA"]  # six candidates, and 18, of which a service says eleven
    assert {each["metric"]: each["value"] for each in few["published"]} == {
        "accuracy, version 1": 1.0,
        "hit@1, version 2": 1.0,
    }
    assert few["metrics"]["success@10"] == 1
    assert many["metrics"]["success@10"] == many["metrics"]["mrr"] == 0


@pytest.mark.slow
def test_a_random_endpoint_scores_what_chance_gives(second: Dataset, tmp_path: Path) -> None:
    def guess(body: Mapping[str, Any]) -> Hits:
        draw = random.Random(json.dumps([body.get("text"), body["within"], body.get("image")]))
        return sorted(((key, draw.random(), "text") for key in body["within"]), key=lambda hit: -hit[1])

    report = measured(second, "mmeb-v2", guess, tmp_path)
    queries = [query for task in second.tasks() for query in second.queries(task)]
    chances = [1 / len(query.within or ()) for query in queries]
    right = sum(result["metrics"]["success@1"] * result["num_queries"] for result in report["results"])
    spread = sum(chance * (1 - chance) for chance in chances) ** 0.5
    assert abs(right - sum(chances)) < 3 * spread
    assert right < len(queries) / 3


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_ends_the_run(second: Dataset, tmp_path: Path, broken: float) -> None:
    fake = FakeService(lambda body: [(key, broken, "text") for key in body["within"]], {}, second.num_keys())
    with serving(fake):
        assert main([*quality(second.root, fake.url, tmp_path), "--format", "mmeb-v2"]) == 1
    assert not (tmp_path / "results.json").exists()


def test_instructions_are_sent_as_they_are_chosen(second: Dataset, tmp_path: Path) -> None:
    with serving(FakeService(lambda body: [(body["within"][0], 1.0, "text")], {}, 310)) as fake:
        for policy in ("none", "text", "all", "field"):
            chosen = ["--instructions", policy, "--tasks", "VOC2007,CIRR", "--format", "mmeb-v2", "--limit", "1"]
            assert main([*quality(second.root, fake.url, tmp_path / policy), *chosen]) == 0
    sent = [(body.get("text"), body.get("instruction")) for body in fake.bodies]
    shape, edit = "Identify the shape shown in the image", "change the shape to a square"
    find = "Given an image, find a similar everyday image with the described changes:"
    assert sent == [
        *((None, None), (edit, None)),
        *((None, None), (f"{find} {edit}", None)),
        *((shape, None), (f"{find} {edit}", None)),
        *((None, shape), (edit, find)),
    ]
