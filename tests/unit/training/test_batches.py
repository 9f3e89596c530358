"""Batches depend on the seed and the epoch alone, hold every pair once, and keep what belongs together together."""

import functools
from collections import Counter
from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anykey.encoder.towers.tokens import Tokenizer
from anykey.sources.pairs.pair import Pair, Side
from anykey.training.augmentation import Augmentation
from anykey.training.batches import Batch, Draw, DrawnPairs, EpochDraws, Sampling, leave_out_words, make_loader
from anykey.training.choices import CaptionSampling, Positives
from anykey.training.errors import InvalidRecipeError
from anykey.training.table import PairTable
from tests.drawn_pairs import drawn_pairs
from tests.training_runs import ARCHITECTURE, make_table

PAIRS = [
    Pair(pair.name, pair.image, pair.captions + (f"number {n}",) * (n % 3)) for n, pair in enumerate(drawn_pairs(11))
]


@pytest.fixture(scope="module")
def table() -> PairTable:
    return make_table(PAIRS)


def epoch(table: PairTable, number: int, seed: int = 0, batch_size: int = 4, **changes: Any) -> list[list[Draw]]:
    draws = EpochDraws(table, Sampling(batch_size, seed, **changes))
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


def test_an_epoch_can_be_entered_anywhere(table: PairTable) -> None:
    draws = EpochDraws(table, Sampling(3, 0))
    draws.epoch, draws.first_batch = 2, 1
    assert list(draws) == epoch(table, 2, batch_size=3)[1:]


def test_processes_share_each_batch(table: PairTable) -> None:
    whole = epoch(table, 1, batch_size=4)
    shares = [list(EpochDraws(table, Sampling(4, 0), rank, 2)) for rank in range(2)]
    again = epoch(table, 0, batch_size=4)
    for batch, first, second in zip(again, *shares, strict=True):
        assert len(first) == len(second) == 2
        assert {draw.pair for draw in batch} == {draw.pair for draw in first + second}
    assert whole != again


def test_an_epoch_holds_every_pair_at_most_once_and_drops_less_than_a_batch(table: PairTable) -> None:
    batches = epoch(table, 0)
    pairs = [draw.pair for draw in chain(*batches)]
    assert [len(batch) for batch in batches] == [4, 4]
    assert len(set(pairs)) == 8
    seen = {draw.pair for number in range(12) for draw in chain(*epoch(table, number))}
    assert seen == set(range(11))


def test_a_batch_size_that_divides_the_pairs_holds_each_once(table: PairTable) -> None:
    assert sorted(draw.pair for draw in chain(*epoch(table, 0, batch_size=11))) == list(range(11))


def test_a_batch_larger_than_the_data_is_the_data(table: PairTable) -> None:
    assert [len(batch) for batch in epoch(table, 0, batch_size=100)] == [11]


def test_captions_belong_to_their_pair_and_each_has_its_turn(table: PairTable) -> None:
    starts = table.item_text_J.tolist()
    used = set()
    for number in range(40):
        for draw in chain(*epoch(table, number, batch_size=11)):
            assert starts[draw.pair] <= draw.texts[0] < starts[draw.pair + 1]
            used.add(draw.texts[0])
    assert used == set(range(starts[-1]))


def test_the_first_caption_only_where_asked(table: PairTable) -> None:
    draws = list(chain(*epoch(table, 0, batch_size=11, captions=CaptionSampling.FIRST)))
    assert {draw.pair: draw.texts[0] for draw in draws} == dict(enumerate(table.item_text_J.tolist()[:-1]))


def test_all_captions_are_pairs_of_their_own_where_asked(table: PairTable) -> None:
    num_texts = int(table.item_text_J[-1])
    draws = list(chain(*epoch(table, 0, batch_size=num_texts, captions=CaptionSampling.ALL)))
    assert sorted(draw.texts[0] for draw in draws) == list(range(num_texts))
    assert all(table.item_text_J[draw.pair] <= draw.texts[0] < table.item_text_J[draw.pair + 1] for draw in draws)


def test_sources_are_drawn_as_often_as_their_weights_say() -> None:
    table = make_table(PAIRS, entry_lengths=[4, 7])
    drawn = Counter(draw.pair for draw in chain(*epoch(table, 0, batch_size=1, weights=(2.5, 0.5))))
    assert sum(drawn[pair] for pair in range(4)) == 10
    assert sum(drawn[pair] for pair in range(4, 11)) == 4
    assert {drawn[pair] for pair in range(4)} == {2, 3}
    assert {drawn[pair] for pair in range(4, 11)} == {0, 1}


def test_weights_that_leave_nothing_are_refused() -> None:
    with pytest.raises(InvalidRecipeError, match="leave 0 pairs to draw"):
        EpochDraws(make_table(PAIRS), Sampling(4, 0, weights=(0.01,)))


def test_images_are_mirrored_about_half_the_time_and_only_when_asked(table: PairTable) -> None:
    plain = [draw.mirrored for n in range(20) for draw in chain(*epoch(table, n))]
    mirrored = [draw.mirrored for n in range(20) for draw in chain(*epoch(table, n, mirror=True))]
    assert not any(plain)
    assert 0.3 < sum(mirrored) / len(mirrored) < 0.7


def batches_of(table: PairTable, num_workers: int = 0, augmentation: Augmentation | None = None) -> list[Batch]:
    draws = EpochDraws(table, Sampling(4, 0, mirror=True))
    pairs = DrawnPairs(table, augmentation=augmentation)
    return list(make_loader(draws, pairs, num_workers, pin_memory=False))


def test_a_batch_holds_the_drawn_pixels_and_tokens(table: PairTable) -> None:
    for draws, batch in zip(epoch(table, 0, mirror=True), batches_of(table), strict=True):
        assert batch.num_pairs == len(draws)
        for place, draw in enumerate(draws):
            pixels = table.pixels(draw.pair)
            assert torch.equal(batch.images_I[place], pixels.flip(-1) if draw.mirrored else pixels)
            assert torch.equal(batch.tokens_ST[place], table.tokens_ST[draw.texts[0]].long())


def rows_of(batch: Batch) -> list[tuple[int, ...]]:
    """Image, text, instance and owner of each row."""
    columns = (batch.row_image_R, batch.row_text_R, batch.instance_R, batch.owner_R)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def collate(pairs: list[Pair], draws: list[Draw], **changes: Any) -> Batch:
    drawn = DrawnPairs(make_table(pairs), **changes)
    return drawn.collate([drawn[draw] for draw in draws])


def test_a_captioned_image_is_taken_apart_into_image_text_and_both() -> None:
    batch = collate(PAIRS[:2], [Draw(1, (1,), (2,)), Draw(0, (0,), (1,))])
    assert rows_of(batch) == [
        (0, -1, 1, -1),
        (-1, 0, 1, -1),
        (0, 0, 1, -1),
        (1, -1, 0, -1),
        (-1, 1, 0, -1),
        (1, 1, 0, -1),
    ]


def test_rows_without_an_image_or_a_text_are_one_row() -> None:
    pairs = [Pair("image", PAIRS[0].image, ()), Pair("text", None, ("words",))]
    batch = collate(pairs, [Draw(0, (0,), (-1,)), Draw(1, (1,), (0,))])
    assert rows_of(batch) == [(0, -1, 0, -1), (-1, 0, 1, -1)]


def test_a_query_and_its_item_stay_whole_and_negatives_belong_to_them() -> None:
    negatives = (Side(texts=("never",)), Side(PAIRS[2].image, ("no",)))
    asked = Pair("asked", PAIRS[0].image, ("a page",), "", Side(texts=("find it",)), negatives)
    batch = collate([asked], [Draw(0, (0, 1, 3), (0, 1, 3))])
    assert rows_of(batch) == [(0, 0, 0, -1), (-1, 1, 0, -1), (1, 2, 0, 0)]
    assert len(batch.images_I) == 2


def test_negatives_are_drawn_up_to_the_number_asked_for() -> None:
    negatives = tuple(Side(texts=(f"no {n}",)) for n in range(5))
    table = make_table([Pair("asked", None, ("key",), "", Side(texts=("query",)), negatives), PAIRS[0]])
    for wanted in (0, 2, 9):
        draws = [next(d for d in chain(*epoch(table, n, num_negatives=wanted)) if d.pair == 0) for n in range(20)]
        assert {len(draw.items) - 2 for draw in draws} == {min(wanted, 5)}
        assert all(len(set(draw.items)) == len(draw.items) and set(draw.items) <= set(range(7)) for draw in draws)
        assert {item for draw in draws for item in draw.items[2:]} == (set(range(2, 7)) if wanted else set())


def alike(batch: Batch, first: int, second: int) -> bool:
    both = batch.alike_RK[first], batch.alike_RK[second]
    return bool(((both[0] == both[1]) & (both[0] >= 0)).any())


def test_pairs_of_one_image_caption_or_group_are_alike() -> None:
    pairs = [
        Pair("a", PAIRS[0].image, ("a red circle",)),
        Pair("b", PAIRS[0].image, ("round",)),
        Pair("c", PAIRS[1].image, ("A red  circle",)),
        Pair("d", PAIRS[2].image, ("square",), group="x"),
        Pair("e", PAIRS[3].image, ("column",), group="x"),
    ]
    batch = collate(pairs, [Draw(n, (n,), (n,)) for n in range(5)])
    found = {(a, b) for a in range(5) for b in range(a) if alike(batch, 3 * a, 3 * b + 1)}
    assert found == {(1, 0), (2, 0), (4, 3)}


def test_pairs_with_a_query_are_alike_when_item_or_query_are_equal() -> None:
    def asked(image: bytes, query: str) -> Pair:
        return Pair("", image, ("a page",), "", Side(texts=(query,)))

    pairs = [asked(PAIRS[0].image, "one"), asked(PAIRS[0].image, "two"), asked(PAIRS[1].image, "two")]
    batch = collate(pairs, [Draw(n, (2 * n, 2 * n + 1), (2 * n, 2 * n + 1)) for n in range(3)])
    assert [alike(batch, 0, 3), alike(batch, 2, 5), alike(batch, 0, 5)] == [True, True, False]


@pytest.mark.parametrize(("positives", "expected"), [("own", 3), ("image", 2), ("caption", 2)])
def test_other_pairs_of_the_image_or_the_caption_are_positives_where_asked(positives: str, expected: int) -> None:
    pairs = [Pair("a", PAIRS[0].image, ("x",)), Pair("b", PAIRS[0].image, ("y",)), Pair("c", PAIRS[1].image, ("y",))]
    batch = collate(pairs, [Draw(n, (n,), (n,)) for n in range(3)], positives=Positives(positives))
    assert len(set(batch.instance_R.tolist())) == expected


def test_a_worker_process_gives_the_same_batches(table: PairTable) -> None:
    augmentation = Augmentation((32, 32), 0.3, 0.5, 0.2)
    for ours, theirs in zip(batches_of(table, 0, augmentation), batches_of(table, 1, augmentation), strict=True):
        assert torch.equal(ours.images_I, theirs.images_I)
        assert torch.equal(ours.tokens_ST, theirs.tokens_ST)


def test_a_locked_trunks_features_take_the_pixels_place(table: PairTable) -> None:
    features = torch.arange(2 * 11 * 5, dtype=torch.float32).view(2, 11, 5)
    pairs = DrawnPairs(table, features)
    draws = [Draw(3, (3,), (7,), False), Draw(5, (5,), (11,), True)]
    batch = pairs.collate([pairs[draw] for draw in draws])
    assert torch.equal(batch.images_I, torch.stack([features[0, 3], features[1, 5]]))


def test_an_unreadable_image_leaves_the_batch_and_is_listed() -> None:
    rows = [*PAIRS[:2], Pair("broken", b"no image", ("one",))]
    pairs = DrawnPairs(make_table(rows, cache_images_bytes=0))
    starts = [0, 2, 5]
    batch = pairs.collate([pairs[Draw(row, (row,), (starts[row],))] for row in (2, 0, 1)])
    assert batch.images_I.shape[0] == len(batch.tokens_ST) == batch.num_pairs == 2
    assert [row.where for row in batch.bad_rows] == ["broken"]


def test_a_batch_of_unreadable_images_only_is_empty() -> None:
    pairs = DrawnPairs(make_table([PAIRS[0], Pair("broken", b"no image", ("one",))], cache_images_bytes=0))
    batch = pairs.collate([pairs[Draw(1, (1,), (2,))]])
    assert batch.num_pairs == len(batch.tokens_ST) == len(batch.instance_R) == 0
    assert len(batch.bad_rows) == 1


def leave_out_words_slowly(tokens: list[list[int]], dropped: list[list[bool]]) -> list[list[int]]:
    rows = []
    for row, drop in zip(tokens, dropped, strict=True):
        end = row.index(max(row))
        kept = [token for n, token in enumerate(row[: end + 1]) if n in (0, end) or not drop[n]]
        rows.append(kept + [0] * (len(row) - len(kept)))
    return rows


@functools.cache
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
