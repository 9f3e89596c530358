"""What families have in common about images: how they become a network's input, and pretrained weights of its trunk.

A picture is resized on the CPU and kept as bytes; its pixels are normalised on the device, by the batch.

Shape legend: I = images, C, H, W = image.
"""

from pathlib import Path

import open_clip
import PIL
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms import Compose, Normalize

from anykey.encoder.errors import CheckpointCorruptError, CheckpointNotFoundError
from anykey.encoder.towers.weights import mismatch
from anykey.training.family import ImageInput


def image_input(config: PreprocessCfg) -> ImageInput:
    """How open_clip makes pixels of a picture by this configuration."""
    transform = image_transform_v2(config, is_train=False)
    resize = Compose([step for step in transform.transforms if not isinstance(step, Normalize)][:-1])
    height, width = (config.size, config.size) if isinstance(config.size, int) else config.size
    identity = f"{config} Pillow {PIL.__version__} open_clip {open_clip.__version__}"
    return ImageInput((height, width), resize, config.resize_mode, identity)


class Normalization:
    """uint8 pixels to float32 ones, by the mean and deviation of a configuration, on a device."""

    def __init__(self, config: PreprocessCfg, device: torch.device) -> None:
        self._device = device
        self._mean_C11 = torch.tensor(config.mean, device=device)[:, None, None]
        self._std_C11 = torch.tensor(config.std, device=device)[:, None, None]

    def __call__(self, pixels_ICHW: Tensor) -> Tensor:
        """Normalised pixels `[I, C, H, W]`."""
        pixels = pixels_ICHW.to(self._device, non_blocking=True).float() / 255.0
        return (pixels - self._mean_C11) / self._std_C11


def load_image_weights(trunk: nn.Module, path: Path, name: str) -> None:
    """Loads pretrained weights of one of timm's networks, strictly.

    Args:
        trunk: The network.
        path: A safetensors file.
        name: Of the whole model, for messages.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointCorruptError: it is damaged, or of another network.
    """
    if not path.is_file():
        raise CheckpointNotFoundError(f"image weights {path} do not exist")
    try:
        trunk.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, OSError) as error:
        raise CheckpointCorruptError(f"{path} is damaged or no safetensors file: {error}") from error
    except RuntimeError as error:
        raise CheckpointCorruptError(
            f"{path} does not fit the image trunk of {name} (--architecture names another network): {mismatch(error)}"
        ) from error
