"""A small architecture with native fusion, to be trained anew: a text encoder's directory, and a file that names it."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file

from anykey.training.families.opening import load_family
from anykey.training.family import Family
from tests.visualized import Toy, unpack

TRUNK = {"kind": "timm", "name": "test_vit", "image_size": 32}


def write_text_model(toy: Toy, directory: Path, prefix: str = "") -> Path:
    """A BERT of random weights as Hugging Face's programs save one: with a pooler, and maybe a prefix before names."""
    shutil.copytree(toy.text("base"), directory)
    tensors = torch.load(toy.weights("base"), weights_only=True)
    named = {name.removeprefix("bge_"): tensor for name, tensor in tensors.items() if name.startswith("bge_")}
    save_file({f"{prefix}{name}": tensor.float() for name, tensor in named.items()}, directory / "model.safetensors")
    return directory


def write_architecture(path: Path, **changes: Any) -> Path:
    """An architecture whose text encoder is in the folder `text` beside it."""
    path.write_text(json.dumps({"text_model": "text", "context_length": 24, "trunk": TRUNK, **changes}))
    return path


def make_fusion() -> Family:
    """The small published network as training has it, without dropout, of which processes draw other numbers."""
    with TemporaryDirectory() as folder:
        toy = unpack(Path(folder))
        family = load_family(toy.published("base", Path(folder) / "vista"), torch.device("cpu"))
    for module in family.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout_prob", None), float):
            module.dropout_prob = 0.0
    return family
