"""Locking locks, batch normalisation keeps its statistics where it should, and a pretrained trunk is whole."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from anykey.encoder.errors import CheckpointCorruptError, CheckpointNotFoundError
from anykey.encoder.fusion import Fusion
from anykey.encoder.padding import Padding
from anykey.encoder.towers.architecture import preprocessing, read_architecture
from anykey.training.errors import InvalidRecipeError
from anykey.training.families.opening import open_family
from anykey.training.families.towers import Towers, open_start
from anykey.training.settings import TrainSettings
from tests.networks import TEXT, build_seeded, small_architecture
from tests.training_runs import CPU, image_features, make_settings, make_towers, weights_of

RECIPE = Path(__file__).parents[3] / "training" / "recipes" / "flickr8k-mobilenetv1.json"


def pixels(count: int = 4, size_px: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size_px, size_px), dtype=torch.uint8, generator=generator)


def step(towers: Towers) -> None:
    """One large optimiser step on everything that may train."""
    towers.train()
    trained = [parameter for parameter in towers.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.5)
    (image_features(towers, pixels()) * torch.linspace(-1, 1, 16)).sum().backward()
    optimizer.step()


def changed(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


def test_a_step_changes_an_unlocked_trunk() -> None:
    """Shows that the tests of locking below can fail."""
    towers = make_towers(timm=True)
    before = weights_of(towers.trunk)
    step(towers)
    names = changed(before, towers.trunk)
    assert names >= {name for name, _ in towers.trunk.named_parameters()}
    assert any("running_mean" in name for name in names)


@pytest.mark.parametrize("timm_tower", [False, True])
def test_a_locked_trunk_is_unchanged_by_a_step_but_the_projection_learns(timm_tower: bool) -> None:
    towers = make_towers(timm=timm_tower, lock_image=True)
    trunk, whole = weights_of(towers.trunk), weights_of(towers.model)
    if timm_tower:
        step(towers)
        assert changed(whole, towers.model) == {"visual.head.proj.weight"}
    else:
        towers.train()
        assert not image_features(towers, pixels()).requires_grad
    assert not changed(trunk, towers.trunk)


def test_a_locked_trunk_keeps_its_activations() -> None:
    """open_clip's own lock with frozen statistics replaces timm's norm-and-activation layers and so drops ReLU6."""
    locked, free = make_towers(timm=True, lock_image=True), make_towers(timm=True)
    locked.eval()
    free.eval()
    assert torch.equal(locked.trunk_features(pixels()), free.trunk_features(pixels()))


@pytest.mark.parametrize(
    ("batch_norm", "is_pretrained", "uses_batch_statistics"),
    [("auto", False, True), ("auto", True, False), ("eval", False, False), ("train", True, True)],
)
def test_batch_normalisation_follows_the_setting(
    batch_norm: str, is_pretrained: bool, uses_batch_statistics: bool
) -> None:
    towers = make_towers(timm=True, batch_norm=batch_norm, is_pretrained=is_pretrained)
    before = weights_of(towers.trunk)
    towers.train()
    image_features(towers, pixels())
    assert bool(changed(before, towers.trunk)) is uses_batch_statistics


def test_inference_mode_uses_no_batch_statistics() -> None:
    towers = make_towers(timm=True)
    towers.train()
    towers.eval()
    with torch.no_grad():
        together, alone = image_features(towers, pixels()), image_features(towers, pixels()[:1])
    torch.testing.assert_close(together[:1], alone, atol=1e-4, rtol=0)


def test_pixels_are_normalised_as_the_architecture_says() -> None:
    towers = make_towers()
    config = preprocessing(small_architecture())
    found = towers.normalize(pixels())
    for channel in range(3):
        expected = (pixels()[:, channel] / 255.0 - config.mean[channel]) / config.std[channel]
        torch.testing.assert_close(found[:, channel], expected)


@pytest.mark.parametrize("timm_tower", [False, True])
def test_cached_features_through_the_head_are_the_full_forward_pass(timm_tower: bool) -> None:
    towers = make_towers(timm=timm_tower, lock_image=True)
    towers.eval()
    with torch.no_grad():
        full = image_features(towers, pixels())
        cached = image_features(towers, towers.trunk_features(pixels()))
    torch.testing.assert_close(cached, full, atol=1e-6, rtol=0)


def test_half_precision_features_come_back_as_float32() -> None:
    towers = make_towers(dtype=torch.bfloat16)
    towers.eval()
    with torch.no_grad():
        half, full = image_features(towers, pixels()), image_features(make_towers(), pixels())
    assert half.dtype is torch.float32
    assert not torch.equal(half, full)
    assert torch.cosine_similarity(half, full).min() > 0.99


@pytest.fixture(scope="module")
def trunk_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a whole timm trunk, as they are published."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "trunk.safetensors"
    save_file(timm.create_model("mobilenetv1_100", num_classes=0).state_dict(), path)
    return path


def recipe(tmp_path: Path, **changes: object) -> TrainSettings:
    return make_settings(tmp_path / "data.tar", tmp_path / "run", **{"architecture": str(RECIPE), **changes})


def test_a_pretrained_trunk_is_loaded_with_its_own_mean_and_padding(tmp_path: Path, trunk_weights: Path) -> None:
    start = open_start(recipe(tmp_path, image_weights=trunk_weights, image_padding="same"))
    reference = timm.create_model("mobilenetv1_100", num_classes=0, pad_type="same").eval()
    reference.load_state_dict({name: tensor for name, tensor in start.model.visual.trunk.state_dict().items()})
    batch = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(start.model.eval().visual.trunk(batch), reference(batch))
    config = preprocessing(start.architecture)
    published = timm.get_pretrained_cfg("mobilenetv1_100")
    assert (tuple(config.mean), tuple(config.std)) == (tuple(published.mean), tuple(published.std))
    assert start.architecture.padding is Padding.SAME
    assert start.is_pretrained


def test_the_settings_beat_timms_mean(tmp_path: Path, trunk_weights: Path) -> None:
    own = {"image_mean": (0.1, 0.2, 0.3), "image_std": (0.4, 0.4, 0.4), "resize_mode": "squash"}
    config = preprocessing(open_start(recipe(tmp_path, image_weights=trunk_weights, **own)).architecture)
    assert (config.mean, config.std, config.resize_mode) == ((0.1, 0.2, 0.3), (0.4, 0.4, 0.4), "squash")


def test_without_weights_the_start_is_not_pretrained_and_keeps_clips_mean(tmp_path: Path) -> None:
    start = open_start(recipe(tmp_path))
    assert not start.is_pretrained
    assert preprocessing(start.architecture).mean == preprocessing(read_architecture("ViT-B-32")).mean


def test_trunk_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save_file({"conv_stem.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(
        CheckpointCorruptError,
        match=r"does not fit the image trunk of flickr8k-mobilenetv1 \(--architecture .*\): Missing",
    ):
        open_start(recipe(tmp_path, image_weights=tmp_path / "other.safetensors"))


@pytest.mark.parametrize("data", [b"", b"rubbish" * 10])
def test_trunk_weights_that_are_none_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "rubbish.safetensors").write_bytes(data)
    with pytest.raises(CheckpointCorruptError, match="damaged or no safetensors file"):
        open_start(recipe(tmp_path, image_weights=tmp_path / "rubbish.safetensors"))


def test_missing_trunk_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"image weights .*absent\.safetensors do not exist"):
        open_start(recipe(tmp_path, image_weights=tmp_path / "absent.safetensors"))


def test_trunk_weights_need_a_timm_tower(tmp_path: Path, trunk_weights: Path) -> None:
    settings = recipe(tmp_path, image_weights=trunk_weights, architecture="ViT-S-32")
    with pytest.raises(InvalidRecipeError, match="needs a timm image tower, ViT-S-32 has none"):
        open_start(settings)


def test_a_start_is_seeded(tmp_path: Path) -> None:
    first, again, other = (weights_of(open_start(make_settings(tmp_path, tmp_path), seed).model) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("own", "changes", "expected"),
    [
        (0.01, {}, 0.05),
        (0.07, {}, 0.07),
        (0.01, {"temperature": 0.02}, 0.02),
        (0.01, {"loss": "clip"}, 0.01),
    ],
)
def test_gcl_begins_no_colder_than_it_should(
    tmp_path: Path, own: float, changes: dict[str, Any], expected: float
) -> None:
    start = open_start(make_settings(tmp_path, tmp_path))
    start.model.logit_scale.data.fill_(-math.log(own))
    Towers(start, CPU).save(tmp_path / "start", start.model.state_dict(), {})
    family = open_family(make_settings(tmp_path, tmp_path, start=str(tmp_path / "start"), **changes), CPU, None)
    assert math.exp(-family.log_scale.item()) == pytest.approx(expected)


def test_fine_tuning_starts_from_the_checkpoint(tmp_path: Path, tiny_checkpoint: Path, tiny_encoder: object) -> None:
    start = open_start(make_settings(tmp_path, tmp_path, start=str(tiny_checkpoint)))
    assert start.is_pretrained
    assert start.fusion is Fusion.RAW
    assert start.provenance["start_fingerprint"] == tiny_encoder.fingerprint
    expected = tiny_encoder.model.state_dict()
    found = start.model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_start_for_another_context_is_refused_unless_stretching_is_asked_for(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "small.json").write_text(json.dumps(small_architecture().model_cfg))
    weights = build_seeded(small_architecture(text={**TEXT, "context_length": 32})).state_dict()
    save_file(weights, tmp_path / "w.safetensors") if suffix == ".safetensors" else torch.save(
        weights, tmp_path / "w.pt"
    )
    source = f"{tmp_path / 'small.json'}@{tmp_path / f'w{suffix}'}"
    with pytest.raises(CheckpointCorruptError, match="32 positions in the file and 77 in the architecture"):
        open_start(make_settings(tmp_path, tmp_path, start=source))
    stretched = open_start(make_settings(tmp_path, tmp_path, start=source, stretch_positions=True)).model
    assert len(stretched.positional_embedding) == 77
    with pytest.raises(ValueError, match="--stretch-positions needs --start ARCHITECTURE@FILE"):
        make_settings(tmp_path, tmp_path, start=str(tmp_path), stretch_positions=True)


@pytest.mark.parametrize("own", [{"image_mean": (0.5,) * 3}, {"resize_mode": "squash"}, {"image_padding": "same"}])
def test_a_start_brings_its_own_preprocessing(tmp_path: Path, own: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="--start brings its own preprocessing"):
        make_settings(tmp_path, tmp_path, start="somewhere", **own)
