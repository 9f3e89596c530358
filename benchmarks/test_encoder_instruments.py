"""The instruments of the measurement of encoders: what is counted, and what the page says of it."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.encoder_speed import NUM_FEW, page_of, rates, require_same, their_vectors
from tests.live_index import unit_vectors


def test_rate_is_without_the_start() -> None:
    assert rates({"many": [20.0, 30.0], "few": [10.0, 10.0]}, 100 + NUM_FEW) == [10.0, 5.0]


def test_same_vectors_are_required() -> None:
    vectors_ND = unit_vectors(6)
    assert require_same(vectors_ND, 3 * vectors_ND, "x") == pytest.approx(1)
    with pytest.raises(RuntimeError, match="x gave other vectors"):
        require_same(vectors_ND, vectors_ND[::-1].copy(), "x")
    with pytest.raises(RuntimeError, match="x gave vectors"):
        require_same(vectors_ND, vectors_ND[:5], "x")


def test_vectors_of_two_workers_are_put_into_the_corpus_order(tmp_path: Path) -> None:
    (tmp_path / "img_emb").mkdir()
    in_turns = [0, 1, 5, 6, 2, 3, 7, 8, 4, 9]  # shards of 0 to 4 and 5 to 9, two at a time
    np.save(tmp_path / "img_emb" / "img_emb_0.npy", np.array(in_turns, np.float16)[:, None])
    assert their_vectors(tmp_path, batch_size=2)[:, 0].tolist() == list(range(10))


def test_page_has_rates_ratios_and_overlap() -> None:
    seconds = {"AnyKey": {"many": [20.0], "few": [10.0]}, "infinity": {"many": [40.0], "few": [10.0]}}
    images = {
        "machine": "Z80",
        "instructions": "AVX2",
        "num_images": 264,
        "num_few": 64,
        "batch_size": 8,
        "way": "bf16 by torch",
    }
    images |= {"seconds": seconds, "cosines": {"AnyKey": 0.9999, "infinity": 1.0}}
    text = {"milliseconds": {"AnyKey": [2.0, 3.0], "infinity": [8.0, 6.0]}, "num_texts": 5}
    page = page_of({"images": images, "text": text, "overlap": {"prepared": 80.0, "encoded": 40.0, "both": 38.0}})
    assert "| AnyKey | 20.0 | 1.00 (1.00 to 1.00) | 0.99990 |" in page
    assert "| infinity | 6.7 | 3.00 (3.00 to 3.00) | 1.00000 |" in page
    assert "| infinity | 7.0 | 3.00 (2.00 to 4.00) |" in page
    assert "38.0 images/s: 0.95 of the slower of the two" in page
    assert "one after the other they would reach 26.7 images/s" in page
