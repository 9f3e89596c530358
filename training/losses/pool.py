"""A pool of rows made ready for a loss: who is an anchor, what it meets and what each term weighs.

What an anchor meets of its own instance is a list of edges. All it meets of others, its negatives, is never a list: it
comes in strips and tiles of a matrix that is too large to keep.

Shape legend: R = rows, D = width, A = anchors, E = edges (an anchor and a row of its instance that it meets), C =
candidates of a block, T = anchors in a tile, S = candidates in a tile, N = vectors of meaning, W = their width.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from anykey.training.choices import Reading
from anykey.training.errors import InvalidRecipeError
from anykey.training.losses.rows import NUM_MODALITIES, Labels, Rows, are_alike, make_labels, meetings

Weights = tuple[tuple[float, float, float], ...]
Needed = tuple[tuple[bool, ...], ...]

CROSS_MODALITY: Weights = ((0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0))
CLIP_WEIGHTS: Weights = ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 0.0))

# On a CPU tiles of 256 to 1,536 are equally fast at 3,072 and 6,144 rows; larger ones leave the cache. An accelerator
# wants fewer and larger kernels.
TILE_SIZE = 1024
_ACCELERATOR_TILE_SIZE = 4096
_MAX_ROWS_IN_ONE_TILE = 1536
_MAX_KEPT_LOGITS = 2**24

Index = slice | Tensor
Weigh = Callable[["Tile", Tensor], Tensor]


@dataclass(frozen=True)
class Terms:
    """What the loss averages.

    Attributes:
        weights: Weight of each ordered pair of modalities, `[anchor][target]`, in the order image, text, fused.
            `CLIP_WEIGHTS` with reading R5 is CLIP's loss.
        reading: Which candidates the denominators hold.

    Raises:
        InvalidRecipeError: the weights are no 3 x 3 finite numbers >= 0, all are 0, or a modality is its own
            target under R4, whose denominators would lack the target.
    """

    weights: Weights = CROSS_MODALITY
    reading: Reading = Reading.R2

    def __post_init__(self) -> None:
        flat = [weight for row in self.weights for weight in row]
        if [len(row) for row in self.weights] != [NUM_MODALITIES] * NUM_MODALITIES:
            raise InvalidRecipeError(f"expected 3 x 3 weights of modality pairs, got {self.weights}")
        if not all(math.isfinite(weight) and weight >= 0 for weight in flat) or not any(flat):
            raise InvalidRecipeError(f"weights must be finite, >= 0 and not all 0, got {self.weights}")
        if self.reading is Reading.R4 and any(self.weights[m][m] for m in range(NUM_MODALITIES)):
            raise InvalidRecipeError("reading R4 leaves out the anchor's modality: no modality can be its own target")

    def needed(self) -> Needed:
        """For each modality of an anchor, whether it meets candidates of each modality as negatives."""
        modalities = range(NUM_MODALITIES)
        if self.reading is Reading.R4:
            return tuple(tuple(c != a for c in modalities) for a in modalities)
        if self.reading is Reading.R5:
            return tuple(tuple(weight > 0 for weight in row) for row in self.weights)
        return ((True,) * NUM_MODALITIES,) * NUM_MODALITIES


@dataclass(frozen=True)
class Pool:
    """Rows ready for a loss.

    Attributes:
        vectors_RD: Vectors in full precision.
        scale_33: Inverse temperature for each modality of an anchor and of a candidate.
        is_uniform: Whether all these temperatures are one number.
        labels: The rows' labels.
        row_A: Anchors that have a term, in order.
        num_anchors: How many such anchors the whole pool has.
        left_E: The anchor of each edge.
        right_E: A row that it meets: a positive, a hard negative that its instance owns or, under R1, itself.
        is_positive_E: Whether that is a positive.
        share_E: The share of a positive's term in the mean over the whole pool; else meaningless.
    """

    vectors_RD: Tensor
    scale_33: Tensor
    is_uniform: bool
    labels: Labels
    row_A: Tensor
    num_anchors: int
    left_E: Tensor
    right_E: Tensor
    is_positive_E: Tensor
    share_E: Tensor

    def zero(self) -> Tensor:
        """Nothing, with a graph: the loss of a pool without terms."""
        return (self.vectors_RD.sum() + self.scale_33.sum()) * 0


def make_pool(rows: Rows, scale: Tensor, terms: Terms, anchors: slice | None) -> Pool:
    """Makes rows ready.

    Args:
        rows: The whole pool.
        scale: Inverse temperature, a scalar or `[3, 3]`.
        terms: What the loss averages.
        anchors: The rows that may be anchors; None: all. Shares are of the whole pool in any case.
    """
    vectors_RD = full_precision(rows.vectors_RD)
    scale_33 = scale.to(vectors_RD).expand(NUM_MODALITIES, NUM_MODALITIES)
    labels = make_labels(rows)
    share_R3 = _shares(labels, terms, vectors_RD)
    has_term_R = (share_R3 > 0).any(1)
    row_A = _inside(has_term_R, anchors).nonzero()[:, 0]
    left_E, right_E = meetings(labels, row_A)
    keep_E = _kept(labels, left_E, right_E, terms)
    left_E, right_E = left_E[keep_E], right_E[keep_E]
    is_positive_E = ~labels.is_hard_R[right_E] & (left_E != right_E)
    share_E = share_R3[left_E, labels.modality_R[right_E]]
    return Pool(
        vectors_RD=vectors_RD,
        scale_33=scale_33,
        is_uniform=scale.numel() == 1,
        labels=labels,
        row_A=row_A,
        num_anchors=int(has_term_R.sum()),
        left_E=left_E,
        right_E=right_E,
        is_positive_E=is_positive_E,
        share_E=share_E,
    )


def full_precision(vectors: Tensor) -> Tensor:
    """Float32, or float64 as it is."""
    return vectors if vectors.dtype is torch.float64 else vectors.float()


def _shares(labels: Labels, terms: Terms, like: Tensor) -> Tensor:
    """The share of each positive of a row in the loss, by target modality, `[R, 3]`; 0 without positives."""
    count_R3 = _positives(labels)
    weight_R3 = like.new_tensor(terms.weights)[labels.modality_R] * (count_R3 > 0)
    return weight_R3 / weight_R3.sum().clamp_min(torch.finfo(like.dtype).tiny) / count_R3.clamp_min(1)


def _positives(labels: Labels) -> Tensor:
    """How many positives each row has in each modality, `[R, 3]`; none for hard negatives."""
    slot_R = labels.instance_R.long() * NUM_MODALITIES + labels.modality_R
    num_slots = labels.num_instances * NUM_MODALITIES
    count_I3 = slot_R[~labels.is_hard_R].bincount(minlength=num_slots).view(-1, NUM_MODALITIES)
    count_R3 = count_I3[labels.instance_R.long()] - functional.one_hot(labels.modality_R, NUM_MODALITIES)
    return count_R3.masked_fill(labels.is_hard_R[:, None], 0)


def _inside(has_term_R: Tensor, anchors: slice | None) -> Tensor:
    """The rows that have a term and are in the slice."""
    if anchors is None:
        return has_term_R
    inside_R = torch.zeros_like(has_term_R)
    inside_R[anchors] = True
    return has_term_R & inside_R


def _kept(labels: Labels, left_E: Tensor, right_E: Tensor, terms: Terms) -> Tensor:
    """Boolean `[E]`: what an anchor meets of its own instance under these weights and this reading."""
    modality_E, target_E = labels.modality_R[left_E], labels.modality_R[right_E]
    is_self_E, is_hard_E = left_E == right_E, labels.is_hard_R[right_E]
    has_weight_33 = torch.tensor(terms.weights, device=left_E.device) > 0
    kept_E = has_weight_33[modality_E, target_E] & ~is_self_E & ~is_hard_E
    if terms.reading is Reading.R1:
        kept_E |= is_self_E
    is_rival_E = is_hard_E & ~are_alike(labels, left_E, right_E)
    if terms.reading is Reading.R4:
        is_rival_E &= modality_E != target_E
    return kept_E | is_rival_E


@dataclass(frozen=True)
class Tile:
    """Some anchors and some candidates.

    Attributes:
        rows: The anchors' rows.
        candidates: The candidates' rows.
        slot: Modality of the candidates, 0 when they are of all.
    """

    rows: Index
    candidates: Index
    slot: int


@dataclass(frozen=True)
class Strip:
    """Some anchors and all the candidates that they meet in one slot."""

    rows: Index
    candidates: Index
    slot: int
    num_candidates: int

    def tiles(self, step: int) -> Iterator[Tile]:
        """The strip, `step` candidates at a time."""
        for begin in range(0, self.num_candidates, step):
            candidates = part(self.candidates, begin, min(begin + step, self.num_candidates))
            yield Tile(self.rows, candidates, self.slot)


@dataclass(frozen=True)
class Semantics:
    """How much two rows differ in meaning.

    Attributes:
        vectors_NW: Unit vectors of meaning, several rows to a vector.
        index_R: Which of them is a row's.
    """

    vectors_NW: Tensor
    index_R: Tensor

    def distances(self, tile: Tile) -> Tensor:
        """One minus the semantic similarity, `[T, S]`."""
        return 1 - self.vectors_NW[self.index_R[tile.rows]] @ self.vectors_NW[self.index_R[tile.candidates]].T


@dataclass(frozen=True)
class Negatives:
    """Which candidates each anchor meets as negatives: rows of other instances that are not alike.

    Attributes:
        labels: Labels of all rows.
        row_A: The anchors' rows, in order.
        needed: For each modality of an anchor, whether it meets candidates of each modality.
        is_uniform: Whether all temperatures are one number.
        is_apart: Whether each modality of candidates needs a sum of its own.
        tile_size: Anchors and candidates of a tile; None: what is fast. Given, no logits are kept.
        bias_R: Added to the logits of each candidate, without a gradient; None: nothing.
        semantics: What a logit is multiplied with; None: nothing.
        hardness_33: Times the cosine, added to the logits of each modality of an anchor and of a candidate, without a
            gradient; None: nothing.
    """

    labels: Labels
    row_A: Tensor
    needed: Needed
    is_uniform: bool = False
    is_apart: bool = False
    tile_size: int | None = None
    bias_R: Tensor | None = None
    semantics: Semantics | None = None
    hardness_33: Tensor | None = None

    def keeps_logits(self) -> bool:
        """Whether all logits are so few that they may stay in memory until the backward pass."""
        return self.tile_size is None and len(self.row_A) * len(self.labels.row_C) <= _MAX_KEPT_LOGITS

    def step(self) -> int:
        """Anchors and candidates of a tile."""
        if self.tile_size is not None:
            return self.tile_size
        num_rows = len(self.labels.modality_R)
        if num_rows <= _MAX_ROWS_IN_ONE_TILE:
            return max(1, num_rows)
        return TILE_SIZE if self.labels.modality_R.device.type == "cpu" else _ACCELERATOR_TILE_SIZE

    def meets_all(self) -> bool:
        """Whether all modalities share one block: one temperature, one sum, and no anchor that leaves any out."""
        return self.is_uniform and not self.is_apart and all(all(row) for row in self.needed)

    def is_symmetric(self) -> bool:
        """Whether to take every row as an anchor: half the products do then, if whoever meets a row is met by it."""
        is_plain = self.is_uniform and self.bias_R is None and tuple(zip(*self.needed, strict=True)) == self.needed
        return is_plain and 2 * len(self.row_A) > self._num_met()

    def _num_met(self) -> int:
        """Candidates of modalities that any anchor meets."""
        is_met_3 = torch.tensor([any(row) for row in self.needed], device=self.row_A.device)
        return int(is_met_3[self.labels.modality_R[self.labels.row_C]].sum())

    def strips(self) -> Iterator[Strip]:
        """Everything to compute, a strip of anchors at a time."""
        for slot, row_M, row_C in self._blocks():
            rows, candidates = compact(row_M), compact(row_C)
            for begin in range(0, len(row_M), self.step()):
                end = min(begin + self.step(), len(row_M))
                yield Strip(part(rows, begin, end), candidates, slot, len(row_C))

    def _blocks(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Slot, anchors and candidates: a single block, or one for each modality of candidates."""
        if self.meets_all():
            yield 0, self.row_A, self.labels.row_C
            return
        modality_R = self.labels.modality_R
        modality_A = modality_R[self.row_A]
        for slot in range(NUM_MODALITIES):
            meets_3 = torch.tensor([row[slot] for row in self.needed], device=modality_A.device)
            yield slot, self.row_A[meets_3[modality_A]], self.labels.row_C[modality_R[self.labels.row_C] == slot]

    def sharpness(self, scale_33: Tensor) -> Tensor:
        """What a cosine is multiplied with to be a logit: the inverse temperature and what hardness adds to it."""
        return scale_33 if self.hardness_33 is None else scale_33 + self.hardness_33

    def logits(self, tile: Tile, anchors_TD: Tensor, vectors_RD: Tensor) -> Tensor:
        """Logits of a tile, -inf where the candidate is no negative of the anchor."""
        logits_TS = anchors_TD @ vectors_RD[tile.candidates].T
        if self.semantics is not None:
            logits_TS *= self.semantics.distances(tile)
        if self.bias_R is not None:
            logits_TS += self.bias_R[tile.candidates]
        return logits_TS.masked_fill_(self.blocked(tile.rows, tile.candidates), -torch.inf)

    def blocked(self, rows: Index, candidates: Index) -> Tensor:
        """Boolean `[T, S]`: no negative of this anchor."""
        instance_R = self.labels.instance_R
        blocked_TS = instance_R[rows, None] == instance_R[candidates]
        for as_anchor_R, as_candidate_R in self.labels.alike:
            blocked_TS |= as_anchor_R[rows, None] == as_candidate_R[candidates]
        return blocked_TS

    def gradients(
        self, vectors_RD: Tensor, scale_33: Tensor, weigh: Weigh, kept: Iterator[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Gradients with respect to the vectors, as anchors and as candidates, and to the scales.

        Args:
            vectors_RD: Unit vectors.
            scale_33: Inverse temperatures.
            weigh: The gradient with respect to a tile's logits, given these.
            kept: Logits of the forward pass in the order of tiles, or nothing.
        """
        vectors_grad_RD, scale_grad_33 = torch.zeros_like(vectors_RD), torch.zeros_like(scale_33)
        for strip in self.strips():
            modality_T = self.labels.modality_R[strip.rows]
            scale_T1 = scale_33[modality_T, strip.slot, None]
            own_TD = vectors_RD[strip.rows]
            anchors_TD = own_TD * scale_T1
            sharp_TD = own_TD * self.sharpness(scale_33)[modality_T, strip.slot, None]
            pull_TD = torch.zeros_like(anchors_TD)
            for tile in strip.tiles(self.step()):
                logits_TS = next(kept, None)
                if logits_TS is None:
                    logits_TS = self.logits(tile, sharp_TD, vectors_RD)
                weights_TS = weigh(tile, logits_TS)
                if self.semantics is not None:
                    weights_TS *= self.semantics.distances(tile)
                pull_TD.addmm_(weights_TS, vectors_RD[tile.candidates])
                add_at(vectors_grad_RD, tile.candidates, weights_TS.T @ anchors_TD)
            scale_grad_33[:, strip.slot].index_add_(0, modality_T, (own_TD * pull_TD).sum(1))
            add_at(vectors_grad_RD, strip.rows, pull_TD.mul_(scale_T1))
        return vectors_grad_RD, scale_grad_33


def compact(row_C: Tensor) -> Index:
    """Ascending row numbers, as a slice when none is left out: then nothing need be copied."""
    if len(row_C) == 0:
        return slice(0, 0)
    first, last = int(row_C[0]), int(row_C[-1])
    return slice(first, last + 1) if last - first + 1 == len(row_C) else row_C


def part(index: Index, begin: int, end: int) -> Index:
    """Some of an index, from one position to another."""
    if isinstance(index, slice):
        return slice(index.start + begin, index.start + end)
    return index[begin:end]


def add_at(target_RD: Tensor, index: Index, values_CD: Tensor) -> None:
    """Adds in place at the index."""
    if isinstance(index, slice):
        target_RD[index] += values_CD
    else:
        target_RD.index_add_(0, index, values_CD)
