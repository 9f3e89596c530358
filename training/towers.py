"""The model as the trainer handles it: where it starts, what is locked, how pixels become features.

Weights of a timm trunk come with four traps, all handled here: TensorFlow padding, batch normalisation
folded into the convolutions, locking that must leave activations in place, and their own pixel mean.

Shape legend: N = pairs in the batch, C, H, W = image, D = width, F = width of the trunk's features.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from encoder.architecture import Architecture, build, preprocessing, read_architecture
from encoder.checkpoint import mismatch
from encoder.errors import CheckpointCorruptError, CheckpointNotFoundError
from encoder.fusion import Fusion
from encoder.model import load_checkpoint
from encoder.text import encode_text
from training.errors import InvalidRecipeError
from training.settings import TrainSettings


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        architecture: The network.
        model: Its open_clip model, on the CPU.
        fusion: How features are added.
        is_pretrained: Whether the image tower's weights have been trained before.
        provenance: Where it comes from, for the checkpoint's manifest.
    """

    architecture: Architecture
    model: nn.Module
    fusion: Fusion
    is_pretrained: bool
    provenance: dict[str, Any]


def open_start(settings: TrainSettings) -> Start:
    """Loads the encoder to fine-tune, or builds a new one; seeded by `settings.seed`.

    Raises:
        CheckpointError: of `encoder`: nothing there, or damaged.
        InvalidRecipeError: image weights for an architecture without a timm trunk.
    """
    if settings.start is not None:
        checkpoint = load_checkpoint(settings.start)
        fusion = settings.fusion or checkpoint.fusion
        provenance = {"start": settings.start, "start_fingerprint": checkpoint.fingerprint}
        start = Start(checkpoint.architecture, checkpoint.model, fusion, True, provenance)
    else:
        architecture = _configure(settings)
        torch.manual_seed(settings.seed)
        model = build(architecture)
        if settings.image_weights is not None:
            _load_trunk(model, architecture, settings)
        fusion = settings.fusion or Fusion.RAW
        start = Start(architecture, model, fusion, settings.image_weights is not None, {})
    if settings.temperature is not None:
        with torch.no_grad():
            start.model.logit_scale.fill_(-torch.tensor(settings.temperature).log())  # type: ignore[operator]
    return start


class Towers:
    """Image and text towers on a device, with what is locked.

    Attributes:
        model: The open_clip model.
        device: Where they run.
        dtype: What the forward pass computes in, or `None` for float32.
        lock_image: Whether the image trunk stays as it is.
        trunk: The image tower without its projection.
    """

    def __init__(
        self, start: Start, device: torch.device, dtype: torch.dtype | None, lock_image: bool, batch_norm: str
    ) -> None:
        self.model: Any = start.model
        self.model.to(device)
        self.device = device
        self.lock_image = lock_image
        self.dtype = dtype
        self._batch_norm_eval = batch_norm == "eval" or (batch_norm == "auto" and start.is_pretrained)
        if start.architecture.uses_timm:
            self.model.visual.to(memory_format=torch.channels_last)
        visual: Any = self.model.visual
        self.trunk: nn.Module = visual.trunk if start.architecture.uses_timm else visual
        self._head: nn.Module | None = visual.head if start.architecture.uses_timm else None
        config = preprocessing(start.architecture)
        self._mean_C11 = torch.tensor(config.mean, device=device)[:, None, None]
        self._std_C11 = torch.tensor(config.std, device=device)[:, None, None]
        if lock_image:
            # Never open_clip's lock with frozen statistics: it drops the activation fused into timm's norm layers.
            self.trunk.requires_grad_(False)

    def train(self) -> None:
        """Switches to training; a locked trunk and pretrained batch normalisation keep their statistics."""
        self.model.train()
        if self.lock_image:
            self.trunk.eval()
        if self._batch_norm_eval:
            for module in self._batch_norms():
                module.eval()

    def eval(self) -> None:
        """Switches to inference."""
        self.model.eval()

    def image_features(self, images_N: Tensor) -> Tensor:
        """Features `[N, D]`, float32, of uint8 pixels `[N, C, H, W]` or of a locked trunk's output."""
        with self.autocast():
            if images_N.dtype is torch.uint8:
                features_ND: Tensor = self.model.encode_image(self.normalize(images_N))
            else:
                trunk_NF = images_N.to(self.device, non_blocking=True)
                features_ND = self._head(trunk_NF) if self._head is not None else trunk_NF
        return features_ND.float()

    def text_features(self, tokens_NT: Tensor) -> Tensor:
        """Features `[N, D]`, float32, of padded token rows."""
        with self.autocast():
            return encode_text(self.model, tokens_NT.to(self.device, non_blocking=True)).float()

    def trunk_features(self, pixels_NCHW: Tensor) -> Tensor:
        """The trunk's output `[N, F...]`, float32, without gradient: what a locked trunk's cache holds."""
        with torch.inference_mode(), self.autocast():
            features: Tensor = self.trunk(self.normalize(pixels_NCHW))
        return features.float()

    def normalize(self, pixels_NCHW: Tensor) -> Tensor:
        """uint8 pixels to the image tower's input, on the device."""
        pixels = pixels_NCHW.to(self.device, non_blocking=True).float() / 255.0
        return (pixels - self._mean_C11) / self._std_C11

    def autocast(self) -> AbstractContextManager[Any]:
        """The forward pass's precision."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def _batch_norms(self) -> Iterator[nn.Module]:
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                yield module


def _configure(settings: TrainSettings) -> Architecture:
    architecture = read_architecture(settings.architecture)
    overrides: dict[str, Any] = dict(architecture.preprocess_cfg)
    if settings.image_weights is not None and architecture.uses_timm:
        pretrained = timm.get_pretrained_cfg(architecture.model_cfg["vision_cfg"]["timm_model_name"])
        if pretrained is not None:
            overrides.update(mean=pretrained.mean, std=pretrained.std)
    given = {"mean": settings.image_mean, "std": settings.image_std, "resize_mode": settings.resize_mode}
    overrides.update({name: value for name, value in given.items() if value is not None})
    return replace(architecture, preprocess_cfg=overrides, padding=settings.image_padding)


def _load_trunk(model: Any, architecture: Architecture, settings: TrainSettings) -> None:
    path = settings.image_weights
    assert path is not None
    if not architecture.uses_timm:
        raise InvalidRecipeError(f"--image-weights needs a timm image tower, {architecture.name} has none")
    if not path.is_file():
        raise CheckpointNotFoundError(f"image weights {path} do not exist")
    try:
        model.visual.trunk.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, OSError) as error:
        raise CheckpointCorruptError(f"{path} is damaged or no safetensors file: {error}") from error
    except RuntimeError as error:
        raise CheckpointCorruptError(
            f"{path} does not fit the image trunk of {architecture.name}: {mismatch(error)}"
        ) from error
