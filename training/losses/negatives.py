"""Which candidates an anchor meets as negatives, in blocks that are computed tile by tile.

Shape legend: R = rows, D = width, A = anchors, C = candidates of a block, T = anchors in a tile,
S = candidates in a tile, N = vectors of meaning, W = their width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from anykey.training.losses.labels import Labels
from anykey.training.losses.rows import NUM_MODALITIES
from anykey.training.losses.terms import Needed

# On a CPU tiles of 256 to 1,536 are equally fast at 3,072 and 6,144 rows; larger ones leave the cache. An accelerator
# wants fewer and larger kernels.
TILE_SIZE = 1024
_ACCELERATOR_TILE_SIZE = 4096
_MAX_ROWS_IN_ONE_TILE = 1536
_MAX_KEPT_LOGITS = 2**24

Index = slice | Tensor
Weigh = Callable[["Tile", Tensor], Tensor]


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
    """

    labels: Labels
    row_A: Tensor
    needed: Needed
    is_uniform: bool = False
    is_apart: bool = False
    tile_size: int | None = None
    bias_R: Tensor | None = None
    semantics: Semantics | None = None

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
            pull_TD = torch.zeros_like(anchors_TD)
            for tile in strip.tiles(self.step()):
                logits_TS = next(kept, None)
                if logits_TS is None:
                    logits_TS = self.logits(tile, anchors_TD, vectors_RD)
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
