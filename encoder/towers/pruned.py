"""Transformers whose layers have lost heads and neurons, each its own number, as TinyCLIP's automatic inheritance does.

`nn.MultiheadAttention` cannot hold one: the width of its tokens is no multiple of its heads. Parameters have the names
that open_clip gives them, so that such a transformer takes the place of one of its own.

Source: Wu et al., "TinyCLIP" (2023), and the published checkpoints' tensors.

Shape legend: B = batch, T = tokens, D = width of the tokens, H = heads, W = width of a head.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from open_clip.transformer import LayerNorm
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class PrunedAttention(nn.Module):
    """Self-attention of any number of heads, at least one, over tokens of any width."""

    def __init__(self, width: int, num_heads: int, head_width: int) -> None:
        super().__init__()
        inner = num_heads * head_width
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * inner, width).normal_(std=width**-0.5))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * inner))
        self.out_proj = nn.Linear(inner, width)

    def forward(self, tokens_BTD: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Tokens `[B, T, D]` of tokens `[B, T, D]`; the mask `[T, T]` is added to what the softmax is taken of."""
        batch, length, _ = tokens_BTD.shape
        packed = nn.functional.linear(tokens_BTD, self.in_proj_weight, self.in_proj_bias)
        query_BHTW, key_BHTW, value_BHTW = packed.view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        mask = None if attn_mask is None else attn_mask.to(query_BHTW.dtype)
        mixed_BHTW = nn.functional.scaled_dot_product_attention(query_BHTW, key_BHTW, value_BHTW, mask)
        attended: Tensor = self.out_proj(mixed_BHTW.transpose(1, 2).reshape(batch, length, -1))
        return attended


class EmptyLinear(nn.Module):
    """A linear layer with nothing on one side, of which the bias is left; torch cannot quantize its own such."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_out, num_in))
        self.bias = nn.Parameter(torch.zeros(num_out))

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """The bias for each token."""
        return nn.functional.linear(tokens_BTD, self.weight, self.bias)


class PrunedBlock(nn.Module):
    """A layer: attention, unless it lost all heads, and an MLP, of which the output's bias stays whatever it lost."""

    def __init__(
        self, width: int, num_heads: int, head_width: int, mlp_width: int, activation: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.attn = PrunedAttention(width, num_heads, head_width) if num_heads else None
        self.ln_1 = LayerNorm(width) if num_heads else None
        self.ln_2 = LayerNorm(width)
        linear = nn.Linear if mlp_width else EmptyLinear
        layers = [("c_fc", linear(width, mlp_width)), ("gelu", activation()), ("c_proj", linear(mlp_width, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, tokens_BTD: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Tokens `[B, T, D]` of tokens `[B, T, D]`."""
        if self.attn is not None and self.ln_1 is not None:
            tokens_BTD = tokens_BTD + self.attn(self.ln_1(tokens_BTD), attn_mask)
        added_BTD: Tensor = self.mlp(self.ln_2(tokens_BTD))
        return tokens_BTD + added_BTD


class PrunedTransformer(nn.Module):
    """Layers one after the other; it offers what open_clip's towers ask of their transformer."""

    def __init__(
        self,
        width: int,
        head_width: int,
        heads: Sequence[int],
        mlp_widths: Sequence[int],
        activation: Callable[[], nn.Module] = nn.GELU,
    ) -> None:
        """Builds it with random weights.

        Args:
            width: D.
            head_width: W, the same in all layers.
            heads: H of each layer; 0 for a layer without attention.
            mlp_widths: Neurons of each layer's MLP; 0 leaves its output's bias.
            activation: Makes the MLP's activation.
        """
        super().__init__()
        self.width = width
        self.layers = len(heads)
        self.grad_checkpointing = False
        sizes = zip(heads, mlp_widths, strict=True)
        self.resblocks = nn.ModuleList(
            PrunedBlock(width, num_heads, head_width, mlp_width, activation) for num_heads, mlp_width in sizes
        )

    def get_cast_dtype(self) -> torch.dtype:
        """What the weights are stored in."""
        norm = self.resblocks[0].ln_2
        assert isinstance(norm, nn.LayerNorm)
        return norm.weight.dtype

    def forward(self, tokens_BTD: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Tokens `[B, T, D]` of tokens `[B, T, D]`."""
        for block in self.resblocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                tokens_BTD = checkpoint(block, tokens_BTD, attn_mask, use_reentrant=False)
            else:
                tokens_BTD = block(tokens_BTD, attn_mask)
        return tokens_BTD
