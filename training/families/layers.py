"""A network's layers: groups from input to output, which locking and layer-wise rates go by, and repeated blocks."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from timm.models import group_parameters
from torch import nn

from anykey.training.family import Layers

SCALES = frozenset({"logit_scale", "logit_bias"})  # the loss's own: of neither tower
# What open_clip adds to a trunk that comes from elsewhere, to reach the width of the vectors.
_ADDED_HEADS = ("visual.head.", "text.proj.")
# First part of a parameter's name within an open_clip transformer: before the blocks, or after them.
_STEM = {"conv1", "class_embedding", "positional_embedding", "ln_pre", "token_embedding", "cls_emb"}
_OUTPUT = {"proj", "text_projection", "text_decoder"}
_RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4", "attnpool")


def tower_layers(model: nn.Module) -> Layers:
    """Divides an open_clip model's parameters into layer groups.

    - open_clip's transformers: stem, each block, projection. The norm behind the last block goes with that block,
      as in open_clip's own locks.
    - timm trunks: by timm's group matcher, then the head that open_clip adds.
    - open_clip's ResNets: stem, each stage, attention pool.
    - anything else, such as Hugging Face's text towers: one group, then the head that open_clip adds.

    Groups are counted as for open_clip's `--lock-image-unlocked-groups` and `--lock-text-unlocked-layers`: the head
    that open_clip adds to a trunk of timm or Hugging Face is always free and does not count.
    """
    names = [name for name, _ in model.named_parameters() if name not in SCALES]
    image = [name for name in names if name.startswith("visual.")]
    text = [name for name in names if not name.startswith("visual.")]
    heads = frozenset(name for name in names if name.startswith(_ADDED_HEADS))
    return Layers(in_order(image, _image_place(model)), in_order(text, _text_place(model)), heads)


Place = Callable[[str], int]  # from a parameter's name to its group's position; gaps do not matter


def in_order(names: list[str], place: Place) -> list[list[str]]:
    """Groups of names, by the positions that they have."""
    groups: dict[int, list[str]] = {}
    for name in names:
        groups.setdefault(place(name), []).append(name)
    return [groups[position] for position in sorted(groups)]


def _image_place(model: nn.Module) -> Place:
    visual: Any = model.visual
    if hasattr(visual, "trunk"):
        return trunk_place(visual.trunk, "visual.trunk.")
    return _resnet_place if hasattr(visual, "attnpool") else _blocks_place(visual)


def _text_place(model: nn.Module) -> Place:
    """`CLIP` keeps the text tower flat on itself, the others in `.text`."""
    text = getattr(model, "text", None)
    return _blocks_place(text if isinstance(text, nn.Module) else model)


def trunk_place(trunk: Any, prefix: str) -> Place:
    """Positions of the parameters of one of timm's networks, whose names begin with the prefix; others come last."""
    if not hasattr(trunk, "group_matcher"):
        return _one_place
    places: dict[str, int] = group_parameters(trunk, trunk.group_matcher(), reverse=True)
    return lambda name: places.get(name.removeprefix(prefix), len(places))


def _one_place(name: str) -> int:
    return int(name.startswith(_ADDED_HEADS))


def _resnet_place(name: str) -> int:
    part = name.split(".")[1]
    return 1 + _RESNET_STAGES.index(part) if part in _RESNET_STAGES else 0


def _blocks_place(tower: nn.Module) -> Place:
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
    if blocks is None:
        return _one_place
    num_blocks = len(blocks)

    def place(name: str) -> int:
        inner = name.removeprefix("visual.").removeprefix("text.")
        part = inner.split(".")[0]
        if part in _STEM:
            return 0
        if part in _OUTPUT:
            return num_blocks + 1
        block = re.match(r"transformer\.resblocks\.(\d+)\.", inner)
        return 1 + int(block[1]) if block else num_blocks

    return place


def repeated_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """A tower's repeated blocks: what is sharded and compiled one by one."""
    for name, child in module.named_children():
        if name in ("resblocks", "blocks", "stages") and isinstance(child, nn.ModuleList | nn.Sequential):
            yield from child
        else:
            yield from repeated_blocks(child)
