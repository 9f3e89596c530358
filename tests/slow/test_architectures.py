"""Every network that open_clip and TinyCLIP list builds, and makes a vector of an image and of a text."""

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from anykey.encoder import Item
from anykey.encoder.fusion import Fusion
from anykey.encoder.towers.architecture import (
    TINYCLIP,
    Architecture,
    build,
    preprocessing,
    read_architecture,
    register_built_in,
)
from anykey.encoder.towers.checkpoint import Checkpoint
from anykey.encoder.towers.encoder import TowerEncoder

register_built_in()
NAMES = [*open_clip.list_models(), *TINYCLIP]
OF_HUGGING_FACE = [name for name in NAMES if "hf_model_name" in read_architecture(name).model_cfg["text_cfg"]]
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta": ("Roberta", {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}),
    "xlm-roberta": ("XLMRoberta", {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}),
    "mt5": ("MT5", {"d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}),
    "nllb": ("M2M100", {"d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}),
}

pytestmark = pytest.mark.slow


def embedded(architecture: Architecture) -> list[tuple[int, ...]]:
    """The shapes of what it makes of two images and two texts of zeros, on whichever device is torch's default."""
    model: Any = build(architecture).eval()
    size = preprocessing(architecture).size
    height, width = (size, size) if isinstance(size, int) else size
    context_length = architecture.model_cfg["text_cfg"].get("context_length", 77)
    with torch.inference_mode():
        image_BD = model.encode_image(torch.zeros(2, 3, height, width))
        text_BD = model.encode_text(torch.ones(2, context_length, dtype=torch.long))
    return [tuple(image_BD.shape), tuple(text_BD.shape)]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OF_HUGGING_FACE])
def test_a_listed_network_embeds_both_modalities(name: str) -> None:
    """On the device that computes shapes alone: the largest has 4.7 billion parameters."""
    architecture = read_architecture(name)
    with torch.device("meta"):
        assert embedded(architecture) == [(2, architecture.width)] * 2


@pytest.mark.parametrize("name", OF_HUGGING_FACE)
def test_a_text_tower_of_hugging_face_does_too(name: str, tmp_path: Path) -> None:
    """Its configuration is Hugging Face's to give; here it is a small one of the same kind, beside a small tower."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'anykey[hf]'")
    model_cfg = read_architecture(name).model_cfg
    hub_name = model_cfg["text_cfg"]["hf_model_name"].rpartition("/")[2]
    kind, sizes = next(small for begin, small in SMALL.items() if hub_name.startswith(begin))
    getattr(transformers, f"{kind}Config")(**sizes).save_pretrained(tmp_path)
    text_cfg = {**model_cfg["text_cfg"], "hf_model_name": str(tmp_path)}
    vision_cfg = {**model_cfg["vision_cfg"], "layers": 1}
    if "timm_model_name" in vision_cfg:  # tried with other text towers above
        vision_cfg = {"image_size": 64, "patch_size": 32, "width": 64, "layers": 1}
    architecture = Architecture(name, {**model_cfg, "text_cfg": text_cfg, "vision_cfg": vision_cfg})
    assert embedded(architecture) == [(2, architecture.width)] * 2


@pytest.mark.parametrize("name", ["PE-Core-T-16-384", "MobileCLIP2-S0", "TinyCLIP-ViT-8M-16-Text-3M"])
def test_small_networks_embed_items(name: str) -> None:
    architecture = read_architecture(name)
    encoder = TowerEncoder(Checkpoint(architecture, build(architecture), Fusion.RAW, "sha256:0"), "cpu")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))
    items = [Item("a red circle"), Item(images=(picture,)), Item("a red circle", (picture,))]
    vectors_BD = encoder.encode(items)
    np.testing.assert_allclose(np.linalg.norm(vectors_BD, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors_BD, np.concatenate([encoder.encode([item]) for item in items]), atol=1e-5)
