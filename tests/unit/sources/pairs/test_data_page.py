"""The examples of `docs/data.md` are read as the page says; its recipe for a reader makes one."""

import re
from pathlib import Path
from types import ModuleType

import pytest

from anykey.sources.errors import SourceError
from anykey.sources.pairs import formats, open_pairs
from anykey.sources.pairs.pair import Pair, Side
from tests.drawn_pairs import read_all, write_tar
from tests.guards.checkout import ROOT

PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
FENCE = re.compile(r"(?:`(?P<name>[^`\n]+)`:\n\n)?```(?P<kind>\w+)\n(?P<body>.*?)\n```", re.DOTALL)
BLOCKS = list(FENCE.finditer(PAGE))
FILES = {block["name"]: block["body"] for block in BLOCKS if block["name"]}
CODE = [block["body"] for block in BLOCKS if block["kind"] == "python"]


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's files, with the images that they name, in the working directory."""
    for name, body in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(body + "\n", encoding="utf-8")
    for folder in ("photos", "val2014", "M-BEIR/photos"):
        (tmp_path / folder).mkdir(exist_ok=True)
        for number in (1, 2):
            (tmp_path / folder / f"{number}.jpg").write_bytes(b"image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pairs_of(name: str) -> list[Pair]:
    found = [row for row in read_all(open_pairs([name])) if isinstance(row, Pair)]
    assert len(found) == len(open_pairs([name]))
    return found


@pytest.mark.parametrize(
    ("name", "images", "captions"),
    [
        ("pairs.csv", ["1", "2"], [("two dogs, one of them black",), ("a cat",)]),
        ("dataset_coco.json", ["1"], [("two dogs", "dogs on a lawn")]),
        ("dataset_coco.json#val", ["2"], [("a cat",)]),
        ("blip_laion_cc_sbu_558k.json", ["1"], [("two dogs",)]),
    ],
)
def test_tables_and_annotations(examples: Path, name: str, images: list[str], captions: list[tuple[str, ...]]) -> None:
    found = pairs_of(name)
    assert [Path(str(pair.image)).stem for pair in found] == images
    assert [pair.captions for pair in found] == captions
    assert all(Path(str(pair.image)).is_file() for pair in found)


def test_the_manifest_shows_every_kind_of_row(examples: Path) -> None:
    whole, named, text, image, asked = pairs_of("pairs.jsonl")
    assert (whole.captions, named.name) == (("two dogs", "dogs on a lawn"), "cat-2")
    assert (text.image, image.captions) == (None, ())
    assert asked.query == Side(Path("photos/1.jpg"), ("the same as a cat",))
    assert asked.negatives == (Side(None, ("a dog", "two dogs")),)


def test_parquet_is_written_and_read(examples: Path) -> None:
    exec(CODE[0], {})
    assert [pair.image for pair in pairs_of("pairs.parquet")] == [Path("photos/1.jpg"), Path("photos/2.jpg"), None]


@pytest.mark.parametrize("name", ["M-BEIR", "M-BEIR/query/train/mbeir_cirr_train.jsonl"])
def test_mbeir_queries_by_file_and_by_root(examples: Path, name: str) -> None:
    (pair,) = pairs_of(name)
    assert pair.query is not None
    assert pair.query.texts == (
        "Find a day-to-day image that fits. show three dogs.",
        "Pull up a common scene image. show three dogs.",
    )
    assert (pair.captions, pair.negatives) == ((), (Side(None, ("Three cats.",)),))


def test_folders_and_shards_are_laid_out_as_drawn(examples: Path) -> None:
    said = {"txt": b"one\n\ntwo\n", "json": b'{"captions": ["two dogs", "dogs on a lawn"]}'}
    drawn = re.findall(r"^(photos/\S+)", PAGE, re.MULTILINE)
    for name in drawn:
        path = examples / "drawn" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(said.get(name.rpartition(".")[2], b"image"))
    expected = [("one", "two"), ("two dogs", "dogs on a lawn")]
    assert [pair.captions for pair in pairs_of("drawn/photos")] == expected
    members = re.findall(r"\b(0000\d\.\w+)", PAGE)
    write_tar(examples / "train-000.tar", [(name, said.get(name.rpartition(".")[2], b"image")) for name in members])
    found = pairs_of("train-000.tar")
    assert [pair.captions for pair in found] == [*reversed(expected), (), ("one", "two")]
    assert [pair.image is None for pair in found] == [False, False, False, True]


def test_the_recipe_makes_a_reader(examples: Path) -> None:
    (examples / "blip.json").write_text(
        '[{"image": "photos/1.jpg", "caption": "two dogs"}, {"image": 3, "caption": "x"}, {}]'
    )
    with pytest.raises(SourceError, match="cannot read pairs from"):
        open_pairs(["blip.json"])
    module = ModuleType("anykey.sources.pairs.blip")
    exec(FILES["sources/pairs/blip.py"], module.__dict__)
    line = eval(CODE[-1], {"Format": formats.Format, **module.__dict__})
    found = read_all(open_pairs(["blip.json"], formats=[*formats.FORMATS, line]))
    assert found[0] == Pair("photos/1.jpg", Path("photos/1.jpg"), ("two dogs",), "blip.json: row 1")
    assert [str(row).partition(":")[0] for row in found[1:]] == ["expected 'image' and 'caption'"] * 2
