"""A checkpoint directory means the same to open_clip and to us: same tokens, same pixels, same vectors."""

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from anykey.encoder.fusion import Fusion
from anykey.encoder.item import Item
from anykey.encoder.model import Encoder
from anykey.encoder.towers.architecture import Architecture
from anykey.encoder.towers.checkpoint import save_checkpoint
from tests.networks import TEXT, TIMM_VISION, VISION, build_seeded, small_architecture
from tests.pictures import encoded, photo

TEXTS = ["a red circle", "two blue squares left of a star", "x " * 200]
KINDS = {
    "CLIP": small_architecture(),
    "CustomTextCLIP": small_architecture(custom_text=True, text={**TEXT, "pool_type": "eos", "eos_id": 49407}),
    "squashed, own mean": small_architecture(preprocess={"resize_mode": "squash", "mean": (0.5, 0.4, 0.3)}),
    "padded to a square": small_architecture(preprocess={"resize_mode": "longest", "fill_color": 127}),
    "timm": small_architecture(vision={**TIMM_VISION, "image_size": 64}),
    "pooled by the mean": small_architecture(vision={**VISION, "pool_type": "avg"}),
    "pooled before the last norm": small_architecture(vision={**VISION, "final_ln_after_pool": True}),
    "pooled by attention": small_architecture(vision={**VISION, "attentional_pool": True}),
    "layers scaled": small_architecture(vision={**VISION, "ls_init_value": 0.1}),
}


def save(path: Path, architecture: Architecture) -> Path:
    save_checkpoint(path, architecture, build_seeded(architecture).state_dict(), Fusion.RAW, {})
    return path


def open_clip_vectors(path: Path, images: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    """Image and text vectors the way open_clip's own documentation computes them."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{path}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{path}")
    model.eval()
    with torch.inference_mode():
        image_BD: Any = model.encode_image(torch.stack([preprocess(image) for image in images]), normalize=True)
        text_BD: Any = model.encode_text(tokenize(TEXTS), normalize=True)
    return image_BD.numpy(), text_BD.numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_open_clip_loads_our_checkpoint_and_gives_the_same_vectors(kind: str, tmp_path: Path) -> None:
    path = save(tmp_path / "best", KINDS[kind])
    images = [photo(96, 64, seed) for seed in range(3)]
    expected_image_BD, expected_text_BD = open_clip_vectors(path, images)
    encoder = Encoder.load(path, device="cpu")
    image_BD = encoder.encode([Item(images=(encoded(image, "PNG"),)) for image in images])
    np.testing.assert_allclose(image_BD, expected_image_BD, atol=1e-5)
    np.testing.assert_allclose(encoder.encode([Item(text=text) for text in TEXTS]), expected_text_BD, atol=1e-5)


def test_of_the_last_block_no_more_is_computed_than_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "best", KINDS["CLIP"])
    encoder, model = Encoder.load(path, device="cpu"), open_clip.create_model(f"local-dir:{path}").eval()
    with FlopCounterMode(display=False) as ours:
        encoder.encode([Item(images=(encoded(photo(96, 64), "PNG"),))])
    with FlopCounterMode(display=False) as all_of_it, torch.no_grad():
        model.encode_image(torch.zeros(1, 3, 32, 32))
    assert 0 < ours.get_total_flops() < 0.9 * all_of_it.get_total_flops()


def test_open_clip_loads_anykey_tiny(tiny_checkpoint: Path, tiny_encoder: Encoder) -> None:
    images = [photo(128, 100, seed) for seed in range(2)]
    image_BD, text_BD = open_clip_vectors(tiny_checkpoint, images)
    np.testing.assert_allclose(tiny_encoder.encode([Item(images=(image,)) for image in images]), image_BD, atol=1e-5)
    np.testing.assert_allclose(tiny_encoder.encode([Item(text=text) for text in TEXTS]), text_BD, atol=1e-5)


def test_a_large_jpeg_decoded_at_reduced_scale_has_nearly_the_same_vector(tiny_encoder: Encoder) -> None:
    data = encoded(photo(1200, 900), "JPEG", quality=95)
    with_draft = tiny_encoder.encode([Item(images=(data,))])
    in_full = tiny_encoder.encode([Item(images=(photo(1200, 900),))])
    assert float((with_draft * in_full).sum()) > 0.999
