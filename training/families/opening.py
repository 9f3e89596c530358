"""Opens the model that a run starts from, or that a run has left, as whichever family it is of."""

from pathlib import Path

import torch

from anykey.encoder.checkpoint import CONFIG_NAME
from anykey.encoder.fusion import Fusion
from anykey.training.families.towers import Towers, open_start, read_start
from anykey.training.family import Family
from anykey.training.settings import TrainSettings


def open_family(settings: TrainSettings, device: torch.device, dtype: torch.dtype | None) -> Family:
    """The model that a run trains: an encoder to fine-tune, or a new one; nothing of it is locked yet.

    Args:
        settings: Where it starts; new weights depend on the seed.
        device: Where it computes.
        dtype: What a forward pass computes in, or `None` for float32.

    Raises:
        EncoderError: there is nothing to start from, or it is damaged.
        InvalidRecipeError: image weights for an architecture without a timm trunk.
    """
    return Towers(open_start(settings, settings.seed), device, dtype, settings.batch_norm)


def load_family(source: str | Path, device: torch.device, fusion: Fusion | None = None) -> Family:
    """A trained encoder, in float32.

    Args:
        source: A checkpoint directory, or what else `anykey-train --start` takes.
        device: Where it computes.
        fusion: How an image and a text become one vector, if not as the checkpoint says.

    Raises:
        EncoderError: there is nothing under that name, or it is damaged.
    """
    return Towers(read_start(source, fusion), device)


def holds_checkpoint(directory: Path) -> bool:
    """Whether this is a checkpoint directory of a family known here."""
    return (directory / CONFIG_NAME).is_file()
