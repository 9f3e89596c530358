"""The training losses: pure functions of rows of unit vectors and an inverse temperature."""

from anykey.training.choices import Reading
from anykey.training.losses.contrastive import contrastive_loss
from anykey.training.losses.others import normalized_loss
from anykey.training.losses.rows import FUSED, IMAGE, TEXT, Rows, triples
from anykey.training.losses.separation import caption_semantics, separation_loss
from anykey.training.losses.sigmoid import sigmoid_loss
from anykey.training.losses.terms import CLIP_WEIGHTS, CROSS_MODALITY, Terms

__all__ = [
    "CLIP_WEIGHTS",
    "CROSS_MODALITY",
    "FUSED",
    "IMAGE",
    "TEXT",
    "Reading",
    "Rows",
    "Terms",
    "caption_semantics",
    "contrastive_loss",
    "normalized_loss",
    "separation_loss",
    "sigmoid_loss",
    "triples",
]
