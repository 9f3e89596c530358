"""Seeded batches of pairs: which pairs, which of their texts and negatives, in which order.

Shape legend: N = pairs in the batch, I = images, S = texts, R = rows (vectors), T = tokens, C, H, W = image,
F = width of a locked trunk's features.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from anykey.sources.errors import InvalidRowError
from anykey.training.augmentation import Augmentation
from anykey.training.choices import CaptionSampling, Positives
from anykey.training.errors import InvalidRecipeError
from anykey.training.family import Items
from anykey.training.table import BadRow, PairTable

_NUM_ALIKE = 5  # image, caption, whole item, whole query, known group


@dataclass(frozen=True)
class Draw:
    """One pair's place in a batch.

    Attributes:
        pair: Which pair of the table.
        items: Its items that take part: its own, its query if it has one, some of its negatives.
        texts: The text drawn for each item; -1 where it has none.
        mirrored: Whether its images are mirrored.
        seed: Seed of its augmentation.
    """

    pair: int
    items: tuple[int, ...]
    texts: tuple[int, ...]
    mirrored: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Batch(Items):
    """What one step trains on: items, and what the loss must know of each row.

    Attributes:
        instance_R: Rows with equal numbers mean the same thing.
        alike_RK: Rows that agree in a column, from 0, are not each other's negatives.
        owner_R: -1, or the only instance that meets this row as a negative.
        num_pairs: How many pairs it holds.
        text_S: Which text of the table each of the batch's is.
        bad_rows: Rows that were left out of this batch.
    """

    instance_R: Tensor
    alike_RK: Tensor
    owner_R: Tensor
    num_pairs: int
    text_S: Tensor
    bad_rows: tuple[BadRow, ...] = ()

    def without_fused(self) -> "Batch":
        """The same without its fused rows."""
        kept_R = (self.row_image_R < 0) | (self.row_text_R < 0)
        rows = ("row_image_R", "row_text_R", "instance_R", "alike_RK", "owner_R")
        return replace(self, **{name: getattr(self, name)[kept_R] for name in rows})


@dataclass(frozen=True)
class Sampling:
    """How pairs are drawn.

    Attributes:
        batch_size: Pairs in a batch, over all processes.
        seed: What everything random depends on.
        mirror: Whether half of the pairs, at random, are mirrored.
        captions: Which captions of an image a pass uses.
        num_negatives: How many of a pair's hard negatives are drawn at most.
        weights: How often a pass draws each named source's pairs; empty: once.
    """

    batch_size: int
    seed: int
    mirror: bool = False
    captions: CaptionSampling = CaptionSampling.RANDOM
    num_negatives: int = 1
    weights: tuple[float, ...] = ()


class EpochDraws:
    """The draws of one epoch, batch by batch: a function of the seed and the epoch alone.

    Set `epoch` before each iteration, and `first_batch` to leave out the batches before it. Of several
    processes, each draws the same batches and keeps its own share of each. Draws that do not fill a last batch are
    left out of their epoch, other ones in each.

    Attributes:
        batch_size: Pairs of a batch, over all processes: as asked for, or all draws where there are fewer.
    """

    def __init__(self, table: PairTable, sampling: Sampling, rank: int = 0, num_processes: int = 1) -> None:
        """Counts the draws of an epoch.

        Raises:
            InvalidRecipeError: the weights leave less than two.
        """
        self._table = table
        self._item_start = table.item_start_P.tolist()  # lists: reading a tensor's elements one by one is slow
        self._item_text = table.item_text_J.tolist()
        self._has_query = table.has_query_P.tolist()
        self._sampling = sampling
        self._rank = rank
        self._num_processes = num_processes
        self.epoch = 0
        self.first_batch = 0
        self._num_draws = sum(len(part) for part in self._choose_units(torch.Generator()))
        if self._num_draws < 2:
            raise InvalidRecipeError(f"--data-weights leave {self._num_draws} pairs to draw, expected at least 2")
        self.batch_size = min(sampling.batch_size, self._num_draws)

    def __len__(self) -> int:
        return self._num_draws // self.batch_size

    def __iter__(self) -> Iterator[list[Draw]]:
        generator = torch.Generator().manual_seed(self._sampling.seed * 1_000_003 + self.epoch)
        units = torch.cat(self._choose_units(generator))
        units = units[torch.randperm(len(units), generator=generator)]
        pairs, captions = self._pairs_and_captions(units)
        mirrored = torch.rand(len(units), generator=generator) < (0.5 if self._sampling.mirror else 0.0)
        seeds = torch.randint(2**31, (len(units),), generator=generator)
        for batch in range(self.first_batch, len(self)):
            end = (batch + 1) * self.batch_size
            share = slice(end - self.batch_size + self._rank, end, self._num_processes)
            facts = (pairs[share], captions[share], mirrored[share], seeds[share])
            yield [self._draw(*fact) for fact in zip(*(column.tolist() for column in facts), strict=True)]

    def _choose_units(self, generator: torch.Generator) -> list[Tensor]:
        """Numbers of the units of this epoch, source by source, each as often as its weight says."""
        unit_pair_U, _ = self._pairs_and_captions(None)
        entry_U = self._table.entry_P[unit_pair_U]
        weights = self._sampling.weights or (1.0,) * (int(entry_U.max()) + 1)
        chosen = []
        for entry, weight in enumerate(weights):
            units = (entry_U == entry).nonzero().flatten()
            whole, rest = divmod(round(weight * len(units)), max(1, len(units)))
            chosen += [units] * whole + [units[torch.randperm(len(units), generator=generator)[:rest]]]
        return chosen

    def _pairs_and_captions(self, units: Tensor | None) -> tuple[Tensor, Tensor]:
        """Pair and fixed caption (-1: to be drawn) of units; a unit is a pair, or one caption of a pair."""
        table = self._table
        own_P = table.item_start_P[:-1]
        first_P, count_P = table.item_text_J[own_P], table.item_text_J[own_P + 1] - table.item_text_J[own_P]
        pair_U = torch.arange(len(table))
        caption_U = torch.full_like(pair_U, -1)
        if self._sampling.captions is CaptionSampling.FIRST:
            caption_U = torch.where(count_P > 0, first_P, -1)
        elif self._sampling.captions is CaptionSampling.ALL:
            repeats_P = count_P.clamp(min=1)
            pair_U = pair_U.repeat_interleave(repeats_P)
            place_U = torch.arange(len(pair_U)) - (repeats_P.cumsum(0) - repeats_P)[pair_U]
            caption_U = torch.where(count_P[pair_U] > 0, first_P[pair_U] + place_U, -1)
        return (pair_U, caption_U) if units is None else (pair_U[units], caption_U[units])

    def _draw(self, pair: int, caption: int, mirrored: bool, seed: int) -> Draw:
        first, end = self._item_start[pair], self._item_start[pair + 1]
        first_negative = first + (2 if self._has_query[pair] else 1)
        chance = random.Random(seed)
        negatives = range(first_negative, end)
        drawn = chance.sample(negatives, min(self._sampling.num_negatives, len(negatives)))
        items = [*range(first, first_negative), *drawn]
        texts = [caption if item == first and caption >= 0 else self._text(item, chance) for item in items]
        return Draw(pair, tuple(items), tuple(texts), mirrored, seed)

    def _text(self, item: int, chance: random.Random) -> int:
        first, end = self._item_text[item], self._item_text[item + 1]
        return chance.randrange(first, end) if end > first else -1


class _Sample(NamedTuple):
    """A draw and its items' images, in order."""

    draw: Draw
    images: list[Tensor]


class DrawnPairs(Dataset[Any]):
    """Turns a draw into tensors; an unreadable image becomes a `BadRow` instead of ending the run."""

    def __init__(
        self,
        table: PairTable,
        features_I: Tensor | None = None,
        positives: Positives = Positives.OWN,
        augmentation: Augmentation | None = None,
    ) -> None:
        """Reads from `table`, or from a locked trunk's features `[1 or 2, I, F...]` (as is, mirrored)."""
        self._table = table
        self._item_image = table.item_image_J.tolist()  # lists: reading a tensor's elements one by one is slow
        self._item_id = table.item_id_J.tolist()
        self._image_id = table.image_id_I.tolist()
        self._text_id = table.text_id_S.tolist()
        self._has_query = table.has_query_P.tolist()
        self._group = table.group_P.tolist()
        self._features = features_I
        self._positives = positives
        self._augmentation = augmentation

    def __getitem__(self, draw: Draw) -> _Sample | BadRow:
        numbers = [self._item_image[item] for item in draw.items if self._item_image[item] >= 0]
        if self._features is not None:
            return _Sample(draw, [self._features[int(draw.mirrored), image] for image in numbers])
        try:
            return _Sample(draw, [self._pixels(image, draw, place) for place, image in enumerate(numbers)])
        except InvalidRowError as error:
            return BadRow(error.where, error.reason)

    def collate(self, samples: list[_Sample | BadRow]) -> Batch:
        """Stacks what could be read."""
        good = [sample for sample in samples if not isinstance(sample, BadRow)]
        rows: list[_Row] = []
        images: list[Tensor] = []
        texts: list[int] = []
        for draw, own_images in good:
            rows += self._rows(draw, len(images), len(texts))
            images += own_images
            texts += [text for text in draw.texts if text >= 0]
        return Batch(
            images_I=torch.stack(images) if images else self._no_images(),
            tokens_ST=self._table.tokens_ST[_integers(texts)].long(),
            row_image_R=_integers([row.image for row in rows]),
            row_text_R=_integers([row.text for row in rows]),
            instance_R=_integers([row.instance for row in rows]),
            alike_RK=_integers([row.alike for row in rows]).view(-1, _NUM_ALIKE),
            owner_R=_integers([row.owner for row in rows]),
            num_pairs=len(good),
            text_S=_integers(texts),
            bad_rows=tuple(sample for sample in samples if isinstance(sample, BadRow)),
        )

    def _no_images(self) -> Tensor:
        """None of them; of a trunk's output, what one would look like is still told."""
        return torch.empty(0) if self._features is None else self._features[0, :0]

    def _pixels(self, image: int, draw: Draw, place: int) -> Tensor:
        pixels_CHW = self._table.pixels(image)
        if draw.mirrored:
            pixels_CHW = pixels_CHW.flip(-1)
        return pixels_CHW if self._augmentation is None else self._augmentation(pixels_CHW, draw.seed + place)

    def _rows(self, draw: Draw, num_images: int, num_texts: int) -> list["_Row"]:
        """The rows of one pair, whose images and texts come after those already in the batch."""
        places = []
        for item, text in zip(draw.items, draw.texts, strict=True):
            has_image, has_text = self._item_image[item] >= 0, text >= 0
            places.append((num_images if has_image else -1, num_texts if has_text else -1))
            num_images, num_texts = num_images + has_image, num_texts + has_text
        instance = self._instance(draw)
        has_query = self._has_query[draw.pair]
        num_fixed = 2 if has_query else 1
        own = places[:2] if has_query else _taken_apart(*places[0])
        alike = self._alike(draw, has_query)
        rows = [_Row(image, text, instance, alike, -1) for image, text in own]
        for item, (image, text) in zip(draw.items[num_fixed:], places[num_fixed:], strict=True):
            same_item = (-1, -1, self._item_id[item], -1, -1)
            rows.append(_Row(image, text, instance, same_item, instance))
        return rows

    def _instance(self, draw: Draw) -> int:
        """The pair's number, or one that all pairs of the same image or caption have."""
        image, text = self._own_ids(draw)
        if self._positives is Positives.IMAGE and image >= 0:
            return len(self._table) + image
        if self._positives is Positives.CAPTION and text >= 0:
            return len(self._table) + text
        return draw.pair

    def _alike(self, draw: Draw, has_query: bool) -> tuple[int, ...]:
        """Image, caption, whole item, whole query and known group of a pair: equal ones do not compete.

        A pair that is taken apart is alike to every other of the same image or caption. A pair with a query
        is alike to those of the same item or the same query: two items may well show one photo.
        """
        group = self._group[draw.pair]
        if has_query:
            own, query = (self._item_id[item] for item in draw.items[:2])
            return (-1, -1, own, query, group)
        return (*self._own_ids(draw), -1, -1, group)

    def _own_ids(self, draw: Draw) -> tuple[int, int]:
        image, text = self._item_image[draw.items[0]], draw.texts[0]
        return (self._image_id[image] if image >= 0 else -1, self._text_id[text] if text >= 0 else -1)


class _Row(NamedTuple):
    """One vector of the batch, as in `Batch`."""

    image: int
    text: int
    instance: int
    alike: tuple[int, ...]
    owner: int


def _integers(numbers: Sequence[Any]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.long)


def _taken_apart(image: int, text: int) -> list[tuple[int, int]]:
    """An item as image, as text, and as both, as far as it has them."""
    halves = [(image, -1)] * (image >= 0) + [(-1, text)] * (text >= 0)
    return [*halves, (image, text)] if len(halves) == 2 else halves


def make_loader(
    draws: EpochDraws, pairs: DrawnPairs, num_workers: int, pin_memory: bool, timeout_s: float = 0.0
) -> DataLoader[Any]:
    """A loader whose every iteration is one epoch; set `draws.epoch` before each.

    Args:
        draws: Which pairs.
        pairs: What they are.
        num_workers: Processes that decode images.
        pin_memory: Whether batches go to a GPU.
        timeout_s: How long a worker may take over one batch; 0: for ever.
    """
    return DataLoader(
        pairs,
        batch_sampler=draws,
        collate_fn=pairs.collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        timeout=timeout_s if num_workers else 0.0,
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
