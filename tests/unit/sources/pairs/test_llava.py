"""LLaVA's files: the caption is what the model answers, the image lies below the file's folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from anykey.sources.pairs import open_pairs
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.llava import LlavaRows
from anykey.sources.pairs.pair import Pair
from tests.drawn_pairs import read_all


def row(answer: Any = "a cat", image: Any = "00/1.jpg", **more: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": "Describe it.\n<image>"}, {"from": "gpt", "value": answer}]
    return {"id": "001", "image": image, "conversations": turns, **more}


def annotations(path: Path, *rows: Any) -> LlavaRows:
    (path / "00").mkdir(exist_ok=True)
    (path / "00/1.jpg").touch()
    (path / "chat.json").write_text(json.dumps(rows))
    return LlavaRows(DataFile(path / "chat.json"))


def test_the_answer_is_the_caption_and_tags_are_cut(tmp_path: Path) -> None:
    source = annotations(tmp_path, row("<image>\na cat "))
    assert source[0] == Pair("001", tmp_path / "00/1.jpg", ("a cat",), f"{tmp_path / 'chat.json'}: row 1")


def test_of_several_answers_the_first_is_the_caption(tmp_path: Path) -> None:
    chat = row()
    chat["conversations"] += [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "On a mat."}]
    assert annotations(tmp_path, chat)[0].captions == ("a cat",)


def test_the_meta_file_has_the_caption_by_itself(tmp_path: Path) -> None:
    meta = {"id": "001", "image": "00/1.jpg", "blip_caption": "a cat on a mat", "url": "http://host/1.jpg"}
    assert annotations(tmp_path, meta)[0].captions == ("a cat on a mat",)
    assert open_pairs([str(tmp_path / "chat.json")])[0].captions == ("a cat on a mat",)


def test_images_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    source = annotations(tmp_path, row())
    (tmp_path / "images").mkdir()
    (tmp_path / "00").rename(tmp_path / "images/00")
    assert source[0].image == tmp_path / "images/00/1.jpg"


def test_a_row_without_an_image_is_a_text(tmp_path: Path) -> None:
    text = row()
    del text["image"]
    source = annotations(tmp_path, text, row(image=None))
    assert [(source[n].image, source[n].captions) for n in (0, 1)] == [(None, ("a cat",))] * 2


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row(image="00/2.jpg"), "there is no image"),
        (row(image=3), "expected 'image', a path"),
        (row(image=""), "expected 'image', a path"),
        (row(answer="<image>"), "with a non-empty turn from 'gpt'"),
        (row(answer=3), "expected a text, got int"),
        (row() | {"conversations": "a cat"}, "with a non-empty turn from 'gpt'"),
        (row() | {"conversations": ["a cat"]}, "with a non-empty turn from 'gpt'"),
        (row() | {"conversations": None}, "with a non-empty turn from 'gpt'"),
        ([], "expected a JSON object, got a list"),
    ],
)
def test_a_bad_row_spoils_no_other(tmp_path: Path, bad: Any, reason: str) -> None:
    found = read_all(annotations(tmp_path, row(), bad, row()))
    assert reason in str(found[1])
    assert [isinstance(pair, Pair) for pair in found] == [True, False, True]
