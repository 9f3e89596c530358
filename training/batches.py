"""Seeded batches of pairs: which pairs, which of their captions, in which order.

Shape legend: N = pairs in the batch, T = tokens, C, H, W = image, F = width of a locked trunk's features.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.errors import InvalidRowError
from training.table import BadRow, PairTable


@dataclass(frozen=True)
class Draw:
    """One pair's place in a batch: which row, which of its captions, mirrored or not."""

    row: int
    caption: int
    mirrored: bool


@dataclass(frozen=True)
class Batch:
    """What one step trains on.

    Attributes:
        images_N: uint8 pixels `[N, C, H, W]`, or a locked trunk's float features `[N, F...]`.
        tokens_NT: Token ids of one caption each, padded to the model's context length.
        image_id_N: Equal numbers mean equal images.
        text_id_N: Equal numbers mean equal captions.
        bad_rows: Rows that were left out of this batch.
    """

    images_N: Tensor
    tokens_NT: Tensor
    image_id_N: Tensor
    text_id_N: Tensor
    bad_rows: tuple[BadRow, ...] = ()


class EpochDraws:
    """The draws of one epoch, batch by batch: a function of the seed and the epoch alone."""

    def __init__(self, table: PairTable, batch_size: int, seed: int, mirror: bool) -> None:
        self._table = table
        self._batch_size = min(batch_size, len(table))
        self._seed = seed
        self._mirror = mirror
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._table) // self._batch_size

    def __iter__(self) -> Iterator[list[Draw]]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self._table), generator=generator)
        starts = self._table.caption_start_P
        counts = starts[1:] - starts[:-1]
        picks = (torch.rand(len(order), generator=generator) * counts).long() + starts[:-1]
        mirrored = torch.rand(len(order), generator=generator) < (0.5 if self._mirror else 0.0)
        for first in range(0, len(self) * self._batch_size, self._batch_size):
            rows = order[first : first + self._batch_size].tolist()
            yield [Draw(row, int(picks[row]), bool(mirrored[row])) for row in rows]


class DrawnPairs(Dataset[Any]):
    """Turns a draw into tensors; an unreadable image becomes a `BadRow` instead of ending the run."""

    def __init__(self, table: PairTable, features_P: Tensor | None = None) -> None:
        """Reads from `table`, or from a locked trunk's features `[2, P, F...]` (as is, mirrored)."""
        self._table = table
        self._features = features_P

    def __getitem__(self, draw: Draw) -> tuple[Draw, Tensor] | BadRow:
        if self._features is not None:
            return draw, self._features[int(draw.mirrored), draw.row]
        try:
            pixels_CHW = self._table.pixels(draw.row)
        except InvalidRowError as error:
            return BadRow(error.where, error.reason)
        return draw, pixels_CHW.flip(-1) if draw.mirrored else pixels_CHW

    def collate(self, samples: list[tuple[Draw, Tensor] | BadRow]) -> Batch:
        """Stacks what could be read."""
        good = [sample for sample in samples if not isinstance(sample, BadRow)]
        bad = tuple(sample for sample in samples if isinstance(sample, BadRow))
        rows = torch.tensor([draw.row for draw, _ in good], dtype=torch.long)
        captions = torch.tensor([draw.caption for draw, _ in good], dtype=torch.long)
        table = self._table
        images_N = torch.stack([image for _, image in good]) if good else torch.empty(0)
        return Batch(images_N, table.tokens_ST[captions].long(), table.image_id_P[rows], table.text_id_S[captions], bad)


def make_loader(draws: EpochDraws, pairs: DrawnPairs, num_workers: int, pin_memory: bool) -> DataLoader[Any]:
    """A loader whose every iteration is one epoch; set `draws.epoch` before each."""
    return DataLoader(
        pairs,
        batch_sampler=draws,
        collate_fn=pairs.collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
    )


def leave_out_words(tokens_NT: Tensor, ends_N: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Drops tokens at random, closing the gaps; the first token and the end-of-text token stay.

    Args:
        tokens_NT: Token ids, zeros after the end-of-text token.
        ends_N: Position of each row's end-of-text token.
        share: Probability that a token is dropped.
        generator: Source of randomness, on the CPU.

    Returns:
        Token ids of the same shape.
    """
    end_N1 = ends_N[:, None]
    position_T = torch.arange(tokens_NT.shape[1])
    inner_NT = (position_T > 0) & (position_T < end_N1)
    dropped_NT = inner_NT & (torch.rand(tokens_NT.shape, generator=generator) < share)
    order_NT = torch.where(dropped_NT | (position_T > end_N1), position_T + tokens_NT.shape[1], position_T).argsort(1)
    kept_N1 = end_N1 + 1 - dropped_NT.sum(1, keepdim=True)
    return torch.where(position_T < kept_N1, tokens_NT.gather(1, order_NT), 0)
