"""From vectors to the loss of a run: rows of all modalities, the temperature, and the loss that was chosen.

Shape legend: R = rows, N = instances, D = width, T = tokens.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from anykey.training.batches import Batch
from anykey.training.choices import Loss, parse_pair_weights
from anykey.training.distributed import Processes, gather
from anykey.training.family import Vectors
from anykey.training.losses import (
    CLIP_WEIGHTS,
    CROSS_MODALITY,
    FUSED,
    IMAGE,
    TEXT,
    Reading,
    Rows,
    Terms,
    caption_semantics,
    contrastive_loss,
    normalized_loss,
    separation_loss,
    sigmoid_loss,
)
from anykey.training.optimizer import MAX_LOGIT_SCALE, clamp_log_scale
from anykey.training.settings import LossSettings

_SIGMOID_BIAS = -10.0  # SigLIP's: at the start nearly every two rows do not belong together
_WITHOUT_FUSED = (Loss.CLIP, Loss.ALIGNCLIP)


class Objective(nn.Module):
    """The loss of a run, with what it learns beside the model.

    Attributes:
        log_scales: Logarithms of the inverse temperatures `[3, 3]`, by modality of anchor and candidate, if each
            pair has its own; else the model's one counts.
        own_bias: The sigmoid loss's bias if the model has none; a checkpoint does not keep it.
    """

    def __init__(
        self, settings: LossSettings, log_scale: nn.Parameter, bias: nn.Parameter | None, has_queries: bool
    ) -> None:
        """Sets it up.

        Args:
            settings: Which loss.
            log_scale: Logarithm of the model's inverse temperature, which is used and trained.
            bias: The model's bias for the sigmoid loss, if it has one.
            has_queries: Whether pairs have queries of their own, which may be of their item's modality.
        """
        super().__init__()
        self._loss = settings.loss
        self._learns_temperature = settings.learn_temperature
        self._separation_weight = settings.separation_weight
        self._of_model = (log_scale, bias)  # in a tuple: the model owns its parameters
        self._terms = _terms(settings, has_queries)
        self.log_scales: nn.Parameter | None = None
        self.own_bias: nn.Parameter | None = None
        self._highest = max(MAX_LOGIT_SCALE, float(log_scale.detach()))
        if settings.temperature_per_pair:
            self.log_scales = nn.Parameter(log_scale.detach().clone().expand(3, 3).contiguous())
        if settings.loss is Loss.SIGMOID and bias is None:
            self.own_bias = nn.Parameter(torch.tensor(_SIGMOID_BIAS, device=log_scale.device))

    def choose_what_learns(self) -> None:
        """Says of the model's own temperature and bias whether they train."""
        log_scale, bias = self._of_model
        log_scale.requires_grad_(self._learns_temperature and self.log_scales is None)
        if bias is not None:
            bias.requires_grad_(self._loss is Loss.SIGMOID)

    def bound_temperatures(self) -> None:
        """Keeps temperatures that learn at 0.01 or above, or at the start's if that is lower.

        Where each pair of modalities has its own, the model's becomes their geometric mean: what a checkpoint keeps.
        """
        if not self._learns_temperature:
            return
        log_scale, _ = self._of_model
        if self.log_scales is None:
            clamp_log_scale(log_scale, self._highest)
            return
        clamp_log_scale(self.log_scales, self._highest)
        with torch.no_grad():
            log_scale.copy_(self.log_scales.mean())

    def scale(self) -> Tensor:
        """The inverse temperature: a scalar, or `[3, 3]`."""
        return (self._of_model[0] if self.log_scales is None else self.log_scales).exp()

    def counted(self, batch: Batch) -> Batch:
        """The batch with those rows alone that the loss compares: no others need be computed."""
        return batch.without_fused() if self._loss in _WITHOUT_FUSED else batch

    def forward(self, vectors: Vectors, batch: Batch, processes: Processes) -> Tensor:
        """This process's share of the loss; the sum over processes is the loss of the whole batch.

        Args:
            vectors: Of the rows of the batch.
            batch: What `counted` gave.
            processes: Whose rows are candidates too.
        """
        rows = make_rows(vectors, batch)
        assert rows.alike_RK is not None
        assert rows.owner_R is not None
        tensors = [rows.vectors_RD, rows.modality_R, rows.instance_R, rows.alike_RK, rows.owner_R]
        (vectors_RD, modality_R, instance_R, alike_RK, owner_R), anchors = gather(tensors, processes)
        pool = Rows(vectors_RD, modality_R, instance_R, alike_RK, owner_R)
        if self._loss is Loss.SIGMOID:
            bias = self._of_model[1] if self.own_bias is None else self.own_bias
            assert bias is not None
            return sigmoid_loss(pool, self.scale(), bias, self._terms, anchors)
        if self._loss is Loss.NORMALIZED:
            return normalized_loss(pool, self.scale(), self._terms, anchors=anchors)
        loss = contrastive_loss(pool, self.scale(), self._terms, anchors)
        if self._loss is Loss.ALIGNCLIP:
            (tokens_RT,), _ = gather([_row_tokens(batch, rows)], processes)
            numbered, semantics_NS = _with_semantics(pool, tokens_RT)
            loss = loss + self._separation_weight * separation_loss(numbered, self.scale(), semantics_NS, anchors)
        return loss


def make_rows(vectors: Vectors, batch: Batch) -> Rows:
    """Unit vectors of a batch's rows with what the loss must know of them: images, then texts, then fused ones."""
    device = vectors.image_RD.device
    positions = batch.by_modality()
    order_R = torch.cat(positions)
    sizes = torch.tensor([len(position_R) for position_R in positions])
    return Rows(
        torch.cat(vectors),
        torch.tensor([IMAGE, TEXT, FUSED]).repeat_interleave(sizes).to(device),
        batch.instance_R[order_R].to(device),
        batch.alike_RK[order_R].to(device),
        batch.owner_R[order_R].to(device),
    )


def _row_tokens(batch: Batch, rows: Rows) -> Tensor:
    """The caption `[R, T]` of each text row, and nothing of the image rows before them."""
    text_R = ((batch.row_text_R >= 0) & (batch.row_image_R < 0)).nonzero().flatten()
    tokens_RT = batch.tokens_ST.new_zeros(len(rows), batch.tokens_ST.shape[1])
    tokens_RT[len(rows) - len(text_R) :] = batch.tokens_ST[batch.row_text_R[text_R]]
    return tokens_RT.to(rows.vectors_RD.device)


def _with_semantics(rows: Rows, tokens_RT: Tensor) -> tuple[Rows, Tensor]:
    """Rows whose instances are numbered from 0, and what each instance's caption means."""
    assert rows.owner_R is not None
    instances, instance_R = torch.unique(rows.instance_R, return_inverse=True)
    tokens_NT = tokens_RT.new_zeros(len(instances), tokens_RT.shape[1])
    is_text_R = (rows.modality_R == TEXT) & (rows.owner_R < 0)  # not a hard negative's
    tokens_NT[instance_R[is_text_R]] = tokens_RT[is_text_R]
    return replace(rows, instance_R=instance_R), caption_semantics(tokens_NT)


def _terms(settings: LossSettings, has_queries: bool) -> Terms:
    """Which terms count: all between modalities, and of pairs with queries those within one too."""
    if settings.loss in _WITHOUT_FUSED:
        return Terms(CLIP_WEIGHTS, Reading.R5)
    reading = Reading.R5 if settings.loss is Loss.PAIRWISE else settings.reading
    weights = [list(row) for row in CROSS_MODALITY]
    if has_queries and reading is not Reading.R4:
        for modality in (IMAGE, TEXT, FUSED):
            weights[modality][modality] = 1.0
    for (anchor, target), weight in parse_pair_weights(settings.pair_weights).items():
        weights[anchor][target] = weight
    return Terms(tuple((row[0], row[1], row[2]) for row in weights), reading)
