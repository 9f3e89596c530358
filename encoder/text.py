"""The text tower without its padding.

A causal tower that reads the end-of-text position never looks beyond it, so a batch can be cut to its
longest text: the same vectors for a fraction of the work.

Shape legend: B = batch, T = tokens, D = width.
"""

from typing import Any

import torch
from open_clip.transformer import text_global_pool
from torch import Tensor, nn


def can_trim(model: nn.Module) -> bool:
    """Whether positions after the end-of-text token cannot change this model's text features.

    True for CLIP's text tower: causal mask, features read at the end-of-text token, nothing appended.
    False for SigLIP (no causal mask, last position), CoCa (class token at the end) and Hugging Face towers.
    """
    tower = _tower(model)
    if not all(hasattr(tower, name) for name in ("token_embedding", "positional_embedding", "ln_final")):
        return False
    return (
        getattr(tower, "attn_mask", None) is not None
        and getattr(tower, "cls_emb", None) is None
        and not getattr(tower, "use_pad_mask", False)
        and not getattr(tower, "output_tokens", False)
        and _pool_type(tower) in ("argmax", "eos")
    )


def end_positions(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """Position `[B]` of the token each text's features are read at, as open_clip finds it."""
    tower = _tower(model)
    if _pool_type(tower) == "argmax":
        return tokens_BT.argmax(dim=-1)
    return torch.eq(tokens_BT, torch.tensor(_eos_id(tower))).int().argmax(dim=-1)


def encode_text(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """Text features `[B, D]`, before normalisation, of padded token rows.

    Args:
        model: An open_clip model.
        tokens_BT: Token ids padded to the model's context length.

    Returns:
        What `model.encode_text` gives, computed on the first `max(end position) + 1` tokens only where
        `can_trim` allows it.
    """
    if not can_trim(model):
        features_BD: Tensor = model.encode_text(tokens_BT)  # type: ignore[operator]
        return features_BD
    length = int(end_positions(model, tokens_BT).max()) + 1
    return _encode_causal(_tower(model), tokens_BT[:, :length])


def _encode_causal(tower: Any, tokens_BT: Tensor) -> Tensor:
    length = tokens_BT.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    hidden_BTD = tower.token_embedding(tokens_BT).to(dtype) + tower.positional_embedding[:length].to(dtype)
    hidden_BTD = tower.transformer(hidden_BTD, attn_mask=tower.attn_mask[:length, :length])
    hidden_BTD = tower.ln_final(hidden_BTD)
    pooled_BD = text_global_pool(hidden_BTD, tokens_BT, _pool_type(tower), eos_token_id=_eos_id(tower))
    projection = tower.text_projection
    if projection is None:
        features_BD: Tensor = pooled_BD
    elif isinstance(projection, nn.Linear):
        features_BD = projection(pooled_BD)
    else:
        features_BD = pooled_BD @ projection
    return features_BD


def _tower(model: nn.Module) -> Any:
    """The module that holds the text tower: `CLIP` keeps it flat on itself, `CustomTextCLIP` in `.text`."""
    text = getattr(model, "text", None)
    return text if isinstance(text, nn.Module) else model


def _pool_type(tower: Any) -> str:
    return str(getattr(tower, "text_pool_type", getattr(tower, "pool_type", "")))


def _eos_id(tower: Any) -> int | None:
    eos: int | None = getattr(tower, "text_eos_id", getattr(tower, "eos_id", None))
    return eos
