"""What is sent is what a dataset or a log holds, in the order and with the repeats that were asked for."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from anykey.benchmark.errors import DatasetError
from anykey.benchmark.load.arrivals import at_once, poisson, replayed, uniform
from anykey.benchmark.load.traffic import Log, drawn


def test_no_query_comes_again_before_all_were_sent() -> None:
    taken = list(itertools.islice(drawn(50, repeat_share=0.0, seed=1), 150))
    passes = [taken[start : start + 50] for start in (0, 50, 100)]
    assert all(sorted(position for position, _ in each) == list(range(50)) for each in passes)
    assert [is_repeat for _, is_repeat in taken] == [False] * 50 + [True] * 100
    assert passes[0] != passes[1]
    assert taken == list(itertools.islice(drawn(50, repeat_share=0.0, seed=1), 150))
    assert [at for at, _ in taken] != [at for at, _ in itertools.islice(drawn(50, repeat_share=0.0, seed=2), 150)]


def test_repeats_come_as_often_as_wanted_and_only_of_what_was_sent() -> None:
    taken = list(itertools.islice(drawn(10_000, repeat_share=0.3, seed=0), 5000))
    sent: set[int] = set()
    for position, is_repeat in taken:
        assert is_repeat == (position in sent)
        sent.add(position)
    assert sum(is_repeat for _, is_repeat in taken) / 5000 == pytest.approx(0.3, abs=0.03)


def test_poisson_arrivals_have_their_rate_and_its_spread() -> None:
    due_s = list(poisson(100, duration_s=95, warm_up_s=5, seed=0).due_s)
    per_second = list(Counter(map(int, due_s)).values())
    mean = sum(per_second) / len(per_second)
    assert due_s == sorted(due_s)
    assert due_s[-1] < 100
    assert mean == pytest.approx(100, rel=0.05)
    variance = sum((count - mean) ** 2 for count in per_second) / len(per_second)
    assert variance == pytest.approx(100, rel=0.5)  # that of equal distances would be 0


def test_other_arrivals_come_at_their_moments() -> None:
    assert list(uniform(10, duration_s=0.3, warm_up_s=0.2).due_s) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert replayed([0.0, 1.0, 4.0], speed=4, warm_up_s=0).end_s == 1.0
    assert 0 < len(list(itertools.islice(at_once(60.0).due_s, 100))) == 100


def log_of(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "searches.jsonl"
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_a_log_is_sent_in_its_order_over_and_over_without_its_times(tmp_path: Path) -> None:
    image = "QUJD" * 20_000
    rows = [
        {"text": "Gr\u00fcn", "at_s": 100.5},
        {"image": image, "k": 3, "at_s": 100.5},
        {"at_s": 103, "text": "a", "image": "x"},
    ]
    log = Log(log_of(tmp_path, rows[0], "", *rows[1:]))
    taken = list(itertools.islice(log.requests(), 4))
    bodies = [json.loads(request.encode()) for request in taken]
    assert bodies == [
        {"text": "Gr\u00fcn"},
        {"image": image, "k": 3},
        {"text": "a", "image": "x"},
        {"text": "Gr\u00fcn"},
    ]
    assert [request.is_repeat for request in taken] == [False, False, False, True]
    assert [request.is_small for request in taken] == [True, False, True, True]
    assert log.times_s == [0.0, 0.0, 2.5]
    assert log.facts() == {"num_queries": 3, "modalities": {"text": 1, "image": 1, "fused": 1}}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "it holds no search"),
        ([{"text": "a"}, "{"], r"jsonl:2: no JSON"),
        (["", "[1]"], r"jsonl:2: expected a body of POST /search"),
        ([{"k": 3}], r"jsonl:1: expected a body of POST /search, with one of image, key, parts"),
        ([{"text": "a", "at_s": 2}, {"text": "b"}], r"jsonl:2: expected at_s in all lines or in none"),
        ([{"text": "a"}, {"text": "b", "at_s": 2}], r"jsonl:2: expected at_s in all lines or in none"),
        ([{"text": "a", "at_s": 2}, {"text": "b", "at_s": 1}], r"jsonl:2: at_s is 1, before the line above"),
        ([{"text": "a", "at_s": "noon"}], r"jsonl:1: expected seconds as at_s, got 'noon'"),
        ([{"text": "a", "at_s": None}], r"jsonl:1: expected seconds as at_s, got None"),
    ],
)
def test_a_wrong_log_is_refused_by_its_line(rows: list[Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=said):
        Log(log_of(tmp_path, *rows))


def test_a_log_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.jsonl: No such file"):
        Log(tmp_path / "none.jsonl")
