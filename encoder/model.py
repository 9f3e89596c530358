"""The encoder: items in, unit vectors out.

Shape legend: B = batch, D = width, T = tokens, C, H, W = channels, height, width of an image,
F = images of all items of a batch together.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from open_clip.transform import image_transform_v2
from torch import Tensor

from anykey.encoder.architecture import Architecture, build, preprocessing, read_architecture, read_tag
from anykey.encoder.checkpoint import Checkpoint, fingerprint, read_checkpoint
from anykey.encoder.errors import CheckpointNotFoundError, DeviceUnavailableError, InvalidItemError, ItemTooLargeError
from anykey.encoder.fusion import Fusion, fuse
from anykey.encoder.images import ImageLimits, decode_image
from anykey.encoder.item import Item, Modality
from anykey.encoder.protocol import EVEN_WEIGHT, Ability, Role
from anykey.encoder.text import can_trim, encode_text, end_positions
from anykey.encoder.tokens import Tokenizer, TokenRows, fetch_tokenizer
from anykey.encoder.weights import load_weights

MAX_TEXT_CHARS = 100_000
MAX_IMAGES_AT_ONCE = 128  # through the image tower; bounds memory whatever the number of frames
PATCH_PX = 16  # open_clip's own where a network names none; one without patches is counted as if it had such
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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


class Encoder:
    """Embeds texts, images and both into one space: open_clip's two towers, whose features are added.

    It is an `ItemEncoder`: `prepare` may run in any thread, the model itself serves one thread at a time. Queries and
    keys are embedded alike.

    Attributes:
        name: The architecture's name.
        width: D.
        fusion: How image and text features are added.
        fingerprint: Equal fingerprints give equal vectors, up to the precision they are computed in.
        device: Where the model is.
        precision: What the towers compute in: `fp32`, `bf16` or `fp16`; features are added in float32.
        provenance: What made the weights, as the checkpoint tells.
        context_length: The most tokens of a text that the model takes, the start's and the end's included.
        modalities: All three.
        supports: Everything.
    """

    modalities = frozenset(Modality)
    supports = frozenset(Ability)

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        precision: str = "auto",
        limits: ImageLimits | None = None,
    ) -> None:
        self.device = choose_device(device)
        self.precision = _choose_precision(precision, self.device)
        self.architecture = checkpoint.architecture
        self.name = checkpoint.architecture.name
        self.width = checkpoint.architecture.width
        self.fusion = checkpoint.fusion
        self.fingerprint = checkpoint.fingerprint
        self.provenance = checkpoint.provenance
        self.model: Any = checkpoint.model.to(self.device).eval().requires_grad_(False)
        if self.architecture.uses_timm:  # convolutions run faster so on the CPU
            self.model.visual.to(memory_format=torch.channels_last)
        self._preprocess_cfg = preprocessing(self.architecture)
        size = self._preprocess_cfg.size
        self._target_px = size if isinstance(size, int) else max(size)
        self.limits = (limits or ImageLimits()).for_input(self._target_px, self._preprocess_cfg.resize_mode)
        self._preprocess = image_transform_v2(self._preprocess_cfg, is_train=False)
        self._tokenizer = Tokenizer(self.architecture)
        self.context_length = self._tokenizer.context_length
        self._can_trim = can_trim(self.model)
        self._patch_px = int(self.architecture.model_cfg["vision_cfg"].get("patch_size") or PATCH_PX)

    @classmethod
    def load(
        cls,
        source: str | Path,
        device: str = "auto",
        precision: str = "auto",
        limits: ImageLimits | None = None,
        fusion: Fusion | None = None,
        stretch_positions: bool = False,
    ) -> "Encoder":
        """Loads an encoder.

        Args:
            source: A checkpoint directory; `ARCHITECTURE@FILE`, an open_clip architecture (or `.json`
                configuration) with a local weights file; or `ARCHITECTURE/TAG`, open_clip's pretrained
                weights, the only form that may use the network.
            device: `auto` (a GPU when there is one), `cpu`, `cuda`, `cuda:1`, ...
            precision: `auto` (fp16 on a GPU, else fp32), `fp32`, `bf16` or `fp16`.
            limits: Largest images accepted.
            fusion: Overrides the checkpoint's fusion; the fingerprint changes with it.
            stretch_positions: Interpolate the positional embeddings of a weights file to the architecture's context
                length and image size; without it a file of another length is refused.

        Returns:
            The encoder, ready to embed.

        Raises:
            CheckpointNotFoundError: nothing there under that name.
            CheckpointCorruptError: there, but damaged or not what it says it is.
            MissingPartError: it needs a library or files of Hugging Face that are not on this machine.
            DeviceUnavailableError: no such device, or it lacks the precision.
        """
        checkpoint = load_checkpoint(source, stretch_positions)
        if fusion is not None and fusion is not checkpoint.fusion:
            identity = fingerprint(checkpoint.architecture, checkpoint.model.state_dict(), fusion)
            checkpoint = Checkpoint(
                checkpoint.architecture, checkpoint.model, fusion, identity, dict(checkpoint.provenance)
            )
        return cls(checkpoint, device, precision, limits)

    def prepare(self, item: Item, role: Role, text_weight: float = EVEN_WEIGHT) -> PreparedItem:
        """Decodes, resizes and tokenises one item, on the CPU; safe in any thread.

        Args:
            item: The item.
            role: What it is embedded for; makes no difference here.
            text_weight: The text's share in a fused item, in [0, 1].

        Raises:
            InvalidItemError: an image cannot be read or is too large, or the text is too long or no Unicode.
        """
        if not 0.0 <= text_weight <= 1.0:
            raise ValueError(f"a text weight must be within [0, 1], got {text_weight}")
        # One after the other, so that no two are in memory at their full size.
        pixels = tuple(self._preprocess(decode_image(image, self.limits, self._target_px)) for image in item.images)
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
        with torch.inference_mode(), self._autocast():
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

    def encode(
        self,
        items: Sequence[Item],
        text_weight: float = EVEN_WEIGHT,
        batch_size: int = 64,
        role: Role = Role.QUERY,
    ) -> NDArray[np.float32]:
        """Embeds items.

        Args:
            items: Items, any mix of modalities.
            text_weight: The text's share in a fused item, in [0, 1].
            batch_size: Items the model sees at once.
            role: What they are embedded for; makes no difference with this family of models.

        Returns:
            Unit vectors `[B, D]`, float32, in the order of the items.

        Raises:
            InvalidItemError: names the first item that cannot be embedded, and why.
        """
        batches = [np.empty((0, self.width), dtype=np.float32)]
        for start in range(0, len(items), batch_size):
            batch = enumerate(items[start : start + batch_size], start)
            batches.append(self.encode_prepared([self._prepare_at(i, item, role, text_weight) for i, item in batch]))
        return np.concatenate(batches)

    def _prepare_at(self, position: int, item: Item, role: Role, text_weight: float) -> PreparedItem:
        try:
            return self.prepare(item, role, text_weight)
        except InvalidItemError as error:
            raise error.at(position) from error

    def _tokenize(self, text: str) -> TokenRows:
        if len(text) > MAX_TEXT_CHARS:
            raise ItemTooLargeError(f"text has {len(text)} characters, at most {MAX_TEXT_CHARS} are accepted")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidItemError(f"text is not valid Unicode: {error.reason}") from error
        return self._tokenizer.rows([text])

    def _num_tokens(self, images: Sequence[Tensor], tokens_T: Tensor | None) -> int:
        """What goes through the towers of an item."""
        px = self._patch_px
        of_images = sum(1 + (image.shape[-2] // px) * (image.shape[-1] // px) for image in images)
        if tokens_T is None:
            return of_images
        return of_images + (1 + int(end_positions(self.model, tokens_T)) if self._can_trim else len(tokens_T))

    def _image_features(self, prepared: Sequence[PreparedItem], zeros_BD: Tensor) -> Tensor:
        images = [image for item in prepared for image in item.images]
        owners = [i for i, item in enumerate(prepared) for _ in item.images]
        chunks = (images[start : start + MAX_IMAGES_AT_ONCE] for start in range(0, len(images), MAX_IMAGES_AT_ONCE))
        features = [self.model.encode_image(torch.stack(chunk).to(self.device)).float() for chunk in chunks]
        features_FD = torch.cat(features)
        owner_F = torch.tensor(owners, device=self.device)
        counts_B = torch.bincount(owner_F, minlength=len(prepared)).clamp(min=1)
        return zeros_BD.index_add(0, owner_F, features_FD) / counts_B[:, None]

    def _text_features(self, prepared: Sequence[PreparedItem], zeros_BD: Tensor, has_text_B: Tensor) -> Tensor:
        tokens_BT = torch.stack([item.tokens_T for item in prepared if item.tokens_T is not None])
        features_BD = encode_text(self.model, tokens_BT.to(self.device)).float()
        return zeros_BD.index_copy(0, has_text_B.nonzero().flatten(), features_BD)

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = PRECISIONS[self.precision]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)


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
    text = str(source)
    if Path(source).is_dir():
        return read_checkpoint(Path(source))
    name, at, weights = text.rpartition("@")
    if at:
        architecture = read_architecture(name)
        model = build(architecture)
        load_weights(model, Path(weights), stretch_positions)
        return _from_open_clip(architecture, model, {"weights": weights})
    name, _, tag = text.rpartition("/")
    if (name, tag) in open_clip.list_pretrained():
        return _from_tag(name, tag)
    raise CheckpointNotFoundError(
        f"no checkpoint '{source}': expected a directory, ARCHITECTURE@WEIGHTS_FILE, or ARCHITECTURE/PRETRAINED_TAG"
    )


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


def choose_device(device: str) -> torch.device:
    """The device named, or for `auto` a GPU when there is one.

    Raises:
        DeviceUnavailableError: no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceUnavailableError(f"device '{device}' is not available: {reason}") from error
    return chosen


def _choose_precision(precision: str, device: torch.device) -> str:
    if precision == "auto":
        return "fp16" if device.type == "cuda" else "fp32"
    if precision not in PRECISIONS:
        raise DeviceUnavailableError(f"unknown precision '{precision}', expected auto, {', '.join(PRECISIONS)}")
    return precision
