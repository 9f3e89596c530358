"""The checkpoint directory: written whole or not at all, checked when read.

open_clip_config.json         model and preprocessing configuration
open_clip_model.safetensors   weights; with the file above, what open_clip's `local-dir:` loads
encoder.json                  what open_clip does not know: fusion, padding, fingerprint, provenance
tokenizer_config.json, ...    the tokenizer, where it is one of Hugging Face's
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from anykey.encoder.architecture import (
    Architecture,
    build,
    open_clip_cfg,
    preprocessing,
    read_architecture,
    write_open_clip_config,
)
from anykey.encoder.errors import CheckpointCorruptError, CheckpointNotFoundError
from anykey.encoder.fusion import Fusion
from anykey.encoder.hugging_face import holds_tokenizer
from anykey.encoder.padding import Padding
from anykey.encoder.tokens import Tokenizer
from anykey.encoder.weights import load_weights
from anykey.program.files import replace_folder, sync_all

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"
MANIFEST_NAME = "encoder.json"
FORMAT = 1


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
    digest = hashlib.sha256()
    facts = {
        "model": open_clip_cfg(architecture),
        "preprocess": asdict(preprocessing(architecture)),
        "padding": architecture.padding,
        "fusion": fusion,
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return f"sha256:{digest.hexdigest()}"


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
    directory.parent.mkdir(parents=True, exist_ok=True)
    aside = directory.with_name(f".{directory.name}.{os.getpid()}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        identity = fingerprint(architecture, weights, fusion)
        write_open_clip_config(architecture, aside)
        _write_weights(weights, aside / WEIGHTS_NAME)
        if architecture.hf_tokenizer_name:
            Tokenizer(architecture).save(aside)
        manifest = {
            "format": FORMAT,
            "name": architecture.name,
            "width": architecture.width,
            "fusion": fusion,
            "padding": architecture.padding,
            "fingerprint": identity,
            "provenance": dict(provenance),
        }
        (aside / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n")
        sync_all(aside)
        replace_folder(aside, directory)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
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
    manifest = _read_manifest(directory / MANIFEST_NAME)
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
    if manifest.get("fingerprint", identity) != identity:
        raise CheckpointCorruptError(
            f"{directory}: weights or configuration changed since training: {MANIFEST_NAME} says fingerprint "
            f"{manifest['fingerprint']}, the files give {identity}"
        )
    return Checkpoint(architecture, model, fusion, identity, manifest.get("provenance", {}))


def _write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, path)
    except SafetensorError as error:  # how it reports a full disk
        raise OSError(f"cannot write {path}: {error}") from error
    path.chmod((path.parent / CONFIG_NAME).stat().st_mode)  # safetensors makes it private to this user


def _find_weights(directory: Path) -> Path:
    for name in (WEIGHTS_NAME, "open_clip_pytorch_model.bin"):
        if (directory / name).is_file():
            return directory / name
    raise CheckpointCorruptError(f"{directory} has no weights: expected {WEIGHTS_NAME}")


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise CheckpointCorruptError(f"{path} is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointCorruptError(f"{path}: expected an object with format {FORMAT}")
    return manifest
