"""What tensors of other layouts are called in open_clip's networks, and how they are stacked and turned there.

Each function takes all tensors of a model and gives them back under open_clip's names; what the network needs no more
(buffers of positions) is left out.
"""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
_TINYCLIP = re.compile(r"^(?:_(?:image_encoder|text_encoder|logit_scale)|(?:image|text)_encoder_without_ddp)\.")
_MASKS = "l0_module."
_BUFFERS = "position_ids"  # which older versions of transformers save
_STACKED = ("q", "k", "v")


def is_tinyclips(name: str) -> bool:
    """Whether this is how TinyCLIP's trainer names a tensor, of a tower that is wrapped alone."""
    return _TINYCLIP.match(name) is not None


def from_tinyclip(tensors: Mapping[str, Tensor]) -> Tensors:
    """Of TinyCLIP's trainer: each tower below a name of its own, and maybe twice.

    Raises:
        ValueError: the two copies of a tensor differ, or the masks of pruning say that it was not finished.
    """
    if any(name.startswith(_MASKS) for name in tensors):
        raise ValueError("it holds the masks of a pruning run of TinyCLIP that was not finished")
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        bare = _TINYCLIP.sub("", name)
        if bare in renamed and not (renamed[bare].shape == tensor.shape and torch.equal(renamed[bare], tensor)):
            raise ValueError(f"it holds two different tensors for {bare}")
        renamed[bare] = tensor
    return renamed


def from_hf_clip(tensors: Mapping[str, Tensor]) -> Tensors:
    """Of transformers' `CLIPModel` and `MetaClip2Model`."""
    tensors = _without_buffers(tensors)
    renamed = {
        "logit_scale": tensors.pop("logit_scale"),
        "text_projection": tensors.pop("text_projection.weight").T,
        "token_embedding.weight": tensors.pop("text_model.embeddings.token_embedding.weight"),
        "positional_embedding": tensors.pop("text_model.embeddings.position_embedding.weight"),
        **_clip_image_tower(tensors),
        **_blocks(tensors, "text_model.encoder.layers", "transformer.resblocks", _open_clip_block),
        **_moved(tensors, "text_model.final_layer_norm", "ln_final"),
    }
    return renamed | tensors


def from_hf_chinese_clip(tensors: Mapping[str, Tensor]) -> Tensors:
    """Of transformers' `ChineseCLIPModel`, whose text tower is a BERT."""
    tensors = _without_buffers(tensors)
    renamed = {
        "logit_scale": tensors.pop("logit_scale"),
        "text.proj.weight": tensors.pop("text_projection.weight"),
        **_clip_image_tower(tensors),
        **_moved(tensors, "text_model", "text.transformer"),
    }
    unread = "text.transformer.pooler."  # of older versions, random there
    return {name: tensor for name, tensor in (renamed | tensors).items() if not name.startswith(unread)}


def from_hf_siglip(tensors: Mapping[str, Tensor]) -> Tensors:
    """Of transformers' `SiglipModel` and `Siglip2Model`; the image tower becomes timm's."""
    tensors = _without_buffers(tensors)
    trunk, embeddings = "visual.trunk", "vision_model.embeddings"
    patches = tensors.pop(f"{embeddings}.patch_embedding.weight")
    if patches.ndim == 2:  # of patches laid out as rows, columns, channels
        side = round((patches.shape[1] / 3) ** 0.5)
        patches = patches.view(-1, side, side, 3).permute(0, 3, 1, 2)
    head = "vision_model.head"
    packed = {kind: tensors.pop(f"{head}.attention.in_proj_{kind}") for kind in ("weight", "bias")}
    renamed = {
        "logit_scale": tensors.pop("logit_scale"),
        "logit_bias": tensors.pop("logit_bias"),
        "text.token_embedding.weight": tensors.pop("text_model.embeddings.token_embedding.weight"),
        "text.positional_embedding": tensors.pop("text_model.embeddings.position_embedding.weight"),
        f"{trunk}.patch_embed.proj.weight": patches,
        f"{trunk}.pos_embed": tensors.pop(f"{embeddings}.position_embedding.weight")[None],
        f"{trunk}.attn_pool.latent": tensors.pop(f"{head}.probe"),
        **{f"{trunk}.attn_pool.q.{kind}": tensor[: len(tensor) // 3] for kind, tensor in packed.items()},
        **{f"{trunk}.attn_pool.kv.{kind}": tensor[len(tensor) // 3 :] for kind, tensor in packed.items()},
        **_moved(tensors, f"{embeddings}.patch_embedding", f"{trunk}.patch_embed.proj"),
        **_moved(tensors, f"{head}.attention.out_proj", f"{trunk}.attn_pool.proj"),
        **_moved(tensors, f"{head}.layernorm", f"{trunk}.attn_pool.norm"),
        **_moved(tensors, f"{head}.mlp", f"{trunk}.attn_pool.mlp"),
        **_moved(tensors, "vision_model.post_layernorm", f"{trunk}.norm"),
        **_blocks(tensors, "vision_model.encoder.layers", f"{trunk}.blocks", _timm_block),
        **_blocks(tensors, "text_model.encoder.layers", "text.transformer.resblocks", _open_clip_block),
        **_moved(tensors, "text_model.final_layer_norm", "text.ln_final"),
        **_moved(tensors, "text_model.head", "text.text_projection"),
    }
    return renamed | tensors


def _without_buffers(tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(_BUFFERS)}


def _clip_image_tower(tensors: Tensors) -> Tensors:
    """Takes the image tower of a CLIP out of the tensors and gives it back under open_clip's names."""
    embeddings = "vision_model.embeddings"
    return {
        "visual.class_embedding": tensors.pop(f"{embeddings}.class_embedding"),
        "visual.conv1.weight": tensors.pop(f"{embeddings}.patch_embedding.weight"),
        "visual.positional_embedding": tensors.pop(f"{embeddings}.position_embedding.weight"),
        "visual.proj": tensors.pop("visual_projection.weight").T,
        **_moved(tensors, "vision_model.pre_layrnorm", "visual.ln_pre"),
        **_moved(tensors, "vision_model.post_layernorm", "visual.ln_post"),
        **_blocks(tensors, "vision_model.encoder.layers", "visual.transformer.resblocks", _open_clip_block),
    }


def _moved(tensors: Tensors, old: str, new: str) -> Tensors:
    """Takes what lies below a name out of the tensors and gives it back below another."""
    found = [name for name in tensors if name.startswith(f"{old}.")]
    return {f"{new}{name.removeprefix(old)}": tensors.pop(name) for name in found}


def _blocks(tensors: Tensors, old: str, new: str, rename: Callable[[Tensors], Tensors]) -> Tensors:
    """Takes the layers of a transformer out of the tensors and gives them back, each renamed."""
    numbers = {name.removeprefix(f"{old}.").partition(".")[0] for name in tensors if name.startswith(f"{old}.")}
    renamed: Tensors = {}
    for number in sorted(numbers):
        block = {name.removeprefix("."): tensor for name, tensor in _moved(tensors, f"{old}.{number}", "").items()}
        renamed |= {f"{new}.{number}.{name}": tensor for name, tensor in rename(block).items()}
    return renamed


def _packed(block: Tensors, kind: str) -> Tensor:
    """Query, key and value in one tensor."""
    return torch.cat([block.pop(f"self_attn.{part}_proj.{kind}") for part in _STACKED])


def _open_clip_block(block: Tensors) -> Tensors:
    packed = {f"attn.in_proj_{kind}": _packed(block, kind) for kind in ("weight", "bias")}
    return {
        **packed,
        **_moved(block, "self_attn.out_proj", "attn.out_proj"),
        **_moved(block, "layer_norm1", "ln_1"),
        **_moved(block, "layer_norm2", "ln_2"),
        **_moved(block, "mlp.fc1", "mlp.c_fc"),
        **_moved(block, "mlp.fc2", "mlp.c_proj"),
        **block,
    }


def _timm_block(block: Tensors) -> Tensors:
    packed = {f"attn.qkv.{kind}": _packed(block, kind) for kind in ("weight", "bias")}
    return {
        **packed,
        **_moved(block, "self_attn.out_proj", "attn.proj"),
        **_moved(block, "layer_norm1", "norm1"),
        **_moved(block, "layer_norm2", "norm2"),
        **block,
    }
