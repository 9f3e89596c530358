"""Weights are what they say: loaded as published from any kind of file, or refused with the reason and the way out."""

import io
import json
import pickle
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip import pretrained
from open_clip.transform import PreprocessCfg
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file
from torch import Tensor, nn

from anykey.encoder import Encoder, Item
from anykey.encoder.errors import CheckpointCorruptError
from anykey.encoder.towers.architecture import preprocessing, read_tag
from anykey.encoder.towers.encoder import load_checkpoint
from anykey.encoder.towers.tensors import read_tensors
from tests.networks import TEXT, build_seeded, let_open_clip_list, small_architecture

SMALL = small_architecture()
WEIGHTS = build_seeded(SMALL).state_dict()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds `small.json`, and `small-quickgelu.json`."""
    path = tmp_path_factory.mktemp("weights")
    (path / "small.json").write_text(json.dumps(SMALL.model_cfg))
    (path / "small-quickgelu.json").write_text(json.dumps({**SMALL.model_cfg, "quick_gelu": True}))
    save_file(WEIGHTS, path / "plain.safetensors")
    return path


def loaded(folder: Path, name: str, **options: Any) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_checkpoint(f"{folder / 'small.json'}@{folder / name}", **options).model.state_dict()
    return state


def refused(folder: Path, name: str, reason: str) -> str:
    with pytest.raises(CheckpointCorruptError, match=reason) as caught:
        loaded(folder, name)
    assert "\x1b" not in str(caught.value), "no codes for a terminal"
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Gelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


Gelu.__name__ = Gelu.__qualname__ = "QuickGELU"


def archive(path: Path, weights: dict[str, Tensor], activation: nn.Module | None = None) -> None:
    """A TorchScript archive as OpenAI publishes them: modules that hold the weights, and three facts beside."""
    root = nn.Module()
    for name, tensor in weights.items():
        *parents, last = name.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, nn.Module())
            module = getattr(module, parent)
        module.register_parameter(last, nn.Parameter(tensor.half() if tensor.is_floating_point() else tensor, False))
    for name in ("input_resolution", "context_length", "vocab_size"):
        root.register_buffer(name, torch.tensor(77))
    root.no_weight = torch.ones(3)  # an attribute is neither parameter nor buffer
    if activation is not None:
        root.add_module("activation", activation)
    torch.jit.save(torch.jit.script(root), str(path))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's, of TorchScript
class TestArchives:
    """TorchScript, read without running it."""

    def test_an_archive_gives_its_tensors(self, folder: Path) -> None:
        archive(folder / "archive.pt", WEIGHTS)
        found = loaded(folder, "archive.pt")
        assert found.keys() == WEIGHTS.keys()
        for name, tensor in found.items():
            assert tensor.dtype == WEIGHTS[name].dtype
            assert torch.equal(tensor, WEIGHTS[name].half().to(tensor.dtype)), name

    def test_what_torch_reads_of_it_is_the_same(self, folder: Path) -> None:
        archive(folder / "archive.pt", WEIGHTS)
        theirs = torch.jit.load(str(folder / "archive.pt")).state_dict()
        ours = loaded(folder, "archive.pt")
        assert ours.keys() == theirs.keys() - {"input_resolution", "context_length", "vocab_size"}
        assert all(torch.equal(tensor, theirs[name].float()) for name, tensor in ours.items())

    def test_an_archive_of_another_network_is_refused_by_what_differs(self, folder: Path) -> None:
        archive(folder / "more.pt", {**WEIGHTS, "ln_more.weight": torch.ones(2)})
        refused(folder, "more.pt", 'does not fit the architecture: Unexpected key.*"ln_more.weight"')

    def test_the_activation_that_the_archive_was_made_with_is_required(self, folder: Path) -> None:
        archive(folder / "quick.pt", WEIGHTS, Gelu())
        refused(folder, "quick.pt", "activation QuickGELU, which the architecture does not have: name the one")
        model = load_checkpoint(f"{folder / 'small-quickgelu.json'}@{folder / 'quick.pt'}").model
        assert any(isinstance(module, QuickGELU) for module in model.modules())

    def test_nothing_in_an_archive_is_run(self, folder: Path, tmp_path: Path) -> None:
        archive(folder / "sound.pt", WEIGHTS)

        class Hostile:
            def __reduce__(self) -> tuple[Any, ...]:
                return Path.touch, (tmp_path / "was here",)

        with zipfile.ZipFile(folder / "sound.pt") as sound, zipfile.ZipFile(folder / "hostile.pt", "w") as hostile:
            for name in sound.namelist():
                data = pickle.dumps(Hostile(), 2) if name.endswith("/data.pkl") else sound.read(name)
                hostile.writestr(name, data)
        refused(folder, "hostile.pt", "is damaged or no weights file: it holds ")
        assert not (tmp_path / "was here").exists()

    @pytest.mark.parametrize("keep", [0.3, 0.9])
    def test_an_archive_that_was_cut_is_refused(self, folder: Path, keep: float) -> None:
        archive(folder / "archive.pt", WEIGHTS)
        data = (folder / "archive.pt").read_bytes()
        (folder / "cut.pt").write_bytes(data[: int(keep * len(data))])
        refused(folder, "cut.pt", "is damaged or no weights file: ")

    def test_an_archive_that_lost_a_tensor_is_refused(self, folder: Path) -> None:
        archive(folder / "archive.pt", WEIGHTS)
        with zipfile.ZipFile(folder / "archive.pt") as whole, zipfile.ZipFile(folder / "less.pt", "w") as less:
            for name in whole.namelist():
                if not name.endswith("/data/3"):
                    less.writestr(name, whole.read(name))
        refused(folder, "less.pt", "is damaged or no weights file: .*data/3")


class TestPositions:
    """A file for another context or image size is refused whatever its format, unless stretching is asked for."""

    @pytest.fixture(params=[".pt", ".safetensors"])
    def other(self, folder: Path, request: pytest.FixtureRequest) -> str:
        weights = build_seeded(small_architecture(text={**TEXT, "context_length": 32})).state_dict()
        return self.save(folder, f"context{request.param}", weights)

    def save(self, folder: Path, name: str, weights: dict[str, Tensor]) -> str:
        if name.endswith(".pt"):
            torch.save(weights, folder / name)
        else:
            save_file(weights, folder / name)
        return name

    def test_another_context_length_is_refused_alike(self, folder: Path, other: str) -> None:
        refused(
            folder, other, "positional_embedding has 32 positions in the file and 77 in the architecture; give it the "
            "file's own context_length, or train with --stretch-positions",
        )  # fmt: skip

    def test_it_is_stretched_when_asked(self, folder: Path, other: str) -> None:
        stretched = loaded(folder, other, stretch_positions=True)["positional_embedding"]
        theirs = open_clip.model.resize_text_pos_embed
        expected = {"positional_embedding": build_seeded(
            small_architecture(text={**TEXT, "context_length": 32})
        ).state_dict()["positional_embedding"]}  # fmt: skip
        theirs(expected, build_seeded(SMALL))
        assert torch.equal(stretched, expected["positional_embedding"])
        source = f"{folder / 'small.json'}@{folder / other}"
        assert Encoder.load(source, stretch_positions=True).encode([Item("a red circle")]).shape == (1, 16)

    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    def test_another_image_size_is_refused_alike(self, folder: Path, suffix: str) -> None:
        vision = {**SMALL.model_cfg["vision_cfg"], "image_size": 64}
        name = self.save(folder, f"image{suffix}", build_seeded(small_architecture(vision=vision)).state_dict())
        refused(folder, name, "visual.positional_embedding has 17 positions in the file and 5 .* own image_size")
        assert loaded(folder, name, stretch_positions=True)["visual.positional_embedding"].shape == (5, 32)


class TestObjects:
    """Files of `torch.save` with more in them than tensors."""

    @pytest.mark.parametrize(
        "weights",
        [
            {"state_dict": WEIGHTS},
            {"model": {f"clip_model.{name}": tensor for name, tensor in WEIGHTS.items()}, "optimizer": {}},  # UniIR's
        ],
        ids=["state_dict", "model"],
    )
    def test_foreign_objects_are_named_and_the_command_given_works(self, folder: Path, weights: Any) -> None:
        torch.save({**weights, "epoch": np.float64(3)}, folder / "with numpy.pt")
        said = refused(folder, "with numpy.pt", r"holds other objects than tensors \(numpy.*scalar, .*If you trust")
        command = shlex.split(said[said.index("python -c") :])
        subprocess.run([sys.executable, *command[1:]], check=True, timeout=120)
        assert all(torch.equal(tensor, WEIGHTS[n]) for n, tensor in loaded(folder, "with numpy.safetensors").items())

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ([1, 2], "found a list"),
            ({"model": {"a": torch.ones(1), "step": 3}, "optimizer": {}}, "found a, step"),
            ({"weights": {"a": torch.ones(1)}, "optimizer": {}}, "found weights, optimizer"),
            ({}, "found none"),
            ({"a": torch.ones(1), "epoch": 3}, "found a, epoch"),
        ],
        ids=["list", "nested and mixed", "nested elsewhere", "empty", "mixed"],
    )
    def test_what_is_found_instead_of_tensors_is_said(self, folder: Path, content: Any, said: str) -> None:
        torch.save(content, folder / "odd.pt")
        refused(folder, "odd.pt", f"expected tensors by name, or below 'state_dict', {said}")

    @pytest.mark.parametrize("is_nested", [True, False])
    def test_weights_of_open_clips_own_trainer_are_read(self, folder: Path, is_nested: bool) -> None:
        wrapped = {f"module.{name}": tensor for name, tensor in WEIGHTS.items()}
        torch.save({"epoch": 3, "state_dict": wrapped} if is_nested else wrapped, folder / "trained.pt")
        assert all(torch.equal(tensor, WEIGHTS[name]) for name, tensor in loaded(folder, "trained.pt").items())

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda weights: {"model": weights, "optimizer": {}},
            lambda weights: {"model_state_dict": {f"model.{name}": t for name, t in weights.items()}, "epoch": 3},
            lambda weights: {"module": {f"module.module.{name}": t for name, t in weights.items()}},
            lambda weights: {f"_orig_mod.{name}": tensor for name, tensor in weights.items()},
            lambda weights: {"n_averaged": torch.tensor(7), **{f"module.{n}": t for n, t in weights.items()}},
            lambda weights: {"ema": weights, "epoch": 3},
        ],
        ids=["model", "a module's part", "wrapped twice", "compiled", "averaged by torch", "an average alone"],
    )
    def test_weights_are_found_where_trainers_put_them(self, folder: Path, wrap: Any) -> None:
        torch.save(wrap(WEIGHTS), folder / "nested.pt")
        assert all(torch.equal(tensor, WEIGHTS[name]) for name, tensor in loaded(folder, "nested.pt").items())

    def test_the_last_weights_are_taken_and_the_average_where_it_is_asked_for(self, folder: Path) -> None:
        average = {name: tensor + 1 for name, tensor in WEIGHTS.items()}
        torch.save({"state_dict": WEIGHTS, "state_dict_ema": average}, folder / "both.pt")
        last, mean = read_tensors(folder / "both.pt"), read_tensors(folder / "both.pt", average=True)
        assert (last.has_average, mean.has_average) == (True, False)
        assert torch.equal(last.tensors["ln_final.bias"] + 1, mean.tensors["ln_final.bias"])
        torch.save({"state_dict": WEIGHTS}, folder / "last.pt")
        with pytest.raises(CheckpointCorruptError, match="it holds no average over training"):
            read_tensors(folder / "last.pt", average=True)

    def test_a_pickle_that_is_no_file_of_torch_is_refused_in_a_sentence(self, folder: Path) -> None:
        (folder / "plain.pt").write_bytes(pickle.dumps({"a": io.BytesIO}))
        refused(folder, "plain.pt", "holds other objects than tensors|is damaged or no weights file: ")


TAGS = open_clip.list_pretrained()


class TestTags:
    """open_clip's pretrained tags: the activation and the preprocessing that the weights were made with."""

    @pytest.mark.parametrize(("name", "tag"), TAGS, ids=lambda value: value)
    def test_every_tag_has_its_own_activation_and_preprocessing(self, name: str, tag: str) -> None:
        said, architecture = pretrained.get_pretrained_cfg(name, tag), read_tag(name, tag)
        own = open_clip.get_model_config(name).get("quick_gelu", False)
        assert architecture.model_cfg.get("quick_gelu", False) is said.get("quick_gelu", own)
        cfg, plain = preprocessing(architecture), PreprocessCfg()
        for key in ("mean", "std", "interpolation", "resize_mode"):
            assert getattr(cfg, key) == (said.get(key) or getattr(plain, key))

    def test_openais_weights_get_openais_activation_under_either_name(self) -> None:
        found = {name: read_tag(name, "openai").model_cfg for name in ("ViT-B-32", "ViT-B-32-quickgelu")}
        assert found["ViT-B-32"] == found["ViT-B-32-quickgelu"]
        assert found["ViT-B-32"]["quick_gelu"] is True
        assert not read_tag("ViT-B-32", "laion2b_s34b_b79k").model_cfg.get("quick_gelu")

    @pytest.fixture
    def registered(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        """A name of open_clip's with two tags whose weights are on this machine."""
        name = "small-with-tags"
        let_open_clip_list(monkeypatch, **{name: SMALL.model_cfg})
        weights = {"file": str(folder / "plain.safetensors")}
        facts = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
        tags = {"plain": weights, "quick": {**weights, "quick_gelu": True, **facts}}
        monkeypatch.setitem(pretrained._PRETRAINED, name, tags)
        return name

    def test_a_tag_is_loaded_as_it_was_published(self, registered: str, folder: Path) -> None:
        plain, quick = (Encoder.load(f"{registered}/{tag}") for tag in ("plain", "quick"))
        assert [any(isinstance(m, QuickGELU) for m in e.model.modules()) for e in (plain, quick)] == [False, True]
        assert tuple(preprocessing(plain.architecture).mean) == PreprocessCfg().mean
        cfg = preprocessing(quick.architecture)
        assert [list(cfg.mean), cfg.interpolation, cfg.resize_mode] == [[0.5] * 3, "bilinear", "squash"]
        theirs = open_clip.create_model(registered, str(folder / "plain.safetensors"), force_quick_gelu=True).eval()
        with torch.inference_mode():
            expected = theirs.encode_text(open_clip.get_tokenizer("ViT-B-32")(["a red circle"]), normalize=True)
        np.testing.assert_allclose(quick.encode([Item("a red circle")]), expected.numpy(), atol=1e-6)
        source = f"{folder / 'small-quickgelu.json'}@{folder / 'plain.safetensors'}"
        same = Encoder.load(source).encode([Item("a red circle")])
        np.testing.assert_array_equal(quick.encode([Item("a red circle")]), same)
        assert np.abs(plain.encode([Item("a red circle")]) - same).max() > 1e-4
