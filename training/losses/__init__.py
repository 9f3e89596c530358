"""The training losses: pure functions of rows of unit vectors and an inverse temperature."""

from training.losses.contrastive import CLIP_WEIGHTS, CROSS_MODALITY, Terms, contrastive_loss
from training.losses.dense import clip_loss, duplicate_pairs, gcl_loss, pairwise_loss
from training.losses.reading import Reading
from training.losses.rows import FUSED, IMAGE, TEXT, Rows, concatenate, triples

__all__ = [
    "CLIP_WEIGHTS",
    "CROSS_MODALITY",
    "FUSED",
    "IMAGE",
    "TEXT",
    "Reading",
    "Rows",
    "Terms",
    "clip_loss",
    "concatenate",
    "contrastive_loss",
    "duplicate_pairs",
    "gcl_loss",
    "pairwise_loss",
    "triples",
]
