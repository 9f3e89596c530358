"""Training of nothing but a linear map behind each tower of a start that stays as it is: seconds in place of minutes.

The towers' features of all rows are computed once. A step is then that of the trainer's loss on drawn rows.

Shape legend: I = images, S = texts, P = pairs, D = width, R = rows of a step.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from anykey.training.family import Family, Items
from anykey.training.losses import CLIP_WEIGHTS, Reading, Rows, Terms, contrastive_loss
from anykey.training.optimizer import rate_factor
from anykey.training.table import PairTable
from anykey.training.validation import HeldOut

BATCH, LEARNING_RATE, WARMUP_SHARE, SCALE = 256, 1e-3, 0.05, 100.0
PAIRS, IMAGES, TEXTS = range(3)  # what a row is
_NONE = torch.empty(0, dtype=torch.long)


@dataclass(frozen=True)
class Features:
    """What the towers make of a table.

    Attributes:
        image_PD: Of each pair's image.
        text_SD: Of every caption.
        first_P: First caption of each pair.
        end_P: One behind its last.
    """

    image_PD: Tensor
    text_SD: Tensor
    first_P: Tensor
    end_P: Tensor

    @classmethod
    def of(cls, family: Family, table: PairTable, trunk_IF: Tensor) -> "Features":
        """Features of a table of captioned images, whose trunk's features are at hand."""
        family.eval()
        empty = table.tokens_ST[:0].long()
        with torch.no_grad():
            images = [family.features(Items(part, empty, _NONE, _NONE))[0] for part in trunk_IF.split(BATCH)]
            texts = [
                family.features(Items(trunk_IF[:0], part.long(), _NONE, _NONE))[1]
                for part in table.tokens_ST.split(BATCH)
            ]
        captioned = table.captioned()
        own_P = table.item_start_P[captioned.pair_P]
        return cls(
            torch.cat(images)[captioned.image_P],
            torch.cat(texts),
            captioned.first_text_P,
            table.item_text_J[own_P + 1],
        )


@dataclass(frozen=True)
class Maps:
    """A linear map `[D, D]` behind each tower."""

    image_DD: Tensor
    text_DD: Tensor

    @classmethod
    def unchanged(cls, width: int) -> "Maps":
        """Those that change nothing."""
        return cls(torch.eye(width), torch.eye(width))

    def held_out(self, features: Features) -> HeldOut:
        """Vectors of held-out pairs, raw fusion: the second caption asks, the first is in the keys."""
        second_P = torch.minimum(features.first_P + 1, features.end_P - 1)
        image_PD = features.image_PD @ self.image_DD
        sides = []
        for text_P in (second_P, features.first_P):
            text_PD = features.text_SD[text_P] @ self.text_DD
            sides.append({"i": _unit(image_PD), "t": _unit(text_PD), "it": _unit(image_PD + text_PD)})
        return HeldOut(sides[0], sides[1], features.end_P - features.first_P > 1)


def tune(features: Features, kind_P: Tensor, weights: Mapping[int, float], loss: str, steps: int, seed: int) -> Maps:
    """Trains both maps, from those that change nothing.

    Args:
        features: Of all rows, as pairs.
        kind_P: Which of `PAIRS`, `IMAGES` and `TEXTS` each row has become.
        weights: How often a pass draws each of them.
        loss: `gcl`, or `clip`.
        steps: How many.
        seed: Of what is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    width = features.image_PD.shape[1]
    maps = [torch.eye(width, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.AdamW(maps, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    waiting = _pass(kind_P, weights, generator)
    size = min(BATCH, len(waiting))
    for step in range(steps):
        if len(waiting) < size:
            waiting = _pass(kind_P, weights, generator)
        drawn_R, waiting = waiting[:size], waiting[size:]
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate_factor(step, steps, WARMUP_SHARE)
        optimizer.zero_grad()
        _loss(features, drawn_R, kind_P[drawn_R], maps, loss, generator).backward()
        optimizer.step()
    return Maps(maps[0].detach(), maps[1].detach())


def _pass(kind_P: Tensor, weights: Mapping[int, float], generator: torch.Generator) -> Tensor:
    """The rows of a pass in their order, each kind as often as its weight says."""
    parts = []
    for kind, weight in weights.items():
        rows = (kind_P == kind).nonzero().flatten()
        whole, rest = divmod(round(weight * len(rows)), max(1, len(rows)))
        parts += [rows] * whole + [rows[torch.randperm(len(rows), generator=generator)[:rest]]]
    drawn = torch.cat(parts)
    return drawn[torch.randperm(len(drawn), generator=generator)]


def _loss(
    features: Features, drawn_R: Tensor, kind_R: Tensor, maps: list[Tensor], loss: str, generator: torch.Generator
) -> Tensor:
    """The loss of one batch; a pair that was drawn twice is no negative of itself."""
    count_R = features.end_P[drawn_R] - features.first_P[drawn_R]
    caption_R = features.first_P[drawn_R] + (torch.rand(len(drawn_R), generator=generator) * count_R).long()
    image_RD, text_RD = features.image_PD[drawn_R] @ maps[0], features.text_SD[caption_R] @ maps[1]
    own_R = torch.arange(len(drawn_R))
    has = [kind_R != TEXTS, kind_R != IMAGES]
    vectors = [_unit(image_RD[has[0]]), _unit(text_RD[has[1]])]
    if loss == "gcl":
        has.append(kind_R == PAIRS)
        vectors.append(_unit((image_RD + text_RD)[has[2]]))
    sizes = torch.tensor([len(part) for part in vectors])
    rows = Rows(
        torch.cat(vectors),
        torch.arange(len(vectors)).repeat_interleave(sizes),
        torch.cat([own_R[mask] for mask in has]),
        torch.cat([drawn_R[mask] for mask in has])[:, None],
    )
    terms = Terms() if loss == "gcl" else Terms(CLIP_WEIGHTS, Reading.R5)
    return contrastive_loss(rows, torch.tensor(SCALE), terms)


def _unit(vectors_RD: Tensor) -> Tensor:
    return functional.normalize(vectors_RD, dim=-1)
