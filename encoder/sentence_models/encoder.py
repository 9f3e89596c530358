"""The encoder of a model that sentence-transformers loads: items in, unit vectors out.

Shape legend: B = batch (items), D = width.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from anykey.encoder.errors import (
    CheckpointCorruptError,
    InvalidItemError,
    ItemTooLargeError,
    MissingPartError,
    UnsupportedItemError,
    UnsupportedOptionError,
)
from anykey.encoder.fusion import NATIVE
from anykey.encoder.hugging_face import (
    UNLOADABLE,
    load_and_compare,
    loading_quietly,
    require_sentence_transformers,
    without_network,
)
from anykey.encoder.images import ImageLimits, decode_images
from anykey.encoder.item import Item, Modality
from anykey.encoder.lengths import alike_in_length
from anykey.encoder.model import (
    MAX_TEXT_CHARS,
    SENTENCE_TRANSFORMERS,
    Encoder,
    Options,
    check_text,
    choose_device,
    refuse_options_of_towers,
)
from anykey.encoder.protocol import EVEN_WEIGHT, Ability, Role, check_item
from anykey.encoder.sentence_models.directory import Directory, own_code, read_directory
from anykey.encoder.sentence_models.features import Features, count_tokens, joined, kind_of
from anykey.encoder.sentence_models.network import Network
from anykey.encoder.sentence_models.preparing import Preparer

MAX_TOKENS_AT_ONCE = 16_384  # through the model, padding included; bounds memory whatever the batch
# What of ours each of the library's modalities is.
_MODALITIES = {Modality.TEXT: "text", Modality.IMAGE: "image", Modality.FUSED: ("image", "text")}


@dataclass(frozen=True)
class PreparedItem:
    """An item decoded, and prepared by the model's own processor: all that can be done without the network.

    Attributes:
        features: What the model takes of it.
        kind: What items must have in common to go through the model together; `None` for one that goes alone.
        modality: Which of the three kinds of item it is.
        is_text_cut: Whether the text is longer than the model takes, so that its end is not among the tokens.
        num_tokens: Tokens of text and images, and patches of images.
    """

    features: Features
    kind: Hashable | None
    modality: Modality
    is_text_cut: bool
    num_tokens: int


class SentenceModelEncoder(Encoder):
    """Embeds what a model of sentence-transformers takes; see `Encoder`.

    Queries and keys get the model's own prompts. Vectors are those of the library's `encode_query` and
    `encode_document`, scaled to unit length.
    """

    family = SENTENCE_TRANSFORMERS

    def __init__(
        self,
        directory: Directory,
        model: Any,
        device: str = "auto",
        limits: ImageLimits | None = None,
        width: int | None = None,
    ) -> None:
        self.device = choose_device(device)
        self.name = directory.name
        self.limits = limits or ImageLimits()
        self.modalities = frozenset(ours for ours, theirs in _MODALITIES.items() if model.supports(theirs))
        self.fusion = NATIVE if Modality.FUSED in self.modalities else "none"
        self._preparer = Preparer(model, self.name)
        several = [Ability.SEVERAL_IMAGES] if self._preparer.takes_several_images else []
        self.supports = frozenset([Ability.INSTRUCTION, *several])
        self.context_length = self._preparer.max_tokens or MAX_TEXT_CHARS
        self._directory = directory
        self.widths = directory.widths
        self._full_width = _full_width(model, self.name)
        self.width = _width(directory, model, self._full_width, width)
        prompts = {str(role): prompt for role, prompt in self._preparer.prompts.items()}
        self.fingerprint = directory.fingerprint({"prompts": prompts, "width": self.width})
        self.provenance = {"directory": str(directory.path), "made_by": directory.made_by}
        self.half = "bf16" if directory.number_format == "bfloat16" else "fp16"  # the other one overflows
        self._about = _about(model)
        self._have({"model": Network(model.to(self.device), self.width)}, {})

    def prepare(
        self, item: Item, role: Role, text_weight: float = EVEN_WEIGHT, instruction: str | None = None
    ) -> PreparedItem:
        """Decodes one item and gives it to the model's own processor, on the CPU; safe in any thread.

        Args:
            item: The item.
            role: What it is embedded for: which of the model's prompts it gets.
            text_weight: The text's share in a fused item, which such a model has no other value of than the default.
            instruction: What stands in the place of the role's prompt, to the letter.

        Raises:
            InvalidItemError: an image cannot be read or is too large, the text is too long or no Unicode, or the model
                does not take all of the item.
        """
        check_item(self, item, text_weight, instruction)
        if instruction is not None:
            check_text(instruction)
            if item.images and not self._preparer.takes_messages:
                raise UnsupportedItemError(f"model {self.name} takes an instruction with a text alone, got an image")
        text = item.text if item.has_text else None
        if text is not None:
            check_text(text)
        features, is_cut = self._preparer.prepare(text, self._decoded(item), role, instruction)
        return PreparedItem(features, kind_of(features), item.modality, is_cut, count_tokens(features))

    def cost(self, prepared: PreparedItem) -> int:
        """Its tokens."""
        return prepared.num_tokens

    def encode_prepared(self, prepared: Sequence[PreparedItem]) -> NDArray[np.float32]:
        """Embeds prepared items in one batch.

        Args:
            prepared: Prepared items, any mix of modalities and roles; none give an empty array.

        Returns:
            Unit vectors `[B, D]`, float32.
        """
        vectors_BD = np.empty((len(prepared), self.width), dtype=np.float32)
        for places in _together(prepared):
            vectors_BD[places] = self._embed([prepared[place].features for place in places])
        return vectors_BD

    def details(self) -> dict[str, Any]:
        """The modules, the prompts, and which widths there are."""
        widths = self._directory.widths
        return {
            **self._about,
            "widths": list(widths) if widths else f"any up to {self._full_width}",
            "prompts": {str(role): prompt or "none" for role, prompt in self._preparer.prompts.items()},
            "supports": sorted(self.supports),
        }

    def _decoded(self, item: Item) -> list[Image.Image]:
        """Its images. The processor takes them together, so together they are bounded as one is elsewhere."""
        images: list[Image.Image] = []
        num_pixels = 0
        for image in decode_images(item.images, self.limits):
            images.append(image)
            num_pixels += images[-1].width * images[-1].height
            if num_pixels > self.limits.max_pixels:
                raise ItemTooLargeError(
                    f"the first {len(images)} images of the item have {num_pixels} pixels, and model {self.name} reads "
                    f"images together: at most {self.limits.max_pixels} are accepted"
                )
        return images

    def _embed(self, batch: Sequence[Features]) -> NDArray[np.float32]:
        features = joined(batch, self._preparer.padding)
        on_device = {
            name: self._on_device(value) if isinstance(value, Tensor) else value for name, value in features.items()
        }
        with torch.inference_mode():
            vectors_BD: NDArray[np.float32] = self._runs["model"](on_device).cpu().numpy()
        return vectors_BD


def open_sentence_model(
    source: str | Path,
    device: str = "auto",
    limits: ImageLimits | None = None,
    options: Options | None = None,
) -> SentenceModelEncoder:
    """Loads an encoder of this family, which computes in float32; see `Encoder.load`.

    Raises:
        UnsupportedOptionError: score fusion or other positions are asked for, or a width that the model has not.
    """
    options = options or Options()
    path = Path(source)
    require_sentence_transformers(path.resolve().name)
    directory = read_directory(path)
    refuse_options_of_towers(directory.name, options)
    model = _load(directory)
    encoder = SentenceModelEncoder(directory, model, device, limits, options.width)
    _try(encoder, path)
    return encoder


def _load(directory: Directory) -> Any:
    """The library's model, on the CPU, in float32.

    Raises:
        CheckpointCorruptError: the library cannot load it, or draws weights at random that vectors depend on.
        MissingPartError: it needs a library that is not installed.
    """
    model, drawn, other = load_and_compare(lambda: _read(directory))
    if drawn and not _are_alike(model, other):  # a pooler that nothing reads may be missing
        raise CheckpointCorruptError(f"{directory.path} has no weights for {', '.join(drawn[:3])}")
    return model


def _read(directory: Directory) -> Any:
    """The model as the library gives it; nothing is fetched, and no code of the directory is run."""
    from sentence_transformers import SentenceTransformer

    try:
        with without_network(), loading_quietly():
            return SentenceTransformer(
                str(directory.path),
                device="cpu",
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": torch.float32},
            )
    except UNLOADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "custom code" in reason or "trust_remote_code" in str(error):
            raise CheckpointCorruptError(own_code(directory.path, "its network or tokenizer")) from error
        if isinstance(error, ImportError):
            raise MissingPartError(f"{directory.path} needs a library that is not installed: {reason}") from error
        raise CheckpointCorruptError(f"{directory.path} cannot be loaded by sentence-transformers: {reason}") from error


def _are_alike(model: Any, other: Any) -> bool:
    """Whether two models give the same vectors of a text and of an image, as far as they take them."""
    probes = {"text": "a picture", "image": Image.new("RGB", (64, 64), "grey")}
    taken = [probe for modality, probe in probes.items() if model.supports(modality)]
    return all(np.allclose(model.encode(probe), other.encode(probe), atol=1e-6) for probe in taken)


def _try(encoder: SentenceModelEncoder, path: Path) -> None:
    """Prepares an item of each kind: a directory that lacks a vocabulary or a template loads and is of no use."""
    if not encoder.modalities:
        raise CheckpointCorruptError(f"{path} takes neither texts nor images")
    picture = Image.new("RGB", (64, 64), "grey")
    for modality in sorted(encoder.modalities):
        text = None if modality is Modality.IMAGE else "a picture"
        try:
            encoder.prepare(Item(text, () if modality is Modality.TEXT else (picture,)), Role.KEY)
        except InvalidItemError as error:
            raise CheckpointCorruptError(
                f"{path} prepares no {modality} items, which it says it takes: {error}"
            ) from error


def _together(prepared: Sequence[PreparedItem]) -> Iterator[list[int]]:
    """Places of the items that go through the model in one pass."""
    kinds: dict[Hashable, list[int]] = {}
    for place, item in enumerate(prepared):
        kinds.setdefault(("alone", place) if item.kind is None else item.kind, []).append(place)
    for places in kinds.values():
        lengths = [prepared[place].num_tokens for place in places]
        for group in alike_in_length(lengths, MAX_TOKENS_AT_ONCE):
            yield [places[number] for number in group]


def _full_width(model: Any, name: str) -> int:
    """How many numbers the model gives, whatever its directory says to keep of them."""
    with model.truncate_embeddings(None):
        width = model.get_embedding_dimension()
    if width is None:
        raise CheckpointCorruptError(f"model {name} does not say how many numbers its vectors have")
    return int(width)


def _width(directory: Directory, model: Any, full: int, wanted: int | None) -> int:
    """The width to have: what is wanted, else what the directory says, else all of it."""
    if wanted is None:
        return min(full, model.truncate_dim or full)
    if not 1 <= wanted <= full:
        raise UnsupportedOptionError(
            f"model {directory.name} has vectors of {full} numbers and cannot have {wanted}: a width cuts them"
        )
    if directory.widths and wanted not in (*directory.widths, full):
        raise UnsupportedOptionError(
            f"model {directory.name} was trained to be cut to {', '.join(map(str, directory.widths))} numbers, "
            f"not to {wanted}"
        )
    return wanted


def _about(model: Any) -> dict[str, Any]:
    """What is known of a model, for people."""
    config = getattr(model, "config", None)
    return {
        "network": getattr(config, "model_type", "none of transformers"),
        "modules": [type(module).__name__ for module in model],
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "similarity": model.similarity_fn_name,
    }
