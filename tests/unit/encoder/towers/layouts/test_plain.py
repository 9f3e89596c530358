"""Files of open_clip's names are recognised by their tensors, and what those do not say is asked for."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file
from torch import nn

from anykey.encoder.errors import CheckpointCorruptError
from anykey.encoder.towers.architecture import build, preprocessing, read_architecture
from anykey.encoder.towers.conversion import convert_weights
from anykey.encoder.towers.encoder import load_checkpoint
from anykey.encoder.towers.layouts.plain import candidates, derive, published_preprocessing
from anykey.encoder.towers.layouts.table import recognise
from tests.networks import build_seeded, let_open_clip_list, small_architecture
from tests.unit.encoder.towers.test_weights import Gelu, archive

WIDE = small_architecture(
    vision={"image_size": 32, "layers": 2, "width": 64, "head_width": 64, "patch_size": 16},
    text={"context_length": 20, "vocab_size": 600, "width": 64, "heads": 1, "layers": 2},
)


def shapes_of(name: str) -> dict[str, torch.Tensor]:
    """The tensors of a listed network, without their numbers."""
    with torch.device("meta"):
        return dict(build(read_architecture(name)).state_dict())


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("ViT-B-32", {"ViT-B-32", "ViT-B-32-quickgelu"}),
        ("ViT-B-16-plus-240", {"ViT-B-16-plus-240"}),
        pytest.param("RN50", {"RN50", "RN50-quickgelu"}, marks=pytest.mark.slow),
        pytest.param(
            "MobileCLIP2-S0", {"MobileCLIP2-S0"}, marks=pytest.mark.slow
        ),  # many others have such a text tower
        ("PE-Core-T-16-384", {"PE-Core-T-16-384"}),
        pytest.param("ViT-B-16-SigLIP2-256", {"ViT-B-16-SigLIP2-256"}, marks=pytest.mark.slow),
        ("anykey-tiny", {"anykey-tiny"}),
        ("TinyCLIP-ResNet-19M-Text-19M", {"TinyCLIP-ResNet-19M-Text-19M"}),
    ],
)
def test_a_listed_network_is_found_by_its_tensors(name: str, found: set[str]) -> None:
    assert {architecture.name for architecture in candidates(shapes_of(name))} == found


def test_names_of_either_form_of_text_tower_are_the_same() -> None:
    tensors = shapes_of("ViT-B-16-plus-240")
    custom = {name if name.startswith(("visual.", "logit")) else f"text.{name}": t for name, t in tensors.items()}
    assert [found.name for found in candidates(custom)] == ["ViT-B-16-plus-240"]


def test_a_file_that_several_networks_fit_asks_which_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configurations = {"toy": WIDE.model_cfg, "toy-quickgelu": {**WIDE.model_cfg, "quick_gelu": True}}
    let_open_clip_list(monkeypatch, **configurations)
    weights = build_seeded(WIDE).state_dict()
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}}, tmp_path / "x.pt")
    said = "looks like open_clip, but toy and toy-quickgelu have these tensors, and the file does not say which"
    with pytest.raises(CheckpointCorruptError, match=said):
        load_checkpoint(tmp_path / "x.pt")
    done = convert_weights(str(tmp_path / "x.pt"), tmp_path / "made", architecture="toy-quickgelu")
    assert done.name == "toy-quickgelu"
    model = load_checkpoint(tmp_path / "made").model
    assert any(isinstance(module, QuickGELU) for module in model.modules())


def test_a_listed_network_needs_no_name(tmp_path: Path) -> None:
    architecture = read_architecture("anykey-tiny")
    save_file(build(architecture).state_dict(), tmp_path / "weights.safetensors")
    found = recognise(tmp_path / "weights.safetensors")
    assert (found.layout, found.architecture.name) == ("open_clip", "anykey-tiny")
    assert "another network of the same shapes is --architecture's to name" in found.remarks[0]


def test_a_network_that_nobody_listed_needs_a_configuration(tmp_path: Path) -> None:
    unlisted = small_architecture()
    save_file(build_seeded(unlisted).state_dict(), tmp_path / "mine.safetensors")
    with pytest.raises(CheckpointCorruptError, match="no network that open_clip lists has these tensors"):
        load_checkpoint(tmp_path / "mine.safetensors")
    (tmp_path / "mine.json").write_text(json.dumps(unlisted.model_cfg))
    done = convert_weights(str(tmp_path / "mine.safetensors"), tmp_path / "made", str(tmp_path / "mine.json"))
    assert done.name == "mine"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's, of TorchScript
@pytest.mark.parametrize(("activation", "is_quick"), [(Gelu(), True), (None, False)])
def test_an_archive_of_openai_says_its_network_and_its_activation(
    activation: nn.Module | None, is_quick: bool, tmp_path: Path
) -> None:
    weights = build_seeded(WIDE).state_dict()
    archive(tmp_path / "ViT-mine.pt", weights, activation)
    checkpoint = load_checkpoint(tmp_path / "ViT-mine.pt")
    assert checkpoint.architecture.name == "ViT-mine"
    assert checkpoint.provenance["layout"] == "OpenAI's TorchScript"
    assert any(isinstance(module, QuickGELU) for module in checkpoint.model.modules()) is is_quick
    assert torch.equal(checkpoint.model.state_dict()["visual.proj"], weights["visual.proj"].half().float())


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-L-14-336", "RN50", "RN101", "RN50x4"])
def test_openais_networks_are_told_by_their_tensors_alone(name: str) -> None:
    tensors = shapes_of(name)
    listed = read_architecture(f"{name}-quickgelu").model_cfg
    derived = derive(tensors, is_quick_gelu=True)
    plain_vision, plain_text = open_clip.CLIPVisionCfg(), open_clip.CLIPTextCfg()
    for part, plain in (("vision_cfg", plain_vision), ("text_cfg", plain_text)):
        full: dict[str, Any] = {**vars(plain), **listed[part]}
        assert {key: full[key] for key in derived[part]} == derived[part]
    assert (derived["embed_dim"], derived["quick_gelu"]) == (listed["embed_dim"], True)


@pytest.mark.parametrize(
    ("name", "mean", "mode"),
    [("MobileCLIP2-S0", (0, 0, 0), "shortest"), ("ViT-B-16-SigLIP2-256", (0.5, 0.5, 0.5), "squash")],
)
def test_a_file_of_a_listed_network_is_prepared_as_its_published_weights(
    name: str, mean: tuple[float, ...], mode: str
) -> None:
    assert tuple(published_preprocessing(name)["mean"]) == mean
    assert published_preprocessing(name)["resize_mode"] == mode
    assert published_preprocessing("anykey-tiny") == {}


def test_a_file_named_after_its_architecture_is_prepared_alike(tmp_path: Path) -> None:
    name = "TinyCLIP-ViT-8M-16-Text-3M"
    with torch.random.fork_rng():
        save_file(build(read_architecture(name)).state_dict(), tmp_path / "x.safetensors")
    by_name, alone = (
        load_checkpoint(f"{name}@{tmp_path / 'x.safetensors'}"),
        load_checkpoint(tmp_path / "x.safetensors"),
    )
    assert by_name.fingerprint == alone.fingerprint
    assert preprocessing(alone.architecture).size == 224
