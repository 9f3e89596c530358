"""What the checkpoint directories of all families have in common: a manifest, and that they are written whole.

`encoder.json` names the format and the family and holds what the family's own files do not say. A directory is written
aside and put in place when it is complete, so that a full disk or a crash leaves the one before it usable.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from anykey.encoder.description import MANIFEST_NAME
from anykey.encoder.errors import CheckpointCorruptError
from anykey.program.files import replace_folder, sync_all

FORMAT = 1


@contextmanager
def written_whole(directory: Path) -> Iterator[Path]:
    """An empty folder to write a checkpoint into; it replaces the directory at the end, unless an error comes first.

    Raises:
        OSError: the disk is full or not writable; what was there before is untouched.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    aside = directory.with_name(f".{directory.name}.{os.getpid()}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        sync_all(aside)
        replace_folder(aside, directory)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_weights(weights: Mapping[str, Tensor], path: Path, mode: int) -> None:
    """Writes tensors as a safetensors file with these permissions, which safetensors itself would leave to its user.

    Raises:
        OSError: the disk is full.
    """
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, path)
    except SafetensorError as error:  # how it reports a full disk
        raise OSError(f"cannot write {path}: {error}") from error
    path.chmod(mode)


def write_manifest(directory: Path, family: str, facts: Mapping[str, Any]) -> None:
    """Writes `encoder.json`.

    Raises:
        TypeError: a fact is no JSON.
    """
    manifest = {"format": FORMAT, "family": family, **facts}
    (directory / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n")


def read_manifest(directory: Path) -> dict[str, Any]:
    """What `encoder.json` says; nothing if there is none.

    Raises:
        CheckpointCorruptError: it is damaged, or of another format.
    """
    path = directory / MANIFEST_NAME
    if not path.is_file():
        return {}
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointCorruptError(f"{path}: expected an object with format {FORMAT}")
    return manifest


def read_object(path: Path) -> dict[str, Any]:
    """An object from a JSON file.

    Raises:
        CheckpointCorruptError: it is missing or damaged.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointCorruptError(f"{path}: expected an object")
    return content


def read_json(path: Path) -> Any:
    """What is in a JSON file.

    Raises:
        CheckpointCorruptError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise CheckpointCorruptError(f"{path.parent} has no {path.name}") from error
    except (OSError, ValueError) as error:
        raise CheckpointCorruptError(f"{path} is not JSON: {error}") from error


def check_fingerprint(directory: Path, manifest: Mapping[str, Any], identity: str) -> None:
    """Refuses files that are not those that the manifest was written for.

    Raises:
        CheckpointCorruptError: the fingerprints differ.
    """
    if manifest.get("fingerprint", identity) != identity:
        raise CheckpointCorruptError(
            f"{directory}: weights or configuration changed since training: {MANIFEST_NAME} says fingerprint "
            f"{manifest['fingerprint']}, the files give {identity}"
        )


def digest_of(facts: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """`sha256:` and the digest of facts, which must be JSON, and of tensors with their names, types and shapes."""
    digest = hashlib.sha256()
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return f"sha256:{digest.hexdigest()}"
