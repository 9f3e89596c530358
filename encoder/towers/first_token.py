"""The last block of an image tower, computed for the one token that is read of it.

A vision transformer that is pooled at its class token reads nothing else of what its last block gives. There, the other
tokens are needed as keys and values alone: their queries, and the layers behind attention, which are two thirds of a
block, are left out. Of twelve blocks that spares seven hundredths of all the work, and changes no more than rounding.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn


def read_first_token_alone(visual: Any) -> None:
    """Has an image tower of open_clip compute no more of its last block than is read; others stay as they are.

    Args:
        visual: The tower, for inference; changed in place. The weights of its last block have other names then.
    """
    if type(visual) is not VisionTransformer:
        return
    transformer: Any = visual.transformer
    is_read_first = visual.pool_type == "tok" and visual.attn_pool is None and not visual.output_tokens
    blocks: Any = getattr(transformer, "resblocks", ())
    if is_read_first and getattr(transformer, "batch_first", False) and len(blocks) and _is_usual(blocks[-1]):
        blocks[-1] = FirstTokenBlock(blocks[-1])


class FirstTokenBlock(nn.Module):
    """A block of open_clip's that gives its first token alone: tokens `[B, T, W]` to `[B, 1, W]`."""

    def __init__(self, block: ResidualAttentionBlock) -> None:
        """Takes the layers of a block, which is of no use afterwards."""
        super().__init__()
        attention, width = block.attn, block.attn.embed_dim
        self.num_heads = attention.num_heads
        self.ln_1, self.ls_1, self.ln_2, self.mlp, self.ls_2 = block.ln_1, block.ls_1, block.ln_2, block.mlp, block.ls_2
        self.query = _linear(attention.in_proj_weight[:width], attention.in_proj_bias[:width])
        self.keys_values = _linear(attention.in_proj_weight[width:], attention.in_proj_bias[width:])
        self.out = attention.out_proj

    def forward(self, tokens_BTW: Tensor, attn_mask: None = None) -> Tensor:
        """The first token."""
        read_BTW, first_B1W = self.ln_1(tokens_BTW), tokens_BTW[:, :1]
        query_BH1V = self.query(read_BTW[:, :1]).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        keys_values = self.keys_values(read_BTW).unflatten(-1, (2, self.num_heads, -1))
        keys_BHTV, values_BHTV = keys_values.permute(2, 0, 3, 1, 4).unbind(0)
        seen_BH1V = F.scaled_dot_product_attention(query_BH1V, keys_BHTV, values_BHTV)
        first_B1W = first_B1W + self.ls_1(self.out(seen_BH1V.transpose(1, 2).flatten(2)))
        given_B1W: Tensor = first_B1W + self.ls_2(self.mlp(self.ln_2(first_B1W)))
        return given_B1W


def _is_usual(block: nn.Module) -> bool:
    """Whether a block attends as it is known to."""
    if type(block) is not ResidualAttentionBlock or hasattr(block, "ln_1_kv"):
        return False
    attention: Any = block.attn
    return attention.in_proj_weight is not None and attention.in_proj_bias is not None and attention.bias_k is None


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return linear
