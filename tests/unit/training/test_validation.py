"""Held-out numbers against loops over every query and key, and the rule that a query never shares a caption."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from anykey.benchmark.metrics import measured
from anykey.sources.pairs.pair import Pair
from anykey.training.features import trunk_features
from anykey.training.validation import (
    ALL_COMBINATIONS,
    COMBINATIONS,
    CUTOFFS,
    SELECTION_METRIC,
    HeldOut,
    embed_held_out,
    measure,
    shares_image,
)
from tests.drawn_pairs import drawn_pairs
from tests.training_runs import image_features, make_table, make_towers, text_features

PAIRS = [Pair(pair.name, pair.image, pair.captions) for pair in drawn_pairs(9)]
ORDER = ("i", "t", "it")


def random_held_out(num_pairs: int = 23, noise: float = 1.6) -> HeldOut:
    """Vectors that find their partner often but not always."""
    generator = torch.Generator().manual_seed(4)
    base = torch.randn(num_pairs, 12, generator=generator)

    def noisy() -> Tensor:
        return functional.normalize(base + noise * torch.randn(num_pairs, 12, generator=generator), dim=-1)

    every = torch.ones(num_pairs, dtype=torch.bool)
    return HeldOut({name: noisy() for name in ORDER}, {name: noisy() for name in ORDER}, every)


def slow_success(query_D: Tensor, pool: list[Tensor], own: int, k: int) -> float:
    scores = [float(query_D @ key_D) for key_D in pool]
    return float(sum(score > scores[own] for score in scores) < k)


def slow_numbers(held_out: HeldOut) -> dict[str, float]:
    num_pairs = len(held_out.keys["i"])
    mixed_pool = [held_out.keys[ORDER[row % 3]][row] for row in range(num_pairs)]
    numbers: dict[str, float] = {}
    for name in COMBINATIONS:
        query, key = name.split(">")
        for k in CUTOFFS:
            queries, pool = held_out.queries[query], list(held_out.keys[key])
            local = [slow_success(queries[row], pool, row, k) for row in range(num_pairs)]
            rows = [row for row in range(num_pairs) if ORDER[row % 3] == key]
            mixed = [slow_success(queries[row], mixed_pool, row, k) for row in rows]
            numbers[f"local/{name}/success@{k}"] = sum(local) / len(local)
            numbers[f"mixed/{name}/success@{k}"] = sum(mixed) / len(mixed)
    for pool_name in ("local", "mixed"):
        for k in CUTOFFS:
            values = [numbers[f"{pool_name}/{name}/success@{k}"] for name in COMBINATIONS]
            numbers[f"{pool_name}/mean/success@{k}"] = sum(values) / 5
    return numbers


def test_success_equals_a_loop_over_every_query_and_key() -> None:
    held_out = random_held_out()
    expected, found = slow_numbers(held_out), measure(held_out)
    assert 0.1 < expected[SELECTION_METRIC] < 0.99  # neither trivial
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert len(found) == len(expected) + 3


def test_the_gap_is_the_distance_of_the_mean_vectors() -> None:
    held_out = random_held_out()
    found = measure(held_out)
    for first, second in (("i", "t"), ("i", "it"), ("t", "it")):
        means = [sum(held_out.keys[name][row] for row in range(23)) / 23 for name in (first, second)]
        assert found[f"gap/{first}-{second}"] == pytest.approx(float((means[0] - means[1]).norm()), abs=1e-6)


def of_metric(name: str, rankings: list[list[str]], relevant: list[set[str]]) -> float:
    queries = [str(number) for number in range(len(rankings))]
    qrels = {query: dict.fromkeys(keys, 1) for query, keys in zip(queries, relevant, strict=True)}
    return float(measured([name], dict(zip(queries, rankings, strict=True)), qrels)[name].mean())


def ranked_keys(query_D: Tensor, key_PD: Tensor) -> list[str]:
    scores = (key_PD @ query_D).tolist()
    return [str(row) for row in sorted(range(len(scores)), key=lambda row: -scores[row])]


def test_all_nine_combinations_agree_with_the_benchmarks_metrics() -> None:
    held_out = random_held_out()
    found = measure(held_out, ALL_COMBINATIONS, (1, 3, 50), (10,))
    relevant = [{str(row)} for row in range(23)]
    for name in ALL_COMBINATIONS:
        query, key = name.split(">")
        ranked = [ranked_keys(query_D, held_out.keys[key]) for query_D in held_out.queries[query]]
        for k in (1, 3, 50):
            assert found[f"local/{name}/success@{k}"] == pytest.approx(of_metric(f"success@{k}", ranked, relevant))
        assert found[f"local/{name}/ndcg@10"] == pytest.approx(of_metric("ndcg@10", ranked, relevant))


def test_combinations_that_share_the_image_enter_no_mean() -> None:
    held_out = random_held_out()
    every, judged = measure(held_out, ALL_COMBINATIONS), measure(held_out)
    assert every["mixed/mean/success@5"] == judged["mixed/mean/success@5"]
    assert {name for name in ALL_COMBINATIONS if shares_image(name)} == set(ALL_COMBINATIONS) - set(COMBINATIONS)
    assert not any("mean" in name for name in measure(held_out, ["i>it"]))


def test_equal_scores_count_as_the_mean_over_their_orders() -> None:
    keys = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [0.6, 0.8], [0.0, 1.0]])
    query_D = torch.tensor([1.0, 0.0])
    queries = torch.stack([query_D] * 5)
    vectors = dict.fromkeys(ORDER, keys)
    held_out = HeldOut(dict.fromkeys(ORDER, queries), vectors, torch.ones(5, dtype=torch.bool))
    found = measure(held_out, ["t>i"], (1, 2, 3), (3,))
    orders = [["0", *(str(row) for row in order), "4"] for order in itertools.permutations((1, 2, 3))]
    for k in (1, 2, 3):
        of_row = [of_metric(f"success@{k}", orders, [{str(row)}] * 6) for row in range(5)]
        assert found[f"local/t>i/success@{k}"] == pytest.approx(sum(of_row) / 5)
    of_row = [of_metric("ndcg@3", orders, [{str(row)}] * 6) for row in range(5)]
    assert found["local/t>i/ndcg@3"] == pytest.approx(sum(of_row) / 5)


@pytest.mark.parametrize("wobble", [0.0, 1e-7])
def test_a_collapsed_encoder_scores_chance_wherever_the_keys_stand(wobble: float) -> None:
    generator = torch.Generator().manual_seed(2)
    one = torch.ones(40, 8) / 8**0.5 + wobble * torch.randn(40, 8, generator=generator)
    same = dict.fromkeys(ORDER, one)
    found = measure(HeldOut(same, same, torch.ones(40, dtype=torch.bool)))
    assert {found[f"{pool}/mean/success@10"] for pool in ("local", "mixed")} == {0.25}


def test_a_pool_larger_than_a_batch_of_queries_is_measured_alike() -> None:
    whole = measure(random_held_out(), ALL_COMBINATIONS, (1, 10), (10,))
    assert measure(random_held_out(), ALL_COMBINATIONS, (1, 10), (10,), queries_at_once=4) == pytest.approx(whole)


def test_perfect_vectors_score_1_everywhere_but_against_their_own_fusion() -> None:
    eye = torch.eye(30)
    found = measure(HeldOut(dict.fromkeys(ORDER, eye), dict.fromkeys(ORDER, eye), torch.ones(30, dtype=torch.bool)))
    assert all(value == 1.0 for name, value in found.items() if "success" in name)


@pytest.mark.parametrize("num_pairs", [1, 2, 3])
def test_few_pairs_are_measured_too(num_pairs: int) -> None:
    found = measure(random_held_out(num_pairs))
    assert SELECTION_METRIC in found
    assert all(0.0 <= value <= 1.0 for name, value in found.items() if "success" in name)


def test_a_pair_with_one_caption_is_no_query_where_both_sides_hold_a_text() -> None:
    held_out = random_held_out(23)
    some = measure(HeldOut(held_out.queries, held_out.keys, torch.arange(23) < 9))
    first = HeldOut(
        {name: vectors[:9] for name, vectors in held_out.queries.items()},
        held_out.keys,
        torch.ones(9, dtype=torch.bool),
    )
    scores_QK = first.queries["t"] @ held_out.keys["t"].T
    own_Q = scores_QK.diagonal()
    expected = float(((scores_QK > own_Q[:, None]).sum(1) < 5).float().mean())
    assert some["local/t>t/success@5"] == pytest.approx(expected)
    assert some["local/t>i/success@5"] == measure(held_out)["local/t>i/success@5"]


def test_without_second_captions_texts_are_not_measured_against_texts() -> None:
    held_out = random_held_out(23)
    found = measure(HeldOut(held_out.queries, held_out.keys, torch.zeros(23, dtype=torch.bool)))
    measured = {name.split("/")[1] for name in found if name.endswith("success@10")}
    assert measured == {"t>i", "i>t", "mean"}
    both = (found["mixed/t>i/success@10"] + found["mixed/i>t/success@10"]) / 2
    assert found[SELECTION_METRIC] == pytest.approx(both)


def test_combinations_in_which_query_and_key_share_the_image_are_left_out() -> None:
    assert set(COMBINATIONS) == {"t>i", "i>t", "t>t", "t>it", "it>t"}


def test_queries_use_the_second_caption_and_keys_the_first() -> None:
    towers, table = make_towers(), make_table(PAIRS)
    held_out = embed_held_out(towers, table, None)
    towers.eval()
    with torch.no_grad():
        images = image_features(towers, torch.stack([table.pixels(row) for row in range(9)]))
        first, second = (text_features(towers, table.tokens_ST[side::2].long()) for side in (0, 1))
    unit = functional.normalize
    torch.testing.assert_close(held_out.queries["t"], unit(second, dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(held_out.keys["t"], unit(first, dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(held_out.queries["it"], unit(images + second, dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(held_out.keys["it"], unit(images + first, dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(held_out.keys["i"], unit(images, dim=-1), atol=1e-5, rtol=0)


def test_more_captions_change_nothing_and_a_single_one_serves_both_sides() -> None:
    longer = [Pair(pair.name, pair.image, (*pair.captions, "one more")) for pair in PAIRS]
    single = [Pair(pair.name, pair.image, pair.captions[:1]) for pair in PAIRS]
    towers = make_towers()
    two, three, one = (embed_held_out(towers, make_table(rows), None) for rows in (PAIRS, longer, single))
    torch.testing.assert_close(three.queries["t"], two.queries["t"], atol=1e-5, rtol=0)
    torch.testing.assert_close(one.queries["t"], two.keys["t"], atol=1e-5, rtol=0)


def test_a_locked_trunks_features_give_the_same_vectors(tmp_path: object) -> None:
    towers, table = make_towers(timm=True, lock_image=True), make_table(PAIRS)
    features = trunk_features(towers, table, False, tmp_path, lambda steps: None)
    cached = embed_held_out(towers, table, features)
    full = embed_held_out(towers, table, None)
    for name in ORDER:
        torch.testing.assert_close(cached.keys[name], full.keys[name], atol=1e-5, rtol=0)
