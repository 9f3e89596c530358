"""The best of many scores: what sorting them all gives."""

from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from anykey.index.vectors.exact import best


@given(st.integers(0, 12), st.lists(st.integers(0, 3), max_size=40), st.randoms(use_true_random=False))
def test_best_are_the_first_by_score_then_position(k: int, values: list[int], random: Random) -> None:
    scores = np.array([values, values[::-1]], np.float32)
    positions = np.arange(len(values), dtype=np.int64)
    random.shuffle(positions)
    positions = np.broadcast_to(positions, scores.shape)

    top, top_positions = best(scores, positions, k)

    for line in range(2):
        expected = sorted(zip(-scores[line], positions[line], strict=True))[:k]
        assert top[line].tolist() == [-score for score, _ in expected]
        assert top_positions[line].tolist() == [position for _, position in expected]
