"""The tensors of a weights file by name: read without running what is in it, or refused by what the file is instead."""

import json
import os
import pickle
import shlex
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from anykey.encoder.errors import CheckpointCorruptError, CheckpointNotFoundError
from anykey.encoder.towers.layouts.strangers import what_file_is
from anykey.encoder.towers.torchscript import is_torchscript, read_torchscript

# What safetensors, torch, zipfile and numpy raise on a file that holds no weights.
UNREADABLE = (
    SafetensorError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    RuntimeError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)
INDEX_SUFFIX = ".index.json"  # of the list of a model's files, where it has several
# Under what trainers put the network's weights beside other things, and their average over time.
_NESTED = ("state_dict", "model_state_dict", "model", "module", "net")
_AVERAGES = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema")
_OF_OPENAI = ("input_resolution", "context_length", "vocab_size")  # facts that its archives hold beside the weights
_WRAPPERS = ("module", "_orig_mod")  # of several processes, and of compiled networks
_COUNTER = "n_averaged"  # of torch's averaged models
CONVERT = (
    "python -c \"import sys, torch; from safetensors.torch import save_file; d = torch.load(sys.argv[1], 'cpu', "
    f"weights_only=False); d = next((d[n] for n in {_NESTED} if n in d), d); "
    'save_file({k: v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}, sys.argv[2])"'
)


@dataclass(frozen=True)
class TensorFile:
    """What was read of a weights file.

    Attributes:
        path: The file.
        tensors: Its tensors by name, without what wrappers put into the names.
        is_quick_gelu: Which of the two activations it was made with; `None` where it does not say.
        has_average: Whether it also holds an average of the weights over training, which was not read.
    """

    path: Path
    tensors: dict[str, Tensor]
    is_quick_gelu: bool | None = None
    has_average: bool = False


def read_tensors(path: Path, average: bool = False) -> TensorFile:
    """Reads the tensors of a weights file, or of all that an index of several lists.

    Args:
        path: A safetensors file, a file of `torch.save`, a TorchScript archive, or the index of several files.
        average: Read the average over training that a trainer kept, instead of the last weights.

    Raises:
        CheckpointNotFoundError: no such file, or not readable by this user.
        CheckpointCorruptError: damaged, or it holds other things than tensors; says what it is.
    """
    _require_readable(path)
    if path.name.endswith(INDEX_SUFFIX):
        return TensorFile(path, _read_shards(path))
    try:
        return _read(path, average)
    except UNREADABLE as error:
        stranger = what_file_is(path)
        reason = _reason(error) if stranger is None else f"it is {stranger}"
        raise CheckpointCorruptError(f"{path} is damaged or no weights file: {reason}") from error


def _require_readable(path: Path) -> None:
    if not path.is_file():
        raise CheckpointNotFoundError(f"weights file {path} does not exist")
    if not os.access(path, os.R_OK):  # safetensors would call it missing
        raise CheckpointNotFoundError(f"weights file {path} may not be read by this user")


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _read(path: Path, average: bool) -> TensorFile:
    if path.suffix == ".safetensors":
        return TensorFile(path, _unwrapped(load_file(path)))
    if is_torchscript(path):
        archive = read_torchscript(path)
        tensors = {name: tensor for name, tensor in archive.weights.items() if name not in _OF_OPENAI}
        return TensorFile(path, tensors, is_quick_gelu="QuickGELU" in archive.classes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's, of pickles that it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        _refuse_objects(path)
        raise ValueError("it is not what torch.save writes of tensors") from error
    has_average = isinstance(content, Mapping) and any(name in content for name in _AVERAGES)
    return TensorFile(path, _unwrapped(_state_dict(content, average)), has_average=has_average and not average)


def _read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index lists."""
    try:
        places = json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"]
        names = sorted(set(places.values()))
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise CheckpointCorruptError(f"{index} is no index of weights files: {_reason(error)}") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointCorruptError(
            f"{index} lists {len(names)} weights files, of which {len(missing)} are missing: {', '.join(missing[:3])}"
        )
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= read_tensors(index.parent / name).tensors
    lost = sorted(places.keys() - tensors.keys())
    if lost:
        raise CheckpointCorruptError(f"{index} lists tensors that are in none of its files: {', '.join(lost[:3])}")
    return tensors


def _state_dict(content: Any, average: bool) -> dict[str, Tensor]:
    """The named tensors in what was loaded, which may lie below a name of their own."""
    wanted = _AVERAGES if average else (*_NESTED, *_AVERAGES)
    weights: Any = content
    if isinstance(content, Mapping):
        found = [name for name in wanted if isinstance(content.get(name), Mapping)]
        if average and not found:
            raise ValueError(f"it holds no average over training ({', '.join(_AVERAGES)})")
        weights = content[found[0]] if found else content
    weights = {k: v for k, v in weights.items() if k != _COUNTER} if isinstance(weights, Mapping) else weights
    if not isinstance(weights, Mapping) or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        held = ", ".join(map(str, list(weights)[:5])) if isinstance(weights, Mapping) else f"a {type(content).__name__}"
        raise ValueError(f"expected tensors by name, or below 'state_dict', found {held or 'none'}")
    return dict(weights)


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what trainers put into names: `module` anywhere, or a prefix that all have."""
    bare = {".".join(part for part in name.split(".") if part not in _WRAPPERS): t for name, t in tensors.items()}
    if len(bare) < len(tensors):
        raise ValueError("two of its tensors have the same name but for 'module'")
    for prefix in ("model.", "clip.", "clip_model."):
        if all(name.startswith(prefix) for name in bare):
            bare = {name.removeprefix(prefix): tensor for name, tensor in bare.items()}
    return bare


def _refuse_objects(path: Path) -> None:
    """Raises `CheckpointCorruptError`, with the way out, for a file of `torch.save` that holds more than tensors."""
    try:
        names: Iterable[str] = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except UNREADABLE:
        return
    if names:
        raise CheckpointCorruptError(
            f"{path} holds other objects than tensors ({', '.join(sorted(names)[:5])}), and reading those could run "
            f"code, so it is not loaded. If you trust the file, save its tensors alone and name the new file: "
            f"{CONVERT} {shlex.join([str(path), str(path.with_suffix('.safetensors'))])}"
        )
