"""The example of docs/python.md runs as it is written."""

import re
import shutil
from pathlib import Path

import pytest

from tests.factories import image_bytes
from tests.models import tiny_checkpoint

PAGE = (Path(__file__).parents[3] / "docs" / "python.md").read_text()


def test_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    shutil.move(tiny_checkpoint(tmp_path), tmp_path / "runs" / "demo" / "best")
    (tmp_path / "shoe.jpg").write_bytes(image_bytes(image_format="JPEG"))
    monkeypatch.chdir(tmp_path)

    exec(example, {})

    first, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"1 sku-1 -?[01]\.\d+ 49", first)
    assert last == "1 red canvas sneaker"
