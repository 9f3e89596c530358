"""Parts of a network that open_clip's configuration has no words for, in words of ours within that configuration.

open_clip refuses to build a configuration with them, which is better than its building another network. They are:

`vision_cfg.pruned`, `text_cfg.pruned`   `{"head_width": 64, "heads": [...], "mlp_widths": [...]}`, the latter two each
                                         layer's own (`pruned.py`)
`vision_cfg.timm_kwargs`                 what timm is to change of the network that `timm_model_name` names
`text_cfg.hf_config`                     the configuration of a Hugging Face text tower itself, instead of its name
"""

from copy import deepcopy
from functools import partial
from typing import Any

import open_clip
import timm
import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import QuickGELU
from torch import nn

from anykey.encoder.towers.pruned import PrunedTransformer

_PRUNED, _TIMM, _HF = "pruned", "timm_kwargs", "hf_config"


def is_extended(model_cfg: dict[str, Any]) -> bool:
    """Whether open_clip alone cannot build this network."""
    vision_cfg, text_cfg = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    return _PRUNED in vision_cfg or _PRUNED in text_cfg or _TIMM in vision_cfg or _HF in text_cfg


def without_extensions(model_cfg: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a network that open_clip can build, in which `put_extensions` then replaces parts."""
    plain = deepcopy(model_cfg)
    vision_cfg, text_cfg = plain["vision_cfg"], plain["text_cfg"]
    if vision_cfg.pop(_PRUNED, None):
        vision_cfg["layers"] = 0
    if text_cfg.pop(_PRUNED, None):
        text_cfg |= {"layers": 1, "heads": 1}
    if vision_cfg.pop(_TIMM, None):
        size = vision_cfg["image_size"]
        plain["vision_cfg"] = {"image_size": size, "patch_size": size, "width": 64, "layers": 0}
    if text_cfg.pop(_HF, None):
        kept = ("hf_tokenizer_name", "context_length", "tokenizer_kwargs", "tokenizer_mode")
        small = {"width": 64, "heads": 1, "layers": 1, "vocab_size": 1}
        plain["text_cfg"] = {**{name: text_cfg[name] for name in kept if name in text_cfg}, **small}
        plain["custom_text"] = True
    return plain


def put_extensions(model: nn.Module, model_cfg: dict[str, Any]) -> None:
    """Puts the parts of ours, with random weights, into what open_clip built without them; in place."""
    vision_cfg, text_cfg = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    activation = QuickGELU if model_cfg.get("quick_gelu") else nn.GELU
    visual: Any = model.visual
    if _PRUNED in vision_cfg:
        visual.transformer = _pruned(vision_cfg, activation)
    if _PRUNED in text_cfg:
        tower: Any = getattr(model, "text", model)
        tower.transformer = _pruned(text_cfg, activation)
    if _TIMM in vision_cfg:
        model.visual = _timm_tower(model_cfg["embed_dim"], vision_cfg)
        for name in ("preprocess_cfg", "image_mean", "image_std"):  # which open_clip left on its own
            setattr(model.visual, name, getattr(visual, name, None))
    if _HF in text_cfg:
        model.text = _hugging_face_tower(model_cfg["embed_dim"], text_cfg)


def _pruned(cfg: dict[str, Any], activation: type[nn.Module]) -> PrunedTransformer:
    make = partial(activation, **(cfg.get("act_kwargs") or {}))
    return PrunedTransformer(cfg["width"], activation=make, **cfg[_PRUNED])


def _timm_tower(embed_dim: int, vision_cfg: dict[str, Any]) -> TimmModel:
    """open_clip's wrapper around timm's network with our changes; only for networks that need no projection."""
    name, pool, size = vision_cfg["timm_model_name"], vision_cfg["timm_pool"], vision_cfg["image_size"]
    if vision_cfg.get("timm_proj") != "none":
        raise ValueError('timm_kwargs goes with "timm_proj": "none" only')
    with torch.device("meta"):
        tower = TimmModel(name, embed_dim, size, pool, "none")
    kwargs = {"img_size": size, **vision_cfg[_TIMM]}
    tower.trunk = timm.create_model(name, pretrained=False, num_classes=0, global_pool=pool, **kwargs)
    return tower


def _hugging_face_tower(embed_dim: int, text_cfg: dict[str, Any]) -> nn.Module:
    """A text tower of transformers, read at its first token and projected."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(**text_cfg[_HF])
    tower: nn.Module = open_clip.hf_model.HFTextEncoder(
        config.model_type, embed_dim, config, text_cfg["hf_pooler_type"], text_cfg["hf_proj_type"], pretrained=False
    )
    if text_cfg["hf_pooler_type"] == "cls_last_hidden_state_pooler":
        tower.transformer.pooler = None  # type: ignore[union-attr]  # whose output nothing reads
    return tower
