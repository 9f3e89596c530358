"""TinyCLIP's files give the vectors that its own code gives, whatever its trainer called their tensors."""

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from anykey.encoder import Encoder
from anykey.encoder.errors import CheckpointCorruptError
from anykey.encoder.towers.architecture import TINYCLIP as NETWORKS
from anykey.encoder.towers.architecture import Architecture, build, read_architecture
from anykey.encoder.towers.conversion import convert_weights
from anykey.encoder.towers.encoder import TowerEncoder, load_checkpoint, recognised_checkpoint
from anykey.encoder.towers.layouts.plain import candidates, derive
from anykey.encoder.towers.layouts.table import recognise
from tests.towers_of_others import (
    NAMINGS,
    TINYCLIP,
    distances,
    image_items,
    text_items,
    tinyclip_tensors,
    write_tinyclip,
)

TOLERANCE = 5e-6  # of the reference, whose own reruns differ by 1.5e-6
OPAQUE = slice(0, 3)  # the fourth image is transparent: on white here, its hidden colours shown there
KINDS = ("manual", "resnet", "auto")


def loaded(path: Path, kind: str) -> TowerEncoder:
    architecture = read_architecture(TINYCLIP / kind / "config.json")
    return TowerEncoder(recognised_checkpoint(path, recognise(path, architecture)), "cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_texts_have_the_vectors_of_the_original(kind: str, tmp_path: Path) -> None:
    encoder = loaded(write_tinyclip(kind, tmp_path / "TinyCLIP-tiny.pt"), kind)
    assert distances(encoder, text_items(TINYCLIP), TINYCLIP / kind / "text.npy").max() < TOLERANCE
    assert distances(encoder, image_items(TINYCLIP), TINYCLIP / kind / "image.npy")[OPAQUE].max() < TOLERANCE


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_of_its_trainer_is_the_same_encoder(naming: str, tmp_path: Path) -> None:
    usual = loaded(write_tinyclip("auto", tmp_path / "TinyCLIP-usual.pt", epoch=3), "auto")
    named = loaded(write_tinyclip("auto", tmp_path / "TinyCLIP-other.pt", naming), "auto")
    assert named.fingerprint == usual.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_a_converted_checkpoint_is_the_same_encoder(kind: str, tmp_path: Path) -> None:
    path = write_tinyclip(kind, tmp_path / "TinyCLIP-tiny.pt")
    done = convert_weights(str(path), tmp_path / "made", architecture=str(TINYCLIP / kind / "config.json"))
    made = Encoder.load(tmp_path / "made")
    assert made.fingerprint == done.fingerprint == loaded(path, kind).fingerprint
    assert distances(made, text_items(TINYCLIP), TINYCLIP / kind / "text.npy").max() < TOLERANCE
    assert made.provenance["layout"] == "TinyCLIP"
    assert any("only AnyKey loads it" in remark for remark in done.remarks) is (kind == "auto")


def test_open_clip_loads_what_it_can_build_and_refuses_the_rest(tmp_path: Path) -> None:
    for kind in ("manual", "auto"):
        path = write_tinyclip(kind, tmp_path / f"TinyCLIP-{kind}.pt")
        convert_weights(str(path), tmp_path / kind, architecture=str(TINYCLIP / kind / "config.json"))
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'manual'}")
    tokens_BT = open_clip.get_tokenizer("ViT-B-32")([item.text for item in text_items(TINYCLIP)])
    with torch.inference_mode():
        vectors_BD = model.eval().encode_text(tokens_BT, normalize=True).numpy()
    assert np.abs(vectors_BD - np.load(TINYCLIP / "manual" / "text.npy")).max() < TOLERANCE
    with pytest.raises(TypeError, match="pruned"):
        open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'auto'}")


def test_an_emptied_mlp_still_adds_its_bias() -> None:
    """The mistake costs 0.03 in the vectors above, so the reference has such layers, and layers without attention."""
    names = tinyclip_tensors("auto")
    assert names["visual.transformer.resblocks.3.mlp.c_fc.weight"].shape[0] == 0
    assert names["visual.transformer.resblocks.3.mlp.c_proj.bias"].abs().max() > 0
    assert "visual.transformer.resblocks.2.attn.in_proj_weight" not in names


def test_a_pruned_network_computes_in_eight_bits_too(tmp_path: Path) -> None:
    path = write_tinyclip("auto", tmp_path / "TinyCLIP-tiny.pt")
    convert_weights(str(path), tmp_path / "made", architecture=str(TINYCLIP / "auto" / "config.json"))
    encoder = Encoder.load(tmp_path / "made", device="cpu", precision="int8")
    assert distances(encoder, text_items(TINYCLIP), TINYCLIP / "auto" / "text.npy").max() < 0.05


def test_heads_that_tensors_do_not_tell_are_asked_for(tmp_path: Path) -> None:
    for kind, said in (("manual", "how many heads its text tower has"), ("auto", "are no heads of 64")):
        path = write_tinyclip(kind, tmp_path / f"TinyCLIP-{kind}.pt")
        with pytest.raises(
            CheckpointCorruptError, match=f"looks like TinyCLIP, but .*{said}.*--architecture FILE.json"
        ):
            Encoder.load(path)


def test_a_pruning_run_that_was_not_finished_is_refused(tmp_path: Path) -> None:
    tensors = {f"_image_encoder.module.{n}": t for n, t in tinyclip_tensors("auto").items() if n.startswith("visual")}
    torch.save({"state_dict": {**tensors, "l0_module.heads": torch.ones(3)}}, tmp_path / "TinyCLIP-run.pt")
    with pytest.raises(CheckpointCorruptError, match="masks of a pruning run of TinyCLIP that was not finished"):
        recognise(tmp_path / "TinyCLIP-run.pt")


def test_copies_that_differ_are_refused(tmp_path: Path) -> None:
    tensors = {new: tensor for n, tensor in tinyclip_tensors("auto").items() for new in NAMINGS["doubled"](n)}
    tensors["image_encoder_without_ddp.visual.proj"] = tensors["image_encoder_without_ddp.visual.proj"] + 1
    torch.save(tensors, tmp_path / "TinyCLIP-odd.pt")
    with pytest.raises(CheckpointCorruptError, match=r"two different tensors for visual\.proj"):
        recognise(tmp_path / "TinyCLIP-odd.pt")


@pytest.mark.parametrize("name", NETWORKS)
def test_the_published_networks_have_the_published_shapes(name: str) -> None:
    listed = dict(line.split("\t") for line in (TINYCLIP / "full-size" / f"{name}.tsv").read_text().splitlines())
    with torch.device("meta"):
        model = build(read_architecture(name))
    shapes = {key: "x".join(map(str, tensor.shape)) or "scalar" for key, tensor in model.state_dict().items()}
    assert shapes == listed


def test_a_published_network_is_told_by_its_file_alone(tmp_path: Path) -> None:
    """At full size, but for the numbers: of the smallest, with the trainer's names and open_clip's."""
    name = "TinyCLIP-ViT-8M-16-Text-3M"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tensors = {key: tensor.half() for key, tensor in build(read_architecture(name)).state_dict().items()}
    path = tmp_path / f"{name}-YFCC15M.pt"
    torch.save({"state_dict": {NAMINGS["separately wrapped"](key)[0]: tensor for key, tensor in tensors.items()}}, path)
    checkpoint = load_checkpoint(path)
    assert checkpoint.architecture.name == path.stem
    assert checkpoint.architecture.model_cfg["text_cfg"]["heads"] == 4
    assert not checkpoint.architecture.model_cfg["quick_gelu"]
    assert [found.name for found in candidates(tensors)] == [name]
    again = load_checkpoint(f"{name}@{path}")
    pixels = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(checkpoint.model.eval().encode_image(pixels), again.model.eval().encode_image(pixels))


def test_a_pruned_network_can_be_trained_with_recomputed_layers() -> None:
    given = read_architecture(TINYCLIP / "auto" / "config.json")
    model: Any = build(Architecture("auto", derive(tinyclip_tensors("auto"), False, given.model_cfg)))
    tokens_BT = torch.tensor([[49406, 320, 49407] + [0] * 74])
    gradients = []
    for is_recomputed in (False, True):
        model.set_grad_checkpointing(is_recomputed)
        model.zero_grad()
        model.encode_text(tokens_BT).sum().backward()
        gradients.append([weight.grad.clone() for weight in model.transformer.parameters() if weight.numel()])
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*gradients, strict=True))
