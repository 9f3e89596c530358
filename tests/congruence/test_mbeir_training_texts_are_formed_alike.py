"""A query is the same text in training and in the benchmark."""

from pathlib import Path

import pytest

from anykey.benchmark.datasets.mbeir import TASK_NAMES, MBeir
from anykey.benchmark.mbeir_files import candidate_row, query_row, write_instructions, write_task
from anykey.benchmark.quality import Round, body_of
from anykey.benchmark.settings import QualitySettings
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.mbeir import MbeirQueries
from anykey.sources.pairs.pair import Pair

QUERY_TEXTS = ["two dogs", ' "What is it?" ', " a\r\nb", '"', "\u00e9tude\u2028one."]


def write_dataset(root: Path, number: int) -> Path:
    """One task with a query for each text, written as the benchmark writes datasets; the test split alone."""
    asked, wanted = (words.split(",") for words in TASK_NAMES[number].split(" -> "))
    image = "a.png" if "image" in asked else None
    texts = [text for text in QUERY_TEXTS if image or text.strip('" ')] if "text" in asked else [None]
    positive = candidate_row("9:1", "a key" if "text" in wanted else None, "b.png" if "image" in wanted else None, {})
    queries = [query_row(f"9:{n}", text, image, ["9:1"], number, {}) for n, text in enumerate(texts, 1)]
    write_task(root, "mini", number, queries, [positive])
    write_instructions(root, "mini", 9, {number: ["  find it", "Show it!"]})
    for name in ("a.png", "b.png"):
        (root / name).write_bytes(b"image")
    return root / "query" / "test" / f"mbeir_mini_task{number}_test.jsonl"


@pytest.mark.parametrize("number", TASK_NAMES)
@pytest.mark.parametrize("instructions", [True, False])
def test_training_asks_with_the_text_that_the_benchmark_sends(tmp_path: Path, number: int, instructions: bool) -> None:
    path = write_dataset(tmp_path, number)
    source = MbeirQueries(DataFile(path, "" if instructions else "no-instructions"))
    dataset = MBeir(tmp_path, "test")
    task = dataset.tasks()[0]
    queries = dataset.queries(task)
    settings = QualitySettings(dataset=tmp_path, instructions="all" if instructions else "none")
    planned = Round("", task, exact=False, queries=queries, allowed=None, depth=1)
    assert len(source) == len(queries)
    for position, query in enumerate(queries):
        body = body_of(query, planned, settings)
        pair: Pair = source[position]
        assert pair.query is not None
        assert pair.query.texts[:1] == ((body["text"],) if "text" in body else ())
        assert (pair.query.image is not None) == ("image" in body)
