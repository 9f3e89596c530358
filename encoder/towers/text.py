"""The text tower without its padding.

A causal tower that reads the end-of-text position never looks beyond it, and Hugging Face's towers mask their padding,
so a batch can be cut to its longest text: the same vectors for a fraction of the work.

Shape legend: B = batch, T = tokens, D = width.
"""

from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
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


def spares_padding(model: nn.Module) -> bool:
    """Whether this model's text features are the same without the padding that all texts of a batch have."""
    return can_trim(model) or _masks_padding(_tower(model))


def num_read(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """How many tokens `[B]` of each text, from its start, its features depend on."""
    if can_trim(model):
        return end_positions(model, tokens_BT) + 1
    tower = _tower(model)
    if _masks_padding(tower):
        is_word_BT = tokens_BT != tower.config.pad_token_id
        places_T = torch.arange(1, tokens_BT.shape[-1] + 1, device=tokens_BT.device)
        last_B: Tensor = (is_word_BT * places_T).amax(dim=-1)
        return last_B.clamp(min=1)
    return torch.full(tokens_BT.shape[:-1], tokens_BT.shape[-1], device=tokens_BT.device)


def encode_text(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """Text features `[B, D]`, before normalisation, of padded token rows.

    Args:
        model: An open_clip model.
        tokens_BT: Token ids padded to the model's context length.

    Returns:
        What `model.encode_text` gives, computed on no more tokens than one of them depends on (`num_read`).
    """
    if spares_padding(model):
        tokens_BT = tokens_BT[:, : int(num_read(model, tokens_BT).max())]
    if can_trim(model):
        return _encode_causal(_tower(model), tokens_BT)
    features_BD: Tensor = model.encode_text(tokens_BT)  # type: ignore[operator]
    return features_BD


class TextTower(nn.Module):
    """A text tower: token ids `[B, T]`, as short as `spares_padding` allows, to features before normalisation."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._can_trim = can_trim(model)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """The features `[B, D]`."""
        if self._can_trim:
            return _encode_causal(_tower(self.model), tokens_BT)
        features_BD: Tensor = self.model.encode_text(tokens_BT)  # type: ignore[operator]
        return features_BD


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


def _masks_padding(tower: Any) -> bool:
    """Whether this is a text tower of Hugging Face, of which no word sees the padding and no pooling reads it."""
    return isinstance(tower, HFTextEncoder) and not tower.output_tokens


def _tower(model: nn.Module) -> Any:
    """The module that holds the text tower: `CLIP` keeps it flat on itself, `CustomTextCLIP` in `.text`."""
    text = getattr(model, "text", None)
    return text if isinstance(text, nn.Module) else model


def _pool_type(tower: Any) -> str:
    return str(getattr(tower, "text_pool_type", getattr(tower, "pool_type", "")))


def _eos_id(tower: Any) -> int | None:
    eos: int | None = getattr(tower, "text_eos_id", getattr(tower, "eos_id", None))
    return eos
