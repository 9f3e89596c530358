"""M-BEIR's training files: any modality on either side, instructions before queries, negatives, and what is missing."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from anykey.sources.errors import InvalidRowError, NoPairsError, SourceError
from anykey.sources.pairs import open_pairs, source_states
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.mbeir import MbeirQueries
from anykey.sources.pairs.pair import Pair, Side
from tests.drawn_pairs import read_all
from tests.factories import write_jsonl

HEADER = "query_modality\tcand_modality\tdataset_name\tdataset_id\tprompt_1\tprompt_2\tprompt_3\tprompt_4\r\n"
PROMPTS = {
    ("text", "image"): ["Find the photo", "Show it!"],
    ("image,text", "text"): ["Say it"],
    ("image", "text"): ["Tell"],
}


def query(number: int = 1, text: str | None = "two dogs", image: str | None = None, **more: Any) -> dict[str, Any]:
    row = {"qid": f"9:{number}", "query_txt": text, "query_img_path": image, "query_src_content": None}
    return row | {"pos_cand_list": ["9:1"], "neg_cand_list": [], "task_id": 0} | more


def candidate(number: int, text: str | None = None, image: str | None = None, **more: Any) -> dict[str, Any]:
    return {"did": f"9:{number}"} | ({"txt": text} if text else {}) | ({"img_path": image} if image else {}) | more


CANDIDATES = [
    candidate(1, image="i/1.jpg"),
    candidate(2, "a dog"),
    candidate(3, "a page", "i/3.jpg", modality="image,text"),
    candidate(4, "another dog"),
    candidate(5, image="i/5.jpg", txt=None),
]


def dataset(
    root: Path, *queries: Any, pool: list[Any] | None = None, prompts: dict[Any, list[str]] | None = None
) -> DataFile:
    """A dataset's training part; rows that are strings are written as they are."""
    write_jsonl(root / "cand_pool/global/mbeir_union_train_cand_pool.jsonl", CANDIDATES if pool is None else pool)
    if prompts is not None:
        (root / "instructions").mkdir(exist_ok=True)
        rows = ["\t".join([*key, "coco", "9", *texts, *[""] * (4 - len(texts))]) for key, texts in prompts.items()]
        (root / "instructions/query_instructions.tsv").write_text(HEADER + "".join(f"{row}\r\n" for row in rows))
    return DataFile(write_jsonl(root / "query/train/mbeir_coco_train.jsonl", queries))


def test_a_query_asks_for_its_positive_and_brings_negatives(tmp_path: Path) -> None:
    file = dataset(tmp_path, query(neg_cand_list=["9:2", "9:3", "9:5"]))
    assert MbeirQueries(file)[0] == Pair(
        name="9:1 9:1",
        image=tmp_path / "i/1.jpg",
        captions=(),
        where=f"{file.path}:1",
        query=Side(None, ("Two dogs.",)),
        negatives=(
            Side(None, ("A dog.",)),
            Side(tmp_path / "i/3.jpg", ("A page.",)),
            Side(tmp_path / "i/5.jpg"),
        ),
    )


@pytest.mark.parametrize(
    ("text", "image", "side"),
    [
        ("one", None, ("One.",)),
        (None, "q.jpg", ()),
        ("one", "q.jpg", ("One.",)),
        ("", "q.jpg", ()),
        ('""', "q.jpg", ()),
    ],
)
def test_queries_of_any_modality(tmp_path: Path, text: str | None, image: str | None, side: tuple[str, ...]) -> None:
    found = MbeirQueries(dataset(tmp_path, query(text=text, image=image)))[0].query
    assert found == Side(tmp_path / image if image else None, side)


def test_each_positive_with_an_image_is_a_pair_and_the_texts_are_one_together(tmp_path: Path) -> None:
    file = dataset(tmp_path, query(1, pos_cand_list=["9:1", "9:2", "9:3", "9:4"]), query(2, pos_cand_list=["9:4"]))
    found = [pair for pair in read_all(MbeirQueries(file)) if isinstance(pair, Pair)]
    assert [(pair.name, pair.image, pair.captions) for pair in found] == [
        ("9:1 9:1", tmp_path / "i/1.jpg", ()),
        ("9:1 9:3", tmp_path / "i/3.jpg", ("A page.",)),
        ("9:1", None, ("A dog.", "Another dog.")),
        ("9:2", None, ("Another dog.",)),
    ]
    assert {pair.where for pair in found[:3]} == {f"{file.path}:1"}


def test_each_prompt_makes_a_text_of_the_query(tmp_path: Path) -> None:
    file = dataset(tmp_path, query(), prompts=PROMPTS)
    assert MbeirQueries(file)[0].query == Side(None, ("Find the photo. two dogs.", "Show it! two dogs."))


def test_an_image_query_gets_the_prompt_as_its_text(tmp_path: Path) -> None:
    file = dataset(tmp_path, query(text=None, image="q.jpg", pos_cand_list=["9:2"]), prompts=PROMPTS)
    assert MbeirQueries(file)[0].query == Side(tmp_path / "q.jpg", ("Tell.",))


def test_instructions_can_be_left_out(tmp_path: Path) -> None:
    file = dataset(tmp_path, query(), prompts=PROMPTS)
    assert open_pairs([f"{file.path}#no-instructions"])[0].query == Side(None, ("Two dogs.",))
    with pytest.raises(SourceError, match="expected '#no-instructions' or nothing, got '#plain'"):
        open_pairs([f"{file.path}#plain"])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (query(pos_cand_list=["9:7"]), "candidate '9:7' is in none of mbeir_union_train_cand_pool.jsonl"),
        (query(pos_cand_list=["coco-1"]), "candidate 'coco-1' is in none of"),
        (query(neg_cand_list=["9:7"]), "candidate '9:7' is in none of"),
        (query(pos_cand_list=[]), "expected 'pos_cand_list' with at least one id"),
        (query(pos_cand_list=[{"did": "9:1"}]), "expected 'pos_cand_list', a list of ids"),
        (query(pos_cand_list="9:1"), "expected 'pos_cand_list', a list of ids"),
        (query(neg_cand_list={}), "expected 'neg_cand_list', a list of ids"),
        (query(text=None), "neither text nor image: expected 'query_txt', 'query_img_path', or both"),
        (query(text='""'), "neither text nor image: expected 'query_txt', 'query_img_path', or both"),
        (query(query_txt=3), "'query_txt' must be a string or null, got a number"),
        (query(query_modality="video"), "'query_modality' must be one of text, image, "),
        (query(image="q.jpg"), "query_instructions.tsv has no prompt for 9, image,text, image"),
        (query(text="\ud800"), "not standard JSON"),
        ('{"qid": "9:1"', "not JSON (Expecting"),
        ("[]", "expected a JSON object, got a list"),
    ],
)
def test_a_bad_row_spoils_no_other(tmp_path: Path, row: Any, reason: str) -> None:
    file = dataset(tmp_path, query(1), row, query(2), prompts=PROMPTS)
    source = MbeirQueries(file)
    found = read_all(source)
    assert [isinstance(pair, Pair) for pair in found] == [True, False, True]
    assert reason in str(found[1])
    with pytest.raises(InvalidRowError) as caught:
        source[1]
    assert caught.value.where == f"{file.path}:2"


def test_modalities_are_accepted_either_way_round(tmp_path: Path) -> None:
    for written in ("image,text", "text,image"):
        file = dataset(tmp_path, query(image="q.jpg", query_modality=written))
        assert MbeirQueries(file)[0].query == Side(tmp_path / "q.jpg", ("Two dogs.",))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (candidate(1), "candidate 9:1: neither text nor image: expected 'txt', 'img_path', or both"),
        (candidate(1, "x", modality="video"), "candidate 9:1: 'modality' must be one of text, image, "),
        (candidate(1, img_path=["a.jpg"]), "candidate 9:1: 'img_path' must be a string or null, got a list"),
    ],
)
def test_a_wrong_candidate_is_a_bad_row_where_it_is_asked_for(tmp_path: Path, wrong: Any, reason: str) -> None:
    source = MbeirQueries(dataset(tmp_path, query(), query(pos_cand_list=["9:2"]), pool=[wrong, CANDIDATES[1]]))
    with pytest.raises(InvalidRowError, match=reason):
        source[0]
    assert source[1].captions == ("A dog.",)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", r"cand_pool\.jsonl:2: not JSON"),
        ("[]", r"cand_pool\.jsonl:2: expected a"),
        (candidate(3) | {"did": "x"}, r"cand_pool\.jsonl:2: expected a"),
        (candidate(1, "again"), r"cand_pool\.jsonl: did '9:1' comes a second time"),
    ],
)
def test_a_damaged_pool_is_refused(tmp_path: Path, row: Any, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        MbeirQueries(dataset(tmp_path, query(), pool=[CANDIDATES[0], row]))


@pytest.mark.parametrize("content", [HEADER + "text\timage\tcoco\t9\n", HEADER + "text\timage\tcoco\t9\t\t\n", "\xff"])
def test_damaged_instructions_are_refused(tmp_path: Path, content: str) -> None:
    file = dataset(tmp_path, query(), prompts=PROMPTS)
    (tmp_path / "instructions/query_instructions.tsv").write_text(content, encoding="latin-1")
    with pytest.raises(SourceError, match=r"query_instructions\.tsv"):
        MbeirQueries(file)


def test_without_a_global_pool_the_local_ones_are_read(tmp_path: Path) -> None:
    file = dataset(tmp_path, query(1), query(2, pos_cand_list=["9:2"]))
    (tmp_path / "cand_pool/global/mbeir_union_train_cand_pool.jsonl").unlink()
    with pytest.raises(SourceError, match=r"expected its candidates in .*mbeir_union_train_cand_pool\.jsonl or"):
        MbeirQueries(file)
    write_jsonl(tmp_path / "cand_pool/local/mbeir_coco_task0_cand_pool.jsonl", CANDIDATES[:1])
    write_jsonl(tmp_path / "cand_pool/local/mbeir_coco_task3_cand_pool.jsonl", [*CANDIDATES[1:], candidate(1, "other")])
    source = MbeirQueries(file)
    assert [source[0].image, source[1].captions] == [tmp_path / "i/1.jpg", ("A dog.",)]


def test_the_root_opens_the_training_queries_and_only_those(tmp_path: Path) -> None:
    dataset(tmp_path, query(1), prompts=PROMPTS)
    write_jsonl(tmp_path / "query/train/mbeir_a_train.jsonl", [query(2), query(3)])
    write_jsonl(tmp_path / "query/test/mbeir_coco_task0_test.jsonl", [query(4)])
    source = open_pairs([str(tmp_path)])
    assert [source[n].name for n in range(len(source))] == ["9:2 9:1", "9:3 9:1", "9:1 9:1"]
    assert open_pairs([f"{tmp_path}#no-instructions"])[0].query == Side(None, ("Two dogs.",))
    assert open_pairs([f"{tmp_path}/query/train/mbeir_{{coco,a}}_train.jsonl"]).lengths == [3]


def test_the_upsampled_union_uses_the_training_pool(tmp_path: Path) -> None:
    dataset(tmp_path, query(1))
    union = write_jsonl(tmp_path / "query/union_train/mbeir_union_up_train.jsonl", [query(1), query(1)])
    assert len(open_pairs([str(union)])) == 2


def test_queries_away_from_a_dataset_are_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [query(1)])
    with pytest.raises(SourceError, match="expected it at ROOT/query/SPLIT/"):
        open_pairs([str(path)])
    with pytest.raises(SourceError, match="expected a local file"):
        MbeirQueries(DataFile(path, url="https://host/rows.jsonl"))


def test_an_empty_query_file_has_no_pairs(tmp_path: Path) -> None:
    file = dataset(tmp_path)
    with pytest.raises(NoPairsError):
        open_pairs([str(file.path)])


def test_states_hold_the_candidates_and_the_instructions(tmp_path: Path) -> None:
    file = dataset(tmp_path, query(1), prompts=PROMPTS)
    states = source_states([str(file.path)])
    assert [Path(line.split("#")[0]).name for line in states] == [
        "mbeir_coco_train.jsonl",
        "mbeir_union_train_cand_pool.jsonl",
        "query_instructions.tsv",
    ]


def test_a_pool_that_changed_is_read_anew(tmp_path: Path) -> None:
    file = dataset(tmp_path, query(1, pos_cand_list=["9:2"]))
    assert MbeirQueries(file)[0].captions == ("A dog.",)
    dataset(tmp_path, query(1, pos_cand_list=["9:2"]), pool=[candidate(2, "a cat")])
    assert MbeirQueries(file)[0].captions == ("A cat.",)


def test_the_reader_travels_to_another_process(tmp_path: Path) -> None:
    source = MbeirQueries(dataset(tmp_path, query(1), query(2), prompts=PROMPTS))
    assert read_all(pickle.loads(pickle.dumps(source))) == read_all(source)


def test_a_mark_at_the_beginning_of_a_file_is_no_part_of_it(tmp_path: Path) -> None:
    file = dataset(tmp_path, query(), prompts=PROMPTS)
    expected = MbeirQueries(file)[0]
    for path in tmp_path.rglob("*.*"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert open_pairs([str(tmp_path)])[0] == expected


def test_equal_names_in_one_json_object_are_a_bad_row(tmp_path: Path) -> None:
    line = json.dumps(query(1)).replace('"pos_cand_list"', '"pos_cand_list": ["9:7"], "pos_cand_list"')
    assert read_all(MbeirQueries(dataset(tmp_path, line))) == ["field 'pos_cand_list' is there twice"]


def test_names_of_any_letters(tmp_path: Path) -> None:
    pool = [candidate(1, image="i/f\u00fcr \u65e5.jpg")]
    file = dataset(tmp_path / "\u65e5", query(1), pool=pool)
    image = MbeirQueries(file)[0].image
    assert isinstance(image, Path)
    assert os.fsencode(image).endswith("i/f\u00fcr \u65e5.jpg".encode())
