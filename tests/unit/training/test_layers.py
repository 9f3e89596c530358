"""Every parameter is in one layer group, in open_clip's and timm's order, and locking freezes and does nothing else."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from anykey.encoder.towers.architecture import Architecture, read_architecture
from anykey.training.families.layers import SCALES, tower_layers
from anykey.training.families.towers import Towers
from anykey.training.family import Side, batch_norms
from tests.networks import COCA_TEXT, SIGLIP_TEXT, TIMM_VISION, VISION, build_seeded, small_architecture
from tests.training_runs import towers_of

THREE_BLOCKS = {**VISION, "layers": 3}
ATTENTION_POOL = {**THREE_BLOCKS, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
RESNET = {"image_size": 32, "layers": [1, 2, 1, 1], "width": 8, "head_width": 16}
DECODER = {"context_length": 76, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
ARCHITECTURES: dict[str, Architecture] = {
    "CLIP": small_architecture(vision=THREE_BLOCKS),
    "CustomTextCLIP": small_architecture(vision=THREE_BLOCKS, custom_text=True),
    "SigLIP": small_architecture(text=SIGLIP_TEXT, custom_text=True, init_logit_bias=-10.0),
    "CoCa": small_architecture(vision=ATTENTION_POOL, text=COCA_TEXT, multimodal_cfg=DECODER, custom_text=True),
    "ResNet": small_architecture(vision=RESNET),
    "timm convolutions": small_architecture(vision=TIMM_VISION),
    "timm transformer": small_architecture(vision={**TIMM_VISION, "timm_model_name": "test_vit", "image_size": 160}),
    "timm without head": small_architecture(
        vision={"timm_model_name": "resnet18", "timm_pool": "avg", "timm_proj": ""}
    ),
    "anykey-tiny": read_architecture("anykey-tiny"),
}


def free_names(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_parameter_is_in_one_group(kind: str) -> None:
    model = build_seeded(ARCHITECTURES[kind])
    groups = tower_layers(model)
    named = [name for group in [*groups.image, *groups.text] for name in group]
    assert sorted(named) == sorted({name for name, _ in model.named_parameters()} - SCALES)
    assert all(name.startswith("visual.") for group in groups.image for name in group)
    assert not any(name.startswith("visual.") for group in groups.text for name in group)
    assert len(groups.image) > 2
    assert len(groups.text) == 4


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_forward_pass_reaches_the_image_groups_in_their_order(kind: str) -> None:
    model = build_seeded(ARCHITECTURES[kind])
    size_px = ARCHITECTURES[kind].model_cfg["vision_cfg"].get("image_size", 224)
    reached = groups_as_reached(model, tower_layers(model).image, size_px)
    assert len(reached) >= 2
    assert reached == sorted(reached)


def groups_as_reached(model: Any, groups: list[list[str]], size_px: int) -> list[int]:
    """Positions of groups in the order in which a forward pass first enters a module that holds their parameters."""
    group_of = {name: position for position, group in enumerate(groups) for name in group}
    reached: list[int] = []
    for name, module in model.visual.named_modules(prefix="visual"):
        own = {group_of[f"{name}.{inner}"] for inner, _ in module.named_parameters(recurse=False)}
        if len(own) == 1:  # open_clip keeps parameters of stem and output on the tower itself
            position = own.pop()
            module.register_forward_pre_hook(lambda *_, position=position: reached.append(position))
    with torch.no_grad():
        model.encode_image(torch.zeros(1, 3, size_px, size_px))
    return list(dict.fromkeys(reached))


@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP", "timm convolutions", "timm transformer"])
@pytest.mark.parametrize("unlocked", [0, 1, 2, 4, 100])
def test_locking_frees_the_groups_that_open_clip_frees(kind: str, unlocked: int) -> None:
    ours, theirs = towers_of(ARCHITECTURES[kind]), build_seeded(ARCHITECTURES[kind])
    ours.lock("image", unlocked)
    ours.lock("text", unlocked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # open_clip takes timm's matcher from where timm no longer wants it taken
        theirs.lock_image_tower(unlocked)
    theirs.lock_text_tower(unlocked)
    assert free_names(ours.model) == free_names(theirs)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_locked_tower_leaves_the_other_free(tower: Side) -> None:
    towers = towers_of(ARCHITECTURES["CLIP"])
    before = free_names(towers.model)
    towers.lock(tower)
    locked = before - free_names(towers.model)
    assert locked == {name for group in getattr(towers.layers, tower) for name in group}


def test_the_head_behind_a_timm_trunk_stays_free() -> None:
    towers = towers_of(ARCHITECTURES["timm convolutions"])
    towers.lock("image")
    assert {name for name in free_names(towers.model) if name.startswith("visual.")} == {"visual.head.proj.weight"}


def test_a_text_tower_of_another_make_is_one_group_and_its_head() -> None:
    model: Any = build_seeded(ARCHITECTURES["CustomTextCLIP"])
    model.text = nn.ModuleDict({"proj": nn.Linear(4, 4, bias=False), "transformer": nn.Linear(4, 4)})
    layers = tower_layers(model)
    assert layers.text == [["text.transformer.weight", "text.transformer.bias"], ["text.proj.weight"]]
    assert layers.locked("text") == layers.text[0]


def test_a_trunk_without_a_matcher_is_one_group_and_its_head() -> None:
    model: Any = build_seeded(ARCHITECTURES["timm convolutions"])
    model.visual.trunk = nn.Sequential(nn.Conv2d(3, 8, 16), nn.Flatten())
    trunk, head = tower_layers(model).image
    assert len(trunk) == len(list(model.visual.trunk.parameters()))
    assert head == ["visual.head.proj.weight"]


def test_locking_does_not_change_what_the_model_computes() -> None:
    towers = towers_of(ARCHITECTURES["timm convolutions"])
    model = towers.model
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = model.encode_image(pixels)
    towers.lock("image")
    assert torch.equal(model.encode_image(pixels), before)
    model.lock_image_tower(freeze_bn_stats=True)
    assert not torch.equal(model.encode_image(pixels), before), "open_clip's lock is no longer the trap it was"


def test_batch_norms_are_locked_where_all_their_parameters_are() -> None:
    towers = towers_of(ARCHITECTURES["timm convolutions"], batch_norm="train")
    norms = list(batch_norms(towers.model))
    assert resting(towers, norms) == []
    towers.lock("image", unlocked_groups=2)  # the last two blocks, of two norms each
    assert resting(towers, norms) == norms[:-4]
    assert towers.uses_batch_statistics
    towers.lock("image")
    assert resting(towers, norms) == norms
    assert not towers.uses_batch_statistics


def resting(towers: Towers, norms: list[nn.Module]) -> list[nn.Module]:
    """The norms that keep their statistics while the others train."""
    towers.train()
    return [norm for norm in norms if not norm.training]
