"""M-BEIR directories are read as they are, and what is wrong in them is named by file and line."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anykey.benchmark.errors import DatasetError, DatasetFormatError
from anykey.benchmark.mbeir import Dataset, Task, id_order, read_qrels
from anykey.sources.mbeir import format_string

QRELS = "qrels/test/mbeir_cirr_task7_test_qrels.txt"
TASK = Task("mbeir_cirr_task7", "cirr", 7, "test")
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


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    for folder in ("query/test", "cand_pool/local", "cand_pool/global", "qrels/test", "mbeir_images/cirr_images/dev"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / QUERY["query_img_path"]).write_bytes(b"jpeg")
    write_queries(tmp_path, [QUERY])
    write_pool(tmp_path, [{"txt": None, "img_path": "mbeir_images/x.jpg", "modality": "image", "did": "8:1"}])
    return Dataset(tmp_path)


def write_queries(root: Path, rows: list[Any]) -> None:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (root / "query/test/mbeir_cirr_task7_test.jsonl").write_text(text, encoding="utf-8")


def write_pool(root: Path, rows: list[Any]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "cand_pool/local/mbeir_cirr_task7_cand_pool.jsonl").write_text(text, encoding="utf-8")


def test_a_real_row_is_read(dataset: Dataset) -> None:
    (query,) = dataset.queries(TASK)
    assert (query.qid, query.text, query.task) == ("8:1", "Show three bottles of soft drink.", 7)
    assert query.image == dataset.root / QUERY["query_img_path"]
    assert dataset.tasks() == [TASK]


def test_a_mark_at_the_beginning_of_a_file_is_no_part_of_it(dataset: Dataset) -> None:
    (dataset.root / "instructions").mkdir()
    (dataset.root / "instructions/query_instructions.tsv").write_text("h\nimage,text\timage\tcirr\t8\tFind it\n")
    (dataset.root / "qrels/test/mbeir_cirr_task7_test_qrels.txt").write_text("8:1 0 8:1 1 7\n")

    def read() -> tuple[object, ...]:
        return dataset.queries(TASK), dataset.pool(TASK), dataset.qrels(TASK), dataset.instructions()

    expected = read()
    for path in dataset.root.rglob("*.*"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read() == expected


def test_absent_candidate_fields_read_as_null(dataset: Dataset) -> None:
    write_pool(dataset.root, [{"txt": "A wiki page.", "modality": "text", "did": "2:10"}])
    (candidate,) = dataset.pool(TASK)
    assert (candidate.text, candidate.image, candidate.modality) == ("A wiki page.", None, "text")


def test_both_spellings_of_the_fused_modality_are_read(dataset: Dataset) -> None:
    rows = [
        {"txt": "a", "img_path": "b.jpg", "modality": modality, "did": f"2:{i}"}
        for i, modality in enumerate(("image,text", "text,image"))
    ]
    write_pool(dataset.root, rows)
    assert [candidate.modality for candidate in dataset.pool(TASK)] == ["fused", "fused"]


def test_mscoco_pools_carry_the_split_and_others_do_not() -> None:
    assert Task("mbeir_mscoco_task0", "mscoco", 0, "test").pool == "mbeir_mscoco_task0_test"
    assert Task("mbeir_mscoco_task3", "mscoco", 3, "val").pool == "mbeir_mscoco_task3_val"
    assert TASK.pool == "mbeir_cirr_task7"


def test_headline_cutoff_is_ten_for_fashion_and_five_elsewhere() -> None:
    names = {"fashion200k": 10, "fashioniq": 10, "cirr": 5, "mscoco": 5}
    assert {name: Task(f"mbeir_{name}_task0", name, 0, "test").headline_k for name in names} == names


@pytest.mark.parametrize(("number", "modality"), [(0, "image"), (1, "text"), (2, "fused"), (6, "text"), (8, "fused")])
def test_a_task_knows_the_modality_it_looks_for(number: int, modality: str) -> None:
    assert Task("mbeir_x_task", "x", number, "test").key_modality == modality


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
def test_a_wrong_query_row_is_named_by_file_and_line(dataset: Dataset, row: Any, said: str) -> None:
    write_queries(dataset.root, [QUERY, "", row])
    with pytest.raises(DatasetFormatError, match=said) as caught:
        dataset.queries(TASK)
    assert caught.value.line == 3
    assert "mbeir_cirr_task7_test.jsonl:3:" in str(caught.value)


def test_a_repeated_key_is_refused(dataset: Dataset) -> None:
    write_pool(dataset.root, [{"txt": "a", "modality": "text", "did": "2:1"}] * 2)
    with pytest.raises(DatasetFormatError, match=r"cand_pool.jsonl:2: did '2:1' comes a second time"):
        dataset.pool(TASK)


def test_a_missing_pool_file_is_named(dataset: Dataset) -> None:
    with pytest.raises(DatasetFormatError, match=r"mbeir_nights_task4_cand_pool.jsonl: the file does not exist"):
        dataset.pool(Task("mbeir_nights_task4", "nights", 4, "test"))
    assert dataset.global_size() is None


def test_text_that_is_not_utf8_is_refused(dataset: Dataset) -> None:
    (dataset.root / "query/test/mbeir_cirr_task7_test.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(DatasetFormatError, match="not UTF-8"):
        dataset.queries(TASK)


@pytest.mark.parametrize("line", ["8:1 0 8:18844 1 7", "8:1 0 8:18844 1", "8:1\t0\t8:18844\t1\t7"])
def test_qrels_have_four_columns_or_five(tmp_path: Path, line: str) -> None:
    path = tmp_path / "qrels.txt"
    path.write_text(f"{line}\n\n8:2 0 8:3 0 7\n", encoding="utf-8")
    assert read_qrels(path) == {"8:1": {"8:18844": 1}}


@pytest.mark.parametrize(("line", "said"), [("8:1 0 8:2", "got 3"), ("8:1 0 8:2 yes", "whole number, got 'yes'")])
def test_a_wrong_qrels_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "qrels.txt"
    path.write_text(f"8:1 0 8:2 1\n{line}\n", encoding="utf-8")
    with pytest.raises(DatasetFormatError, match=said) as caught:
        read_qrels(path)
    assert caught.value.line == 2


def test_a_directory_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is no M-BEIR dataset"):
        Dataset(tmp_path).tasks()
    (tmp_path / "query/test").mkdir(parents=True)
    with pytest.raises(DatasetError, match="holds no query file"):
        Dataset(tmp_path).tasks()


def test_instructions_are_found_by_dataset_and_modalities(dataset: Dataset) -> None:
    path = dataset.root / "instructions/query_instructions.tsv"
    assert dataset.instructions() == {}
    path.parent.mkdir()
    header = "query_modality\tcand_modality\tdataset_name\tdataset_id\tprompt_1\tprompt_2\n"
    path.write_text(f"{header}image,text\timage\tCIRR\t8\tFind it.\tShow it.\n", encoding="utf-8")
    assert dataset.instructions() == {"8, image,text, image": "Find it."}
    path.write_text(f"{header}image,text\timage\tCIRR\n", encoding="utf-8")
    with pytest.raises(DatasetFormatError, match="at least 5 columns, got 3"):
        dataset.instructions()


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


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, table=st.binary(max_size=40), lines=st.text(max_size=30))
def test_whatever_files_hold_is_read_or_named(dataset: Dataset, rows: list[Any], table: bytes, lines: str) -> None:
    write_queries(dataset.root, rows)
    write_pool(dataset.root, rows)
    for name, data in (("instructions/query_instructions.tsv", table), (QRELS, lines.encode("utf-8", "replace"))):
        (dataset.root / name).parent.mkdir(exist_ok=True)
        (dataset.root / name).write_bytes(data)
    for read in (dataset.queries, dataset.pool, dataset.qrels, lambda task: dataset.instructions()):
        with suppress(DatasetFormatError):
            read(TASK)


def test_json_nested_too_deeply_is_named(dataset: Dataset) -> None:
    write_queries(dataset.root, ["[" * 100_000])
    with pytest.raises(DatasetFormatError, match=r"task7_test\.jsonl:1: not standard JSON"):
        dataset.queries(TASK)


@pytest.mark.parametrize("data", [b"\xff", b'h\n"open', b"a\tb\n\x00\n"])
def test_damaged_instructions_are_named(dataset: Dataset, data: bytes) -> None:
    (dataset.root / "instructions").mkdir()
    (dataset.root / "instructions/query_instructions.tsv").write_bytes(data)
    with pytest.raises(DatasetFormatError, match=r"query_instructions\.tsv"):
        dataset.instructions()
