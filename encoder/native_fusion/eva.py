"""The image trunk of VISTA: EVA-02 as in EVA-CLIP (arXiv 2303.11331, 2303.15389), under the names of its weights.

Tokens of the last block are taken raw: there is no norm behind it.

Shape legend: I = images, C, H, W = image, N = patches, T = 1 + N tokens, F = width, A = heads, E = width of a head.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

_EPS = 1e-6
_TRAINED_GRID = 16  # to which the coordinates of any grid are stretched
_SLOWEST = 10_000.0


@dataclass(frozen=True)
class EvaSizes:
    """Sizes of a trunk.

    Attributes:
        image_size: Height and width of the input.
        patch_size: Height and width of a patch.
        width: F.
        layers: Blocks.
        head_width: E.
        mlp_width: Width of the gated layer in a block.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    head_width: int
    mlp_width: int

    def __post_init__(self) -> None:
        wrong = [name for name, size in vars(self).items() if not isinstance(size, int) or size < 1]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} must be whole numbers from 1 on")
        if self.width % self.head_width or self.head_width % 4:
            raise ValueError(f"width {self.width} does not divide into heads of {self.head_width}, a multiple of 4")
        if self.image_size < self.patch_size:
            raise ValueError(f"an image of {self.image_size} px has no patch of {self.patch_size} px")

    @property
    def grid(self) -> int:
        """Patches in a row."""
        return self.image_size // self.patch_size


class Eva(nn.Module):
    """Pixels `[I, C, H, W]` to patch tokens `[I, N, F]`; the class token goes along and is dropped at the end."""

    def __init__(self, sizes: EvaSizes) -> None:
        super().__init__()
        width, num_patches = sizes.width, sizes.grid**2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + num_patches, width))
        self.patch_embed = _PatchEmbedding(sizes)
        self.rope = _Rotation(sizes)
        self.blocks = nn.ModuleList([_Block(sizes) for _ in range(sizes.layers)])
        self._recomputes = False
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, pixels_ICHW: Tensor) -> Tensor:
        """Patch tokens `[I, N, F]`."""
        patches_INF = self.patch_embed(pixels_ICHW)
        class_I1F = self.cls_token.expand(len(patches_INF), -1, -1)
        tokens_ITF = torch.cat([class_I1F, patches_INF], 1) + self.pos_embed
        for block in self.blocks:
            if self._recomputes and self.training:
                tokens_ITF = checkpoint(block, tokens_ITF, self.rope, use_reentrant=False)
            else:
                tokens_ITF = block(tokens_ITF, self.rope)
        return tokens_ITF[:, 1:]

    def recompute_activations(self) -> None:
        """Lets the backward pass compute the blocks' activations again instead of keeping them."""
        self._recomputes = True


class _PatchEmbedding(nn.Module):
    """A convolution over patches that do not overlap."""

    def __init__(self, sizes: EvaSizes) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, sizes.width, sizes.patch_size, sizes.patch_size)

    def forward(self, pixels_ICHW: Tensor) -> Tensor:
        patches_INF: Tensor = self.proj(pixels_ICHW).flatten(2).transpose(1, 2)
        return patches_INF


class _Rotation(nn.Module):
    """Rotary positions in two dimensions: of a head's numbers, half turn with the row and half with the column.

    The tables belong to the weights: those of published files are rounded to float16, and others give other vectors.
    """

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, sizes: EvaSizes) -> None:
        super().__init__()
        half = sizes.head_width // 2
        turns = _SLOWEST ** (-torch.arange(0, half, 2, dtype=torch.float64) / half)
        places = torch.arange(sizes.grid, dtype=torch.float64) / sizes.grid * _TRAINED_GRID
        angles = torch.outer(places, turns).repeat_interleave(2, 1)
        rows = angles[:, None].expand(-1, sizes.grid, -1)
        angles_NE = torch.cat([rows, rows.transpose(0, 1)], -1).reshape(sizes.grid**2, sizes.head_width)
        self.register_buffer("freqs_cos", angles_NE.cos().float())
        self.register_buffer("freqs_sin", angles_NE.sin().float())

    def forward(self, heads_IATE: Tensor) -> Tensor:
        """Turns the patches' numbers, two neighbours at a time; the class token, which is first, stays."""
        class_IA1E, patches_IANE = heads_IATE[:, :, :1], heads_IATE[:, :, 1:]
        first, second = patches_IANE[..., 0::2], patches_IANE[..., 1::2]
        crosswise_IANE = torch.stack([-second, first], -1).flatten(-2)
        turned_IANE = patches_IANE * self.freqs_cos + crosswise_IANE * self.freqs_sin
        return torch.cat([class_IA1E, turned_IANE.to(heads_IATE.dtype)], 2)


class _Attention(nn.Module):
    """Self-attention whose queries and values have biases and whose keys have none, normed before it is projected."""

    def __init__(self, sizes: EvaSizes) -> None:
        super().__init__()
        width = sizes.width
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.inner_attn_ln = nn.LayerNorm(width, eps=_EPS)
        self.proj = nn.Linear(width, width)
        self._head_width = sizes.head_width

    def forward(self, tokens_ITF: Tensor, rotate: nn.Module) -> Tensor:
        query = self.q_proj(tokens_ITF) + self.q_bias
        value = self.v_proj(tokens_ITF) + self.v_bias
        query_IATE, key_IATE = (rotate(self._heads(part)) for part in (query, self.k_proj(tokens_ITF)))
        value_IATE = self._heads(value)
        read_IATE = functional.scaled_dot_product_attention(query_IATE, key_IATE, value_IATE)
        read_ITF: Tensor = self.proj(self.inner_attn_ln(read_IATE.transpose(1, 2).flatten(2)))
        return read_ITF

    def _heads(self, part_ITF: Tensor) -> Tensor:
        return part_ITF.view(*part_ITF.shape[:2], -1, self._head_width).transpose(1, 2)


class _Gated(nn.Module):
    """SwiGLU with a norm before its last layer."""

    def __init__(self, sizes: EvaSizes) -> None:
        super().__init__()
        self.w1, self.w2 = (nn.Linear(sizes.width, sizes.mlp_width) for _ in range(2))
        self.ffn_ln = nn.LayerNorm(sizes.mlp_width, eps=_EPS)
        self.w3 = nn.Linear(sizes.mlp_width, sizes.width)

    def forward(self, tokens_ITF: Tensor) -> Tensor:
        hidden: Tensor = self.w3(self.ffn_ln(functional.silu(self.w1(tokens_ITF)) * self.w2(tokens_ITF)))
        return hidden


class _Block(nn.Module):
    """Attention and a gated layer, each behind a norm and added."""

    def __init__(self, sizes: EvaSizes) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, sizes.width, eps=_EPS)
        self.norm1, self.norm2 = norm(), norm()
        self.attn, self.mlp = _Attention(sizes), _Gated(sizes)

    def forward(self, tokens_ITF: Tensor, rotate: nn.Module) -> Tensor:
        tokens_ITF = tokens_ITF + self.attn(self.norm1(tokens_ITF), rotate)
        moved_ITF: Tensor = tokens_ITF + self.mlp(self.norm2(tokens_ITF))
        return moved_ITF
