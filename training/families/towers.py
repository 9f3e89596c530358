"""open_clip's two towers as a family: where they start, how pixels become features, and features rows.

Weights of a timm trunk come with three traps that are handled here: TensorFlow padding, batch normalisation folded into
the convolutions, and their own pixel mean. (A fourth, that locking leaves activations in place, is `Family.lock`'s.)

Shape legend: I = images, S = texts, R = rows, T = tokens, C, H, W = image, D = width, F = the trunk's output.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from anykey.encoder.fusion import Fusion, fuse
from anykey.encoder.towers.architecture import Architecture, build, open_clip_cfg, preprocessing, read_architecture
from anykey.encoder.towers.checkpoint import save_checkpoint
from anykey.encoder.towers.encoder import load_checkpoint
from anykey.encoder.towers.text import can_trim, encode_text, end_positions
from anykey.encoder.towers.tokens import Tokenizer
from anykey.training.errors import InvalidRecipeError
from anykey.training.families.images import Normalization, image_input, load_image_weights
from anykey.training.families.layers import repeated_blocks, tower_layers
from anykey.training.family import Description, Family, Features, Items, Layers, Vectors
from anykey.training.settings import ModelSettings

_NO_TOKENS = torch.empty(0, 1, dtype=torch.long)


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        architecture: The network.
        model: Its open_clip model, on the CPU.
        fusion: How features are added.
        is_pretrained: Whether the image tower's weights have been trained before.
        provenance: Where it comes from, for the checkpoint's manifest.
        fingerprint: Of the checkpoint that it was read from; empty if it is new.
    """

    architecture: Architecture
    model: nn.Module
    fusion: Fusion
    is_pretrained: bool
    provenance: dict[str, Any]
    fingerprint: str = ""


def open_start(settings: ModelSettings, seed: int = 0) -> Start:
    """Loads the encoder to fine-tune, or builds a new one; seeded.

    Raises:
        CheckpointError: of `encoder`: nothing there, or damaged.
        InvalidRecipeError: image weights for an architecture without a timm trunk.
    """
    if settings.start is not None:
        return read_start(settings.start, settings.fusion, settings.stretch_positions)
    architecture = _configure(settings)
    torch.manual_seed(seed)
    model = build(architecture)
    if settings.image_weights is not None:
        _load_trunk(model, architecture, settings)
    return Start(architecture, model, settings.fusion or Fusion.RAW, settings.image_weights is not None, {})


def read_start(source: str | Path, fusion: Fusion | None = None, stretch_positions: bool = False) -> Start:
    """A trained encoder, with its own fusion unless another is given.

    Raises:
        CheckpointError: of `encoder`: nothing there, or damaged.
    """
    checkpoint = load_checkpoint(source, stretch_positions)
    provenance = {"start": str(source), "start_fingerprint": checkpoint.fingerprint}
    chosen = fusion or checkpoint.fusion
    return Start(checkpoint.architecture, checkpoint.model, chosen, True, provenance, checkpoint.fingerprint)


class Towers(Family):
    """open_clip's image and text tower, whose features are added."""

    def __init__(
        self, start: Start, device: torch.device, dtype: torch.dtype | None = None, batch_norm: str = "auto"
    ) -> None:
        """Brings the model of a start to a device.

        Args:
            start: The model and how it fuses.
            device: Where the towers run.
            dtype: What a forward pass computes in, or `None` for float32.
            batch_norm: As the setting has it.
        """
        model: Any = start.model.to(device)
        uses_timm = start.architecture.uses_timm
        if uses_timm:
            model.visual.to(memory_format=torch.channels_last)
        super().__init__(
            model=model,
            network=_Network(model, uses_timm),
            trunk=model.visual.trunk if uses_timm else model.visual,
            description=_describe(start),
            image_input=image_input(preprocessing(start.architecture)),
            device=device,
            dtype=dtype,
            keeps_statistics=batch_norm == "eval" or (batch_norm == "auto" and start.is_pretrained),
        )
        self._architecture = start.architecture
        self._fusion = start.fusion
        self._tokenizer = Tokenizer(start.architecture)
        self._normalization = Normalization(preprocessing(start.architecture), device)

    @property
    def log_scale(self) -> nn.Parameter:
        """CLIP's own."""
        return cast(nn.Parameter, self.model.logit_scale)

    @property
    def bias(self) -> nn.Parameter | None:
        """SigLIP's own."""
        return cast(nn.Parameter | None, self.model.logit_bias)

    @property
    def layers(self) -> Layers:
        """As open_clip and timm divide their towers."""
        return tower_layers(self.model)

    @property
    def can_leave_out_words(self) -> bool:
        """Whether texts are read at their end-of-text token."""
        return can_trim(self.model)

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, list[bool]]:
        """Token ids `[S, T]`, and which texts are longer than the context."""
        return self._tokenizer.rows(texts)

    def text_ends(self, tokens_ST: Tensor) -> Tensor:
        """Position `[S]` of each text's end-of-text token."""
        return end_positions(self.model, tokens_ST)

    def normalize(self, pixels_ICHW: Tensor) -> Tensor:
        """uint8 pixels to the image tower's input, on the device."""
        return self._normalization(pixels_ICHW)

    def trunk_features(self, pixels_ICHW: Tensor) -> Tensor:
        """Output `[I, F...]` of timm's trunk, or else features of the whole image tower."""
        with torch.no_grad(), self.autocast():
            features: Tensor = self.network(self.normalize(pixels_ICHW), _Images.TO_TRUNK, _NO_TOKENS)[0]
        return features.float()

    def split(self, items: Items, num_parts: int) -> list[Items]:
        """Images and texts cut into parts each for itself: what becomes of a pair does not depend on its halves."""
        images, texts = items.images_I.tensor_split(num_parts), items.tokens_ST.tensor_split(num_parts)
        no_row = torch.empty(0, dtype=torch.long)
        return [Items(images_I, tokens_ST, no_row, no_row) for images_I, tokens_ST in zip(images, texts, strict=True)]

    def features(self, items: Items) -> tuple[Tensor, Tensor]:
        """Features `[I, D]` of images and `[S, D]` of texts, before normalisation, in one forward pass."""
        images_I, tokens_ST = items.images_I, items.tokens_ST
        num_images, num_texts = len(images_I), len(tokens_ST)
        if self.is_sharded and num_images == 0:  # every process must take part in every exchange of weights
            images_I = self.stand_in(images_I)
        if self.is_sharded and num_texts == 0:
            tokens_ST = torch.zeros(1, tokens_ST.shape[1], dtype=torch.long)
        with self.autocast():
            is_pixels = images_I.dtype is torch.uint8
            inputs_I = self.normalize(images_I) if is_pixels else images_I.to(self.device, non_blocking=True)
            way = _Images.TO_FEATURES if is_pixels else _Images.FROM_TRUNK
            image_ID, text_SD = self.network(inputs_I, way, tokens_ST.to(self.device, non_blocking=True))
        empty = torch.zeros(0, self.description.width, device=self.device)
        return (
            empty if image_ID is None else image_ID.float()[:num_images],
            empty if text_SD is None else text_SD.float()[:num_texts],
        )

    def rows(self, features: Features, items: Items) -> Vectors:
        """Features of unit norm, and sums of an image's and a text's scaled to unit norm."""
        image_ID, text_SD = features
        image_R, text_R, fused_R = items.by_modality()
        fused_image_RD, fused_text_RD = image_ID[items.row_image_R[fused_R]], text_SD[items.row_text_R[fused_R]]
        return Vectors(
            functional.normalize(image_ID[items.row_image_R[image_R]], dim=-1),
            functional.normalize(text_SD[items.row_text_R[text_R]], dim=-1),
            fuse(fused_image_RD, fused_text_RD, self._fusion),
        )

    def sides(self, features: Features, vectors: Vectors) -> tuple[Tensor, Tensor]:
        """All images and texts of a pass, the halves of fused vectors too."""
        image_ID, text_SD = features
        return image_ID, text_SD

    def recompute_activations(self) -> None:
        """Lets open_clip and timm compute the blocks' activations again in the backward pass."""
        self.model.set_grad_checkpointing(True)

    def blocks(self) -> Iterator[nn.Module]:
        """The towers' repeated blocks."""
        return repeated_blocks(self.model)

    def save(self, directory: Path, weights: Mapping[str, Tensor], provenance: Mapping[str, Any]) -> str:
        """Writes a checkpoint that open_clip loads too; gives its fingerprint."""
        return save_checkpoint(directory, self._architecture, weights, self._fusion, provenance)


def _describe(start: Start) -> Description:
    architecture, images = start.architecture, preprocessing(start.architecture)
    # Everything that a feature depends on; the configuration names the tokenizer too.
    network = {**open_clip_cfg(architecture), "preprocessing": asdict(images), "padding": architecture.padding}
    return Description(
        name=architecture.name,
        width=architecture.width,
        fusion=start.fusion.value,
        network={name: json.dumps(fact, sort_keys=True) for name, fact in network.items()},
        settings={
            "architecture": architecture.name,
            "image_mean": list(images.mean),
            "image_std": list(images.std),
            "resize_mode": images.resize_mode,
            "fusion": start.fusion.value,
        },
        libraries={"open_clip": "open_clip_torch"},
        fingerprint=start.fingerprint,
        provenance=start.provenance,
    )


class _Images(Enum):
    """How far images go through the network, and from where."""

    TO_FEATURES = "pixels to features"
    TO_TRUNK = "pixels to the trunk's output"
    FROM_TRUNK = "the trunk's output to features"


class _Network(nn.Module):
    """Both towers in one forward pass, which is where sharded weights come together."""

    def __init__(self, model: Any, uses_timm: bool) -> None:
        super().__init__()
        self.model = model
        self._uses_timm = uses_timm

    def forward(self, images_I: Tensor, way: _Images, tokens_ST: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Features of images (or the trunk's output) and of tokens; `None` of nothing."""
        image_ID = self._images(images_I, way) if len(images_I) else None
        return image_ID, encode_text(self.model, tokens_ST) if len(tokens_ST) else None

    def _images(self, images_I: Tensor, way: _Images) -> Tensor:
        visual = self.model.visual
        if way is _Images.FROM_TRUNK:
            features_I: Tensor = visual.head(images_I) if self._uses_timm else images_I
        elif way is _Images.TO_TRUNK and self._uses_timm:
            features_I = visual.trunk(images_I)
        else:
            features_I = self.model.encode_image(images_I)
        return features_I


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
    load_image_weights(model.visual.trunk, path, architecture.name)
