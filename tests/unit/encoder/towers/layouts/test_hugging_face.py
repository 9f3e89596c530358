"""Directories of every other model that transformers writes are the same encoders here, to the rounding of floats."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anykey.encoder import Encoder, Item
from anykey.encoder.errors import CheckpointCorruptError, MissingPartError
from anykey.encoder.towers.architecture import Architecture, build
from anykey.encoder.towers.conversion import convert_weights
from anykey.encoder.towers.encoder import TowerEncoder, load_checkpoint
from anykey.encoder.towers.layouts.hugging_face import DEFAULTS, network_of
from anykey.encoder.towers.tokens import Tokenizer

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'anykey[hf]'")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "circle", "on", "blue", "ground", "##s", "."]
SIDES = {"image_size": 32, "patch_size": 8}
TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**TOWER, "intermediate_size": 72, "vocab_size": len(WORDS), "max_position_embeddings": 12}
VISION = {**TOWER, **SIDES, "intermediate_size": 80}
SENTENCES = ["a red circle on blue ground.", "reds", "circle on a circle on a circle on a circle on a circle"]


def write_tokenizer(folder: Path) -> None:
    """A BERT's, whose end token is the highest that a text has."""
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(folder / "vocab.txt"), model_max_length=12).save_pretrained(folder)


def preprocessor(**changes: Any) -> dict[str, Any]:
    square = {"height": 32, "width": 32}
    return {"size": square, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.25] * 3, **changes}


def make(name: str, **options: Any) -> Any:
    """A model with random weights that are large enough for every part to show in its vectors."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**options)).eval()
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    return model


def of_siglip2(model: Any, pixels_BCHW: Tensor) -> Any:
    """NaFlex takes patches; these are of squares."""
    batch, patch = len(pixels_BCHW), 8
    patches = pixels_BCHW.unfold(2, patch, patch).unfold(3, patch, patch).permute(0, 2, 3, 4, 5, 1)
    shapes = torch.tensor([[4, 4]] * batch)
    return model.get_image_features(patches.reshape(batch, 16, -1), torch.ones(batch, 16), shapes)


def of_pixels(model: Any, pixels_BCHW: Tensor) -> Any:
    return model.get_image_features(pixels_BCHW)


Case = tuple[dict[str, Any], Callable[[Any, Tensor], Any]]
MODELS: dict[str, Case] = {
    "Siglip": ({"text_config": TEXT, "vision_config": VISION}, of_pixels),
    "Siglip2": ({"text_config": TEXT, "vision_config": {**VISION, "num_patches": 16}}, of_siglip2),
    "ChineseCLIP": ({"text_config": TEXT, "vision_config": VISION, "projection_dim": 24}, of_pixels),
    "MetaClip2": (
        {"text_config": {**TEXT, "eos_token_id": 3}, "vision_config": VISION, "projection_dim": 24},
        of_pixels,
    ),
    "CLIP": ({"text_config": {**TEXT, "eos_token_id": 3}, "vision_config": VISION, "projection_dim": 24}, of_pixels),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


def write(name: str, folder: Path) -> Any:
    """A directory of such a model; gives the model."""
    model = make(name, **MODELS[name][0])
    model.save_pretrained(folder)
    write_tokenizer(folder)
    own = {"image_processor_type": "Siglip2ImageProcessor", "max_num_patches": 16} if name == "Siglip2" else {}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor(**own)))
    return model


def plain(output: Any) -> np.ndarray[Any, Any]:
    """Vectors of unit norm; newer versions of transformers wrap the tensor."""
    features_BD = output if isinstance(output, Tensor) else output.pooler_output
    return np.asarray(torch.nn.functional.normalize(features_BD, dim=-1))


@pytest.mark.parametrize("name", MODELS)
def test_vectors_are_those_of_transformers(name: str, folder: Path, tmp_path: Path) -> None:
    model = write(name, folder)
    encoder = Encoder.load(folder)
    assert isinstance(encoder, TowerEncoder)
    pixels_BCHW = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        SENTENCES, padding="max_length", truncation=True, max_length=12, return_tensors="pt"
    )
    with torch.inference_mode():
        image_BD = plain(MODELS[name][1](model, pixels_BCHW))
        masked = {} if name.startswith("Siglip") else {"attention_mask": tokens.attention_mask}
        text_BD = plain(model.get_text_features(tokens.input_ids, **masked))
        ours_BD = plain(encoder.model.encode_image(pixels_BCHW))
    assert np.abs(ours_BD - image_BD).max() < 1e-5
    assert np.abs(encoder.encode([Item(text) for text in SENTENCES]) - text_BD).max() < 1e-5

    done = convert_weights(str(folder), tmp_path / "made")
    made = Encoder.load(tmp_path / "made")
    assert made.fingerprint == done.fingerprint == encoder.fingerprint
    np.testing.assert_array_equal(made.encode([Item(SENTENCES[0])]), encoder.encode([Item(SENTENCES[0])]))
    assert any("square of 32 pixels" in remark for remark in done.remarks) is (name == "Siglip2")


@pytest.mark.parametrize(("kind", "name"), [
    ("clip", "CLIP"), ("metaclip_2", "MetaClip2"), ("chinese_clip", "ChineseCLIP"), ("siglip", "Siglip"),
    ("siglip2", "Siglip2"),
])  # fmt: skip
def test_defaults_are_those_of_transformers(kind: str, name: str) -> None:
    for part, ours in zip(("Text", "Vision"), DEFAULTS[kind], strict=True):
        theirs = getattr(transformers, f"{name}{part}Config")()
        assert {key: getattr(theirs, key) for key in ours if hasattr(theirs, key)} == {
            key: value for key, value in ours.items() if hasattr(theirs, key)
        }


@pytest.mark.parametrize(
    ("sizes", "patch", "side", "name"),
    [
        ((768, 12, 12, 3072), 16, 224, "vit_base_patch16_siglip_224"),
        pytest.param((1024, 24, 16, 4096), 16, 384, "vit_large_patch16_siglip_384", marks=pytest.mark.slow),
        pytest.param((1152, 27, 16, 4304), 14, 384, "vit_so400m_patch14_siglip_384", marks=pytest.mark.slow),
        ((1152, 27, 16, 4304), 16, 512, "vit_so400m_patch16_siglip_512"),
        pytest.param((1536, 40, 16, 6144), 16, 256, "vit_giantopt_patch16_siglip_256", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("activation", ["gelu_pytorch_tanh", "gelu"])
def test_published_towers_of_siglip_are_timms_with_the_configurations_activation(
    sizes: tuple[int, ...], patch: int, side: int, name: str, activation: str
) -> None:
    width, layers, heads, neurons = sizes
    vision = {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": neurons,
        "patch_size": patch, "image_size": side, "hidden_act": activation,
    }  # fmt: skip
    config = {"model_type": "siglip", "vision_config": vision, "text_config": {"projection_size": width}}
    model_cfg = network_of(config, width)
    assert model_cfg["vision_cfg"]["timm_model_name"] == name
    with torch.device("meta"):
        block = build(Architecture("siglip", model_cfg)).visual.trunk.blocks[0]  # type: ignore[union-attr, index]
    assert block.mlp.fc1.out_features == neurons
    with torch.device("cpu"):
        probe = torch.linspace(-3, 3, 50)
        approximate = "tanh" if activation == "gelu_pytorch_tanh" else "none"
        assert torch.equal(block.mlp.act(probe), torch.nn.functional.gelu(probe, approximate=approximate))


def siglips_tokenizer(folder: Path) -> Any:
    """One of sentencepiece's, as SigLIP's is, of a few sentences."""
    trained = pytest.importorskip("sentencepiece")
    folder.mkdir()
    lines = iter(["a red circle on blue ground", "two dogs, and a cat", "don't stop", "<b> 3.14 </b>"] * 20)
    trained.SentencePieceTrainer.train(
        sentence_iterator=lines, model_prefix=str(folder / "spiece"), vocab_size=60, pad_id=-1, bos_id=-1, eos_id=1,
        unk_id=2, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    tokenizer = transformers.SiglipTokenizer(str(folder / "spiece.model"), model_max_length=12)
    tokenizer.save_pretrained(folder)
    return tokenizer


def test_siglips_own_tokenizer_is_used_as_transformers_uses_it(tmp_path: Path) -> None:
    theirs = siglips_tokenizer(tmp_path / "siglip")
    text_cfg = {**TEXT, "vocab_size": len(theirs)}
    make("Siglip", text_config=text_cfg, vision_config=VISION).save_pretrained(tmp_path / "siglip")
    (tmp_path / "siglip" / "preprocessor_config.json").write_text(json.dumps(preprocessor()))
    convert_weights(str(tmp_path / "siglip"), tmp_path / "made")
    tokenizer = Tokenizer(load_checkpoint(tmp_path / "made").architecture)
    long = ["two dogs\n" * 2_000, "\n" * 5_000 + "a cat", "!\n" * 5_000 + "a cat", " " * 5_000 + "a cat", "red" * 5_000]
    texts = ["A red, CIRCLE.", "two dogs", "a cat " * 20, "", *long]
    expected = theirs(texts, padding="max_length", truncation=True, max_length=12, return_tensors="pt").input_ids
    assert torch.equal(tokenizer(texts), expected)
    assert torch.equal(torch.cat([tokenizer([text]) for text in texts]), expected)


def test_a_directory_without_its_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    write("Siglip", folder)
    for name in ("vocab.txt", "tokenizer_config.json", "tokenizer.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(MissingPartError, match=r"has no tokenizer .*; name its folder with --tokenizer DIR"):
        Encoder.load(folder)
    (tmp_path / "words").mkdir()
    write_tokenizer(tmp_path / "words")
    convert_weights(str(folder), tmp_path / "made", tokenizer=str(tmp_path / "words"))
    assert Encoder.load(tmp_path / "made").encode([Item("a red circle")]).shape == (1, 32)


def test_a_tower_without_a_head_makes_no_vector(folder: Path) -> None:
    write("Siglip", folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["vision_use_head"] = False
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointCorruptError, match=r"config\.json: its image tower has no head"):
        Encoder.load(folder)
