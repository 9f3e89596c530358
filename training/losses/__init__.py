"""The training losses: pure functions of rows of unit vectors and an inverse temperature."""

from anykey.training.choices import Reading
from anykey.training.losses.contrastive import contrastive_loss
from anykey.training.losses.others import (
    caption_semantics,
    covariance_loss,
    normalized_loss,
    separation_loss,
    sigmoid_loss,
)
from anykey.training.losses.pool import CLIP_WEIGHTS, CROSS_MODALITY, Terms, Weights
from anykey.training.losses.rows import FUSED, IMAGE, TEXT, Rows, triples

__all__ = [
    "CLIP_WEIGHTS",
    "CROSS_MODALITY",
    "FUSED",
    "IMAGE",
    "TEXT",
    "Reading",
    "Rows",
    "Terms",
    "Weights",
    "caption_semantics",
    "contrastive_loss",
    "covariance_loss",
    "normalized_loss",
    "separation_loss",
    "sigmoid_loss",
    "triples",
]
