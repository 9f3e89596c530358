"""The encoder of open_clip's two towers: items in, unit vectors out.

Shape legend: B = batch, D = width, T = tokens, C, H, W = channels, height, width of an image,
F = images of all items of a batch together.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from torch import Tensor, nn

from anykey.encoder.backends import Example, Way, has_fixed_batches
from anykey.encoder.description import MANIFEST_NAME
from anykey.encoder.errors import CheckpointNotFoundError
from anykey.encoder.fusion import Fusion, fuse
from anykey.encoder.images import ImageLimits, decode_images
from anykey.encoder.item import Item, Modality
from anykey.encoder.model import TOWERS, Encoder, Options, check_text, choose_device
from anykey.encoder.preprocessing import Preprocessing
from anykey.encoder.protocol import EVEN_WEIGHT, Ability, Role, check_item
from anykey.encoder.towers.architecture import Architecture, build, preprocessing, read_architecture, read_tag
from anykey.encoder.towers.checkpoint import CONFIG_NAME, Checkpoint, fingerprint, read_checkpoint
from anykey.encoder.towers.first_token import read_first_token_alone
from anykey.encoder.towers.layouts.plain import published_preprocessing
from anykey.encoder.towers.layouts.table import Recognised, recognise
from anykey.encoder.towers.text import TextTower, num_read, spares_padding
from anykey.encoder.towers.tokens import Tokenizer, TokenRows, fetch_tokenizer
from anykey.encoder.towers.weights import load_weights, put_weights

MAX_IMAGES_AT_ONCE = 128  # through the image tower; bounds memory whatever the number of frames
# Their pixels on a CPU. glibc returns blocks of more than 32 MB to the system, and to get their pages anew takes
# ten times as long as to copy the pixels.
MAX_BYTES_AT_ONCE = 20_000_000
PATCH_PX = 16  # open_clip's own where a network names none; one without patches is counted as if it had such


@dataclass(frozen=True)
class PreparedItem:
    """An item decoded, resized and tokenised: all that can be done without the model.

    Attributes:
        images: Normalised pixels `[C, H, W]`, one tensor for each image.
        tokens_T: Token ids padded to the context length, or `None` without text.
        is_text_cut: Whether the text is longer than the model's context, so that its end is not among the tokens.
        text_weight: The text's share in a fused item, in [0, 1].
        num_tokens: Patches of the images, each with its class token, and tokens of the text up to its end.
    """

    images: tuple[Tensor, ...]
    tokens_T: Tensor | None
    is_text_cut: bool
    text_weight: float
    num_tokens: int

    @property
    def modality(self) -> Modality:
        """Which of the three kinds the item is."""
        if not self.images:
            return Modality.TEXT
        return Modality.IMAGE if self.tokens_T is None else Modality.FUSED


@dataclass(frozen=True)
class Features:
    """The towers' outputs before normalisation; a row of an absent part is zero.

    Attributes:
        image_BD: Image features, the mean over an item's images.
        text_BD: Text features.
        has_image_B: Which items have images.
        has_text_B: Which items have a text.
    """

    image_BD: Tensor
    text_BD: Tensor
    has_image_B: Tensor
    has_text_B: Tensor


class ImageTower(nn.Module):
    """A model's image tower: pixels `[B, C, H, W]` to features `[B, D]`, before normalisation."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """The features."""
        features_BD: Tensor = self.model.encode_image(pixels_BCHW)
        return features_BD


class TowerEncoder(Encoder):
    """Embeds texts, images and both by open_clip's two towers, whose features are added; see `Encoder`.

    Queries and keys are embedded alike, and features are added in float32, whatever the towers compute in.
    """

    family = TOWERS
    fusion: Fusion
    supports = frozenset({Ability.TEXT_WEIGHT, Ability.SEVERAL_IMAGES})

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        limits: ImageLimits | None = None,
    ) -> None:
        self.device = choose_device(device)
        self.architecture = checkpoint.architecture
        self.name = checkpoint.architecture.name
        self.width = checkpoint.architecture.width
        self.fusion = checkpoint.fusion
        self.fingerprint = checkpoint.fingerprint
        self.provenance = checkpoint.provenance
        self.model: Any = checkpoint.model.to(self.device).eval().requires_grad_(False)
        read_first_token_alone(self.model.visual)
        if self.architecture.uses_timm:  # convolutions run faster so on the CPU
            self.model.visual.to(memory_format=torch.channels_last)
        self._preprocess_cfg = preprocessing(self.architecture)
        size = self._preprocess_cfg.size
        self._target_px = size if isinstance(size, int) else max(size)
        self.limits = (limits or ImageLimits()).for_input(self._target_px, self._preprocess_cfg.resize_mode)
        self._preprocess = Preprocessing(self._preprocess_cfg)
        self._tokenizer = Tokenizer(self.architecture)
        self.context_length = self._tokenizer.context_length
        self.widths: tuple[int, ...] = ()
        self._spares_padding = spares_padding(self.model)
        self._have({"image": ImageTower(self.model), "text": TextTower(self.model)}, self._inputs())
        self._patch_px = int(self.architecture.model_cfg["vision_cfg"].get("patch_size") or PATCH_PX)

    def prepare(
        self, item: Item, role: Role, text_weight: float = EVEN_WEIGHT, instruction: str | None = None
    ) -> PreparedItem:
        """Decodes, resizes and tokenises one item, on the CPU; safe in any thread.

        Args:
            item: The item.
            role: What it is embedded for; makes no difference here.
            text_weight: The text's share in a fused item, in [0, 1].
            instruction: None; towers follow none.

        Raises:
            InvalidItemError: an image cannot be read or is too large, the text is too long or no Unicode, or there is
                an instruction.
        """
        check_item(self, item, text_weight, instruction)
        if not 0.0 <= text_weight <= 1.0:
            raise ValueError(f"a text weight must be within [0, 1], got {text_weight}")
        # One after the other, so that no two are in memory at their full size.
        pixels = tuple(map(self._preprocess, decode_images(item.images, self.limits, self._target_px)))
        if item.text is None or not item.has_text:
            return PreparedItem(pixels, None, False, text_weight, self._num_tokens(pixels, None))
        rows = self._tokenize(item.text)
        tokens_T = rows.tokens_BT[0]
        return PreparedItem(pixels, tokens_T, rows.is_cut_B[0], text_weight, self._num_tokens(pixels, tokens_T))

    def cost(self, prepared: PreparedItem) -> int:
        """Its tokens."""
        return prepared.num_tokens

    def features(self, prepared: Sequence[PreparedItem]) -> Features:
        """Runs the towers that the batch needs, and only on the items that need them.

        Args:
            prepared: At least one prepared item.

        Returns:
            The features, float32, on the encoder's device.
        """
        has_image_B = torch.tensor([bool(item.images) for item in prepared], device=self.device)
        has_text_B = torch.tensor([item.tokens_T is not None for item in prepared], device=self.device)
        zeros_BD = torch.zeros(len(prepared), self.width, device=self.device)
        with torch.inference_mode():
            image_BD = self._image_features(prepared, zeros_BD) if has_image_B.any() else zeros_BD
            text_BD = self._text_features(prepared, zeros_BD, has_text_B) if has_text_B.any() else zeros_BD
        return Features(image_BD, text_BD, has_image_B, has_text_B)

    def fuse(self, features: Features, text_weight: float | Sequence[float] = 0.5) -> Tensor:
        """Unit vectors `[B, D]` of features; an item with one part only is that part.

        Args:
            features: What `features` gave.
            text_weight: The text's share in a fused item, in [0, 1]; one number, or one for each item.
        """
        num_items = features.has_text_B.shape[0]
        weights = [text_weight] * num_items if isinstance(text_weight, (int, float)) else list(text_weight)
        if len(weights) != num_items:
            raise ValueError(f"expected {num_items} text weights, one for each item, got {len(weights)}")
        if not all(0.0 <= weight <= 1.0 for weight in weights):
            raise ValueError("a text weight must be within [0, 1]")
        weight_B = torch.tensor(weights, dtype=torch.float32, device=self.device)
        weight_B = torch.where(features.has_image_B, weight_B, 1.0)
        weight_B = torch.where(features.has_text_B, weight_B, 0.0)
        return fuse(features.image_BD, features.text_BD, self.fusion, weight_B)

    def encode_prepared(self, prepared: Sequence[PreparedItem]) -> NDArray[np.float32]:
        """Embeds prepared items in one batch.

        Args:
            prepared: Prepared items, any mix of modalities; none give an empty array.

        Returns:
            Unit vectors `[B, D]`, float32.
        """
        if not prepared:
            return np.empty((0, self.width), dtype=np.float32)
        text_weights = [item.text_weight for item in prepared]
        vectors_BD: NDArray[np.float32] = self.fuse(self.features(prepared), text_weights).cpu().numpy()
        return vectors_BD

    def details(self) -> dict[str, Any]:
        """The network, and how it prepares images and texts."""
        visual, config = self.model.visual, self.architecture.model_cfg
        num_all = sum(weight.numel() for weight in self.model.parameters())
        num_image = sum(weight.numel() for weight in visual.parameters())
        preparation = asdict(self._preprocess_cfg)
        return {
            "parameters": {"image": num_image, "text": num_all - num_image},
            "activation": "QuickGELU" if config.get("quick_gelu") else "as its network has it, not QuickGELU",
            "images": {name: preparation[name] for name in ("size", "resize_mode", "interpolation", "mean", "std")},
            "tokenizer": self.architecture.hf_tokenizer_name or "CLIP's own, which is built in",
            "loads_in": "AnyKey" if self.architecture.is_extended else "AnyKey, open_clip",
        }

    def _tokenize(self, text: str) -> TokenRows:
        check_text(text)
        return self._tokenizer.rows([text])

    def _num_tokens(self, images: Sequence[Tensor], tokens_T: Tensor | None) -> int:
        """What goes through the towers of an item."""
        px = self._patch_px
        of_images = sum(1 + (image.shape[-2] // px) * (image.shape[-1] // px) for image in images)
        if tokens_T is None:
            return of_images
        return of_images + int(num_read(self.model, tokens_T))

    def _image_features(self, prepared: Sequence[PreparedItem], zeros_BD: Tensor) -> Tensor:
        images = [image for item in prepared for image in item.images]
        owners = [i for i, item in enumerate(prepared) for _ in item.images]
        num = self._num_images_at_once(images[0])
        chunks = (images[start : start + num] for start in range(0, len(images), num))
        features = [self._runs["image"](self._on_device(torch.stack(chunk))) for chunk in chunks]
        features_FD = torch.cat(features)
        owner_F = torch.tensor(owners, device=self.device)
        counts_B = torch.bincount(owner_F, minlength=len(prepared)).clamp(min=1)
        return zeros_BD.index_add(0, owner_F, features_FD) / counts_B[:, None]

    def _num_images_at_once(self, image: Tensor) -> int:
        """How many images of this size go through their tower together."""
        if self.device.type != "cpu":
            return MAX_IMAGES_AT_ONCE
        return max(1, min(MAX_IMAGES_AT_ONCE, MAX_BYTES_AT_ONCE // image.nbytes))

    def _text_features(self, prepared: Sequence[PreparedItem], zeros_BD: Tensor, has_text_B: Tensor) -> Tensor:
        tokens_BT = torch.stack([item.tokens_T for item in prepared if item.tokens_T is not None])
        if self._spares_padding and not has_fixed_batches(Way(self.backend, self.precision), self.device):
            tokens_BT = tokens_BT[:, : int(num_read(self.model, tokens_BT).max())]
        features_BD = self._runs["text"](self._on_device(tokens_BT))
        return zeros_BD.index_copy(0, has_text_B.nonzero().flatten(), features_BD)

    def _inputs(self) -> dict[str, Example]:
        """Two images, and two texts of few tokens where their number is free."""
        size = self._preprocess_cfg.size
        height, width = (size, size) if isinstance(size, int) else size
        pixels_BCHW = torch.zeros(2, 3, height, width, device=self.device)
        length = min(8, self.context_length) if self._spares_padding else self.context_length
        tokens_BT = self._tokenizer(["a", "b"])[:, :length].to(self.device)
        free = (1,) if self._spares_padding else ()
        return {"image": Example((pixels_BCHW,), ((),)), "text": Example((tokens_BT,), (free,))}


def open_towers(
    source: str | Path,
    device: str = "auto",
    limits: ImageLimits | None = None,
    options: Options | None = None,
) -> TowerEncoder:
    """Loads an encoder of this family, which computes in float32; see `Encoder.load`."""
    options = options or Options()
    fusion = options.fusion
    checkpoint = load_checkpoint(source, options.stretch_positions)
    if fusion is not None and fusion is not checkpoint.fusion:
        identity = fingerprint(checkpoint.architecture, checkpoint.model.state_dict(), fusion)
        checkpoint = replace(checkpoint, fusion=fusion, fingerprint=identity)
    return TowerEncoder(checkpoint, device, limits)


def load_checkpoint(source: str | Path, stretch_positions: bool = False) -> Checkpoint:
    """Reads a checkpoint from any source that `Encoder.load` takes; the model is on the CPU.

    Args:
        source: As `Encoder.load` takes it.
        stretch_positions: For `ARCHITECTURE@FILE`: interpolate its positional embeddings.

    Raises:
        CheckpointNotFoundError: nothing there under that name.
        CheckpointCorruptError: there, but damaged or not what it says it is.
        MissingPartError: it needs a library or files of Hugging Face that are not on this machine.
    """
    text, path = str(source), Path(source)
    if is_checkpoint(path):
        return read_checkpoint(path)
    if text and path.exists():
        return recognised_checkpoint(path, recognise(path))
    name, at, weights = text.rpartition("@")
    if at:
        architecture = read_architecture(name)
        if not architecture.preprocess_cfg:
            architecture = replace(architecture, preprocess_cfg=published_preprocessing(architecture.name))
        model = build(architecture)
        load_weights(model, Path(weights), stretch_positions)
        return _from_open_clip(architecture, model, {"weights": weights})
    name, _, tag = text.rpartition("/")
    if (name, tag) in open_clip.list_pretrained():
        return _from_tag(name, tag)
    raise CheckpointNotFoundError(
        f"no checkpoint '{source}': expected a directory, a weights file, ARCHITECTURE@WEIGHTS_FILE, or "
        "ARCHITECTURE/PRETRAINED_TAG"
    )


def is_checkpoint(path: Path) -> bool:
    """Whether this is a directory of ours or of open_clip, whole or not."""
    return path.is_dir() and any((path / name).exists() for name in (CONFIG_NAME, MANIFEST_NAME))


def recognised_checkpoint(path: Path, found: Recognised) -> Checkpoint:
    """The network of weights of another layout, with them in it, on the CPU.

    Args:
        path: Where they are from.
        found: What was recognised of them.

    Raises:
        CheckpointCorruptError: they are another network's; says what differs.
        MissingPartError: the network needs a library that is not on this machine.
    """
    model = build(found.architecture)
    put_weights(model, found.tensors, path)
    return _from_open_clip(found.architecture, model, {"weights": str(path), "layout": found.layout})


def _from_open_clip(architecture: Architecture, model: Any, provenance: dict[str, Any]) -> Checkpoint:
    identity = fingerprint(architecture, model.state_dict(), Fusion.RAW)
    return Checkpoint(architecture, model, Fusion.RAW, identity, provenance)


def _from_tag(name: str, tag: str) -> Checkpoint:
    architecture = read_tag(name, tag)
    fetch_tokenizer(architecture)
    try:
        weights = download_pretrained(get_pretrained_cfg(name, tag))
    except (RuntimeError, OSError, ValueError) as error:
        raise CheckpointNotFoundError(f"cannot fetch the pretrained weights {name}/{tag}: {error}") from error
    model = build(architecture, may_fetch=True)
    load_weights(model, Path(weights))
    visual: Any = model.visual
    architecture = replace(architecture, preprocess_cfg=dict(visual.preprocess_cfg))
    return _from_open_clip(architecture, model, {"pretrained": f"{name}/{tag}"})
