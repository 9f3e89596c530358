"""Protects that pictures are prepared bit for bit as open_clip prepares them."""

from typing import Any

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from anykey.encoder.preprocessing import Preprocessing

OPENAI: dict[str, Any] = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
}


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("cfg", [{"size": 32, **OPENAI}, {"size": (48, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}])
def test_pixels_are_those_of_open_clip_bit_for_bit(resize_mode: Any, cfg: dict[str, Any]) -> None:
    config = PreprocessCfg(resize_mode=resize_mode, fill_color=17, **cfg)
    slow, fast = image_transform_v2(config, is_train=False), Preprocessing(config)
    random = np.random.default_rng(0)
    for height, width in ((40, 70), (200, 31), (32, 32), (1, 1)):
        picture = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        pixels_CHW = fast(picture)
        assert torch.equal(pixels_CHW, slow(picture))
        assert pixels_CHW.is_contiguous()
