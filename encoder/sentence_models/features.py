"""What a model of sentence-transformers takes of an item, and how that of several items becomes one input.

The library's own way is to prepare a whole batch at once. Here each item is prepared alone, in any thread, and items
are joined afterwards: token ids are padded to the longest, and what a processor makes of images is put one after the
other. Items with anything that is not known to be joined so go through the model alone, which is always right.

Shape legend: B = batch (items), T = tokens.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Features = dict[str, Any]  # tensors whose first axis is of one item, and facts such as `modality`

_OF_TOKENS = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})
_OF_IMAGES = frozenset(
    {
        "pixel_values",
        "pixel_attention_mask",
        "image_grid_thw",
        "image_sizes",
        "spatial_shapes",
        "num_images_per_sample",
    }
)
_PATCH_PX = 16  # whole pictures are counted as if they had such patches


@dataclass(frozen=True)
class Padding:
    """How token ids are padded.

    Attributes:
        fills: What stands in the place of absent tokens, by the feature's name; 0 for those that are not named.
        is_left: Whether they stand before the others.
    """

    fills: Mapping[str, int]
    is_left: bool


def kind_of(features: Features) -> Hashable | None:
    """What items must have in common to go through the model together; `None` for one that goes alone."""
    kind: list[Hashable] = []
    for name, value in sorted(features.items()):
        if not isinstance(value, Tensor):
            kind.append((name, value))
        elif name in _OF_TOKENS and value.ndim == 2:
            kind.append(name)
        elif name in _OF_IMAGES and value.ndim:
            kind.append((name, tuple(value.shape[1:])))
        else:
            return None
    try:
        hash(tuple(kind))
    except TypeError:
        return None
    return tuple(kind)


def joined(batch: Sequence[Features], padding: Padding) -> Features:
    """The input of several items of one kind, or of one item of any.

    Args:
        batch: At least one item's features.
        padding: How their tokens are padded.
    """
    first, *others = batch
    if not others:
        return first
    return {name: _joined(name, [each[name] for each in batch], padding) for name in first}


def count_tokens(features: Features) -> int:
    """The tokens of an item, and the patches of its images, that go through the model; at least 1."""
    pixels = features.get("pixel_values")
    return max(1, text_length(features) + (0 if pixels is None else _num_patches(pixels)))


def text_length(features: Features) -> int:
    """The tokens of an item's sequence, those that stand for its images included."""
    tokens = features.get("input_ids")
    return 0 if tokens is None else int(tokens.shape[-1])


def _joined(name: str, values: Sequence[Any], padding: Padding) -> Any:
    if not isinstance(values[0], Tensor):
        return values[0]
    if name not in _OF_TOKENS:
        return torch.cat(list(values))
    longest = max(value.shape[1] for value in values)
    fill = padding.fills.get(name, 0)
    rows = []
    for value_BT in values:
        missing = longest - value_BT.shape[1]
        rows.append(functional.pad(value_BT, (missing, 0) if padding.is_left else (0, missing), value=fill))
    return torch.cat(rows)


def _num_patches(pixels: Tensor) -> int:
    """Rows of patches as they are; whole pictures, the last two axes of which are their sides, by their area."""
    if pixels.ndim < 4:
        return int(pixels.shape[0]) if pixels.ndim == 2 else int(pixels.shape[0] * pixels.shape[1])
    height, width = pixels.shape[-2:]
    num_pictures = pixels.shape[:-3].numel()
    return int(num_pictures * max(1, height // _PATCH_PX) * max(1, width // _PATCH_PX))
