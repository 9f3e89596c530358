"""How a picture becomes the pixels that a network takes, as open_clip prepares images.

Shape legend: C, H, W = channels, height, width of an image, V = the 256 values of a channel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from anykey.encoder.errors import CheckpointCorruptError

_Side = Annotated[int, Field(ge=1, le=10_000)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Preprocessing(BaseModel):
    """What open_clip prepares images by; it would fail at the first image, or not at all, for anything else."""

    size: _Side | Annotated[Sequence[_Side], Field(min_length=2, max_length=2)] = 224
    mode: Literal["RGB"] = "RGB"
    mean: _Number | Annotated[Sequence[_Number], Field(min_length=3, max_length=3)] | None = None
    std: _Deviation | Annotated[Sequence[_Deviation], Field(min_length=3, max_length=3)] | None = None
    interpolation: Literal["bicubic", "bilinear", "random"] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = None
    fill_color: Annotated[int, Field(ge=0, le=255)] = 0


class Preprocessing:
    """open_clip's own preparation of a picture, bit for bit, in a fraction of its time; safe in any thread.

    Its last steps make of each of the 256 values of a channel one number, so they are done once for all of them. Done
    for each picture, they go over it several times, and torch shares each pass among all cores, which the model needs.
    """

    def __init__(self, cfg: PreprocessCfg) -> None:
        """Prepares the steps.

        Args:
            cfg: What pictures are prepared by.
        """
        *self._resizing, to_tensor, normalize = image_transform_v2(cfg, is_train=False).transforms
        values = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2))
        self._numbers_CV = normalize(to_tensor(values))[:, 0].numpy()

    def __call__(self, picture: Image.Image) -> Tensor:
        """The pixels `[C, H, W]`, float32, of an RGB picture."""
        for step in self._resizing:
            picture = step(picture)
        values_HWC = np.asarray(picture)
        height, width, num_channels = values_HWC.shape
        pixels_CHW = np.empty((num_channels, height, width), np.float32)
        for channel, numbers_V in enumerate(self._numbers_CV):
            np.take(numbers_V, values_HWC[..., channel], out=pixels_CHW[channel], mode="clip")  # which none needs
        return torch.from_numpy(pixels_CHW)


def preprocess_cfg(name: str, overrides: Mapping[str, Any]) -> PreprocessCfg:
    """open_clip's own preprocessing but for the overrides.

    Args:
        name: Of the network, for messages.
        overrides: Any of `size`, `mean`, `std`, `interpolation`, `resize_mode`, ...; lists, which JSON has for tuples,
            become tuples again, so that what a checkpoint keeps is equal to what it was made with.

    Raises:
        CheckpointCorruptError: a value is none that open_clip prepares images by; names it.
    """
    defaults = asdict(PreprocessCfg())
    unknown = set(overrides) - set(defaults)
    if unknown:
        raise CheckpointCorruptError(f"unknown preprocessing keys {sorted(unknown)}, known: {sorted(defaults)}")
    try:
        _Preprocessing.model_validate(overrides, strict=True)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        raise CheckpointCorruptError(
            f"{name}: preprocessing key '{detail['loc'][0]}': {detail['msg']}, got {detail['input']!r}"
        ) from error
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in overrides.items()}
    return PreprocessCfg(**{**defaults, **plain})
