"""The model as the trainer handles it: where it starts, what is locked, how pixels become features.

Weights of a timm trunk come with four traps, all handled here: TensorFlow padding, batch normalisation
folded into the convolutions, locking that must leave activations in place, and their own pixel mean.

Shape legend: I = images, S = texts, T = tokens, C, H, W = image, D = width, F = width of the trunk's features.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard

from anykey.encoder.architecture import Architecture, build, preprocessing, read_architecture
from anykey.encoder.errors import CheckpointCorruptError, CheckpointNotFoundError
from anykey.encoder.fusion import Fusion
from anykey.encoder.model import load_checkpoint
from anykey.encoder.text import encode_text
from anykey.encoder.weights import mismatch
from anykey.training.errors import InvalidRecipeError
from anykey.training.families.layers import locked_batch_norms
from anykey.training.settings import ModelSettings


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


def open_start(settings: ModelSettings, seed: int = 0) -> Start:
    """Loads the encoder to fine-tune, or builds a new one; seeded.

    Raises:
        CheckpointError: of `encoder`: nothing there, or damaged.
        InvalidRecipeError: image weights for an architecture without a timm trunk.
    """
    if settings.start is not None:
        checkpoint = load_checkpoint(settings.start, settings.stretch_positions)
        fusion = settings.fusion or checkpoint.fusion
        provenance = {"start": settings.start, "start_fingerprint": checkpoint.fingerprint}
        start = Start(checkpoint.architecture, checkpoint.model, fusion, True, provenance)
    else:
        architecture = _configure(settings)
        torch.manual_seed(seed)
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
        is_sharded: Whether each process holds a part of the weights only.
    """

    def __init__(
        self, start: Start, device: torch.device, dtype: torch.dtype | None, lock_image: bool, batch_norm: str
    ) -> None:
        self.model: Any = start.model
        self.model.to(device)
        self.device = device
        self.lock_image = lock_image
        self.dtype = dtype
        self.is_sharded = False
        self._width = start.architecture.width
        self._batch_norm_eval = batch_norm == "eval" or (batch_norm == "auto" and start.is_pretrained)
        if start.architecture.uses_timm:
            self.model.visual.to(memory_format=torch.channels_last)
        visual: Any = self.model.visual
        self.trunk: nn.Module = visual.trunk if start.architecture.uses_timm else visual
        self._network = _Network(self.model, visual.head if start.architecture.uses_timm else nn.Identity())
        config = preprocessing(start.architecture)
        self._mean_C11 = torch.tensor(config.mean, device=device)[:, None, None]
        self._std_C11 = torch.tensor(config.std, device=device)[:, None, None]
        if lock_image:
            # Never open_clip's lock with frozen statistics: it drops the activation fused into timm's norm layers.
            self.trunk.requires_grad_(False)

    def train(self) -> None:
        """Switches to training; locked layers and pretrained batch normalisation keep their statistics."""
        self.model.train()
        if self.lock_image:
            self.trunk.eval()
        for module in set(self._batch_norms()) - self._by_batch():
            module.eval()

    def eval(self) -> None:
        """Switches to inference."""
        self.model.eval()

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether an image's features in training depend on the other images of its batch."""
        return bool(self._by_batch())

    def shard(self) -> None:
        """Gives each process a part of the weights (FSDP2), block by block; the temperature stays whole."""
        self.model.visual.to(memory_format=torch.contiguous_format)  # FSDP2 takes no channels-last weights
        for block in _blocks(self.model):
            fully_shard(block)
        scalars = {parameter for parameter in self.model.parameters() if parameter.ndim == 0}
        fully_shard(self._network, ignored_params=scalars)
        for module in self._network.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # the sum over processes, not their mean
                module.set_force_sum_reduction_for_comms(True)  # a plain sum, which gloo can do as well
        self.is_sharded = True

    def compile(self) -> None:
        """Compiles the towers' blocks in place; the weights keep their names."""
        for block in _blocks(self.model):
            block.compile()

    def synchronize(self, wanted: bool) -> None:
        """Whether the next backward pass of sharded weights sums their gradients over the processes."""
        if self.is_sharded:
            cast(FSDPModule, self._network).set_requires_gradient_sync(wanted)

    def features(self, images_I: Tensor, tokens_ST: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[I, D]` and `[S, D]`, float32, in one forward pass; either may be empty.

        Args:
            images_I: uint8 pixels `[I, C, H, W]` or a locked trunk's output `[I, F...]`.
            tokens_ST: Padded token rows.
        """
        num_images, num_texts = len(images_I), len(tokens_ST)
        if self.is_sharded and num_images == 0:  # every process must take part in every exchange of weights
            images_I = torch.zeros(1, *self._image_shape, dtype=torch.uint8)
        if self.is_sharded and num_texts == 0:
            tokens_ST = torch.zeros(1, tokens_ST.shape[1], dtype=torch.long)
        with self.autocast():
            is_pixels = images_I.dtype is torch.uint8
            inputs_I = self.normalize(images_I) if is_pixels else images_I.to(self.device, non_blocking=True)
            image_ID, text_SD = self._network(inputs_I, is_pixels, tokens_ST.to(self.device, non_blocking=True))
        empty = torch.zeros(0, self._width, device=self.device)
        return (
            empty if image_ID is None else image_ID.float()[:num_images],
            empty if text_SD is None else text_SD.float()[:num_texts],
        )

    def image_features(self, images_I: Tensor) -> Tensor:
        """Features `[I, D]`, float32, of uint8 pixels `[I, C, H, W]` or of a locked trunk's output."""
        return self.features(images_I, torch.empty(0, 1, dtype=torch.long))[0]

    def text_features(self, tokens_ST: Tensor) -> Tensor:
        """Features `[S, D]`, float32, of padded token rows."""
        return self.features(torch.empty(0), tokens_ST)[1]

    def trunk_features(self, pixels_ICHW: Tensor) -> Tensor:
        """The trunk's output `[I, F...]`, float32, without gradient: what a locked trunk's cache holds."""
        with torch.inference_mode(), self.autocast():
            features: Tensor = self.trunk(self.normalize(pixels_ICHW))
        return features.float()

    def normalize(self, pixels_ICHW: Tensor) -> Tensor:
        """uint8 pixels to the image tower's input, on the device."""
        pixels = pixels_ICHW.to(self.device, non_blocking=True).float() / 255.0
        return (pixels - self._mean_C11) / self._std_C11

    def autocast(self) -> AbstractContextManager[Any]:
        """The forward pass's precision."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def weights(self) -> dict[str, Tensor]:
        """The open_clip model's whole state on the CPU; of sharded weights, all processes must ask for it."""
        if not self.is_sharded:
            state: dict[str, Tensor] = self.model.state_dict()
            return state
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return cast(dict[str, Tensor], get_model_state_dict(self.model, options=options))

    @property
    def _image_shape(self) -> tuple[int, int, int]:
        size = self.model.visual.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return 3, height, width

    def _by_batch(self) -> set[nn.Module]:
        """Batch normalisation that uses the batch's statistics in training."""
        return set() if self._batch_norm_eval else set(self._batch_norms()) - set(locked_batch_norms(self.model))

    def _batch_norms(self) -> Iterator[nn.Module]:
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                yield module


class _Network(nn.Module):
    """Both towers in one forward pass, which is where sharded weights come together."""

    def __init__(self, model: Any, head: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._head = [head]  # in a list: it is the model's already

    def forward(self, images_I: Tensor, is_pixels: bool, tokens_ST: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Features of normalised pixels or a locked trunk's output, and of tokens; `None` of nothing."""
        image_ID = text_SD = None
        if len(images_I):
            image_ID = self.model.encode_image(images_I) if is_pixels else self._head[0](images_I)
        if len(tokens_ST):
            text_SD = encode_text(self.model, tokens_ST)
        return image_ID, text_SD


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The towers' repeated blocks: what is sharded and compiled one by one."""
    for name, child in module.named_children():
        if name in ("resblocks", "blocks", "stages") and isinstance(child, nn.ModuleList | nn.Sequential):
            yield from child
        else:
            yield from _blocks(child)


def _configure(settings: ModelSettings) -> Architecture:
    architecture = read_architecture(settings.architecture)
    overrides: dict[str, Any] = dict(architecture.preprocess_cfg)
    if settings.image_weights is not None and architecture.uses_timm:
        pretrained = timm.get_pretrained_cfg(architecture.model_cfg["vision_cfg"]["timm_model_name"])
        if pretrained is not None:
            overrides.update(mean=pretrained.mean, std=pretrained.std)
    given = {"mean": settings.image_mean, "std": settings.image_std, "resize_mode": settings.resize_mode}
    overrides.update({name: value for name, value in given.items() if value is not None})
    return replace(architecture, preprocess_cfg=overrides, padding=settings.image_padding)


def _load_trunk(model: Any, architecture: Architecture, settings: ModelSettings) -> None:
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
            f"{path} does not fit the image trunk of {architecture.name} (--architecture names another network): "
            f"{mismatch(error)}"
        ) from error
