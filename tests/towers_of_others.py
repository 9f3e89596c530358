"""Files and directories of towers as other people publish them, at toy size, made of what is in `tests/data/towers`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from anykey.encoder import Encoder, Item

DATA = Path(__file__).parent / "data" / "towers"
TINYCLIP, CLIP_HF = DATA / "tinyclip", DATA / "clip-hf"
VOCABULARY = 49408
Naming = Callable[[str], list[str]]


def _whole(path: Path, table: str) -> dict[str, Tensor]:
    """The tensors of a file, with its rows of the token table where they belong and noise in the others."""
    tensors = load_file(path)
    rows, tokens = tensors.pop("token_rows"), tensors.pop("token_ids").long()
    tensors[table] = torch.randn(VOCABULARY, rows.shape[1], generator=torch.Generator().manual_seed(0)).to(rows.dtype)
    tensors[table][tokens] = rows
    return tensors


def _part(name: str) -> str:
    if name == "logit_scale":
        return "logit_scale"
    return "image_encoder" if name.startswith("visual.") else "text_encoder"


def _separately(wrapper: str) -> Naming:
    return lambda name: [f"_{_part(name)}.{wrapper}{name}"]


def _doubled(name: str) -> list[str]:
    part = _part(name)
    return [f"_{part}.module.{name}", *([] if part == "logit_scale" else [f"{part}_without_ddp.{name}"])]


# How TinyCLIP's trainer, and those who saved what it loads, name a tensor that is open_clip's `name`.
NAMINGS: dict[str, Naming] = {
    "separately wrapped": _separately("module."),
    "not wrapped": _separately(""),
    "wrapped twice": _separately("module.module."),
    "doubled": _doubled,
    "under one wrapper": lambda name: [f"module.{name}"],
    "open_clip": lambda name: [name],
}


def tinyclip_tensors(kind: str) -> dict[str, Tensor]:
    """The toy model's weights by open_clip's names; `manual`, `resnet` or `auto`."""
    return _whole(TINYCLIP / kind / "weights.safetensors", "token_embedding.weight")


def write_tinyclip(kind: str, path: Path, naming: str = "separately wrapped", **beside: object) -> Path:
    """A file as TinyCLIP's trainer writes it, with other things beside the weights."""
    named = {new: tensor for name, tensor in tinyclip_tensors(kind).items() for new in NAMINGS[naming](name)}
    torch.save({"state_dict": named, **beside}, path)
    return path


def write_clip_directory(folder: Path, config: str = "config.json") -> Path:
    """A Hugging Face directory of a CLIP, as those of TinyCLIP are laid out."""
    folder.mkdir()
    for name in ("preprocessor_config.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(CLIP_HF / name, folder / name)
    shutil.copy(CLIP_HF / config, folder / "config.json")
    weights = _whole(CLIP_HF / "weights.safetensors", "text_model.embeddings.token_embedding.weight")
    save_file(weights, folder / "model.safetensors")
    write_clips_vocabulary(folder)
    return folder


def write_clips_vocabulary(folder: Path) -> None:
    """`vocab.json` of CLIP's tokenizer, with Hugging Face's names for the two control tokens."""
    own = open_clip.SimpleTokenizer()
    words = {word: token for word, token in own.encoder.items() if token not in own.all_special_ids}
    words |= {"<|startoftext|>": VOCABULARY - 2, "<|endoftext|>": VOCABULARY - 1}
    (folder / "vocab.json").write_text(json.dumps(words))


def image_items(folder: Path) -> list[Item]:
    """The images of `inputs.json`."""
    return [Item(images=(str(folder / name),)) for name in json.loads((folder / "inputs.json").read_text())["images"]]


def text_items(folder: Path) -> list[Item]:
    """The texts of `inputs.json`."""
    return [Item(text) for text in json.loads((folder / "inputs.json").read_text())["texts"]]


def distances(encoder: Encoder, items: list[Item], expected: Path) -> NDArray[np.float32]:
    """The largest difference of any component from the vectors in a file, for each item."""
    differences: NDArray[np.float32] = np.abs(encoder.encode(items) - np.load(expected)).max(axis=1)
    return differences
