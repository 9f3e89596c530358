"""Random changes of training images, each a function of a seed alone, so that any worker makes the same one.

Shape legend: C, H, W = image.
"""

import torch
from torch import Tensor
from torchvision.transforms import v2


class Augmentation:
    """Random crops, colours and greys of images that have the encoder's size already."""

    def __init__(self, size_px: tuple[int, int], min_crop: float, color_jitter: float, gray_share: float) -> None:
        """Sets it up.

        Args:
            size_px: Height and width of the encoder's input.
            min_crop: Smallest share of the image's area that a crop keeps; 1: no crop.
            color_jitter: Largest relative change of brightness, contrast and saturation.
            gray_share: Share of the images that lose their colour.
        """
        steps: list[v2.Transform] = []
        if min_crop < 1.0:
            ratio = (3 / 4, 4 / 3)
            mode = v2.InterpolationMode.BICUBIC
            steps.append(v2.RandomResizedCrop(size_px, (min_crop, 1.0), ratio, mode, antialias=True))
        if color_jitter > 0.0:
            steps.append(v2.ColorJitter(color_jitter, color_jitter, color_jitter))
        if gray_share > 0.0:
            steps.append(v2.RandomGrayscale(gray_share))
        self._steps = steps

    def __call__(self, pixels_CHW: Tensor, seed: int) -> Tensor:
        """Changes uint8 pixels `[C, H, W]` on the CPU; the caller's random state stays as it is, a GPU's too."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU as well
            for step in self._steps:
                pixels_CHW = step(pixels_CHW)
        return pixels_CHW
