"""From vectors to the loss of a run: rows of all modalities, the temperature, and the loss that was chosen.

Shape legend: R = rows, N = instances, D = width, S = texts, W = tokens of a text, or width of its meaning.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from anykey.encoder.fusion import Fusion
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
    Weights,
    caption_semantics,
    contrastive_loss,
    covariance_loss,
    normalized_loss,
    separation_loss,
    sigmoid_loss,
)
from anykey.training.optimizer import MAX_LOGIT_SCALE, clamp_log_scale
from anykey.training.settings import LossSettings

_SIGMOID_BIAS = -10.0  # SigLIP's: at the start nearly every two rows do not belong together
_CLIP = Terms(CLIP_WEIGHTS, Reading.R5)


class Objective(nn.Module):
    """The loss of a run, with what it learns beside the model: a sum of terms over the same rows.

    Attributes:
        log_scales: Logarithms of the inverse temperatures: `[3, 3]`, by modality of anchor and candidate, if each
            pair has its own; `[2]`, of images and of texts, if each modality has; else the model's one counts.
        own_bias: The sigmoid loss's bias if the model has none; a checkpoint does not keep it.
    """

    def __init__(
        self,
        settings: LossSettings,
        log_scale: nn.Parameter,
        bias: nn.Parameter | None,
        has_queries: bool,
        meanings_SW: Tensor | None = None,
        fusion: str = Fusion.RAW,
    ) -> None:
        """Sets it up.

        Args:
            settings: Which loss.
            log_scale: Logarithm of the model's inverse temperature, which is used and trained.
            bias: The model's bias for the sigmoid loss, if it has one.
            has_queries: Whether pairs have queries of their own, which may be of their item's modality.
            meanings_SW: What the table's texts mean; without them the separation goes by the words they share.
            fusion: How the model makes one vector of an image and a text.
        """
        super().__init__()
        self._settings = settings
        self._meanings_SW = meanings_SW
        self._of_model = (log_scale, bias)  # in a tuple: the model owns its parameters
        self._terms = _terms(settings, has_queries)
        self._added = _added_terms(settings, has_queries, fusion)
        self.log_scales: nn.Parameter | None = None
        self.own_bias: nn.Parameter | None = None
        self._highest = max(MAX_LOGIT_SCALE, float(log_scale.detach()))
        if settings.temperature_per_pair:
            self.log_scales = nn.Parameter(log_scale.detach().clone().expand(3, 3).contiguous())
        if settings.temperature_per_modality:
            self.log_scales = nn.Parameter(log_scale.detach().clone().expand(2).contiguous())
        if settings.loss is Loss.SIGMOID and bias is None:
            self.own_bias = nn.Parameter(torch.tensor(_SIGMOID_BIAS, device=log_scale.device))

    def choose_what_learns(self) -> None:
        """Says of the model's own temperature and bias whether they train."""
        log_scale, bias = self._of_model
        log_scale.requires_grad_(self._settings.learn_temperature and self.log_scales is None)
        if bias is not None:
            bias.requires_grad_(self._settings.loss is Loss.SIGMOID)

    def bound_temperatures(self) -> None:
        """Keeps temperatures that learn at 0.01 or above, or at the start's if that is lower.

        Where modalities or pairs of them have their own, the model's becomes their geometric mean: what a checkpoint
        keeps.
        """
        if not self._settings.learn_temperature:
            return
        log_scale, _ = self._of_model
        if self.log_scales is None:
            clamp_log_scale(log_scale, self._highest)
            return
        clamp_log_scale(self.log_scales, self._highest)
        with torch.no_grad():
            log_scale.copy_(self.log_scales.mean())

    def scale(self) -> Tensor:
        """The inverse temperature: a scalar, or `[3, 3]`.

        With one for each modality, a fused vector's is the mean of both, and two vectors compare by the mean of theirs
        (e5-omni, arXiv 2601.03666).
        """
        if self.log_scales is None:
            return self._of_model[0].exp()
        if not self._settings.temperature_per_modality:
            return self.log_scales.exp()
        image, text = (-self.log_scales).exp()
        temperature_3 = torch.stack([image, text, (image + text) / 2])
        return 2 / (temperature_3[:, None] + temperature_3)

    def counted(self, batch: Batch) -> Batch:
        """The batch with those rows alone that the loss compares: no others need be computed."""
        return batch if self._settings.compares_fused else batch.without_fused()

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
        loss = self._main(pool, anchors)
        for weight, terms in self._added:
            added = contrastive_loss(pool, self.scale(), terms, anchors, hardness=self._settings.hardness)
            loss = loss + weight * added
        if self._settings.separation:
            (texts_RW,), _ = gather([self._row_texts(batch, rows)], processes)
            numbered, texts_NW = _by_instance(pool, texts_RW)
            semantics_NS = caption_semantics(texts_NW) if self._meanings_SW is None else texts_NW
            loss = loss + self._settings.separation * separation_loss(numbered, self.scale(), semantics_NS, anchors)
        if self._settings.covariance_weight:
            loss = loss + self._settings.covariance_weight * covariance_loss(pool, anchors)
        return loss

    def _row_texts(self, batch: Batch, rows: Rows) -> Tensor:
        """Tokens or meaning `[R, W]` of each text row's caption, and nothing of the image and fused rows."""
        texts_SW = batch.tokens_ST if self._meanings_SW is None else self._meanings_SW[batch.text_S]
        _, text_R, _ = batch.by_modality()
        texts_RW = texts_SW.new_zeros(len(rows), texts_SW.shape[1])
        texts_RW[rows.modality_R.to(texts_RW.device) == TEXT] = texts_SW[batch.row_text_R[text_R]]
        return texts_RW.to(rows.vectors_RD.device)

    def _main(self, pool: Rows, anchors: slice) -> Tensor:
        """The loss that was chosen, without what is added to it."""
        if self._settings.loss is Loss.SIGMOID:
            bias = self._of_model[1] if self.own_bias is None else self.own_bias
            assert bias is not None
            return sigmoid_loss(pool, self.scale(), bias, self._terms, anchors)
        if self._settings.loss is Loss.NORMALIZED:
            return normalized_loss(pool, self.scale(), self._terms, anchors=anchors)
        return contrastive_loss(pool, self.scale(), self._terms, anchors, hardness=self._settings.hardness)


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


def _by_instance(rows: Rows, texts_RW: Tensor) -> tuple[Rows, Tensor]:
    """Rows whose instances are numbered from 0, and the caption of each instance."""
    assert rows.owner_R is not None
    instances, instance_R = torch.unique(rows.instance_R, return_inverse=True)
    texts_NW = texts_RW.new_zeros(len(instances), texts_RW.shape[1])
    is_text_R = (rows.modality_R == TEXT) & (rows.owner_R < 0)  # not a hard negative's
    texts_NW[instance_R[is_text_R]] = texts_RW[is_text_R]
    return replace(rows, instance_R=instance_R), texts_NW


def _terms(settings: LossSettings, has_queries: bool) -> Terms:
    """Which terms count: all between modalities, and of pairs with queries those within one too."""
    if settings.loss in (Loss.CLIP, Loss.ALIGNCLIP):
        return _CLIP
    reading = Reading.R5 if settings.loss is Loss.PAIRWISE else settings.reading
    return Terms(_weights(settings, has_queries and reading is not Reading.R4), reading)


def _added_terms(settings: LossSettings, has_queries: bool, fusion: str) -> list[tuple[float, Terms]]:
    """The contrastive losses that are added, with their weights."""
    pairwise = Terms(_weights(settings, has_queries), Reading.R5)
    terms = [(settings.clip(fusion), _CLIP), (settings.pairwise_weight, pairwise)]
    return [(weight, added) for weight, added in terms if weight]


def _weights(settings: LossSettings, within: bool) -> Weights:
    """Weights of the pairs of modalities: 1 between them, within them 0 or 1, and what the settings say."""
    weights = [list(row) for row in CROSS_MODALITY]
    if within:
        for modality in (IMAGE, TEXT, FUSED):
            weights[modality][modality] = 1.0
    for (anchor, target), weight in parse_pair_weights(settings.pair_weights).items():
        weights[anchor][target] = weight
    return tuple((row[0], row[1], row[2]) for row in weights)
