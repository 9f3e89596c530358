"""What is measured on held-out pairs while a model trains.

A query never shares its image or its caption with the key it is to find: texts of queries are a pair's
second caption, texts of keys its first. A pair with one caption is no query where both sides hold a text.

Shape legend: P = held-out pairs, D = width, K = keys kept for a query.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from benchmark.metrics import success_at_k
from encoder.fusion import Fusion, fuse
from training.table import PairTable
from training.towers import Towers

CUTOFFS = (1, 5, 10)
# query > key; i = image, t = text, it = fused. Combinations whose query and key share the image are left out.
COMBINATIONS = ("t>i", "i>t", "t>t", "t>it", "it>t")
MIXED_ORDER = ("i", "t", "it")
SELECTION_METRIC = "mixed/mean/success@10"
_BATCH = 256


@dataclass(frozen=True)
class HeldOut:
    """Unit vectors `[P, D]` of the held-out pairs, by modality.

    Attributes:
        queries: As queries.
        keys: As keys.
        has_second_P: Which pairs have a second caption; the queries of the others repeat the first.
    """

    queries: Mapping[str, Tensor]
    keys: Mapping[str, Tensor]
    has_second_P: Tensor

    def askable(self, combination: str) -> Tensor:
        """Which pairs `[P]` may be asked for: all, or where both sides hold a text those with a second caption."""
        query, key = combination.split(">")
        both_hold_text = "t" in query and "t" in key
        return self.has_second_P if both_hold_text else torch.ones_like(self.has_second_P)


def embed_held_out(towers: Towers, table: PairTable, features_P: Tensor | None, fusion: Fusion) -> HeldOut:
    """Embeds the pairs of `table`, each as an image, two texts, and two fused items.

    Args:
        towers: The towers.
        table: Held-out pairs.
        features_P: A locked trunk's features `[1 or 2, P, F...]`, or `None`.
        fusion: How features are added.
    """
    towers.eval()
    starts, ends = table.caption_start_P[:-1], table.caption_start_P[1:]
    second = torch.minimum(starts + 1, ends - 1)
    with torch.inference_mode():
        image_PD = torch.cat(list(_image_batches(towers, table, features_P)))
        key_text_PD = _texts(towers, table.tokens_ST[starts])
        query_text_PD = _texts(towers, table.tokens_ST[second])
        unit_image_PD = functional.normalize(image_PD, dim=-1)
        return HeldOut(
            has_second_P=second > starts,
            queries={
                "i": unit_image_PD,
                "t": functional.normalize(query_text_PD, dim=-1),
                "it": fuse(image_PD, query_text_PD, fusion),
            },
            keys={
                "i": unit_image_PD,
                "t": functional.normalize(key_text_PD, dim=-1),
                "it": fuse(image_PD, key_text_PD, fusion),
            },
        )


def measure(held_out: HeldOut) -> dict[str, float]:
    """All numbers of one measurement, by name.

    `local/t>i/success@5`: text queries against the pool of all image keys. `mixed/...`: against one pool in
    which each photo is once, as image, text or fused key in turn. `gap/i-t`: distance of the modalities'
    mean vectors. `cosine/t>i`: mean cosine of the true pairs.
    """
    numbers: dict[str, float] = {}
    numbers.update(_local(held_out))
    numbers.update(_mixed(held_out))
    for first, second in (("i", "t"), ("i", "it"), ("t", "it")):
        gap = held_out.keys[first].mean(0) - held_out.keys[second].mean(0)
        numbers[f"gap/{first}-{second}"] = float(gap.norm())
    for combination in COMBINATIONS:
        query, key = combination.split(">")
        cosine_P = (held_out.queries[query] * held_out.keys[key]).sum(-1)[held_out.askable(combination)]
        if len(cosine_P):
            numbers[f"cosine/{combination}"] = float(cosine_P.mean())
    return numbers


def _local(held_out: HeldOut) -> dict[str, float]:
    numbers = {}
    for combination in COMBINATIONS:
        query, key = combination.split(">")
        rows = held_out.askable(combination).nonzero().flatten()
        if len(rows):
            ranked = _rank(held_out.queries[query][rows], held_out.keys[key])
            numbers.update(_score(f"local/{combination}", ranked, rows.tolist()))
    return numbers | _means("local", numbers)


def _mixed(held_out: HeldOut) -> dict[str, float]:
    num_pairs = held_out.keys["i"].shape[0]
    modality_P = torch.arange(num_pairs) % len(MIXED_ORDER)
    stacked = torch.stack([held_out.keys[name] for name in MIXED_ORDER])
    pool_PD = stacked[modality_P, torch.arange(num_pairs)]
    numbers = {}
    for combination in COMBINATIONS:
        query, key = combination.split(">")
        rows = ((modality_P == MIXED_ORDER.index(key)) & held_out.askable(combination)).nonzero().flatten()
        if len(rows):
            ranked = _rank(held_out.queries[query][rows], pool_PD)
            numbers.update(_score(f"mixed/{combination}", ranked, rows.tolist()))
    return numbers | _means("mixed", numbers)


def _rank(query_QD: Tensor, key_PD: Tensor) -> list[list[str]]:
    top = min(max(CUTOFFS), key_PD.shape[0])
    ranked_QK = (query_QD @ key_PD.T).topk(top, dim=1).indices
    return [[str(row) for row in ranked] for ranked in ranked_QK.tolist()]


def _score(name: str, ranked: list[list[str]], own: list[int]) -> dict[str, float]:
    relevant = [{str(row)} for row in own]
    return {f"{name}/success@{k}": success_at_k(ranked, relevant, k) for k in CUTOFFS}


def _means(pool: str, numbers: Mapping[str, float]) -> dict[str, float]:
    means = {}
    for k in CUTOFFS:
        values = [value for name, value in numbers.items() if name.endswith(f"/success@{k}")]
        means[f"{pool}/mean/success@{k}"] = sum(values) / len(values)
    return means


def _image_batches(towers: Towers, table: PairTable, features_P: Tensor | None) -> Iterator[Tensor]:
    for start in range(0, len(table), _BATCH):
        rows = range(start, min(start + _BATCH, len(table)))
        if features_P is not None:
            yield towers.image_features(features_P[0, rows.start : rows.stop]).cpu()
        else:
            yield towers.image_features(torch.stack([table.pixels(row) for row in rows])).cpu()


def _texts(towers: Towers, tokens_PT: Tensor) -> Tensor:
    batches = (tokens_PT[start : start + _BATCH] for start in range(0, len(tokens_PT), _BATCH))
    parts = [towers.text_features(batch.long()).cpu() for batch in batches]
    return torch.cat(parts)
