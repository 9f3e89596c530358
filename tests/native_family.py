"""A small family with native fusion: one reader takes patches of an image and words of a text in one sequence.

Nothing of it is open_clip's. Its vectors of images, of texts and of both come from the same pass over rows, so that it
has no features of an image or a text alone that could be added.

Shape legend: I = images, S = texts, R = rows, P = patches of an image, T = tokens, L = P + T, C, H, W = image,
D = width.
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from anykey.training.family import Description, Family, Features, ImageInput, Items, Layers, Vectors
from anykey.training.settings import TrainSettings

SIZE_PX, PATCH_PX, CONTEXT, VOCABULARY, WIDTH = 32, 8, 24, 300, 16
PAD, START, END = 0, 1, 2


class Reader(nn.Module):
    """A patch embedding, a word embedding, and layers over both; the first word's vector is the row's."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, WIDTH, PATCH_PX, PATCH_PX), nn.GELU(), nn.Flatten(2))
        self.projection = nn.Linear(WIDTH, WIDTH)
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(CONTEXT, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout, batch_first=True, norm_first=True)
        self.layers = nn.ModuleList([layer])
        self.log_scale = nn.Parameter(torch.tensor(20.0).log())

    def forward(self, images_I: Tensor, is_trunks: bool | None, items: Items) -> Tensor:
        """Vectors `[R, D]` of rows; with `is_trunks` left open, the trunk's output of pixels."""
        if is_trunks is None:
            output_IDP: Tensor = self.trunk(images_I)
            return output_IDP
        # The start, from which the vector is read, is there without a text too: it is the last row of these.
        tokens_RT = torch.cat([items.tokens_ST, _text()])[items.row_text_R]
        hidden_RLD, is_read_RL = self.words(tokens_RT) + self.place, tokens_RT != PAD
        if len(images_I):
            output_IDP = images_I if is_trunks else self.trunk(images_I)
            patches_IPD = self.projection(output_IDP.transpose(1, 2))
            hidden_RLD = torch.cat([hidden_RLD, patches_IPD[items.row_image_R]], 1)
            has_image_RP = (items.row_image_R >= 0)[:, None].expand(-1, patches_IPD.shape[1])
            is_read_RL = torch.cat([is_read_RL, has_image_RP], 1)
        for layer in self.layers:
            hidden_RLD = layer(hidden_RLD, src_key_padding_mask=~is_read_RL)
        return functional.normalize(hidden_RLD[:, 0].float(), dim=-1)


class NativeFamily(Family):
    """The reader as training has it; features are the rows' vectors."""

    def __init__(self, reader: Reader, device: torch.device, dtype: torch.dtype | None = None) -> None:
        description = Description(
            name="native",
            width=WIDTH,
            fusion="native",
            network={"family": "native", "width": str(WIDTH)},
            settings={"architecture": "native", "fusion": "native"},
            libraries={},
        )
        image_input = ImageInput((SIZE_PX, SIZE_PX), _squash, "squash", f"squash {SIZE_PX}")
        super().__init__(reader, reader, reader.trunk, description, image_input, device, dtype, keeps_statistics=True)

    @property
    def log_scale(self) -> nn.Parameter:
        """The reader's."""
        scale: nn.Parameter = self.model.log_scale
        return scale

    @property
    def bias(self) -> None:
        """There is none."""

    @property
    def layers(self) -> Layers:
        """Trunk and projection; words and each layer."""
        names = [name for name, _ in self.model.named_parameters() if name != "log_scale"]
        image = [[name for name in names if name.startswith(part)] for part in ("trunk", "projection")]
        text = [[name for name in names if name.startswith(part)] for part in (("words", "place"), "layers")]
        return Layers(image, text, frozenset(image[1]))

    @property
    def can_leave_out_words(self) -> bool:
        """Words stand between a start and an end."""
        return True

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, list[bool]]:
        """A number a word."""
        rows = [[3 + zlib.crc32(word.encode()) % (VOCABULARY - 3) for word in text.lower().split()] for text in texts]
        tokens_ST = torch.full((len(rows), CONTEXT), PAD)
        for place, words in enumerate(rows):
            tokens = [START, *words[: CONTEXT - 2], END]
            tokens_ST[place, : len(tokens)] = torch.tensor(tokens)
        return tokens_ST, [len(words) > CONTEXT - 2 for words in rows]

    def text_ends(self, tokens_ST: Tensor) -> Tensor:
        """Where the end stands."""
        return (tokens_ST == END).int().argmax(1)

    def normalize(self, pixels_ICHW: Tensor) -> Tensor:
        """Pixels from -1 to 1."""
        return pixels_ICHW.to(self.device).float() / 127.5 - 1

    def trunk_features(self, pixels_ICHW: Tensor) -> Tensor:
        """Patches `[I, D, P]` before their projection."""
        with torch.no_grad(), self.autocast():
            output: Tensor = self.network(self.normalize(pixels_ICHW), None, None)
        return output.float()

    def split(self, items: Items, num_parts: int) -> list[Items]:
        """Rows in their order, each part with the images and texts that it needs."""
        return [items.part(rows_R) for rows_R in torch.arange(len(items.row_image_R)).tensor_split(num_parts)]

    def features(self, items: Items) -> Features:
        """Vectors `[R, D]`, in the order of the rows."""
        num_rows = len(items.row_image_R)
        if not num_rows and not self.is_sharded:
            return (torch.zeros(0, WIDTH, device=self.device),)
        if self.is_sharded:  # every process goes through every weight, whatever its rows are
            items = _with_one_of_each(items)
        is_trunks = items.images_I.dtype is not torch.uint8
        images_I = items.images_I.to(self.device) if is_trunks else self.normalize(items.images_I)
        with self.autocast():
            vectors_RD: Tensor = self.network(images_I, is_trunks, items)
        return (vectors_RD[:num_rows],)

    def rows(self, features: Features, items: Items) -> Vectors:
        """The vectors, sorted by modality."""
        (vectors_RD,) = features
        return Vectors(*(vectors_RD[position] for position in items.by_modality()))

    def recompute_activations(self) -> None:
        """It is too small for that to save anything."""

    def blocks(self) -> Iterator[nn.Module]:
        """The reader's layers."""
        yield from self.model.layers

    def save(self, directory: Path, weights: Mapping[str, Tensor], provenance: Mapping[str, Any]) -> str:
        """Weights, and a manifest."""
        directory.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, directory / "w.st")
        (directory / "encoder.json").write_text(json.dumps({"family": "native", "provenance": dict(provenance)}))
        return "native"


def make_native(dropout: float = 0.0, seed: int = 0, device: str = "cpu") -> NativeFamily:
    """With random weights, the same ones for each seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return NativeFamily(Reader(dropout), torch.device(device))


def open_native(settings: TrainSettings, device: torch.device, dtype: torch.dtype | None) -> NativeFamily:
    """What a run trains, in place of the families that settings name."""
    torch.manual_seed(settings.seed)
    family = NativeFamily(Reader(dropout=0.1), device, dtype)
    if settings.start is not None:
        family.model.load_state_dict(load_file(Path(settings.start) / "w.st"))
    return family


def _squash(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB").resize((SIZE_PX, SIZE_PX), Image.Resampling.BILINEAR)


def _text(*words: int) -> Tensor:
    return torch.tensor([[START, *words] + [PAD] * (CONTEXT - 1 - len(words))])


def _with_one_of_each(items: Items) -> Items:
    """The items and one more row, of an image and a text, so that no weight is left out."""
    black = torch.zeros(1, 3, SIZE_PX, SIZE_PX, dtype=torch.uint8)
    images_I = torch.cat([items.images_I, torch.zeros_like(items.images_I[:1])]) if len(items.images_I) else black
    tokens_ST = torch.cat([items.tokens_ST, _text(END)])
    row_image_R = torch.cat([items.row_image_R, torch.tensor([len(images_I) - 1])])
    row_text_R = torch.cat([items.row_text_R, torch.tensor([len(tokens_ST) - 1])])
    return Items(images_I, tokens_ST, row_image_R, row_text_R)
