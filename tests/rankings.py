"""Rankings compared: keys may permute inside equal scores, nothing else may."""

from collections.abc import Mapping, Sequence

import pytest

from anykey.index import Hit

TOLERANCE = 1e-6


def assert_same_ranking(
    hits: Sequence[Hit],
    expected: Sequence[tuple[str, float]],
    scores: Mapping[str, float],
    tolerance: float = TOLERANCE,
) -> None:
    """Same scores rank by rank; a key may stand elsewhere only among equal scores.

    Args:
        hits: What was found.
        expected: The right keys and their scores, best first.
        scores: The score of every key that may be a hit.
        tolerance: How far apart equal scores may be.
    """
    assert [hit.rank for hit in hits] == list(range(1, len(expected) + 1))
    assert len({hit.key for hit in hits}) == len(hits)
    for hit, (_, score) in zip(hits, expected, strict=True):
        assert hit.score == pytest.approx(score, abs=tolerance)
        assert hit.score == pytest.approx(scores[hit.key], abs=tolerance)
