"""Checkpoints with random weights, for tests that need a real encoder and not a good one."""

from pathlib import Path

import torch

from anykey.encoder.fusion import Fusion
from anykey.encoder.towers.architecture import build, read_architecture
from anykey.encoder.towers.checkpoint import save_checkpoint


def tiny_checkpoint(folder: Path, seed: int = 0) -> Path:
    """A checkpoint directory of the smallest architecture."""
    torch.manual_seed(seed)
    architecture = read_architecture("anykey-tiny")
    path = folder / "tiny"
    save_checkpoint(path, architecture, build(architecture).state_dict(), Fusion.RAW, {})
    return path
