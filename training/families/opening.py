"""Opens the model that a run starts from, or that a run has left, as whichever family it is of."""

import math
from pathlib import Path

import torch

from anykey.encoder.description import MANIFEST_NAME
from anykey.encoder.fusion import Fusion
from anykey.encoder.model import FUSION, SENTENCE_TRANSFORMERS, TOWERS, family_of
from anykey.encoder.towers.checkpoint import CONFIG_NAME
from anykey.training.choices import Loss
from anykey.training.errors import InvalidRecipeError
from anykey.training.families.towers import Towers, open_start, read_start
from anykey.training.family import Family
from anykey.training.settings import ModelSettings, TrainSettings

WARM = 0.05


def open_family(settings: TrainSettings, device: torch.device, dtype: torch.dtype | None) -> Family:
    """The model that a run trains: an encoder to fine-tune, or a new one; nothing of it is locked yet.

    GCL begins at a temperature of `WARM` or more, unless the settings say otherwise: at CLIP's own, which is colder,
    what it trains ranks a mixed pool worse, and pools of one modality no better (docs/results/gcl-sum-study.md).

    Args:
        settings: Where it starts; new weights depend on the seed.
        device: Where it computes.
        dtype: What a forward pass computes in, or `None` for float32.

    Raises:
        EncoderError: there is nothing to start from, or it is damaged.
        InvalidRecipeError: the start is of another family than asked for, or a setting is of another family; image
            weights for an architecture without a timm trunk.
    """
    family = _open(settings, device, dtype)
    temperature = settings.temperature
    is_cold = math.exp(-family.log_scale.item()) < WARM
    if temperature is None and is_cold and settings.start is not None and settings.loss is Loss.GCL:
        temperature = WARM
    if temperature is not None:
        with torch.no_grad():
            family.log_scale.fill_(-math.log(temperature))
    return family


def _open(settings: TrainSettings, device: torch.device, dtype: torch.dtype | None) -> Family:
    if _family(settings) == FUSION:
        from anykey.training.families.native_fusion import open_fusion

        return open_fusion(settings, device, dtype, settings.seed)
    for name in ("text_model", "max_text_tokens"):
        if getattr(settings, name) is not None:
            raise InvalidRecipeError(f"--{name.replace('_', '-')} is of --family fusion")
    return Towers(open_start(settings, settings.seed), device, dtype, settings.batch_norm)


def load_family(source: str | Path, device: torch.device, fusion: Fusion | None = None) -> Family:
    """A trained encoder, in float32.

    Args:
        source: A checkpoint directory, or what else `anykey-train --start` takes.
        device: Where it computes.
        fusion: How an image and a text become one vector, if not as the checkpoint says.

    Raises:
        EncoderError: there is nothing under that name, or it is damaged.
        InvalidRecipeError: score fusion of a model that fuses by itself.
    """
    family = family_of(source)
    if family == SENTENCE_TRANSFORMERS:
        raise InvalidRecipeError(_trained_elsewhere(source))
    if family == FUSION:
        from anykey.training.families import native_fusion

        if fusion is not None:
            raise InvalidRecipeError(f"{source} fuses text and image by itself, it takes no score fusion ({fusion})")
        return native_fusion.NativeFusion(native_fusion.read_start(source), device)
    return Towers(read_start(source, fusion), device)


def holds_checkpoint(directory: Path) -> bool:
    """Whether this is a checkpoint directory of a family known here."""
    return (directory / CONFIG_NAME).is_file() or (
        (directory / MANIFEST_NAME).is_file() and family_of(directory) in (TOWERS, FUSION)
    )


def _family(settings: ModelSettings) -> str:
    """Which family the model is of; what a start is counts."""
    if settings.start is None:
        return settings.family or TOWERS
    found = family_of(settings.start)
    if found == SENTENCE_TRANSFORMERS:
        raise InvalidRecipeError(_trained_elsewhere(settings.start))
    if settings.family not in (None, found):
        raise InvalidRecipeError(f"--start {settings.start} is of family {found}, --family says {settings.family}")
    return found


def _trained_elsewhere(source: str | Path) -> str:
    return f"{source} is a model of sentence-transformers, which trains such models itself: anykey-train does not"
