"""The examples of docs/python.md and of the README run as they are written."""

import re
import shutil
from pathlib import Path

import pytest

import anykey.index
from anykey.encoder import Encoder, Item
from anykey.index import EncoderFacts, FaissIndex, NewKey, create_index
from tests.factories import image_bytes
from tests.models import tiny_checkpoint

ROOT = Path(__file__).parents[3]


def examples_of(page: Path) -> list[str]:
    """Those in which an index is opened: others need a service, and run where one is started."""
    return [
        example for example in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL) if "index" in example
    ]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the examples find where they are run."""
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    shutil.move(tiny_checkpoint(tmp_path), tmp_path / "runs" / "demo" / "best")
    (tmp_path / "shoe.jpg").write_bytes(image_bytes(image_format="JPEG"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for example in examples_of(ROOT / "docs" / "python.md"):
        exec(example, names)

    first, last, *outcomes = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"1 sku-1 -?[01]\.\d+ 49", first)
    assert last == "1 red canvas sneaker"
    assert [line.split()[:2] for line in outcomes] == [
        ["sku-1", "stored"],
        ["sku-2", "stored"],
        ["manual-7", "not_found"],
    ]


def test_example_of_the_readme_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder, demo = Encoder.load("runs/demo/best"), place / "indexes" / "demo"
    create_index(demo, EncoderFacts.of(encoder))
    with FaissIndex.open(demo, writable=True) as index:
        index.upsert([NewKey("star", encoder.encode([Item("a star")])[0], text="a star")])

    (example,) = examples_of(ROOT / "README.md")
    exec(example, {})

    assert re.fullmatch(r"1 star -?[01]\.\d+ text\n", capsys.readouterr().out)


def test_the_former_name_of_the_errors_still_works_and_says_so() -> None:
    with pytest.warns(DeprecationWarning, match="SearchIndexError now"):
        assert anykey.index.KeyIndexError is anykey.index.SearchIndexError
