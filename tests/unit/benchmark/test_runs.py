"""Run files reproduce the measured ranking in every tool, ties included."""

from pathlib import Path

import numpy as np
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from anykey.benchmark.client import Hit
from anykey.benchmark.runs import strictly_falling, write_run

SCORES = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50)


@given(SCORES)
def test_written_scores_fall_strictly_in_float32(scores: list[float]) -> None:
    scores = sorted(scores, reverse=True)
    written = np.array([np.float32(f"{score:.9g}") for score in strictly_falling(scores)])
    assert (np.diff(written) < 0).all()
    np.testing.assert_allclose(written, scores, atol=1e-5)


def test_scores_that_already_fall_stay_as_they_are() -> None:
    scores = [0.75, 0.5, -0.25]
    assert list(strictly_falling(scores)) == scores


def test_trec_eval_sees_tied_hits_in_the_measured_order(tmp_path: Path) -> None:
    path = tmp_path / "run.txt"
    # trec_eval alone would put the larger key of a tie first
    write_run(path, {"q": [Hit("9:1", 0.5, "text"), Hit("9:2", 0.5, "text"), Hit("9:3", 0.5, "text")]}, "tag")
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    assert [len(row) for row in rows] == [6, 6, 6]
    assert [row[3] for row in rows] == ["1", "2", "3"]
    with path.open(encoding="utf-8") as file:
        run = pytrec_eval.parse_run(file)
    result = pytrec_eval.RelevanceEvaluator({"q": {"9:1": 1}}, {"recip_rank"}).evaluate(run)
    assert result["q"]["recip_rank"] == 1.0
