"""Every recipe is read whole, and the network that it names can be built."""

from pathlib import Path

import open_clip
import pytest
import torch

from anykey.encoder.towers.architecture import Architecture, build, read_architecture
from anykey.program.settings import load_settings
from anykey.training.families.opening import open_family
from anykey.training.settings import TrainSettings
from tests.fusion_models import write_text_model
from tests.guards.checkout import ROOT
from tests.training_runs import CPU
from tests.visualized import Toy

FOLDER = ROOT / "training" / "recipes"
# Those of other commands say so in their names.
RECIPES = sorted(path for path in FOLDER.glob("*.toml") if not path.stem.endswith(("-study", "-sweep")))
# What a recipe leaves to the user.
GIVEN = {
    "flickr8k": ["--image-weights", "trunk.safetensors"],
    "flickr8k-unlocked": ["--start", "training/recipes/flickr8k-mobilenetv1.json@weights.safetensors"],
    "folder": ["--start", "ViT-B-32@weights.safetensors"],
    "flickr8k-fusion": ["--image-weights", "trunk.safetensors"],
}
FUSION = ("vista", "flickr8k-fusion")
WITHOUT_WEIGHTS = torch.device("meta")  # which are drawn at random, and up to 1.7 GB of them


def settings_of(recipe: Path) -> TrainSettings:
    flags = ["--config", str(recipe), "--data", "pairs.tar", *GIVEN.get(recipe.stem, [])]
    return load_settings(TrainSettings, "anykey-train", flags)


def architecture_of(settings: TrainSettings) -> Architecture:
    if settings.start is None:
        return read_architecture(settings.architecture)
    name, at, _ = settings.start.rpartition("@")
    if at:
        return read_architecture(name)
    name, _, tag = settings.start.rpartition("/")
    assert (name, tag) in open_clip.list_pretrained()
    return read_architecture(name)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes name their configurations from where the repository was checked out."""
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("recipe", [path for path in RECIPES if path.stem not in FUSION], ids=lambda path: path.stem)
def test_a_recipe_is_read_and_its_network_can_be_built(recipe: Path) -> None:
    with WITHOUT_WEIGHTS:
        build(architecture_of(settings_of(recipe)))


def test_vistas_recipe_trains_what_its_second_stage_does(toy: Toy, tmp_path: Path) -> None:
    settings = settings_of(FOLDER / "vista.toml").model_copy(
        update={"start": str(toy.published("base", tmp_path / "v"))}
    )
    family = open_family(settings, CPU, None)
    assert (settings.lock_text, settings.learn_temperature) == (True, False)
    assert family.tokenize(["a boat"])[0].shape == (1, 109)
    assert family.log_scale.exp().item() == pytest.approx(50, rel=1e-5)


def test_the_mini_architecture_is_built_of_its_recipe(toy: Toy, tmp_path: Path) -> None:
    """With a text encoder of a few weights in place of MiniLM, which is a package of 90 MB."""
    text_model = write_text_model(toy, tmp_path / "text")
    update = {"text_model": text_model, "image_weights": None}
    family = open_family(settings_of(FOLDER / "flickr8k-fusion.toml").model_copy(update=update), CPU, None)
    black = torch.zeros(1, 3, *family.image_input.size_px, dtype=torch.uint8)
    assert family.description.name == "anykey-fusion-mini"
    assert family.trunk_features(black).shape == (1, 25, 1024)
    assert family.normalize(black).unique().tolist() == [-1]


def test_tinyclip_has_the_parameters_in_its_name() -> None:
    """39 million in the image tower, 19 in the text tower's blocks, as the authors count them."""
    with WITHOUT_WEIGHTS:
        model = build(read_architecture(FOLDER / "tinyclip-vit-39m-16-text-19m.json"))
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert round(sum(size for name, size in sizes.items() if name.startswith("visual.")) / 1e6) == 39
    assert round(sum(size for name, size in sizes.items() if name.startswith("transformer.")) / 1e6) == 19
