"""Every format that training reads becomes a dataset; a row that makes no question and answer is named and left out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from anykey.benchmark.__main__ import main
from anykey.benchmark.datasets.mbeir import MBeir
from tests.drawn_pairs import DrawnPair, drawn_pairs, write_manifest, write_shard, write_tar
from tests.local_tasks import image_of, pool_of

Writer = Callable[[Path, list[DrawnPair]], str]


def pictures(folder: Path, pairs: list[DrawnPair], suffix: str = ".png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for pair in pairs:
        (folder / f"{pair.name}{suffix}").write_bytes(pair.image)
    return folder


def as_folder(folder: Path, pairs: list[DrawnPair]) -> str:
    """The folder that README trains on: a `.txt` beside each photo."""
    pictures(folder, pairs)
    for pair in pairs:
        (folder / f"{pair.name}.txt").write_text("\n".join(pair.captions))
    return str(folder)


def as_hub_folder(folder: Path, pairs: list[DrawnPair]) -> str:
    rows = [{"file_name": f"{pair.name}.png", "captions": list(pair.captions)} for pair in pairs]
    (pictures(folder, pairs) / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(folder)


def as_csv(folder: Path, pairs: list[DrawnPair]) -> str:
    lines = ["image,caption_0,caption_1,,"]
    lines += [f'{pair.name}.png,{pair.captions[0]},"{pair.captions[1]}",,' for pair in pairs]
    (pictures(folder, pairs) / "pairs.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    return str(folder / "pairs.csv")


def as_parquet(folder: Path, pairs: list[DrawnPair]) -> str:
    folder.mkdir()
    columns = {"image": [pair.image for pair in pairs], "captions": [list(pair.captions) for pair in pairs]}
    parquet.write_table(pyarrow.table(columns), folder / "pairs.parquet")
    return str(folder / "pairs.parquet")


def as_karpathy(folder: Path, pairs: list[DrawnPair]) -> str:
    images = [
        {"filename": f"{pair.name}.png", "split": "test", "sentences": [{"raw": text} for text in pair.captions]}
        for pair in pairs
    ]
    (pictures(folder, pairs) / "dataset_x.json").write_text(json.dumps({"images": images}))
    return f"{folder / 'dataset_x.json'}#test"


def as_pipe(folder: Path, pairs: list[DrawnPair]) -> str:
    return f"pipe:cat {write_shard(folder / 'pairs.tar', pairs)}"


WRITERS: dict[str, Writer] = {
    "shard": lambda folder, pairs: str(write_shard(folder / "pairs.tar", pairs)),
    "manifest": lambda folder, pairs: str(write_manifest((folder / "pictures").parent / "pairs.jsonl", pairs)),
    "folder": as_folder,
    "hub folder": as_hub_folder,
    "csv": as_csv,
    "parquet": as_parquet,
    "parquet parts": lambda folder, pairs: str(Path(as_parquet(folder, pairs)).parent),
    "karpathy": as_karpathy,
    "pipe": as_pipe,
}


def from_pairs(tmp_path: Path, *names: str) -> int:
    return main(["from-pairs", "--pairs", *names, "--output", str(tmp_path / "out"), "--name", "x"])


def bad_rows(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "out" / "bad_rows.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("writer", WRITERS)
def test_every_format_of_training_becomes_the_same_dataset(
    tmp_path: Path, writer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pairs = drawn_pairs(4)

    assert from_pairs(tmp_path, WRITERS[writer](tmp_path / "data", pairs)) == 0

    dataset = MBeir(tmp_path / "out", "test")
    task = dataset.tasks()[0]
    pool = pool_of(dataset, task)
    images = {did: (image_of(entry.images) or Path()).read_bytes() for did, entry in pool.items()}
    found = {(query.text, images[did]) for query in dataset.queries(task) for did in query.relevant}
    assert found == {(f"{text[0].upper()}{text[1:]}.", pair.image) for pair in pairs for text in pair.captions}
    assert not (tmp_path / "out" / "bad_rows.jsonl").exists()


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    pairs = drawn_pairs(2)
    lines = ["photo,words", *(f"{pair.name}.png,{pair.captions[0]}" for pair in pairs)]
    (pictures(tmp_path / "data", pairs) / "pairs.csv").write_text("\n".join(lines))
    named = str(tmp_path / "data" / "pairs.csv")
    assert from_pairs(tmp_path, named) == 2
    assert from_pairs(tmp_path, named, "--columns", "image=photo,text=words") == 0
    assert not (tmp_path / "out" / "bad_rows.jsonl").exists()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"image": "a.png"}, "expected an image and a caption, found an image alone"),
        ({"text": "a dog"}, "expected an image and a caption, found a caption alone"),
        ({"image": "a.png", "text": "a", "query": {"text": "b"}}, "it has a query of its own"),
        ({"image": "gone.png", "text": "a dog"}, "cannot read "),
        ({"url": "https://host/a.png", "text": "a dog"}, "column 'url' holds addresses"),
    ],
)
def test_a_row_that_makes_no_question_and_answer_is_listed(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    path = write_manifest(tmp_path / "data" / "pairs.jsonl", drawn_pairs(2))
    path.write_text(f"{json.dumps(row)}\n{path.read_text()}")
    pictures(tmp_path / "data", [DrawnPair("a", drawn_pairs(1)[0].image, ("", ""))])

    assert from_pairs(tmp_path, str(path)) == 0

    (found,) = bad_rows(tmp_path)
    assert found["where"] == f"{path}:1"
    assert found["reason"].startswith(reason)


def test_an_image_keeps_its_bytes_and_is_called_what_it_is(tmp_path: Path) -> None:
    members = [(f"{n}.JPEG", pair.image) for n, pair in enumerate(drawn_pairs(2))]  # PNG, whatever the name says
    members += [(f"{n}.txt", b"a dog") for n in range(2)]
    assert from_pairs(tmp_path, str(write_tar(tmp_path / "a.tar", members))) == 0
    images = sorted((tmp_path / "out/mbeir_images/x_images").iterdir())
    assert [(path.suffix, path.read_bytes()) for path in images] == [(".png", pair.image) for pair in drawn_pairs(2)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("w-*.tar", "does not exist"),
        ("{0..9.tar", "unbalanced braces"),
        ("a.zip", "cannot read pairs from "),
        ("a.tar", "is no readable tar file"),
        ("url.csv", "column 'url' holds addresses, and images are not fetched here"),
    ],
)
def test_files_that_cannot_be_read_end_with_one_line(
    tmp_path: Path, name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for made, data in (("a.zip", b"x"), ("a.tar", b"x" * 1024), ("url.csv", b"url,caption\nhttps://host/a.png,a\n")):
        (tmp_path / made).write_bytes(data)
    assert from_pairs(tmp_path, f"{tmp_path}/{name}") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
