"""Every parameter is in one layer group, in open_clip's and timm's order, and locking freezes and does nothing else."""

import warnings
from typing import Any, Literal

import pytest
import torch
from torch import nn

from anykey.encoder.architecture import Architecture, read_architecture
from anykey.training.families.layers import SCALES, lock_tower, locked_batch_norms, tower_groups
from tests.networks import COCA_TEXT, SIGLIP_TEXT, TIMM_VISION, VISION, build_seeded, small_architecture

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
    groups = tower_groups(model)
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
    reached = groups_as_reached(model, tower_groups(model).image, size_px)
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
    ours, theirs = build_seeded(ARCHITECTURES[kind]), build_seeded(ARCHITECTURES[kind])
    lock_tower(ours, "image", unlocked)
    lock_tower(ours, "text", unlocked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # open_clip takes timm's matcher from where timm no longer wants it taken
        theirs.lock_image_tower(unlocked)
    theirs.lock_text_tower(unlocked)
    assert free_names(ours) == free_names(theirs)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_locked_tower_leaves_the_other_free(tower: Literal["image", "text"]) -> None:
    model = build_seeded(ARCHITECTURES["CLIP"])
    before = free_names(model)
    lock_tower(model, tower)
    locked = before - free_names(model)
    assert locked == {name for group in getattr(tower_groups(model), tower) for name in group}


def test_the_head_behind_a_timm_trunk_stays_free() -> None:
    model = build_seeded(ARCHITECTURES["timm convolutions"])
    lock_tower(model, "image")
    assert {name for name in free_names(model) if name.startswith("visual.")} == {"visual.head.proj.weight"}


def test_a_text_tower_of_another_make_is_one_group_and_its_head() -> None:
    model: Any = build_seeded(ARCHITECTURES["CustomTextCLIP"])
    model.text = nn.ModuleDict({"proj": nn.Linear(4, 4, bias=False), "transformer": nn.Linear(4, 4)})
    assert tower_groups(model).text == [["text.transformer.weight", "text.transformer.bias"], ["text.proj.weight"]]
    lock_tower(model, "text")
    assert {name for name in free_names(model) if name.startswith("text.")} == {"text.proj.weight"}


def test_a_trunk_without_a_matcher_is_one_group_and_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = build_seeded(ARCHITECTURES["timm convolutions"])
    monkeypatch.delattr(type(model.visual.trunk), "group_matcher")
    trunk, head = tower_groups(model).image
    assert len(trunk) == len(list(model.visual.trunk.parameters()))
    assert head == ["visual.head.proj.weight"]


def test_locking_does_not_change_what_the_model_computes() -> None:
    model: Any = build_seeded(ARCHITECTURES["timm convolutions"])
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = model.encode_image(pixels)
    lock_tower(model, "image")
    assert torch.equal(model.encode_image(pixels), before)
    model.lock_image_tower(freeze_bn_stats=True)
    assert not torch.equal(model.encode_image(pixels), before), "open_clip's lock is no longer the trap it was"


def test_batch_norms_are_locked_where_all_their_parameters_are() -> None:
    model: Any = build_seeded(ARCHITECTURES["timm convolutions"])
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert locked_batch_norms(model) == []
    lock_tower(model, "image", unlocked_groups=2)  # the last two blocks, of two norms each
    assert locked_batch_norms(model) == norms[:-4]
    lock_tower(model, "image")
    assert locked_batch_norms(model) == norms
