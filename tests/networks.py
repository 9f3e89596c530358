"""Small networks with random weights, of the kinds that open_clip knows."""

from typing import Any

import open_clip
import pytest
import torch
from torch import nn

from anykey.encoder.towers.architecture import Architecture, build

VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
TIMM_VISION = {"timm_model_name": "mobilenetv1_100", "timm_pool": "", "timm_proj": "linear", "image_size": 32}
# SigLIP's text tower: every position sees every other, features come from the last one.
SIGLIP_TEXT = {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True}
# CoCa's: a class token is appended after the text.
COCA_TEXT = {**TEXT, "embed_cls": True, "output_tokens": True}


def small_architecture(**changes: Any) -> Architecture:
    """A one-layer CLIP of 16 dims; `text`, `vision` and other keys of open_clip's configuration change it.

    `preprocess` and `padding` go to the architecture itself.
    """
    preprocess, padding = changes.pop("preprocess", {}), changes.pop("padding", None)
    vision_cfg, text_cfg = changes.pop("vision", VISION), changes.pop("text", TEXT)
    model_cfg = {"embed_dim": 16, "vision_cfg": dict(vision_cfg), "text_cfg": dict(text_cfg), **changes}
    architecture = Architecture("small", model_cfg, preprocess)
    return architecture if padding is None else Architecture("small", model_cfg, preprocess, padding)


def let_open_clip_list(monkeypatch: pytest.MonkeyPatch, **configurations: dict[str, Any]) -> None:
    """Lists networks by name in open_clip for the length of a test; `add_model_config` would for the whole process."""
    listed = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", {**listed, **configurations})


def build_seeded(architecture: Architecture, seed: int = 0) -> nn.Module:
    """The network in inference mode with weights that depend on the seed only, normalisation layers included."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(architecture).eval()
        for module in model.modules():
            if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.2)
                nn.init.normal_(module.bias, 0.0, 0.2)
    return model
