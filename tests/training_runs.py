"""Tables, towers and settings of small training runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anykey.encoder.fusion import Fusion
from anykey.encoder.images import ImageLimits
from anykey.encoder.towers.architecture import Architecture, preprocessing
from anykey.encoder.towers.tokens import Tokenizer
from anykey.sources.errors import InvalidRowError
from anykey.sources.pairs.pair import Pair
from anykey.training.families.images import image_input
from anykey.training.families.towers import Start, Towers
from anykey.training.family import Family, Items
from anykey.training.settings import TrainSettings
from anykey.training.table import ImageReader, PairTable, read_table
from tests.networks import TIMM_VISION, build_seeded, small_architecture

ARCHITECTURE = small_architecture()
CPU = torch.device("cpu")
NO_ROW = torch.empty(0, dtype=torch.long)


@dataclass
class ListedPairs:
    """Pairs in a list; an entry that is an error is a bad row."""

    rows: Sequence[Pair | InvalidRowError]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Pair:
        """The pair, or its error."""
        row = self.rows[position]
        if isinstance(row, InvalidRowError):
            raise row
        return row


def make_table(
    rows: Sequence[Pair | InvalidRowError],
    cache_images_bytes: int = 10**9,
    max_bad_share: float = 1.0,
    advance: Callable[[int], None] = lambda steps: None,
    check_images: bool = False,
    entry_lengths: Sequence[int] = (),
    family: Family | None = None,
) -> PairTable:
    """A table of the rows for a family, or for the small architecture."""
    return read_table(
        ListedPairs(rows),
        Tokenizer(ARCHITECTURE).rows if family is None else family.tokenize,
        ImageReader(image_input(preprocessing(ARCHITECTURE)) if family is None else family.image_input, ImageLimits()),
        cache_images_bytes,
        max_bad_share,
        advance,
        check_images,
        entry_lengths,
    )


def make_towers(timm: bool = False, lock_image: bool = False, batch_norm: str = "auto", **facts: Any) -> Towers:
    """Towers of a small network with random weights; the same ones each time."""
    architecture = small_architecture(vision=TIMM_VISION) if timm else ARCHITECTURE
    towers = towers_of(architecture, facts.get("is_pretrained", False), facts.get("dtype"), batch_norm)
    if lock_image:
        towers.lock("image")
    return towers


def towers_of(
    architecture: Architecture,
    is_pretrained: bool = False,
    dtype: torch.dtype | None = None,
    batch_norm: str = "auto",
    fusion: Fusion = Fusion.RAW,
) -> Towers:
    """Towers of a network with random weights; the same ones each time."""
    start = Start(architecture, build_seeded(architecture), fusion, is_pretrained, {})
    return Towers(start, CPU, dtype, batch_norm)


def image_features(family: Family, images_I: Tensor) -> Tensor:
    """Image features of towers, of one pass, with their gradient."""
    return family.features(Items(images_I, torch.empty(0, 1, dtype=torch.long), NO_ROW, NO_ROW))[0]


def text_features(family: Family, tokens_ST: Tensor) -> Tensor:
    """Text features of towers, of one pass, with their gradient."""
    return family.features(Items(torch.empty(0), tokens_ST, NO_ROW, NO_ROW))[1]


def weights_of(module: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of a module's state that later steps do not change."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def make_settings(data: Path, output: Path, /, **changes: Any) -> TrainSettings:
    """Settings of a run of a few small steps on the CPU."""
    small = {"batch_size": 8, "num_epochs": 2.0, "device": "cpu", "learning_rate": 1e-3}
    return TrainSettings(**{"data": [str(data)], "output": output, **small, **changes})
