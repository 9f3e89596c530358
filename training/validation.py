"""What is measured on held-out pairs while a model trains.

A query never shares its caption with the key it is to find: texts of queries are a pair's second caption, texts
of keys its first. A pair with one caption is no query where both sides hold a text. Nor do query and key share
the image in `COMBINATIONS`, the ones a model is judged by; the other four may be measured, but enter no mean.

Equal scores are no order: a query whose own key scores like others counts for the mean over all orders of the equals
(McSherry and Najork, ECIR 2008), so that neither a key's position nor a collapsed encoder wins anything.

`best` is chosen by the queries of one half of the pairs and reported by those of the other, where there are enough
of them: a best chosen by the queries that are reported flatters itself. The pools hold the keys of all pairs.

Shape legend: P = held-out pairs, b = pairs of one batch, I = images, D = width, Q = queries, R = ranks from 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from anykey.benchmark.metrics import measured
from anykey.training.family import Family, Items, Vectors
from anykey.training.table import PairTable

CUTOFFS = (1, 5, 10)
MODALITIES = ("i", "t", "it")
# query > key; i = image, t = text, it = fused.
ALL_COMBINATIONS = ("i>i", "i>t", "i>it", "t>i", "t>t", "t>it", "it>i", "it>t", "it>it")
COMBINATIONS = ("t>i", "i>t", "t>t", "t>it", "it>t")
MODALITY_PAIRS = (("i", "t"), ("i", "it"), ("t", "it"))
SELECTION_METRIC = "mixed/mean/success@10"
# Ends of its 95 % interval, among the numbers of a run's best measurement.
LOW_END, HIGH_END = f"{SELECTION_METRIC}/low", f"{SELECTION_METRIC}/high"
# Scores closer than this are equal: float32 sums of one and the same vector differ by less from place to place.
TIE = 1e-6
MIN_PAIRS_TO_SHARE = 200  # below, both halves would say too little
_SHARING_SEED = 0  # of no setting: runs that are compared report the same pairs
_BATCH = 256
_QUERIES_AT_ONCE = 1024


@dataclass(frozen=True)
class HeldOut:
    """Unit vectors `[P, D]` of the held-out pairs, by modality.

    Attributes:
        queries: As queries.
        keys: As keys.
        has_second_P: Which pairs have a second caption; the queries of the others repeat the first.
        asked_P: Which pairs are asked for; all when absent. The others' keys stay in the pools.
        dealt_P: Which of `MODALITIES` each pair's key has in the mixed pool; in turn when absent.
    """

    queries: Mapping[str, Tensor]
    keys: Mapping[str, Tensor]
    has_second_P: Tensor
    asked_P: Tensor | None = None
    dealt_P: Tensor | None = None

    @property
    def modalities(self) -> Tensor:
        """Which of `MODALITIES` each pair's key has in the mixed pool `[P]`."""
        return torch.arange(len(self.has_second_P)) % len(MODALITIES) if self.dealt_P is None else self.dealt_P

    def askable(self, combination: str) -> Tensor:
        """Which of the pairs asked for `[P]` may be: all, or where both sides hold a text those with two captions."""
        query, key = combination.split(">")
        both_hold_text = "t" in query and "t" in key
        asked_P = torch.ones_like(self.has_second_P) if self.asked_P is None else self.asked_P
        return self.has_second_P & asked_P if both_hold_text else asked_P

    def asking(self, asked_P: Tensor | None) -> "HeldOut":
        """The same pools, asked for these pairs alone; for all of them when absent."""
        return replace(self, asked_P=asked_P)

    def dealt(self) -> "HeldOut":
        """The same, but `rows` of it keep each pair's modality in the mixed pool."""
        return replace(self, dealt_P=self.modalities)

    def rows(self, rows_P: Tensor) -> "HeldOut":
        """Some of the pairs, in this order: smaller pools; the mixed one is dealt anew, unless it is of `dealt`."""
        queries, keys = (
            {name: vectors_PD[rows_P] for name, vectors_PD in side.items()} for side in (self.queries, self.keys)
        )
        asked_P, dealt_P = (each_P if each_P is None else each_P[rows_P] for each_P in (self.asked_P, self.dealt_P))
        return HeldOut(queries, keys, self.has_second_P[rows_P], asked_P, dealt_P)


def embed_held_out(family: Family, table: PairTable, features_I: Tensor | None) -> HeldOut:
    """Embeds the captioned images of `table`, each as an image, two texts, and two fused items.

    Args:
        family: The model.
        table: Held-out pairs; those without an image or a caption are not measured.
        features_I: A locked trunk's features `[1 or 2, I, F...]` of the table's images, or `None`.
    """
    family.eval()
    captioned = table.captioned()
    keys, queries = [], []
    for pairs_b in torch.split(torch.arange(len(captioned.image_P)), _BATCH):
        images_b = _images(family, table, captioned.image_P[pairs_b], features_I)
        first_bT, second_bT = (
            table.tokens_ST[text_P[pairs_b]].long() for text_P in (captioned.first_text_P, captioned.second_text_P)
        )
        own_b = torch.arange(len(pairs_b))
        none_b = torch.full_like(own_b, -1)
        row_image, row_text = torch.cat([own_b, none_b, own_b]), torch.cat([none_b, own_b, own_b])
        keys.append(family.vectors(Items(images_b, first_bT, row_image, row_text)))
        no_image = slice(len(own_b), None)  # keys and queries have the same
        queries.append(family.vectors(Items(images_b, second_bT, row_image[no_image], row_text[no_image])))
    key, query = (Vectors(*map(torch.cat, zip(*parts, strict=True))) for parts in (keys, queries))
    return HeldOut(
        has_second_P=captioned.second_text_P > captioned.first_text_P,
        queries={"i": key.image_RD, "t": query.text_RD, "it": query.fused_RD},
        keys={"i": key.image_RD, "t": key.text_RD, "it": key.fused_RD},
    )


def choosing_pairs(table: PairTable) -> Tensor | None:
    """Which captioned pairs `[P]` choose `best`, about half; the others are reported. `None`: too few to share out.

    Pairs of one image are on one side. Drawn with a fixed seed: the same pairs are shared out alike in every run.
    """
    image_P = table.image_id_I[table.captioned().image_P]
    num_images = len(set(image_P.tolist()))
    if num_images < MIN_PAIRS_TO_SHARE:
        return None
    order = torch.randperm(len(table.image_id_I), generator=torch.Generator().manual_seed(_SHARING_SEED))
    return order[image_P] % 2 == 0


def shares_image(combination: str) -> bool:
    """Whether query and key of a combination hold the same image, so that finding the key shows little.

    >>> shares_image("it>i"), shares_image("it>t")
    (True, False)
    """
    return all("i" in side for side in combination.split(">"))


def measure(
    held_out: HeldOut,
    combinations: Sequence[str] = COMBINATIONS,
    cutoffs: Sequence[int] = CUTOFFS,
    ndcg_cutoffs: Sequence[int] = (),
    queries_at_once: int = _QUERIES_AT_ONCE,
) -> dict[str, float]:
    """All numbers of one measurement, by name.

    `local/t>i/success@5`: text queries against the pool of all image keys. `mixed/...`: against one pool in
    which each photo is once, as image, text or fused key in turn. `.../ndcg@10`: with the one relevant key.
    `.../mean/...`: over those of `combinations` that do not share the image. `gap/i-t`: see `centroid_gaps`.

    Args:
        held_out: Vectors of the held-out pairs.
        combinations: Which of `ALL_COMBINATIONS`. One for which no pair may be asked is left out.
        cutoffs: Ranks k, at least 1, of success@k.
        ndcg_cutoffs: Ranks k, at least 1, of nDCG@k.
        queries_at_once: How many queries are compared with all keys at a time.
    """
    gains = gains_by_rank(cutoffs, ndcg_cutoffs)
    numbers: dict[str, float] = {}
    for pool in ("local", "mixed"):
        scores = {
            combination: _score(held_out, pool, combination, gains, queries_at_once) for combination in combinations
        }
        measured = {combination: score for combination, score in scores.items() if score}
        for combination, score in measured.items():
            numbers.update({f"{pool}/{combination}/{metric}": value for metric, value in score.items()})
        judged = [score for combination, score in measured.items() if not shares_image(combination)]
        if judged:
            means = {metric: sum(score[metric] for score in judged) / len(judged) for metric in gains}
            numbers.update({f"{pool}/mean/{metric}": value for metric, value in means.items()})
    return numbers | centroid_gaps(held_out)


def centroid_gaps(held_out: HeldOut) -> dict[str, float]:
    """Distance of the mean key vectors of two modalities (Liang et al., NeurIPS 2022), as `gap/i-t`."""
    means = {name: held_out.keys[name].mean(0) for name in MODALITIES}
    return {f"gap/{first}-{second}": float((means[first] - means[second]).norm()) for first, second in MODALITY_PAIRS}


def mixed_pool(held_out: HeldOut) -> tuple[Tensor, Tensor]:
    """One pool of keys in which each photo is once, as image, text or fused key in turn.

    Returns:
        The pool's vectors `[P, D]`, and which of `MODALITIES` each is `[P]`.
    """
    rows_P = torch.arange(held_out.keys["i"].shape[0])
    stacked = torch.stack([held_out.keys[name] for name in MODALITIES])
    return stacked[held_out.modalities, rows_P], held_out.modalities


def mixed_rows(held_out: HeldOut, combination: str) -> Tensor:
    """Positions `[Q]` of the pairs that may be asked for in the mixed pool: their key has the modality looked for."""
    wanted_P = held_out.modalities == MODALITIES.index(combination.split(">")[1])
    return (wanted_P & held_out.askable(combination)).nonzero().flatten()


def gains_of_queries(
    held_out: HeldOut,
    pool: str,
    combination: str,
    gains: Mapping[str, Tensor],
    queries_at_once: int = _QUERIES_AT_ONCE,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What every query of one combination gains in one pool, `local` or `mixed`.

    Args:
        held_out: Vectors of the held-out pairs.
        pool: Which pool.
        combination: One of `ALL_COMBINATIONS`.
        gains: As of `gains_by_rank`.
        queries_at_once: How many queries are compared with all keys at a time.

    Returns:
        The pairs asked for `[Q]`, and by metric what each gains `[Q]`, in [0, 1].
    """
    query, key = combination.split(">")
    if pool == "mixed":
        pool_PD, own_Q = mixed_pool(held_out)[0], mixed_rows(held_out, combination)
    else:
        pool_PD, own_Q = held_out.keys[key], held_out.askable(combination).nonzero().flatten()
    if not len(own_Q):
        return own_Q, {}
    better_Q, equal_Q = _places(held_out.queries[query][own_Q], pool_PD, own_Q, queries_at_once)
    return own_Q, {metric: _expected(gain_R, better_Q, equal_Q) for metric, gain_R in gains.items()}


def rank_of_own(held_out: HeldOut, combination: str, rows_Q: Tensor) -> Tensor:
    """Rank `[Q]` of each pair's own key in the local pool, from 1; the last of equals."""
    query, key = combination.split(">")
    better_Q, equal_Q = _places(held_out.queries[query][rows_Q], held_out.keys[key], rows_Q)
    return better_Q + equal_Q


def gains_by_rank(cutoffs: Sequence[int], ndcg_cutoffs: Sequence[int]) -> dict[str, Tensor]:
    """What each metric gives for its one relevant key at rank 1, 2, ... `[R]`; nothing beyond."""
    metrics = {f"success@{k}": k for k in cutoffs} | {f"ndcg@{k}": k for k in ndcg_cutoffs}
    return {metric: _gain(metric, k) for metric, k in metrics.items()}


def _score(
    held_out: HeldOut, pool: str, combination: str, gains: Mapping[str, Tensor], queries_at_once: int
) -> dict[str, float]:
    """Metrics of one combination in one pool; empty where no pair may be asked for."""
    gained = gains_of_queries(held_out, pool, combination, gains, queries_at_once)[1]
    return {metric: float(gain_Q.mean()) for metric, gain_Q in gained.items()}


def _places(
    query_QD: Tensor, key_PD: Tensor, own_Q: Tensor, queries_at_once: int = _QUERIES_AT_ONCE
) -> tuple[Tensor, Tensor]:
    """How many keys score above each query's own, and how many like it, itself included. Both `[Q]`."""
    better, equal = [], []
    for start in range(0, len(own_Q), queries_at_once):
        some = slice(start, start + queries_at_once)
        score_QP = query_QD[some] @ key_PD.T
        own_Q1 = score_QP.gather(1, own_Q[some, None])
        better_Q = (score_QP > own_Q1 + TIE).sum(1)
        better.append(better_Q)
        equal.append((score_QP >= own_Q1 - TIE).sum(1) - better_Q)
    return torch.cat(better), torch.cat(equal)


def _gain(metric: str, k: int) -> Tensor:
    keys = [str(rank) for rank in range(k)]
    gain_R = measured([metric], dict.fromkeys(keys, keys), {own: {own: 1} for own in keys})[metric]
    return torch.from_numpy(gain_R)


def _expected(gain_R: Tensor, better_Q: Tensor, equal_Q: Tensor) -> Tensor:
    """Each query's gain `[Q]`, its own key being equally likely at any of its `equal_Q` ranks after `better_Q`."""
    total_R = functional.pad(gain_R.cumsum(0), (1, 0))
    first_Q, last_Q = (places_Q.clamp(max=len(gain_R)) for places_Q in (better_Q, better_Q + equal_Q))
    return (total_R[last_Q] - total_R[first_Q]) / equal_Q


def _images(family: Family, table: PairTable, image_b: Tensor, features_I: Tensor | None) -> Tensor:
    """The trunk's output of some images, which it gives once for all that is made of an image."""
    if features_I is not None:
        return features_I[0, image_b]
    return family.trunk_features(torch.stack([table.pixels(image) for image in image_b.tolist()]))
