"""A CLIP's Hugging Face directory gives transformers' vectors, by its configuration and its preprocessor's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import load_file, save_file

from anykey.encoder import Encoder
from anykey.encoder.errors import CheckpointCorruptError, CheckpointNotFoundError, MissingPartError
from anykey.encoder.towers.architecture import preprocessing
from anykey.encoder.towers.conversion import convert_weights
from anykey.encoder.towers.encoder import TowerEncoder, load_checkpoint
from tests.towers_of_others import CLIP_HF, distances, image_items, text_items, write_clip_directory

TOLERANCE = 5e-6


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip_directory(tmp_path_factory.mktemp("hf") / "toy-clip")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """One to be changed."""
    return write_clip_directory(tmp_path / "mine")


def edit(path: Path, **changes: Any) -> None:
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


def refused(path: Path, said: str) -> None:
    with pytest.raises((CheckpointCorruptError, CheckpointNotFoundError, MissingPartError), match=said) as caught:
        Encoder.load(path)
    assert "\n" not in str(caught.value)


def test_texts_have_transformers_vectors_but_for_html(directory: Path) -> None:
    """CLIP's own tokenizer is taken, which transformers' copy is but for HTML entities and mojibake."""
    encoder = Encoder.load(directory)
    assert distances(encoder, text_items(CLIP_HF), CLIP_HF / "expected" / "text.npy")[:4].max() < TOLERANCE
    assert distances(encoder, text_items(CLIP_HF), CLIP_HF / "alternative" / "text_clip_bpe.npy").max() < TOLERANCE


def test_images_have_transformers_vectors_but_for_one_pixel_of_the_crop(directory: Path) -> None:
    """The second image has a surplus of 7 pixels, of which CLIP's own crop leaves 4 on the left, transformers' 3.

    The fifth is transparent: on white here, its hidden colours shown by both of them.
    """
    encoder, items = Encoder.load(directory), image_items(CLIP_HF)
    theirs = distances(encoder, items, CLIP_HF / "expected" / "image.npy")
    clips = distances(encoder, items, CLIP_HF / "alternative" / "image_torchvision.npy")
    assert theirs[[0, 2, 3]].max() < TOLERANCE
    assert clips[:4].max() < TOLERANCE
    assert theirs[1] > 0.1
    assert min(theirs[4], clips[4]) > 0.1


def test_the_activation_is_the_configurations(tmp_path: Path) -> None:
    encoder = Encoder.load(write_clip_directory(tmp_path / "quick", "config-quick_gelu.json"))
    assert distances(encoder, text_items(CLIP_HF), CLIP_HF / "expected_quick_gelu" / "text.npy")[:4].max() < TOLERANCE
    images = distances(encoder, image_items(CLIP_HF), CLIP_HF / "expected_quick_gelu" / "image.npy")
    assert images[[0, 2, 3]].max() < TOLERANCE
    assert isinstance(encoder, TowerEncoder)
    assert sum(isinstance(module, QuickGELU) for module in encoder.model.modules()) == 5


def test_a_converted_directory_is_the_same_encoder_here_and_in_open_clip(directory: Path, tmp_path: Path) -> None:
    done = convert_weights(str(directory), tmp_path / "made")
    made = Encoder.load(tmp_path / "made")
    assert made.fingerprint == done.fingerprint == Encoder.load(directory).fingerprint
    assert (made.name, made.provenance["layout"]) == ("toy-clip", "Hugging Face's CLIP")
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'made'}")
    tokens_BT = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'made'}")([i.text for i in text_items(CLIP_HF)])
    with torch.inference_mode():
        vectors_BD = model.eval().encode_text(tokens_BT, normalize=True).numpy()
    assert np.abs(vectors_BD - made.encode(text_items(CLIP_HF))).max() < 1e-6


def shard(folder: Path) -> None:
    """Splits the weights over two files, and writes their index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    places = {name: f"model-0000{1 + n % 2}-of-00002.safetensors" for n, name in enumerate(names)}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in names if places[name] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_weights_in_several_files_are_put_together(directory: Path, mine: Path) -> None:
    shard(mine)
    assert Encoder.load(mine).fingerprint == Encoder.load(directory).fingerprint
    (mine / "model-00002-of-00002.safetensors").unlink()
    refused(mine, r"lists 2 weights files, of which 1 are missing: model-00002-of-00002\.safetensors$")


def test_weights_of_torch_save_are_read(directory: Path, mine: Path) -> None:
    torch.save(load_file(mine / "model.safetensors"), mine / "pytorch_model.bin")
    (mine / "model.safetensors").unlink()
    assert Encoder.load(mine).fingerprint == Encoder.load(directory).fingerprint
    (mine / "pytorch_model.bin").unlink()
    refused(mine, r"has no weights: expected one of model\.safetensors, ")


def test_settings_that_are_written_twice_count_as_transformers_counts_them(directory: Path, mine: Path) -> None:
    config = json.loads((mine / "config.json").read_text())
    wrong = {**config["text_config"], "hidden_act": "quick_gelu"}
    edit(mine / "config.json", text_config=wrong, text_config_dict=config["text_config"])
    assert Encoder.load(mine).fingerprint == Encoder.load(directory).fingerprint


@pytest.mark.parametrize(
    ("changes", "cfg"),
    [
        ({}, {"resize_mode": "shortest", "interpolation": "bicubic"}),
        ({"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}, {"resize_mode": "shortest"}),
        ({"size": {"height": 32, "width": 32}, "do_center_crop": ...}, {"resize_mode": "squash"}),
        ({"size": {"height": 32, "width": 32}, "do_center_crop": True}, {"resize_mode": "squash"}),
        ({"size": 32, "do_center_crop": False}, {"resize_mode": "squash"}),
        ({"resample": 2}, {"interpolation": "bilinear"}),
        ({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}, {"mean": (0.5,) * 3, "std": (0.25,) * 3}),
        ({"do_normalize": False}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
    ],
)
def test_the_preprocessor_s_configuration_is_honoured(mine: Path, changes: dict[str, Any], cfg: dict[str, Any]) -> None:
    edit(mine / "preprocessor_config.json", **changes)
    found = preprocessing(load_checkpoint(mine).architecture)
    assert {name: getattr(found, name) for name in cfg} == cfg
    assert found.size in (32, (32, 32))


def test_a_processor_of_newer_transformers_says_the_same(directory: Path, mine: Path) -> None:
    inner = json.loads((mine / "preprocessor_config.json").read_text())
    (mine / "preprocessor_config.json").unlink()
    (mine / "processor_config.json").write_text(json.dumps({"image_processor": inner, "processor_class": "CLIP"}))
    assert Encoder.load(mine).fingerprint == Encoder.load(directory).fingerprint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 40}, "resizes to 40 pixels and crops 32, which is not supported"),
        ({"size": 64, "crop_size": 64}, "prepares images of 64 pixels, and the network takes 32"),
        ({"size": {"height": 32, "width": 48}}, "only squares and a shortest edge"),
        ({"size": {"shortest_edge": 32}, "do_center_crop": False}, "resized by one side and not cropped"),
        ({"resample": 1}, "resample 1 is not supported"),
        ({"do_resize": False}, "images that are not resized"),
        ({"rescale_factor": 1.0}, "rescaled by 1/255"),
        ({"image_mean": ...}, "does not say by which image_mean"),
    ],
)
def test_a_preparation_that_cannot_be_done_is_refused(mine: Path, changes: dict[str, Any], said: str) -> None:
    edit(mine / "preprocessor_config.json", **changes)
    refused(mine, said)


def test_what_is_missing_is_named(mine: Path) -> None:
    (mine / "vocab.json").unlink()
    (mine / "tokenizer_config.json").unlink()
    refused(mine, "has no tokenizer .*--tokenizer DIR, or CLIP's own with --tokenizer clip")
    (mine / "preprocessor_config.json").unlink()
    refused(mine, r"does not say how its images are prepared: preprocessor_config\.json is missing")


def test_clips_own_tokenizer_can_be_asked_for(directory: Path, mine: Path, tmp_path: Path) -> None:
    (mine / "vocab.json").unlink()
    (mine / "tokenizer_config.json").unlink()
    done = convert_weights(str(mine), tmp_path / "made", tokenizer="clip")
    assert done.fingerprint == Encoder.load(directory).fingerprint


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("text_config", {"hidden_act": "quick_gelu"}, "the activation quick_gelu and its image tower gelu"),
        ("vision_config", {"hidden_act": "relu"}, "the activation relu is not known here"),
        ("vision_config", {"num_hidden_layers": 4}, r"does not fit the architecture: .*resblocks\.3"),
        ("text_config", {"max_position_embeddings": 64}, "positional_embedding has 77 positions in the file and 64"),
    ],
)  # fmt: skip
def test_a_configuration_of_another_network_is_refused(
    mine: Path, part: str, changes: dict[str, Any], said: str
) -> None:
    config = json.loads((mine / "config.json").read_text())
    edit(mine / "config.json", **{part: {**config[part], **changes}})
    refused(mine, said)
