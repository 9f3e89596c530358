"""The checkpoint directory: written whole or not at all, checked when read.

open_clip_config.json         model and preprocessing configuration
open_clip_model.safetensors   weights; with the file above, what open_clip's `local-dir:` loads
encoder.json                  what open_clip does not know: fusion, padding, fingerprint, provenance
tokenizer_config.json, ...    the tokenizer, where it is one of Hugging Face's
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from anykey.encoder.checkpoint import (
    check_fingerprint,
    digest_of,
    read_manifest,
    write_manifest,
    write_weights,
    written_whole,
)
from anykey.encoder.description import MANIFEST_NAME
from anykey.encoder.errors import CheckpointCorruptError, CheckpointNotFoundError
from anykey.encoder.fusion import Fusion
from anykey.encoder.hugging_face import holds_tokenizer
from anykey.encoder.model import TOWERS
from anykey.encoder.padding import Padding
from anykey.encoder.towers.architecture import (
    Architecture,
    build,
    open_clip_cfg,
    preprocessing,
    read_architecture,
    write_open_clip_config,
)
from anykey.encoder.towers.tokens import Tokenizer
from anykey.encoder.towers.weights import load_weights

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A network with its weights, and how it fuses.

    Attributes:
        architecture: The network.
        model: The open_clip model, on the CPU, float32.
        fusion: How image and text features are added.
        fingerprint: `sha256:` of weights, configuration, preprocessing and fusion: equal fingerprints give
            equal vectors, up to the precision they are computed in.
        provenance: What made it: data, settings, steps; free form.
    """

    architecture: Architecture
    model: nn.Module
    fusion: Fusion
    fingerprint: str
    provenance: dict[str, Any] = field(default_factory=dict)


def fingerprint(architecture: Architecture, weights: Mapping[str, Tensor], fusion: Fusion) -> str:
    """`sha256:` and the digest of everything a vector depends on.

    Args:
        architecture: The network's configuration; its name does not count.
        weights: State dictionary.
        fusion: How features are added.
    """
    facts = {
        "model": open_clip_cfg(architecture),
        "preprocess": asdict(preprocessing(architecture)),
        "padding": architecture.padding,
        "fusion": fusion,
    }
    return digest_of(facts, weights)


def save_checkpoint(
    directory: Path,
    architecture: Architecture,
    weights: Mapping[str, Tensor],
    fusion: Fusion,
    provenance: Mapping[str, Any],
) -> str:
    """Writes a checkpoint directory aside and puts it in place; a directory already there is replaced.

    Args:
        directory: Where it goes.
        architecture: The network.
        weights: Its state dictionary.
        fusion: How features are added.
        provenance: What made it; must be JSON.

    Returns:
        The fingerprint.

    Raises:
        MissingPartError: its Hugging Face tokenizer is not on this machine.
        OSError: the disk is full or not writable; what was there before is untouched.
    """
    with written_whole(directory) as aside:
        identity = fingerprint(architecture, weights, fusion)
        write_open_clip_config(architecture, aside)
        write_weights(weights, aside / WEIGHTS_NAME, (aside / CONFIG_NAME).stat().st_mode)
        if architecture.hf_tokenizer_name:
            Tokenizer(architecture).save(aside)
        facts = {
            "name": architecture.name,
            "width": architecture.width,
            "fusion": fusion,
            "padding": architecture.padding,
            "fingerprint": identity,
            "provenance": dict(provenance),
        }
        write_manifest(aside, TOWERS, facts)
    return identity


def read_checkpoint(directory: Path) -> Checkpoint:
    """Reads a checkpoint directory and checks it against its manifest.

    A directory that open_clip wrote, without `encoder.json`, is read with raw fusion.

    Raises:
        CheckpointNotFoundError: no such directory, or no `open_clip_config.json` in it.
        CheckpointCorruptError: a file is damaged, or does not belong to the others.
        MissingPartError: its text tower needs files of Hugging Face that are not on this machine.
    """
    if not (directory / CONFIG_NAME).is_file():
        raise CheckpointNotFoundError(f"{directory} holds no checkpoint: expected {CONFIG_NAME} in it")
    manifest = read_manifest(directory)
    config = read_architecture(directory / CONFIG_NAME)
    try:
        padding = Padding(manifest.get("padding", Padding.SYMMETRIC))
        fusion = Fusion(manifest.get("fusion", Fusion.RAW))
    except ValueError as error:
        raise CheckpointCorruptError(f"{directory / MANIFEST_NAME}: {error}") from error
    name = str(manifest.get("name", directory.name))
    tokenizer_dir = directory if config.hf_tokenizer_name and holds_tokenizer(directory) else None
    architecture = Architecture(name, config.model_cfg, config.preprocess_cfg, padding, tokenizer_dir)
    if manifest.get("width", architecture.width) != architecture.width:
        raise CheckpointCorruptError(
            f"{directory}: {MANIFEST_NAME} says width {manifest['width']}, {CONFIG_NAME} says {architecture.width}"
        )
    model = build(architecture)
    load_weights(model, _find_weights(directory))
    identity = fingerprint(architecture, model.state_dict(), fusion)
    check_fingerprint(directory, manifest, identity)
    return Checkpoint(architecture, model, fusion, identity, manifest.get("provenance", {}))


def _find_weights(directory: Path) -> Path:
    for name in (WEIGHTS_NAME, "open_clip_pytorch_model.bin"):
        if (directory / name).is_file():
            return directory / name
    raise CheckpointCorruptError(f"{directory} has no weights: expected {WEIGHTS_NAME}")
