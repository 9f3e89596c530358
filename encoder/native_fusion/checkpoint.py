"""The checkpoint directory: written whole or not at all, checked when read.

encoder.json                  format, family, name, width, context length, temperature, fingerprint, provenance
config.json                   transformers' configuration of the text encoder
tokenizer.json, ...           its tokenizer
vision_config.json            the image trunk, its padding, and how a picture becomes its pixels
model.safetensors             all weights: `text.`, `trunk.` and `projection.`
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from anykey.encoder.checkpoint import (
    check_fingerprint,
    digest_of,
    read_manifest,
    read_object,
    write_manifest,
    write_weights,
    written_whole,
)
from anykey.encoder.description import MANIFEST_NAME
from anykey.encoder.errors import CheckpointCorruptError, CheckpointNotFoundError
from anykey.encoder.fusion import NATIVE
from anykey.encoder.model import FUSION
from anykey.encoder.native_fusion.architecture import Architecture, build
from anykey.encoder.native_fusion.network import FusionNetwork
from anykey.encoder.native_fusion.tokens import Tokenizer
from anykey.encoder.padding import Padding
from anykey.encoder.preprocessing import preprocess_cfg
from anykey.encoder.towers.weights import mismatch

TEXT_CONFIG_NAME = "config.json"
VISION_CONFIG_NAME = "vision_config.json"
WEIGHTS_NAME = "model.safetensors"
TEMPERATURE = 0.02  # VISTA's
_LOG_SCALE = "log_scale"  # of no effect on vectors: the manifest holds it


@dataclass(frozen=True)
class Checkpoint:
    """A network with its weights.

    Attributes:
        architecture: The network.
        network: With its weights, on the CPU, float32.
        fingerprint: `sha256:` of weights, configuration, tokenizer and preprocessing: equal fingerprints give equal
            vectors, up to the precision they are computed in.
        provenance: What made it: data, settings, steps; free form.
    """

    architecture: Architecture
    network: FusionNetwork
    fingerprint: str
    provenance: dict[str, Any] = field(default_factory=dict)


def fingerprint(architecture: Architecture, weights: Mapping[str, Tensor]) -> str:
    """`sha256:` and the digest of everything a vector depends on."""
    return digest_of(architecture.facts(), {name: w for name, w in weights.items() if name != _LOG_SCALE})


def save_checkpoint(
    directory: Path, architecture: Architecture, weights: Mapping[str, Tensor], provenance: Mapping[str, Any]
) -> str:
    """Writes a checkpoint directory aside and puts it in place; a directory already there is replaced.

    Args:
        directory: Where it goes.
        architecture: The network.
        weights: Its state dictionary.
        provenance: What made it; must be JSON.

    Returns:
        The fingerprint.

    Raises:
        OSError: the disk is full or not writable; what was there before is untouched.
    """
    with written_whole(directory) as aside:
        identity = fingerprint(architecture, weights)
        _write_json(aside / TEXT_CONFIG_NAME, architecture.text_config)
        vision = {
            "trunk": architecture.trunk,
            "padding": architecture.padding,
            "preprocessing": {**asdict(architecture.preprocessing), "size": architecture.preprocessing.size},
        }
        _write_json(aside / VISION_CONFIG_NAME, vision)
        architecture.tokenizer.save(aside)
        kept = {name: tensor for name, tensor in weights.items() if name != _LOG_SCALE}
        write_weights(kept, aside / WEIGHTS_NAME, (aside / TEXT_CONFIG_NAME).stat().st_mode)
        facts = {
            "name": architecture.name,
            "width": architecture.text_config["hidden_size"],
            "fusion": NATIVE,
            "context_length": architecture.context_length,
            "temperature": math.exp(-float(weights[_LOG_SCALE])),
            "fingerprint": identity,
            "provenance": dict(provenance),
        }
        write_manifest(aside, FUSION, facts)
    return identity


def read_checkpoint(directory: Path) -> Checkpoint:
    """Reads a checkpoint directory and checks it against its manifest.

    Raises:
        CheckpointNotFoundError: no such directory, or no `encoder.json` in it.
        CheckpointCorruptError: a file is missing or damaged, or does not belong to the others.
        MissingPartError: transformers is not here, or the tokenizer's files are not.
    """
    manifest = read_manifest(directory)
    if not manifest:
        raise CheckpointNotFoundError(f"{directory} holds no checkpoint: expected {MANIFEST_NAME} in it")
    vision = read_object(directory / VISION_CONFIG_NAME)
    name = str(manifest.get("name", directory.name))
    try:
        architecture = Architecture(
            name=name,
            text_config=read_object(directory / TEXT_CONFIG_NAME),
            trunk=dict(vision["trunk"]),
            padding=Padding(vision["padding"]),
            preprocessing=preprocess_cfg(name, vision["preprocessing"]),
            tokenizer=Tokenizer(name, directory),
            context_length=int(manifest["context_length"]),
        )
        scale = -math.log(manifest["temperature"])
        expected_width = int(manifest["width"])
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointCorruptError(f"{directory}: a value is missing or wrong: {error}") from error
    network = build(architecture)
    if network.width != expected_width:
        raise CheckpointCorruptError(
            f"{directory}: {MANIFEST_NAME} says width {expected_width}, {TEXT_CONFIG_NAME} says {network.width}"
        )
    put_weights(network, _read_weights(directory / WEIGHTS_NAME), scale, directory / WEIGHTS_NAME)
    identity = fingerprint(architecture, network.state_dict())
    check_fingerprint(directory, manifest, identity)
    return Checkpoint(architecture, network, identity, manifest.get("provenance", {}))


def put_weights(network: FusionNetwork, weights: Mapping[str, Tensor], log_scale: float, path: Path) -> None:
    """Loads weights strictly.

    Args:
        network: Where they go.
        weights: All of its weights but the temperature, of any floating-point type.
        log_scale: The logarithm of the inverse temperature.
        path: Where they come from, for messages.

    Raises:
        CheckpointCorruptError: names or shapes are not the network's.
    """
    try:
        network.load_state_dict({**weights, _LOG_SCALE: torch.tensor(log_scale)}, strict=True)
    except RuntimeError as error:
        raise CheckpointCorruptError(f"{path} does not fit the configuration beside it: {mismatch(error)}") from error


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointCorruptError(f"{path.parent} has no weights: expected {path.name}") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointCorruptError(f"{path} is damaged or no safetensors file: {error}") from error
