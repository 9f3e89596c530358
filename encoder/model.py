"""The encoder of any family: opened from a source, it embeds items as unit vectors.

A checkpoint directory names its family in `encoder.json`; one that names none is open_clip's towers, unless it holds
weights that VISTA published or a model that sentence-transformers saved. Each family is a folder of `encoder/`, and the
only part of it that is named here is what opens it.

Shape legend: B = batch, D = width.
"""

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from anykey.encoder.backend_choice import choose
from anykey.encoder.backends import (
    AUTO,
    FIXED_SIZES,
    PLAIN,
    UNFIT,
    Example,
    LibraryRun,
    Run,
    Way,
    convert,
    has_fixed_batches,
    require_examples,
    unfit,
    usual,
    ways,
    weights_bytes,
)
from anykey.encoder.description import MANIFEST_NAME
from anykey.encoder.errors import (
    CheckpointCorruptError,
    DeviceUnavailableError,
    InvalidItemError,
    ItemTooLargeError,
    UnsupportedOptionError,
)
from anykey.encoder.exports import Exports
from anykey.encoder.fusion import Fusion
from anykey.encoder.images import ImageLimits
from anykey.encoder.item import Item, Modality
from anykey.encoder.protocol import EVEN_WEIGHT, Ability, Role
from anykey.encoder.settings import EncoderChoice

MODULES_NAME = "modules.json"  # of sentence-transformers
TOWERS, FUSION, SENTENCE_TRANSFORMERS = "towers", "fusion", "sentence-transformers"
MAX_TEXT_CHARS = 100_000


@dataclass(frozen=True)
class Options:
    """What is asked of a checkpoint beside what it says; a family refuses what it has no notion of.

    Attributes:
        fusion: How features of an image and a text are added.
        stretch_positions: Interpolate the positional embeddings of a weights file to its architecture's lengths.
        width: How many numbers of a vector are kept.
    """

    fusion: Fusion | None = None
    stretch_positions: bool = False
    width: int | None = None


class Encoder(ABC):
    """Embeds texts, images and both into one space; what is abstract is what a family brings.

    It is an `ItemEncoder`: `prepare` may run in any thread, the model itself serves one thread at a time.

    Attributes:
        family: What kind of network it is, as `encoder.json` names it.
        name: The architecture's name.
        width: D.
        fusion: How an image and a text become one vector.
        fingerprint: Equal fingerprints give equal vectors, up to the precision they are computed in.
        device: Where the model is.
        backend: What library computes its vectors: `torch`, `compile` (torch's compiler), `onnx` or `openvino`.
        precision: In which numbers it does: `fp32`, `bf16`, `fp16` or `int8`.
        why: What was tried before it was chosen how to compute; empty if that was said.
        half: The 16 bits that its networks are made for, where it is not said what they compute in.
        provenance: What made the weights, as the checkpoint tells.
        context_length: The most tokens of a text that the model takes, the start's and the end's included.
        widths: Widths that a vector may be cut to, because the model was trained for it; none but its own: empty.
        modalities: The kinds of item that it embeds.
        supports: What it can do beyond that.
    """

    family: str
    name: str
    width: int
    fusion: str
    fingerprint: str
    device: torch.device
    backend: str
    precision: str
    why: str = ""
    half: str = "fp16"
    provenance: dict[str, Any]
    context_length: int
    widths: tuple[int, ...]
    modalities: frozenset[Modality] = frozenset(Modality)
    supports: frozenset[Ability] = frozenset()

    @staticmethod
    def load(
        source: str | Path,
        device: str = "auto",
        precision: str = "auto",
        limits: ImageLimits | None = None,
        fusion: Fusion | None = None,
        stretch_positions: bool = False,
        backend: str = "torch",
        width: int | None = None,
    ) -> "Encoder":
        """Loads an encoder of whichever family the source is.

        Args:
            source: A checkpoint directory; one that sentence-transformers saved; one with VISTA's published weights
                beside its text encoder's configuration and tokenizer; a directory of Hugging Face, or a weights file,
                that says which network of two towers it is; `ARCHITECTURE@FILE`, an open_clip architecture (or
                `.json` configuration) with a local weights file; or `ARCHITECTURE/TAG`, open_clip's pretrained
                weights, the only form that may use the network.
            device: `auto` (a GPU when there is one), `cpu`, `cuda`, `cuda:1`, ...
            precision: `fp32`, `bf16`, `fp16` (on a GPU), `int8` (on a CPU), or `auto`: on a GPU the 16 bits that the
                model is made for, else fp32, and with the backend `auto` whichever is fastest.
            limits: Largest images accepted.
            fusion: Overrides the checkpoint's score fusion; the fingerprint changes with it.
            stretch_positions: Interpolate the positional embeddings of a weights file to the architecture's context
                length and image size; without it a file of another length is refused.
            backend: What library computes: `torch`, `compile`, `onnx`, `openvino`, or `auto`: whichever is fastest on
                this machine and gives the vectors of float32 (see `backend_choice`), tried once for a few seconds.
            width: How many numbers of a vector are kept, scaled to unit length again, for models that were trained to
                be cut (Matryoshka); the fingerprint changes with it.

        Returns:
            The encoder, ready to embed.

        Raises:
            CheckpointNotFoundError: nothing there under that name.
            CheckpointCorruptError: there, but damaged or not what it says it is.
            MissingPartError: it needs a library or files of Hugging Face that are not on this machine.
            UnsupportedOptionError: its family has no score fusion, no positions to stretch, or vectors that cannot be
                cut to that width.
            DeviceUnavailableError: no such device, or it lacks the backend or the precision.
        """
        where = choose_device(device)
        candidates = ways(where, backend, precision)  # what cannot be had is known before anything is read
        family = family_of(source)
        if family not in _FAMILIES:
            raise CheckpointCorruptError(
                f"{source} is of the family '{family}', which this version does not know; it knows "
                f"{', '.join(sorted(_FAMILIES))}"
            )
        encoder = _FAMILIES[family](source, device, limits, Options(fusion, stretch_positions, width))
        if width not in (None, encoder.width):
            raise UnsupportedOptionError(
                f"model {encoder.name} has vectors of {encoder.width} numbers and cannot be cut to {width}"
            )
        if backend == AUTO:
            choice = choose(encoder, candidates)
            encoder.compute(choice.way)
            encoder.why = choice.why
        else:
            encoder.compute(usual(where, backend, precision, encoder.half))
        return encoder

    @staticmethod
    def configured(settings: EncoderChoice, limits: ImageLimits) -> "Encoder":
        """Loads the encoder that a program's settings name; raises as `load` does."""
        return Encoder.load(
            settings.checkpoint,
            settings.device,
            settings.precision,
            limits,
            Fusion(settings.fusion) if settings.fusion else None,
            backend=settings.backend,
            width=settings.width,
        )

    def _have(self, networks: Mapping[str, nn.Module], examples: Mapping[str, Example]) -> None:
        """Takes the networks of a family, in float32 on their device, and what each of them is fed with."""
        self._networks = nn.ModuleDict(networks).eval().requires_grad_(False)
        self._examples = examples
        self._exports = Exports(self.fingerprint)
        self._take(PLAIN, convert(self._networks, examples, PLAIN, self._exports))

    def _take(self, way: Way, runs: Mapping[str, Run]) -> None:
        self.backend, self.precision = way
        self._runs = runs

    @property
    def weights_bytes(self) -> int:
        """Bytes of its weights, in the numbers that it computes with."""
        return weights_bytes(self._networks, self._runs)

    @property
    def batches_at_once(self) -> int:
        """How many batches at a time get most embedded: 1 where each takes all cores, or the GPU."""
        return min(run.at_once if isinstance(run, LibraryRun) else 1 for run in self._runs.values())

    def compute(self, way: Way) -> None:
        """Changes, once, how it computes; float32 by torch until then.

        Raises:
            DeviceUnavailableError: it cannot; says why.
        """
        if way == PLAIN:
            return
        self._take(way, convert(self._networks, self._examples, way, self._exports))
        if way.backend == "compile":
            self._compile_now(FIXED_SIZES if has_fixed_batches(way, self.device) else FIXED_SIZES[1:2])
        if way.backend in ("onnx", "openvino"):  # which have weights of their own
            self._networks.to("meta")

    def _compile_now(self, sizes: Sequence[int]) -> None:
        """Embeds a batch of each size, which compiles for it: not while somebody waits, and what cannot be is known."""
        items = {Modality.TEXT: Item("a"), Modality.IMAGE: Item(images=(Image.new("RGB", (64, 64)),))}
        try:
            for size in sizes:
                for modality in self.modalities & items.keys():
                    self.encode([items[modality]] * size, batch_size=size)
        except UNFIT as error:
            raise unfit(Way(self.backend, self.precision), error) from error

    @contextmanager
    def tries(self, way: Way) -> Iterator[None]:
        """Computes this way within the block, by a copy of the weights.

        Raises:
            DeviceUnavailableError: it cannot; says why.
        """
        require_examples(self._networks, self._examples, way)  # before gigabytes are copied
        plain = self._runs
        self._take(way, convert(copy.deepcopy(self._networks), self._examples, way, self._exports))
        try:
            yield
        finally:
            self._take(PLAIN, plain)

    def _on_device(self, tensor: Tensor) -> Tensor:
        """A tensor of the CPU where the model is, on its way while the CPU goes on."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    @abstractmethod
    def prepare(self, item: Item, role: Role, text_weight: float = EVEN_WEIGHT, instruction: str | None = None) -> Any:
        """Decodes, resizes and tokenises one item, on the CPU; safe in any thread.

        Args:
            item: The item.
            role: What it is embedded for.
            text_weight: The text's share in a fused item, in [0, 1].
            instruction: What the model is told to look for, in place of its prompt for the role; `None` leaves that.

        Raises:
            InvalidItemError: an image cannot be read or is too large, the text is too long or no Unicode, or the model
                does not take all of it.
        """

    @abstractmethod
    def cost(self, prepared: Any) -> int:
        """Image and text tokens that an item, as `prepare` gave it, takes through the model; at least 1."""

    @abstractmethod
    def encode_prepared(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        """Embeds prepared items in one batch.

        Args:
            prepared: Prepared items, any mix of modalities; none give an empty array.

        Returns:
            Unit vectors `[B, D]`, float32.
        """

    def details(self) -> dict[str, Any]:
        """Facts that only this family has, for people; must be JSON."""
        return {}

    def encode(
        self,
        items: Sequence[Item],
        text_weight: float = EVEN_WEIGHT,
        batch_size: int = 64,
        role: Role = Role.QUERY,
        instruction: str | None = None,
    ) -> NDArray[np.float32]:
        """Embeds items.

        Args:
            items: Items, any mix of modalities.
            text_weight: The text's share in a fused item, in [0, 1].
            batch_size: Items the model sees at once.
            role: What they are embedded for.
            instruction: What the model is told to look for, in place of its prompt for the role.

        Returns:
            Unit vectors `[B, D]`, float32, in the order of the items.

        Raises:
            InvalidItemError: names the first item that cannot be embedded, and why.
        """
        batches = [np.empty((0, self.width), dtype=np.float32)]
        for start in range(0, len(items), batch_size):
            batch = enumerate(items[start : start + batch_size], start)
            prepared = [self._prepare_at(place, item, role, text_weight, instruction) for place, item in batch]
            batches.append(self.encode_prepared(prepared))
        return np.concatenate(batches)

    def _prepare_at(self, position: int, item: Item, *asked: Any) -> Any:
        try:
            return self.prepare(item, *asked)
        except InvalidItemError as error:
            raise error.at(position) from error


def family_of(source: str | Path) -> str:
    """The family that a checkpoint directory names, or what one without a name is of by its content.

    What is no such directory is open_clip's, as one that sentence-transformers or VISTA did not make.

    Raises:
        CheckpointCorruptError: its `encoder.json` is damaged.
    """
    path = Path(source) / MANIFEST_NAME
    if not path.is_file():
        if (Path(source) / MODULES_NAME).is_file():
            return SENTENCE_TRANSFORMERS
        return FUSION if _holds_visualized(Path(source)) else TOWERS
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise CheckpointCorruptError(f"{path} is not JSON: {error}") from error
    family = content.get("family", TOWERS) if isinstance(content, dict) else TOWERS
    return str(family)


def _load_towers(*options: Any) -> Encoder:
    from anykey.encoder.towers.encoder import open_towers

    return open_towers(*options)


def _load_fusion(*options: Any) -> Encoder:
    from anykey.encoder.native_fusion.encoder import open_fusion

    return open_fusion(*options)


def _load_sentence_model(*options: Any) -> Encoder:
    from anykey.encoder.sentence_models.encoder import open_sentence_model

    return open_sentence_model(*options)


def _holds_visualized(directory: Path) -> bool:
    if not directory.is_dir():
        return False
    from anykey.encoder.native_fusion.visualized import find_visualized

    return find_visualized(directory) is not None


_FAMILIES: dict[str, Callable[..., Encoder]] = {
    TOWERS: _load_towers,
    FUSION: _load_fusion,
    SENTENCE_TRANSFORMERS: _load_sentence_model,
}


def refuse_options_of_towers(name: str, options: Options) -> None:
    """Refuses what only towers have, for a family without them.

    Args:
        name: Of the model, for messages.
        options: What was asked for.

    Raises:
        UnsupportedOptionError: score fusion or other positions are asked for.
    """
    if options.fusion is not None:
        raise UnsupportedOptionError(
            f"model {name} fuses text and image by itself and takes no score fusion, got {options.fusion}"
        )
    if options.stretch_positions:
        raise UnsupportedOptionError(f"model {name} has no positions that can be stretched")


def check_text(text: str) -> None:
    """Refuses a text that is too long or no Unicode, before any tokenizer sees it.

    Raises:
        ItemTooLargeError: it has more than `MAX_TEXT_CHARS` characters.
        InvalidItemError: it is no Unicode, such as half of a surrogate pair.
    """
    if len(text) > MAX_TEXT_CHARS:
        raise ItemTooLargeError(f"text has {len(text)} characters, at most {MAX_TEXT_CHARS} are accepted")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidItemError(f"text is not valid Unicode: {error.reason}") from error


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
