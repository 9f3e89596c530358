"""What training asks of a model, whatever it is made of.

A family of models fills it in: `families/towers.py` does for open_clip's two towers, whose features are added. Losses,
validation, gaps, the gradient cache, saved states and several processes see vectors of images, of texts and of both:
they know no network.

Shape legend: I = images, S = texts, R = rows, T = tokens, D = width, C, H, W = image, F = the trunk's output, of any
number of axes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard

Side = Literal["image", "text"]
# What a pass through a network gives. Each tensor can be cut and joined along its first axis.
Features = tuple[Tensor, ...]


@dataclass(frozen=True)
class Items:
    """What a model embeds in one pass: images, texts, and the items made of them, each of which becomes a row.

    Attributes:
        images_I: uint8 pixels `[I, C, H, W]`, or the trunk's float output `[I, F...]`; `[0]` if none.
        tokens_ST: Token ids of the texts, padded to the model's context length.
        row_image_R: Image of each row, or -1.
        row_text_R: Text of each row, or -1; a row with both is fused.
    """

    images_I: Tensor
    tokens_ST: Tensor
    row_image_R: Tensor
    row_text_R: Tensor

    def by_modality(self) -> tuple[Tensor, Tensor, Tensor]:
        """Positions of the rows that are images, of those that are texts, and of those that are fused."""
        has_image_R, has_text_R = self.row_image_R >= 0, self.row_text_R >= 0
        image_R = (has_image_R & ~has_text_R).nonzero().flatten()
        text_R = (has_text_R & ~has_image_R).nonzero().flatten()
        return image_R, text_R, (has_image_R & has_text_R).nonzero().flatten()

    def part(self, rows_R: Tensor) -> "Items":
        """The rows at these positions, in this order, with the images and texts that they need."""
        images_I, row_image_R = _needed(self.images_I, self.row_image_R[rows_R])
        tokens_ST, row_text_R = _needed(self.tokens_ST, self.row_text_R[rows_R])
        return Items(images_I, tokens_ST, row_image_R, row_text_R)


def _needed(parts: Tensor, place_R: Tensor) -> tuple[Tensor, Tensor]:
    """Those parts that a row has, and where each row finds its own among them; -1 stays."""
    needed, new_R = torch.unique(place_R[place_R >= 0], return_inverse=True)
    moved_R = torch.full_like(place_R, -1)
    moved_R[place_R >= 0] = new_R
    return parts[needed], moved_R


class Vectors(NamedTuple):
    """Unit vectors of items: those of images, of texts and of both, each in the order of the rows."""

    image_RD: Tensor
    text_RD: Tensor
    fused_RD: Tensor


@dataclass(frozen=True)
class Layers:
    """Names of a model's parameters in groups from the input to the output: what locks and layer-wise rates go by.

    Every parameter is in one group, except those of temperature and bias, which are the loss's.

    Attributes:
        image: The groups of what reads images.
        text: The groups of what reads texts.
        heads: Names that no lock holds: what was added to a trained network to reach the width of the vectors.
    """

    image: list[list[str]]
    text: list[list[str]]
    heads: frozenset[str] = frozenset()

    def locked(self, side: Side, unlocked_groups: int = 0) -> list[str]:
        """Names of a side's parameters, less heads and the last groups, as many as are to stay free."""
        own = [group for group in getattr(self, side) if not self.heads.issuperset(group)]
        return [name for group in own[: max(0, len(own) - unlocked_groups)] for name in group]


@dataclass(frozen=True)
class ImageInput:
    """How a picture becomes the pixels that a model takes.

    Attributes:
        size_px: Height and width.
        resize: Makes a picture of that size.
        resize_mode: `shortest`, `longest` or `squash`: how it becomes square.
        identity: Inputs of one identity make the same pixels of the same picture.
    """

    size_px: tuple[int, int]
    resize: Callable[[Image.Image], Image.Image]
    resize_mode: str
    identity: str


@dataclass(frozen=True)
class Description:
    """What reports and checkpoints say of a model.

    Attributes:
        name: For people.
        width: D.
        fusion: How an image and a text become one vector.
        network: Everything that a vector depends on, except for the weights, by name, as text.
        settings: What the model decides where the settings left it open, by name.
        libraries: Distributions that its network comes from, by the name that people know.
        fingerprint: Of the checkpoint that it was read from; empty if it is new.
        provenance: Where it comes from, for the manifest of what is made of it.
    """

    name: str
    width: int
    fusion: str
    network: Mapping[str, str]
    settings: Mapping[str, Any]
    libraries: Mapping[str, str]
    fingerprint: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)


class Family(ABC):
    """A model as training has it: on its device, with what is locked.

    The abstract methods are what a family brings; the others are alike for all.

    Attributes:
        model: The weights that train, with everything that a saved state has to hold of them.
        network: Its forward pass, through which all others go: that is where sharded weights come together.
        trunk: The part of it that reads images and nothing else, whose output is kept where it is locked.
        description: What reports say of it.
        image_input: How pictures become pixels.
        device: Where it computes.
        dtype: What a forward pass computes in, or `None` for float32.
        is_sharded: Whether each process holds a part of the weights only.
    """

    def __init__(
        self,
        model: nn.Module,
        network: nn.Module,
        trunk: nn.Module,
        description: Description,
        image_input: ImageInput,
        device: torch.device,
        dtype: torch.dtype | None,
        keeps_statistics: bool,
    ) -> None:
        """Sets it up.

        Args:
            model: As above; it is moved to the device.
            network: As above.
            trunk: As above.
            description: As above.
            image_input: As above.
            device: As above.
            dtype: As above.
            keeps_statistics: Whether batch normalisation goes by its running statistics in training too.
        """
        self.model: Any = model.to(device)
        self.network = network
        self.trunk = trunk
        self.description = description
        self.image_input = image_input
        self.device = device
        self.dtype = dtype
        self.is_sharded = False
        self._keeps_statistics = keeps_statistics
        self._keeps_trunk = False

    @property
    @abstractmethod
    def log_scale(self) -> nn.Parameter:
        """Logarithm of the inverse temperature."""

    @property
    @abstractmethod
    def bias(self) -> nn.Parameter | None:
        """The sigmoid loss's bias, where the model has one."""

    @property
    @abstractmethod
    def layers(self) -> Layers:
        """The parameters' groups."""

    @property
    @abstractmethod
    def can_leave_out_words(self) -> bool:
        """Whether a text without some of its words can be made of its tokens, by `text_ends`."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, list[bool]]:
        """Token ids `[S, T]`, padded to the context length, and which texts are longer than that."""

    @abstractmethod
    def text_ends(self, tokens_ST: Tensor) -> Tensor:
        """Position `[S]` of each text's last token, behind which there are zeros."""

    @abstractmethod
    def normalize(self, pixels_ICHW: Tensor) -> Tensor:
        """uint8 pixels to the trunk's input, on the device."""

    @abstractmethod
    def trunk_features(self, pixels_ICHW: Tensor) -> Tensor:
        """The trunk's output `[I, F...]`, float32, without gradient; in place of pixels it stands for the images."""

    @abstractmethod
    def split(self, items: Items, num_parts: int) -> list[Items]:
        """Parts whose features, joined, are those of all the items; some are empty if there are more than items."""

    @abstractmethod
    def features(self, items: Items) -> Features:
        """What of the forward pass `rows` needs, float32, with its gradient.

        Of sharded weights every process passes through the network alike, whatever its share of the items is.
        """

    @abstractmethod
    def rows(self, features: Features, items: Items) -> Vectors:
        """Unit vectors of items, float32.

        Args:
            features: Of these items, of one pass or joined from those of their parts.
            items: The items.
        """

    @abstractmethod
    def recompute_activations(self) -> None:
        """Lets the backward pass compute activations again instead of keeping them."""

    @abstractmethod
    def blocks(self) -> Iterator[nn.Module]:
        """The network's repeated blocks: what is sharded and compiled one by one."""

    @abstractmethod
    def save(self, directory: Path, weights: Mapping[str, Tensor], provenance: Mapping[str, Any]) -> str:
        """Writes a checkpoint directory with `encoder.json` in it, whole or not at all; gives its fingerprint.

        Args:
            directory: Where it goes; what is there is replaced.
            weights: As `weights` gives them, these or others of the same network.
            provenance: What made them.

        Raises:
            OSError: the disk is full or not writable; what was there before is untouched.
        """

    def vectors(self, items: Items) -> Vectors:
        """Unit vectors of items, in one pass, on the CPU and without gradient."""
        with torch.no_grad():  # not inference mode, in which sharded weights cannot come together
            return self.rows(tuple(part.cpu() for part in self.features(items)), items)

    def sides(self, features: Features, vectors: Vectors) -> tuple[Tensor, Tensor]:
        """Images and texts of one pass, whose distance is logged as the modality gap of a step.

        Args:
            features: Of the pass; a family whose fused vectors have halves counts those too.
            vectors: What `rows` made of them.
        """
        return vectors.image_RD, vectors.text_RD

    def train(self) -> None:
        """Switches to training; a locked trunk and pretrained batch normalisation keep their statistics."""
        self.model.train()
        if self._keeps_trunk:
            self.trunk.eval()
        for module in set(batch_norms(self.model)) - self._by_batch():
            module.eval()

    def eval(self) -> None:
        """Switches to inference."""
        self.model.eval()

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether an image's features in training depend on the other images of its batch."""
        return bool(self._by_batch())

    def lock(self, side: Side, unlocked_groups: int = 0) -> None:
        """Freezes the parameters of one side, except for heads and the last groups; modules stay as they are.

        open_clip's own lock with frozen statistics replaces timm's norm layers, and so drops the activations that
        timm fuses into them.

        Args:
            side: Which side. Of images without a group that stays free, the trunk's random layers rest too.
            unlocked_groups: How many groups at the output stay free.
        """
        for name in self.layers.locked(side, unlocked_groups):
            self.model.get_parameter(name).requires_grad_(False)
        if side == "image":
            self._keeps_trunk = not unlocked_groups

    def shard(self) -> None:
        """Gives each process a part of the weights (FSDP2), block by block; scalars stay whole."""
        self.model.to(memory_format=torch.contiguous_format)  # FSDP2 takes no channels-last weights
        for block in self.blocks():
            fully_shard(block)
        scalars = {parameter for parameter in self.model.parameters() if parameter.ndim == 0}
        fully_shard(self.network, ignored_params=scalars)
        for module in self.network.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # the sum over processes, not their mean
                module.set_force_sum_reduction_for_comms(True)  # a plain sum, which gloo can do as well
        self.is_sharded = True

    def stand_in(self, images_I: Tensor) -> Tensor:
        """One image for a process that has none, of the kind the others have.

        Sharded weights come together in all processes at once: one that goes past the trunk must not wait for one that
        goes through it.

        Args:
            images_I: No pixels, or nothing of a trunk's output `[0, F...]`.
        """
        if images_I.ndim > 1:
            return images_I.new_zeros(1, *images_I.shape[1:])
        return torch.zeros(1, 3, *self.image_input.size_px, dtype=torch.uint8)

    def synchronize(self, wanted: bool) -> None:
        """Whether the next backward pass of sharded weights sums their gradients over the processes."""
        if self.is_sharded:
            cast(FSDPModule, self.network).set_requires_gradient_sync(wanted)

    def compile(self, **options: Any) -> None:
        """Compiles the blocks in place, with options of `torch.compile`; the weights keep their names."""
        for block in self.blocks():
            block.compile(**options)

    def autocast(self) -> AbstractContextManager[Any]:
        """The forward pass's precision."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def weights(self) -> dict[str, Tensor]:
        """The model's whole state on the CPU; of sharded weights, all processes must ask for it."""
        if not self.is_sharded:
            state: dict[str, Tensor] = self.model.state_dict()
            return state
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return cast(dict[str, Tensor], get_model_state_dict(self.model, options=options))

    def _by_batch(self) -> set[nn.Module]:
        """Batch normalisation that uses the batch's statistics in training: those of locked layers do not."""
        if self._keeps_statistics:
            return set()
        return {module for module in batch_norms(self.model) if not _is_frozen(module)}


def batch_norms(model: nn.Module) -> Iterator[nn.Module]:
    """A model's layers of batch normalisation."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            yield module


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
