"""What every encoder does, whatever it is made of: all that an index and a service know of one.

Light, so that whoever names an encoder loads no torch. A family of models implements it; `encoder.towers` does
for two towers whose features are added.

Shape legend: B = batch, D = width.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.errors import UnsupportedItemError, UnsupportedModalityError
from anykey.encoder.item import Item, Modality

EVEN_WEIGHT = 0.5  # a fused item as the model itself has it
SHOWN_CHARS = 60  # of an instruction, in messages


class Role(StrEnum):
    """What an item is embedded for: many models prompt the two differently."""

    QUERY = "query"
    KEY = "key"


class Ability(StrEnum):
    """What some encoders can do and others cannot."""

    TEXT_WEIGHT = "text_weight"
    SEVERAL_IMAGES = "several_images"
    INSTRUCTION = "instruction"


class Prepared(Protocol):
    """An item, decoded and split into tokens: all that can be done without the model."""

    @property
    def is_text_cut(self) -> bool:
        """Whether the text is longer than the model's context, so that its end is not in the vector."""


class ItemEncoder(Protocol):
    """Embeds items as unit vectors of one space.

    `prepare` and `cost` may be called from any thread, `encode_prepared` from `batches_at_once` at a time.
    """

    @property
    def name(self) -> str:
        """Human-readable name."""

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints give equal vectors, up to the precision they are computed in."""

    @property
    def width(self) -> int:
        """D, the length of a vector."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths that a vector may be cut to, because the model was trained for it; none but its own: empty."""

    @property
    def fusion(self) -> str:
        """How an image and a text become one vector."""

    @property
    def backend(self) -> str:
        """The library that computes: torch, compile (torch's compiler), onnx or openvino."""

    @property
    def precision(self) -> str:
        """Number format that it computes in: fp32, bf16, fp16 or int8."""

    @property
    def why(self) -> str:
        """What was tried before backend and precision were chosen; empty where they were said."""

    @property
    def device(self) -> Any:
        """Where it computes; as text `cpu`, `cuda:0`, ..."""

    @property
    def weights_bytes(self) -> int:
        """Bytes of its weights, in the numbers that it computes with."""

    @property
    def batches_at_once(self) -> int:
        """How many batches at a time get most embedded: 1 where each takes all cores, or the GPU."""

    @property
    def context_length(self) -> int:
        """The most tokens of a text that it takes, the start's and the end's included."""

    @property
    def modalities(self) -> frozenset[Modality]:
        """The kinds of item that it embeds."""

    @property
    def supports(self) -> frozenset[Ability]:
        """What it can do beyond that."""

    def prepare(
        self, item: Item, role: Role, text_weight: float = EVEN_WEIGHT, instruction: str | None = None
    ) -> Prepared:
        """Decodes one item, resizes its images and splits its text into tokens, on the CPU.

        Args:
            item: The item, one of those that `check_item` lets pass.
            role: What it is embedded for.
            text_weight: The text's share in a fused item, in [0, 1].
            instruction: What the model is told to look for, in place of its prompt for the role; `None` leaves that.

        Raises:
            InvalidItemError: an image cannot be read or is too large, or the text is too long or no Unicode.
        """

    def cost(self, prepared: Any) -> int:
        """Image and text tokens that an item, as `prepare` gave it, takes through the model; at least 1.

        Time and memory of a batch grow with their sum, not with the number of its items.
        """

    def encode_prepared(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        """Unit vectors `[B, D]` of items as `prepare` gave them, of any modalities and roles; none give `[0, D]`."""


def check_item(
    encoder: ItemEncoder, item: Item, text_weight: float = EVEN_WEIGHT, instruction: str | None = None
) -> None:
    """Refuses what an encoder cannot embed whole, before anything is decoded.

    Raises:
        UnsupportedModalityError: it does not take this kind of item.
        UnsupportedItemError: it does not take several images or an instruction, or does not weigh a text against an
            image.
    """
    modality = item.modality
    if modality not in encoder.modalities:
        taken = ", ".join(known for known in Modality if known in encoder.modalities)
        raise UnsupportedModalityError(f"model {encoder.name} embeds no {modality} items, but {taken}")
    if len(item.images) > 1 and Ability.SEVERAL_IMAGES not in encoder.supports:
        raise UnsupportedItemError(f"model {encoder.name} takes one image of an item, got {len(item.images)}")
    is_weighted = modality is Modality.FUSED and text_weight != EVEN_WEIGHT
    if is_weighted and Ability.TEXT_WEIGHT not in encoder.supports:
        raise UnsupportedItemError(
            f"model {encoder.name} fuses text and image by itself and takes no text_weight, got {text_weight:g}"
        )
    if instruction is not None and Ability.INSTRUCTION not in encoder.supports:
        raise UnsupportedItemError(f"model {encoder.name} takes no instruction, got {_head(instruction)!r}")


def _head(text: str) -> str:
    """As much of a text as a message has room for."""
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."
