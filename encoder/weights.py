"""Weights files: read without running what is in them, and loaded as they are or refused with the reason."""

import os
import pickle
import shlex
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from open_clip.transformer import QuickGELU
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from anykey.encoder.errors import CheckpointCorruptError, CheckpointNotFoundError
from anykey.encoder.torchscript import is_torchscript, read_torchscript

# What safetensors, torch, zipfile and numpy raise on a file that holds no weights.
_UNREADABLE = (
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
_OF_OPENAI = ("input_resolution", "context_length", "vocab_size")  # facts that its archives hold beside the weights
_POSITIONS = {"positional_embedding": "context_length", "visual.positional_embedding": "image_size"}
CONVERT = (
    "python -c \"import sys, torch; from safetensors.torch import save_file; d = torch.load(sys.argv[1], 'cpu', "
    "weights_only=False); save_file({k: v.clone().contiguous() for k, v in d.get('state_dict', d).items() if "
    'torch.is_tensor(v)}, sys.argv[2])"'
)


def load_weights(model: nn.Module, path: Path, stretch_positions: bool = False) -> None:
    """Loads a whole model's weights, strictly, from any kind of file alike.

    Args:
        model: An open_clip model.
        path: A safetensors file, a file of `torch.save`, a TorchScript archive, or big_vision's `.npz`.
        stretch_positions: Interpolate positional embeddings to the model's own context length and image size.

    Raises:
        CheckpointNotFoundError: no such file, or not readable by this user.
        CheckpointCorruptError: damaged, of another architecture, or it holds other things than tensors; the message
            says what differs and what to do.
    """
    if not path.is_file():
        raise CheckpointNotFoundError(f"weights file {path} does not exist")
    if not os.access(path, os.R_OK):  # safetensors would call it missing
        raise CheckpointNotFoundError(f"weights file {path} may not be read by this user")
    try:
        if path.suffix in (".npz", ".npy"):
            open_clip.load_checkpoint(model, str(path))
            return
        weights = _with_names_of(model, _read(model, path))
    except _UNREADABLE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointCorruptError(f"{path} is damaged or no weights file: {reason}") from error
    if stretch_positions:
        resize_pos_embed(weights, model)
        resize_text_pos_embed(weights, model)
    else:
        _check_positions(model, weights, path)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise CheckpointCorruptError(f"{path} does not fit the architecture: {mismatch(error)}") from error


def mismatch(error: RuntimeError) -> str:
    """What torch says differs between weights and network, in one line: the first few names of each kind."""
    lines = (line.strip() for line in str(error).splitlines()[1:3])
    return "; ".join(line if len(line) <= 200 else f"{line[:200]} ..." for line in lines)


def _read(model: nn.Module, path: Path) -> dict[str, Tensor]:
    """The file's tensors by name; nothing in it is run."""
    if path.suffix == ".safetensors":
        return load_file(path)
    if is_torchscript(path):
        return _read_archive(model, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's, of pickles that it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        _refuse_objects(path)
        raise ValueError("it is not what torch.save writes of tensors") from error
    weights = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(weights, Mapping) or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        held = ", ".join(map(str, list(weights)[:5])) if isinstance(weights, Mapping) else f"a {type(content).__name__}"
        raise ValueError(f"expected tensors by name, or below 'state_dict', found {held or 'none'}")
    is_wrapped = all(name.startswith("module.") for name in weights)  # trained by several processes
    return {name.removeprefix("module.") if is_wrapped else name: tensor for name, tensor in weights.items()}


def _refuse_objects(path: Path) -> None:
    """Raises `CheckpointCorruptError`, with the way out, for a file of `torch.save` that holds more than tensors."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except _UNREADABLE:
        return
    if names:
        raise CheckpointCorruptError(
            f"{path} holds other objects than tensors ({', '.join(sorted(names)[:5])}), and reading those could run "
            f"code, so it is not loaded. If you trust the file, save its tensors alone and name the new file: "
            f"{CONVERT} {shlex.join([str(path), str(path.with_suffix('.safetensors'))])}"
        )


def _read_archive(model: nn.Module, path: Path) -> dict[str, Tensor]:
    archive = read_torchscript(path)
    if "QuickGELU" in archive.classes and not any(isinstance(module, QuickGELU) for module in model.modules()):
        raise CheckpointCorruptError(
            f"{path} was made with the activation QuickGELU, which the architecture does not have: name the one that "
            'ends in -quickgelu, or set "quick_gelu": true in its configuration'
        )
    return {name: tensor for name, tensor in archive.weights.items() if name not in _OF_OPENAI}


def _with_names_of(model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names that this model has for them, as open_clip translates them."""
    weights = convert_state_dict(model, weights)
    if "positional_embedding" in weights and not hasattr(model, "positional_embedding"):
        weights = convert_to_custom_text_state_dict(weights)
    for name in ("logit_scale", "logit_bias"):  # a number, or a vector of one
        own = getattr(model, name, None)
        if name in weights and own is not None:
            weights[name] = weights[name].reshape(own.shape)
    if getattr(model, "logit_bias", None) is not None and "logit_bias" not in weights:
        weights["logit_bias"] = torch.zeros_like(model.logit_bias)  # a CLIP that is to be trained as a SigLIP
    position_ids = "text.transformer.embeddings.position_ids"  # which transformers no longer keeps
    if position_ids not in model.state_dict():
        weights.pop(position_ids, None)
    return weights


def _check_positions(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Raises `CheckpointCorruptError` where the file is for another context length or image size."""
    expected = model.state_dict()
    for name, tensor in weights.items():
        setting = _POSITIONS.get(name.removeprefix("text."))
        own = expected.get(name)
        if setting is not None and own is not None and len(own) != len(tensor) and own.shape[1:] == tensor.shape[1:]:
            raise CheckpointCorruptError(
                f"{path} does not fit the architecture: {name} has {len(tensor)} positions in the file and {len(own)} "
                f"in the architecture; give it the file's own {setting}, or train with --stretch-positions, which "
                "interpolates them"
            )
