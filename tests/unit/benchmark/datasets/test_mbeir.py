"""M-BEIR directories are read as they are, and what is wrong in them is named by file and line."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anykey.benchmark.client import Answer
from anykey.benchmark.dataset import Hit, Task
from anykey.benchmark.datasets import open_dataset
from anykey.benchmark.datasets.mbeir import GLOBAL, LOCAL, MBeir, QueryFile, id_order, read_qrels
from anykey.benchmark.errors import DatasetError, DatasetFormatError
from anykey.benchmark.scoring import TaskResult, mean_number, score
from anykey.sources.mbeir import format_string

QRELS = "qrels/test/mbeir_cirr_task7_test_qrels.txt"
FILE = QueryFile("mbeir_cirr_task7", "cirr", 7, "test")
TASK = FILE.task(LOCAL)
QUERY: dict[str, Any] = {
    "qid": "8:1",
    "query_txt": "Show three bottles of soft drink.",
    "query_img_path": "mbeir_images/cirr_images/dev/dev-244-0-img0.jpg",
    "query_modality": "image,text",
    "query_src_content": '{"id": "dev-244-0-img0"}',
    "pos_cand_list": ["8:18844"],
    "neg_cand_list": [],
    "task_id": 7,
}
KEY = {"txt": None, "img_path": QUERY["query_img_path"], "modality": "image", "did": "8:18844"}


@pytest.fixture
def dataset(tmp_path: Path) -> MBeir:
    for folder in ("query/test", "cand_pool/local", "cand_pool/global", "qrels/test", "mbeir_images/cirr_images/dev"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / QUERY["query_img_path"]).write_bytes(b"jpeg")
    write_queries(tmp_path, [QUERY])
    write_pool(tmp_path, [KEY])
    (tmp_path / QRELS).write_text("8:1 0 8:18844 1 7\n", encoding="utf-8")
    return MBeir(tmp_path, "test")


def write_queries(root: Path, rows: list[Any]) -> None:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (root / "query/test/mbeir_cirr_task7_test.jsonl").write_text(text, encoding="utf-8")


def write_pool(root: Path, rows: list[Any]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "cand_pool/local/mbeir_cirr_task7_cand_pool.jsonl").write_text(text, encoding="utf-8")


def test_a_real_row_is_read(dataset: MBeir) -> None:
    (query,) = dataset.queries(TASK)
    assert (query.id, query.text, query.modality) == ("8:1", "Show three bottles of soft drink.", "fused")
    assert query.images == (dataset.root / QUERY["query_img_path"],)
    assert query.relevant == {"8:18844": 1}
    assert query.references == ("8:18844",), "its own image is a key"
    assert dataset.tasks() == [TASK, FILE.task(GLOBAL)]


def test_a_mark_at_the_beginning_of_a_file_is_no_part_of_it(dataset: MBeir) -> None:
    (dataset.root / "instructions").mkdir()
    (dataset.root / "instructions/query_instructions.tsv").write_text("h\nimage,text\timage\tcirr\t8\tFind it\n")

    def read() -> tuple[object, ...]:
        fresh = MBeir(dataset.root, "test")
        return fresh.queries(TASK), list(fresh.corpus())

    expected = read()
    for path in dataset.root.rglob("*.*"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read() == expected


def test_absent_candidate_fields_read_as_null(dataset: MBeir) -> None:
    write_pool(dataset.root, [{"txt": "A wiki page.", "modality": "text", "did": "2:10"}])
    (entry,) = dataset.corpus()
    assert (entry.text, entry.images, entry.modality) == ("A wiki page.", (), "text")
    assert (entry.pools, entry.place[-7:]) == (("mbeir_cirr_task7",), "jsonl:1")


def test_both_spellings_of_the_fused_modality_are_read(dataset: MBeir) -> None:
    rows = [
        {"txt": "a", "img_path": "b.jpg", "modality": modality, "did": f"2:{i}"}
        for i, modality in enumerate(("image,text", "text,image"))
    ]
    write_pool(dataset.root, rows)
    assert [entry.modality for entry in dataset.corpus()] == ["fused", "fused"]


def test_mscoco_pools_carry_the_split_and_others_do_not() -> None:
    assert QueryFile("mbeir_mscoco_task0", "mscoco", 0, "test").pool == "mbeir_mscoco_task0_test"
    assert QueryFile("mbeir_mscoco_task3", "mscoco", 3, "val").pool == "mbeir_mscoco_task3_val"
    assert (TASK.pool, FILE.task(GLOBAL).pool) == ("mbeir_cirr_task7", None)


def test_headline_cutoff_is_ten_for_fashion_and_five_elsewhere() -> None:
    names = {"fashion200k": 10, "fashioniq": 10, "cirr": 5, "mscoco": 5}
    found = {name: QueryFile(f"mbeir_{name}_task0", name, 0, "test").task(LOCAL).headline for name in names}
    assert found == {name: f"success@{k}" for name, k in names.items()}


@pytest.mark.parametrize(("number", "modality"), [(0, "image"), (1, "text"), (2, "fused"), (6, "text"), (8, "fused")])
def test_a_task_knows_the_modality_it_looks_for(number: int, modality: str) -> None:
    assert QueryFile("mbeir_x_task", "x", number, "test").task(LOCAL).key_modality == modality


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "expected a JSON object, got a list"),
        ({**QUERY, "qid": None}, "qid must look like '9:1', got None"),
        ({**QUERY, "qid": "eight"}, "qid must look like '9:1'"),
        ({**QUERY, "query_modality": "video"}, "'query_modality' must be one of text, image, "),
        ({**QUERY, "query_txt": None, "query_img_path": None}, "neither text nor image"),
        ({**QUERY, "query_txt": 5}, "'query_txt' must be a string or null, got a number"),
        ({**QUERY, "qid": "8:2", "query_img_path": "mbeir_images/none.jpg"}, "none.jpg does not exist"),
        ({**QUERY, "task_id": 6}, "task_id is 6, the file's name says 7"),
        (QUERY, "qid '8:1' comes a second time"),
    ],
)
def test_a_wrong_query_row_is_named_by_file_and_line(dataset: MBeir, row: Any, said: str) -> None:
    write_queries(dataset.root, [QUERY, "", row])
    with pytest.raises(DatasetFormatError, match=said) as caught:
        dataset.queries(TASK)
    assert caught.value.line == 3
    assert "mbeir_cirr_task7_test.jsonl:3:" in str(caught.value)


def test_a_repeated_key_is_refused(dataset: MBeir) -> None:
    write_pool(dataset.root, [{"txt": "a", "modality": "text", "did": "2:1"}] * 2)
    with pytest.raises(DatasetFormatError, match=r"cand_pool.jsonl:2: did '2:1' comes a second time"):
        list(dataset.corpus())


def test_a_missing_pool_file_is_named(dataset: MBeir) -> None:
    (dataset.root / "cand_pool/local/mbeir_cirr_task7_cand_pool.jsonl").unlink()
    for read in (lambda: list(dataset.corpus()), dataset.num_keys, lambda: dataset.queries(TASK)):
        with pytest.raises(DatasetFormatError, match=r"mbeir_cirr_task7_cand_pool.jsonl: the file does not exist"):
            read()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("8:1 0 8:18844 1 7\n8:1 0 8:2 1 7\n", r"qrels.txt:2: key '8:2' is not in .*cirr_task7_cand_pool.jsonl"),
        ("8:1 0 8:18844 0 7\n", r"test.jsonl:1: query '8:1' has no judgement in .*qrels.txt"),
        ("8:1 0 8:18844 1 7\n8:9 0 8:18844 1 7\n", r"qrels.txt: 1 judged queries are not in .*, the first is 8:9"),
    ],
)
def test_queries_and_judgements_that_do_not_meet_are_named(dataset: MBeir, lines: str, said: str) -> None:
    (dataset.root / QRELS).write_text(lines, encoding="utf-8")
    with pytest.raises(DatasetFormatError, match=said):
        dataset.queries(TASK)


def test_a_key_of_another_source_may_be_outside_the_local_pool(dataset: MBeir) -> None:
    (dataset.root / QRELS).write_text("8:1 0 5:2 1 7\n", encoding="utf-8")
    assert dataset.queries(TASK)[0].relevant == {"5:2": 1}


def test_text_that_is_not_utf8_is_refused(dataset: MBeir) -> None:
    (dataset.root / "query/test/mbeir_cirr_task7_test.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(DatasetFormatError, match="not UTF-8"):
        dataset.queries(TASK)


@pytest.mark.parametrize("line", ["8:1 0 8:18844 1 7", "8:1 0 8:18844 1", "8:1\t0\t8:18844\t1\t7"])
def test_qrels_have_four_columns_or_five(tmp_path: Path, line: str) -> None:
    path = tmp_path / "qrels.txt"
    path.write_text(f"{line}\n\n8:2 0 8:3 0 7\n", encoding="utf-8")
    assert list(read_qrels(path)) == [(1, "8:1", "8:18844", 1)]


@pytest.mark.parametrize(("line", "said"), [("8:1 0 8:2", "got 3"), ("8:1 0 8:2 yes", "whole number, got 'yes'")])
def test_a_wrong_qrels_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "qrels.txt"
    path.write_text(f"8:1 0 8:2 1\n{line}\n", encoding="utf-8")
    with pytest.raises(DatasetFormatError, match=said) as caught:
        list(read_qrels(path))
    assert caught.value.line == 2


def test_a_directory_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is no M-BEIR dataset"):
        MBeir(tmp_path, "test").tasks()
    (tmp_path / "query/test").mkdir(parents=True)
    with pytest.raises(DatasetError, match="holds no query file"):
        MBeir(tmp_path, "test").tasks()


def test_instructions_are_found_by_dataset_and_modalities(dataset: MBeir) -> None:
    path = dataset.root / "instructions/query_instructions.tsv"
    assert dataset.queries(TASK)[0].instruction is None
    path.parent.mkdir()
    header = "query_modality\tcand_modality\tdataset_name\tdataset_id\tprompt_1\tprompt_2\n"
    path.write_text(f"{header}image,text\timage\tCIRR\t8\tFind it\tShow it.\n", encoding="utf-8")
    (query,) = MBeir(dataset.root, "test").queries(TASK)
    assert (query.instruction, query.text) == ("Find it.", "Show three bottles of soft drink.")
    assert query.instructed == "Find it. Show three bottles of soft drink."
    path.write_text(f"{header}image,text\timage\tCIRR\n", encoding="utf-8")
    with pytest.raises(DatasetFormatError, match="at least 5 columns, got 3"):
        MBeir(dataset.root, "test").queries(TASK)


@pytest.mark.parametrize(
    ("raw", "formed"),
    [
        (None, ""),
        ("  ", ""),
        ('"a dog"', "A dog."),
        ("why?", "Why?"),
        ("go!", "Go!"),
        ("a\r\n", "A."),
        ("A dog .", "A dog ."),
    ],
)
def test_text_takes_mbeir_normal_form(raw: str | None, formed: str) -> None:
    assert format_string(raw) == formed
    assert format_string(formed) == formed


def test_ids_sort_as_numbers() -> None:
    assert sorted(["10:1", "9:10", "9:2"], key=id_order) == ["9:2", "9:10", "10:1"]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.sampled_from(["9:1", "text", "image,text", "a" * 300]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
FIELDS = ["qid", "did", "txt", "img_path", "modality", "query_txt", "query_img_path", "query_modality", "task_id"]
ROWS = st.lists(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6), max_size=3)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, table=st.binary(max_size=40), lines=st.text(max_size=30))
def test_whatever_files_hold_is_read_or_named(dataset: MBeir, rows: list[Any], table: bytes, lines: str) -> None:
    write_queries(dataset.root, rows)
    write_pool(dataset.root, rows)
    for name, data in (("instructions/query_instructions.tsv", table), (QRELS, lines.encode("utf-8", "replace"))):
        (dataset.root / name).parent.mkdir(exist_ok=True)
        (dataset.root / name).write_bytes(data)
    fresh = MBeir(dataset.root, "test")
    for read in (lambda: fresh.queries(TASK), lambda: list(fresh.corpus()), fresh.num_keys):
        with suppress(DatasetFormatError):
            read()


def test_json_nested_too_deeply_is_named(dataset: MBeir) -> None:
    write_queries(dataset.root, ["[" * 100_000])
    with pytest.raises(DatasetFormatError, match=r"task7_test\.jsonl:1: not standard JSON"):
        dataset.queries(TASK)


@pytest.mark.parametrize("data", [b"\xff", b'h\n"open', b"a\tb\n\x00\n"])
def test_damaged_instructions_are_named(dataset: MBeir, data: bytes) -> None:
    (dataset.root / "instructions").mkdir()
    (dataset.root / "instructions/query_instructions.tsv").write_bytes(data)
    with pytest.raises(DatasetFormatError, match=r"query_instructions\.tsv"):
        dataset.queries(TASK)


# What UniIR's own code says of fixed vectors, in a miniature of all 16 rows.

RUNS = "uniir/retrieval_results/CLIP_SF/Large/Instruct/InBatch"
KINDS = {LOCAL: "single", GLOBAL: "union"}


@pytest.fixture(scope="module")
def miniature(mini: Callable[[str], Path]) -> MBeir:
    found = open_dataset(mini("mbeir") / "M-BEIR")
    assert isinstance(found, MBeir)
    return found


@pytest.fixture(scope="module")
def results(miniature: MBeir) -> dict[Task, TaskResult]:
    """Every row scored from UniIR's run files."""
    found = {}
    for task in miniature.tasks():
        (path,) = (miniature.root.parent / RUNS / "run_files").glob(f"{task.name}_{KINDS[task.candidates]}_pool_test_*")
        hits = defaultdict(list)
        for line in path.read_text().splitlines():
            qid, _, did, _, value, *_ = line.split()
            if did != "-1:9999999":  # UniIR's word for a pool that had no more
                hits[qid].append(Hit(did, float(value), "image"))
        answers = {qid: Answer(tuple(ranked), 0.0, {}, False, 0, ("1", "f")) for qid, ranked in hits.items()}
        queries = miniature.queries(task)
        found[task] = score(task, 1, queries, answers, [1, 5, 10, 20, 50], source_of=miniature.source_of)
    return found


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def test_success_and_recall_of_every_row_are_those_of_uniir(miniature: MBeir, results: dict[Task, TaskResult]) -> None:
    expected = json.loads((miniature.root.parent / "expected" / "metrics.json").read_text())
    rows = {(f"mbeir_{row['dataset']}", row["pool"]): row for row in expected["rows"] if row["split"] == "test"}
    assert len(rows) == len(results) == 32
    for task, result in results.items():
        row = rows[task.name, KINDS[task.candidates]]
        assert len(result.queries) == row["queries"]
        for theirs, ours in (("hit", "success"), ("true_recall", "recall")):
            for name, value in row[theirs].items():
                number = result.numbers[f"{ours}@{name.split('@')[1]}"]
                assert number.value == pytest.approx(value, abs=1e-9), (task, name)


def test_every_query_scores_as_uniir_says(miniature: MBeir, results: dict[Task, TaskResult]) -> None:
    by_row = {(task.name, KINDS[task.candidates]): result for task, result in results.items()}
    count = 0
    for row in lines_of(miniature.root.parent / "expected" / "per_query.jsonl"):
        if row["split"] != "test":
            continue
        result = by_row[f"mbeir_{row['dataset']}", row["pool"]]
        place = result.queries.index(row["qid"])
        assert next(iter(result.ranks[place]), None) == row["first_positive_rank"]
        for name, value in row.items():
            if name.startswith(("hit@", "recall@")):
                ours = result.values[name.replace("hit", "success")][place]
                assert ours == pytest.approx(value, abs=1e-9)
        count += 1
    assert count == sum(len(result.queries) for result in results.values())


def uniirs_recall(run: Path, qrels: Path, cutoffs: tuple[int, ...]) -> dict[int, dict[str, list[float]]]:
    """UniIR's scoring once more, straight from its files: is any positive in the first k, by task id and query."""
    relevant, task_of, ranked = defaultdict(set), {}, defaultdict(list)
    for line in qrels.read_text().splitlines():
        qid, _, did, grade, number = line.split()
        if int(grade) > 0:
            relevant[qid].add(did)
            task_of.setdefault(qid, int(number))
    for line in run.read_text().splitlines():
        qid, _, did, rank, *_ = line.split()
        ranked[qid].append((int(rank), did))
    found: dict[int, dict[str, list[float]]] = defaultdict(dict)
    for qid, dids in ranked.items():
        best = [did for _, did in sorted(dids)]
        found[task_of[qid]][qid] = [float(any(did in relevant[qid] for did in best[:k])) for k in cutoffs]
    return found


def test_scores_are_those_of_uniirs_scoring_written_once_more(
    miniature: MBeir, results: dict[Task, TaskResult]
) -> None:
    for task, result in results.items():
        (run,) = (miniature.root.parent / RUNS / "run_files").glob(f"{task.name}_{KINDS[task.candidates]}_pool_test_*")
        scored = uniirs_recall(run, miniature.root / f"qrels/test/{task.name}_test_qrels.txt", (1, 5, 10, 20, 50))
        (by_query,) = scored.values()
        assert int(task.name[-1]) in scored
        for qid, *values in zip(
            result.queries, *(result.values[f"success@{k}"] for k in (1, 5, 10, 20, 50)), strict=True
        ):
            assert values == by_query[qid], (task, qid)


def test_both_means_are_those_of_the_headlines(miniature: MBeir, results: dict[Task, TaskResult]) -> None:
    averages = json.loads((miniature.root.parent / "expected" / "metrics.json").read_text())["averages"]
    for candidates, kind in KINDS.items():
        tasks = [task for task in results if task.candidates == candidates]
        over_tasks, over_datasets = (mean_number(mean, results, None) for mean in miniature.means(tasks))
        assert over_tasks is not None
        assert over_datasets is not None
        # the miniature averages what UniIR rounded to four digits
        assert over_tasks.value == pytest.approx(averages[kind]["mean_over_16_rows"], abs=5e-5)
        assert over_datasets.value == pytest.approx(averages[kind]["mean_over_10_datasets"], abs=5e-5)


def test_the_table_is_the_one_that_uniir_writes(miniature: MBeir, results: dict[Task, TaskResult]) -> None:
    scores = {task: {name: number.value for name, number in r.numbers.items()} for task, r in results.items()}
    (table,) = miniature.extra_files({}, scores).values()
    (path,) = (miniature.root.parent / RUNS / "final_tsv").iterdir()
    with path.open(newline="", encoding="utf-8") as file:
        theirs = [line for line in file if "\tval\t" not in line]
    assert table.splitlines(keepends=True) == theirs


def test_texts_are_those_that_uniir_hands_to_an_encoder(miniature: MBeir) -> None:
    queries = {(task.name, query.id): query for task in miniature.tasks() for query in miniature.queries(task)}
    count = 0
    for row in lines_of(miniature.root.parent / "expected" / "query_inputs.jsonl"):
        if row["split"] == "test":
            query = queries[f"mbeir_{row['dataset']}", row["qid"]]
            assert (query.text or "", query.instructed) == (row["text_no_instruct"], row["text_instruct"])
            assert (query.text is not None, bool(query.images)) == (
                bool(row["text_mask_no_instruct"]),
                bool(row["image_mask_no_instruct"]),
            )
            count += 1
    assert count == len(queries)
    entries = {(pool, entry.key): entry for entry in miniature.corpus() for pool in entry.pools}
    seen = set()
    for row in lines_of(miniature.root.parent / "expected" / "candidate_inputs.jsonl"):
        name = f"mbeir_{row['pool']}", row["did"]
        if name in entries:
            assert (entries[name].text or "", len(entries[name].images)) == (row["text"], row["image_mask"])
            seen.add(name)
    assert seen == entries.keys()
