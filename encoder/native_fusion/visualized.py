"""VISTA's published weights (Visualized-BGE): `Visualized_base_en_v1.5.pth`, `Visualized_m3.pth` and what is like them.

Such a file holds both networks' weights and no sizes. Those of the image trunk are read off the tensors; the text
encoder's configuration and tokenizer come from a directory of BAAI/bge-base-en-v1.5 or BAAI/bge-m3, whose own weights
are not needed.
"""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from anykey.encoder.checkpoint import read_object
from anykey.encoder.errors import CheckpointCorruptError, CheckpointNotFoundError
from anykey.encoder.native_fusion.architecture import Architecture, build, eva_trunk, longest_text
from anykey.encoder.native_fusion.checkpoint import (
    TEMPERATURE,
    TEXT_CONFIG_NAME,
    Checkpoint,
    fingerprint,
    put_weights,
    save_checkpoint,
)
from anykey.encoder.native_fusion.tokens import Tokenizer
from anykey.encoder.padding import Padding
from anykey.encoder.preprocessing import preprocess_cfg
from anykey.encoder.towers.tensors import UNREADABLE, read_tensors
from anykey.program.machine import release

_MARK = "visual_proj.weight"  # a name that no other file of weights has
_SUFFIXES = (".pth", ".pt", ".safetensors")
# Parts of the file, and what they are called here; the longest first.
_NAMES = {
    "bge_embeddings.": "text.embeddings.",
    "bge_encoder.": "text.encoder.",
    "visual_proj.": "projection.",
    "model_visual.visual.": "trunk.",
}
# What vectors do not depend on: the pooler, what stands behind EVA's last block, CLIP's temperature, a former buffer.
_UNUSED = (
    "bge_pooler.",
    "bge_embeddings.position_ids",
    "model_visual.visual.norm.",
    "model_visual.visual.head.",
    "model_visual.logit_scale",
)


def find_visualized(directory: Path) -> Path | None:
    """The file of such weights in a directory, known by what is in it; none in one of open_clip's."""
    if not directory.is_dir() or (directory / "open_clip_config.json").is_file():
        return None
    files = (path for path in sorted(directory.iterdir()) if path.suffix in _SUFFIXES and path.is_file())
    return next((path for path in files if _MARK in _names_in(path)), None)


def read_visualized(weights: Path, text_directory: Path) -> Checkpoint:
    """Reads published weights; saved by `save_checkpoint`, the result is a checkpoint directory.

    Args:
        weights: The file.
        text_directory: Holds `config.json` and the tokenizer of the text encoder that the file was made from.

    Raises:
        CheckpointNotFoundError: there is no such file, or no configuration.
        CheckpointCorruptError: the file is damaged, is none of VISTA's, or belongs to another text encoder.
        MissingPartError: transformers is not here, or the tokenizer's files are not.
    """
    if not weights.is_file():
        raise CheckpointNotFoundError(f"weights file {weights} does not exist")
    if not (text_directory / TEXT_CONFIG_NAME).is_file():
        raise CheckpointNotFoundError(
            f"{weights} needs {TEXT_CONFIG_NAME} and tokenizer of its text encoder (of BAAI/bge-base-en-v1.5 or "
            f"BAAI/bge-m3), which are not in {text_directory}"
        )
    tensors = network_weights(read_tensors(weights).tensors, weights)
    trunk = {name.removeprefix("trunk."): tensor for name, tensor in tensors.items() if name.startswith("trunk.")}
    try:
        trunk_config = eva_trunk(trunk)
    except (KeyError, ValueError) as error:
        raise CheckpointCorruptError(f"{weights} holds no EVA trunk as VISTA has it: {error}") from error
    name, text_config = weights.stem, read_object(text_directory / TEXT_CONFIG_NAME)
    architecture = Architecture(
        name=name,
        text_config=text_config,
        trunk=trunk_config,
        padding=Padding.SYMMETRIC,
        preprocessing=preprocess_cfg(name, {"size": trunk_config["image_size"]}),
        tokenizer=Tokenizer(name, text_directory),
        context_length=longest_text(text_config),
    )
    network = build(architecture)
    put_weights(network, tensors, -math.log(TEMPERATURE), weights)
    identity = fingerprint(architecture, network.state_dict())
    return Checkpoint(architecture, network, identity, {"weights": str(weights)})


def convert_visualized(weights: Path, text_directory: Path, output: Path) -> str:
    """Writes a checkpoint directory of published weights.

    Args:
        weights: As `read_visualized` takes them.
        text_directory: As `read_visualized` takes it.
        output: The checkpoint directory; what is there is replaced.

    Returns:
        The fingerprint, which is also that of the published weights when they are loaded as they are.

    Raises:
        EncoderError: as `read_visualized` raises them.
        OSError: the disk is full or not writable; what was there before is untouched.
    """
    found = read_visualized(weights, text_directory)
    provenance = {"made_by": f"anykey {release()}", **found.provenance}
    return save_checkpoint(output, found.architecture, found.network.state_dict(), provenance)


def network_weights(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors that a vector depends on, under the names that the network has for them.

    EVA's tables of angles, which the file has once for all blocks and again for each, are there once.

    Args:
        tensors: As the file has them.
        path: The file, for messages.

    Raises:
        CheckpointCorruptError: it holds a name that no such file has, or blocks with tables of their own.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(_UNUSED):
            continue
        known = next((prefix for prefix in _NAMES if name.startswith(prefix)), None)
        if known is None:
            raise CheckpointCorruptError(f"{path} is no file of VISTA's: it holds {name}")
        ours = _NAMES[known] + name.removeprefix(known)
        table = ours.rpartition(".attn.rope.")[2] if ".attn.rope." in ours else None
        if table is None:
            renamed[ours] = tensor
        elif not torch.equal(tensor, tensors[f"model_visual.visual.rope.{table}"]):
            raise CheckpointCorruptError(f"{path}: {name} differs from the table that all blocks share")
    return renamed


def _names_in(path: Path) -> list[str]:
    """The names of a file's tensors, of which none is read; none of what cannot be read."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return list(file.keys())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's, of pickles that it then refuses
            return [str(name) for name in torch.load(path, map_location="meta", weights_only=True)]
    except UNREADABLE:
        return []
