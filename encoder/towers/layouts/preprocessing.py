"""How images are prepared, by a Hugging Face directory's `preprocessor_config.json`, in open_clip's words."""

import json
from pathlib import Path
from typing import Any

from anykey.encoder.errors import CheckpointCorruptError, MissingPartError

NAMES = ("preprocessor_config.json", "processor_config.json")  # the latter since transformers 5, for all processors
_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # of Pillow
_TO_UNIT = 1 / 255


def read_preprocessing(folder: Path, input_px: int) -> dict[str, Any]:
    """open_clip's preprocessing of a directory's images.

    Two things differ from transformers on purpose: where a centre crop leaves an odd number of pixels, the window
    begins as in torchvision, which these networks were trained with, and not up to one pixel earlier; and transparency
    lies on white, as in all of AnyKey.

    Args:
        folder: The directory.
        input_px: The side of the image that the network takes.

    Raises:
        MissingPartError: the directory does not say.
        CheckpointCorruptError: it says what open_clip has no words for; or another size than the network's.
    """
    path, config = _read(folder)
    if config.get("image_processor_type") == "Siglip2ImageProcessor" or "max_num_patches" in config:
        size, mode = input_px, "squash"
    else:
        size, mode = _size(path, config)
    if size != input_px:
        raise CheckpointCorruptError(f"{path} prepares images of {size} pixels, and the network takes {input_px}")
    resample = config.get("resample", 3)
    if resample not in _RESAMPLE:
        raise CheckpointCorruptError(f"{path}: resample {resample!r} is not supported, only 2 and 3")
    if not config.get("do_rescale", True) or abs(config.get("rescale_factor", _TO_UNIT) - _TO_UNIT) > 1e-6:
        raise CheckpointCorruptError(f"{path}: only images that are rescaled by 1/255 are supported")
    is_plain = not config.get("do_normalize", True)
    if not is_plain and not {"image_mean", "image_std"} <= config.keys():
        raise MissingPartError(f"{path} does not say by which image_mean and image_std images are normalised")
    return {
        "size": size,
        "mean": [0.0] * 3 if is_plain else config["image_mean"],
        "std": [1.0] * 3 if is_plain else config["image_std"],
        "interpolation": _RESAMPLE[resample],
        "resize_mode": mode,
    }


def _read(folder: Path) -> tuple[Path, dict[str, Any]]:
    for name in NAMES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            config = json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise CheckpointCorruptError(f"{path} is not JSON: {error}") from error
        config = config.get("image_processor", config) if isinstance(config, dict) else None
        if not isinstance(config, dict):
            raise CheckpointCorruptError(f"{path} must be an object")
        return path, config
    raise MissingPartError(
        f"{folder} does not say how its images are prepared: {NAMES[0]} is missing, which belongs to it"
    )


def _size(path: Path, config: dict[str, Any]) -> tuple[int, str]:
    """The side of the prepared image, and open_clip's word for how it is resized."""
    side, is_square = _side(path, "size", config.get("size"), config.get("do_center_crop") is False)
    if not config.get("do_resize", True):
        raise CheckpointCorruptError(f"{path}: images that are not resized are not supported")
    if not config.get("do_center_crop", not is_square):
        if is_square:
            return side, "squash"
        raise CheckpointCorruptError(f"{path}: images that are resized by one side and not cropped are not supported")
    crop, _ = _side(path, "crop_size", config.get("crop_size", side), is_square=True)
    if crop != side:
        raise CheckpointCorruptError(f"{path} resizes to {side} pixels and crops {crop}, which is not supported")
    return side, "squash" if is_square else "shortest"


def _side(path: Path, name: str, size: Any, is_square: bool) -> tuple[int, bool]:
    """A side of a size in any of its forms, and whether both sides are to be that, whatever the image's shape."""
    if isinstance(size, int):
        return size, is_square
    if isinstance(size, dict) and isinstance(size.get("shortest_edge"), int):
        return size["shortest_edge"], False
    if isinstance(size, dict) and isinstance(size.get("height"), int) and size.get("height") == size.get("width"):
        return size["height"], True
    raise CheckpointCorruptError(f"{path}: {name} {size!r} is not supported, only squares and a shortest edge")
