"""Batches depend on the seed and the epoch alone, hold every pair once, and keep what belongs together together."""

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from encoder.tokens import Tokenizer
from tests.drawn_pairs import drawn_pairs
from tests.training_runs import ARCHITECTURE, make_table
from training.batches import Batch, Draw, DrawnPairs, EpochDraws, leave_out_words, make_loader
from training.pairs import Pair
from training.table import PairTable

PAIRS = [
    Pair(pair.name, pair.image, pair.captions + (f"number {n}",) * (n % 3)) for n, pair in enumerate(drawn_pairs(11))
]


@pytest.fixture(scope="module")
def table() -> PairTable:
    return make_table(PAIRS)


def epoch(table: PairTable, number: int, seed: int = 0, batch_size: int = 4, mirror: bool = False) -> list[list[Draw]]:
    draws = EpochDraws(table, batch_size, seed, mirror)
    draws.epoch = number
    return list(draws)


def test_an_epoch_is_a_function_of_seed_and_epoch_alone(table: PairTable) -> None:
    torch.manual_seed(1)
    first = epoch(table, 3)
    torch.manual_seed(2)
    epoch(table, 0)
    assert epoch(table, 3) == first
    assert epoch(table, 4) != first
    assert epoch(table, 3, seed=1) != first


def test_an_epoch_holds_every_pair_at_most_once_and_drops_less_than_a_batch(table: PairTable) -> None:
    batches = epoch(table, 0)
    rows = [draw.row for draw in chain(*batches)]
    assert [len(batch) for batch in batches] == [4, 4]
    assert len(set(rows)) == 8
    seen = {draw.row for number in range(12) for draw in chain(*epoch(table, number))}
    assert seen == set(range(11))


def test_a_batch_size_that_divides_the_pairs_holds_each_once(table: PairTable) -> None:
    assert sorted(draw.row for draw in chain(*epoch(table, 0, batch_size=11))) == list(range(11))


def test_a_batch_larger_than_the_data_is_the_data(table: PairTable) -> None:
    assert [len(batch) for batch in epoch(table, 0, batch_size=100)] == [11]


def test_captions_belong_to_their_pair_and_each_has_its_turn(table: PairTable) -> None:
    starts = table.caption_start_P.tolist()
    used = set()
    for number in range(40):
        for draw in chain(*epoch(table, number, batch_size=11)):
            assert starts[draw.row] <= draw.caption < starts[draw.row + 1]
            used.add(draw.caption)
    assert used == set(range(starts[-1]))


def test_images_are_mirrored_about_half_the_time_and_only_when_asked(table: PairTable) -> None:
    plain = [draw.mirrored for n in range(20) for draw in chain(*epoch(table, n))]
    mirrored = [draw.mirrored for n in range(20) for draw in chain(*epoch(table, n, mirror=True))]
    assert not any(plain)
    assert 0.3 < sum(mirrored) / len(mirrored) < 0.7


def batches_of(table: PairTable, num_workers: int = 0) -> list[Batch]:
    draws = EpochDraws(table, 4, 0, mirror=True)
    return list(make_loader(draws, DrawnPairs(table), num_workers, pin_memory=False))


def test_a_batch_holds_the_drawn_pixels_tokens_and_numbers(table: PairTable) -> None:
    for draws, batch in zip(epoch(table, 0, mirror=True), batches_of(table), strict=True):
        for place, draw in enumerate(draws):
            pixels = table.pixels(draw.row)
            assert torch.equal(batch.images_N[place], pixels.flip(-1) if draw.mirrored else pixels)
            assert torch.equal(batch.tokens_NT[place], table.tokens_ST[draw.caption].long())
            assert batch.image_id_N[place] == table.image_id_P[draw.row]
            assert batch.text_id_N[place] == table.text_id_S[draw.caption]


def test_a_worker_process_gives_the_same_batches(table: PairTable) -> None:
    for ours, theirs in zip(batches_of(table), batches_of(table, num_workers=1), strict=True):
        assert torch.equal(ours.images_N, theirs.images_N)
        assert torch.equal(ours.tokens_NT, theirs.tokens_NT)


def test_a_locked_trunks_features_take_the_pixels_place(table: PairTable) -> None:
    features = torch.arange(2 * 11 * 5, dtype=torch.float32).view(2, 11, 5)
    pairs = DrawnPairs(table, features)
    draws = [Draw(3, 7, False), Draw(5, 11, True)]
    batch = pairs.collate([pairs[draw] for draw in draws])
    assert torch.equal(batch.images_N, torch.stack([features[0, 3], features[1, 5]]))


def test_an_unreadable_image_leaves_the_batch_and_is_listed() -> None:
    rows = [*PAIRS[:2], Pair("broken", b"no image", ("one",))]
    pairs = DrawnPairs(make_table(rows, cache_images_bytes=0))
    starts = [0, 2, 5]
    batch = pairs.collate([pairs[Draw(row, starts[row], False)] for row in (2, 0, 1)])
    assert batch.images_N.shape[0] == len(batch.tokens_NT) == len(batch.image_id_N) == 2
    assert [row.where for row in batch.bad_rows] == ["broken"]


def test_a_batch_of_unreadable_images_only_is_empty() -> None:
    pairs = DrawnPairs(make_table([PAIRS[0], Pair("broken", b"no image", ("one",))], cache_images_bytes=0))
    batch = pairs.collate([pairs[Draw(1, 2, False)]])
    assert len(batch.image_id_N) == len(batch.tokens_NT) == 0
    assert len(batch.bad_rows) == 1


def leave_out_words_slowly(tokens: list[list[int]], dropped: list[list[bool]]) -> list[list[int]]:
    rows = []
    for row, drop in zip(tokens, dropped, strict=True):
        end = row.index(max(row))
        kept = [token for n, token in enumerate(row[: end + 1]) if n in (0, end) or not drop[n]]
        rows.append(kept + [0] * (len(row) - len(kept)))
    return rows


def token_rows() -> Tensor:
    texts = ["a red circle left of two small blue squares", "dog", "", "word " * 100]
    return Tokenizer(ARCHITECTURE)(texts)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 0.99), st.integers(0, 1000))
def test_words_left_out_close_their_gaps(share: float, seed: int) -> None:
    tokens_NT = token_rows()
    dropped_NT = torch.rand(tokens_NT.shape, generator=torch.Generator().manual_seed(seed)) < share
    found_NT = leave_out_words(tokens_NT, tokens_NT.argmax(1), share, torch.Generator().manual_seed(seed))
    assert found_NT.tolist() == leave_out_words_slowly(tokens_NT.tolist(), dropped_NT.tolist())


def test_the_start_and_the_end_of_a_text_are_never_left_out() -> None:
    tokens_NT = token_rows()
    found_NT = leave_out_words(tokens_NT, tokens_NT.argmax(1), 0.999999, torch.Generator().manual_seed(0))
    assert found_NT[:, :2].tolist() == [[49406, 49407]] * 4
    assert found_NT[:, 2:].sum() == 0


def test_an_end_token_that_is_not_the_largest_is_kept() -> None:
    tokens_NT = torch.tensor([[5, 900, 20, 30, 1, 0]])
    found_NT = leave_out_words(tokens_NT, torch.tensor([4]), 1e-9, torch.Generator().manual_seed(0))
    assert found_NT.tolist() == tokens_NT.tolist()
