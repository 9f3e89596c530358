"""The class that the page about adding a dataset shows is a whole one."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from anykey.benchmark.client import Answer
from anykey.benchmark.dataset import Hit
from anykey.benchmark.errors import DatasetFormatError
from anykey.benchmark.scoring import score
from tests.guards.checkout import ROOT


def test_the_class_on_the_page_reads_and_scores(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/adding-a-dataset.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    rows = [{"sketch": f"s{number}.png", "photo": f"p{number}.jpg"} for number in range(3)]
    (tmp_path / "sketches.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        (tmp_path / row["sketch"]).write_bytes(b"png")
    reader = names["Sketches"]
    assert reader.recognises(tmp_path)
    dataset = reader(tmp_path, "test")
    (task,) = dataset.tasks()
    queries = dataset.queries(task)
    assert dataset.keys(task.pool) == {row["photo"] for row in rows}
    hits = tuple(Hit(row["photo"], 1 - place / 9, "image") for place, row in enumerate(rows))
    answers = {query.id: Answer(hits, 0.0, {}, False, 0, ("1", "f")) for query in queries}
    assert score(task, 3, queries, answers, [1, 5]).headline.value == pytest.approx(1 / 3)
    (tmp_path / "s1.png").unlink()
    with pytest.raises(DatasetFormatError, match=r"sketches\.jsonl:2: image .*s1\.png does not exist"):
        dataset.queries(task)
