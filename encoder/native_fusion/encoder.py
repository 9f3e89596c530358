"""The encoder with native fusion: items in, unit vectors out.

Shape legend: B = batch (items), I = images, T = tokens, C, H, W = image, D = width.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from anykey.encoder.description import MANIFEST_NAME
from anykey.encoder.fusion import NATIVE
from anykey.encoder.images import ImageLimits, decode_image
from anykey.encoder.item import Item, Modality
from anykey.encoder.lengths import alike_in_length
from anykey.encoder.model import (
    FUSION,
    Encoder,
    Options,
    check_text,
    choose_device,
    refuse_options_of_towers,
)
from anykey.encoder.native_fusion.checkpoint import Checkpoint, read_checkpoint
from anykey.encoder.native_fusion.network import Rows
from anykey.encoder.native_fusion.visualized import find_visualized, read_visualized
from anykey.encoder.preprocessing import Preprocessing
from anykey.encoder.protocol import EVEN_WEIGHT, Role, check_item


@dataclass(frozen=True)
class PreparedItem:
    """An item decoded, resized and tokenised: all that can be done without the network.

    Attributes:
        image_CHW: Normalised pixels, or `None` without an image.
        tokens: Ids of the text; of an image alone those of an empty one.
        has_text: Whether there is a text.
        is_text_cut: Whether the text is longer than the model takes, so that its end is not among the tokens.
        num_tokens: Patches, once through the trunk and once through the text encoder, and tokens of the text.
    """

    image_CHW: Tensor | None
    tokens: tuple[int, ...]
    has_text: bool
    is_text_cut: bool
    num_tokens: int

    @property
    def modality(self) -> Modality:
        """Which of the three kinds the item is."""
        if self.image_CHW is None:
            return Modality.TEXT
        return Modality.FUSED if self.has_text else Modality.IMAGE


class FusionEncoder(Encoder):
    """Embeds texts, images and both by a text encoder that reads an image's patches; see `Encoder`.

    Queries and keys are embedded alike. An image and a text are one pass, so there is no weight between them, and an
    item has one image at most.
    """

    family = FUSION

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        limits: ImageLimits | None = None,
    ) -> None:
        architecture = checkpoint.architecture
        self.device = choose_device(device)
        self.architecture = architecture
        self.name = architecture.name
        self.fusion = NATIVE
        self.fingerprint = checkpoint.fingerprint
        self.provenance = checkpoint.provenance
        self.network = checkpoint.network.to(self.device).eval().requires_grad_(False)
        if architecture.trunk["kind"] == "timm":  # convolutions run faster so on the CPU
            self.network.trunk.to(memory_format=torch.channels_last)
        self.width = self.network.width
        self.context_length = architecture.context_length
        self.widths: tuple[int, ...] = ()
        size = architecture.preprocessing.size
        self._target_px = size if isinstance(size, int) else max(size)
        self.limits = (limits or ImageLimits()).for_input(self._target_px, architecture.preprocessing.resize_mode)
        self._preprocess = Preprocessing(architecture.preprocessing)
        self._have({"network": _Network(self.network)}, {})

    def prepare(
        self, item: Item, role: Role, text_weight: float = EVEN_WEIGHT, instruction: str | None = None
    ) -> PreparedItem:
        """Decodes, resizes and tokenises one item, on the CPU; safe in any thread.

        Args:
            item: The item.
            role: What it is embedded for; makes no difference here.
            text_weight: The text's share in a fused item, which this model has no other value of than the default.
            instruction: None; this model follows none.

        Raises:
            InvalidItemError: an image cannot be read or is too large, the text is too long or no Unicode, or the item
                has several images, a text weight or an instruction.
        """
        check_item(self, item, text_weight, instruction)
        network, image_CHW = self.network, None
        if item.images:
            image_CHW = self._preprocess(decode_image(item.images[0], self.limits, self._target_px))
        text = item.text if item.text is not None and item.has_text else ""
        check_text(text)
        limit = self.context_length if image_CHW is None else min(self.context_length, network.max_text_beside_image)
        ((tokens, is_cut),) = self.architecture.tokenizer.rows([text], limit)
        num_patches = 0 if image_CHW is None else 2 * network.num_patches
        return PreparedItem(image_CHW, tuple(tokens), item.has_text, is_cut, num_patches + len(tokens))

    def cost(self, prepared: PreparedItem) -> int:
        """Its tokens."""
        return prepared.num_tokens

    def encode_prepared(self, prepared: Sequence[PreparedItem]) -> NDArray[np.float32]:
        """Embeds prepared items in one batch.

        Args:
            prepared: Prepared items, any mix of modalities; none give an empty array.

        Returns:
            Unit vectors `[B, D]`, float32.
        """
        vectors_BD = np.empty((len(prepared), self.width), dtype=np.float32)
        for places in alike_in_length([item.num_tokens for item in prepared]):
            vectors_BD[places] = self._embed([prepared[place] for place in places])
        return vectors_BD

    def details(self) -> dict[str, Any]:
        """The networks, and how it prepares images."""
        architecture, network = self.architecture, self.network
        preparation = asdict(architecture.preprocessing)
        parts = {"image": network.trunk, "projection": network.projection, "text": network.text}
        numbers = {name: sum(weight.numel() for weight in part.parameters()) for name, part in parts.items()}
        trunk = architecture.trunk
        return {
            "parameters": numbers,
            "trunk": trunk["name"] if trunk["kind"] == "timm" else trunk["kind"],
            "patches": network.num_patches,
            "text_encoder": architecture.text_config["model_type"],
            "fused_context": min(self.context_length, network.max_text_beside_image),
            "images": {
                "size": architecture.preprocessing.size,
                **{name: preparation[name] for name in ("resize_mode", "interpolation", "mean", "std")},
            },
        }

    def _embed(self, prepared: Sequence[PreparedItem]) -> NDArray[np.float32]:
        images = [item.image_CHW for item in prepared if item.image_CHW is not None]
        has_image_B = torch.tensor([item.image_CHW is not None for item in prepared])
        image_B = torch.where(has_image_B, has_image_B.cumsum(0) - 1, -1)
        tokens_BT = pad_sequence([torch.tensor(item.tokens) for item in prepared], batch_first=True)
        length_B = torch.tensor([len(item.tokens) for item in prepared])
        images_I = torch.stack(images) if images else torch.empty(0)
        inputs = map(self._on_device, (images_I, tokens_BT, length_B, image_B))
        with torch.inference_mode():
            vectors_BD: NDArray[np.float32] = self._runs["network"](*inputs).cpu().numpy()
        return vectors_BD


class _Network(nn.Module):
    """The network as one that takes tensors alone."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_I: Tensor, tokens_BT: Tensor, length_B: Tensor, image_B: Tensor) -> Tensor:
        """Unit vectors `[B, D]`."""
        vectors_BD: Tensor = self.network(images_I, Rows(tokens_BT, length_B, image_B))
        return vectors_BD


def open_fusion(
    source: str | Path,
    device: str = "auto",
    limits: ImageLimits | None = None,
    options: Options | None = None,
) -> FusionEncoder:
    """Loads an encoder of this family, which computes in float32; see `Encoder.load`.

    Raises:
        UnsupportedOptionError: score fusion or other positions are asked for.
    """
    checkpoint = load_checkpoint(source)
    refuse_options_of_towers(checkpoint.architecture.name, options or Options())
    return FusionEncoder(checkpoint, device, limits)


def load_checkpoint(source: str | Path) -> Checkpoint:
    """Reads a checkpoint directory, or one that holds VISTA's published weights; the network is on the CPU.

    Raises:
        CheckpointNotFoundError: nothing there under that name.
        CheckpointCorruptError: there, but damaged or not what it says it is.
        MissingPartError: transformers, or the tokenizer's files, are not on this machine.
    """
    directory = Path(source)
    if not (directory / MANIFEST_NAME).is_file():
        weights = find_visualized(directory)
        if weights is not None:
            return read_visualized(weights, directory)
    return read_checkpoint(directory)
