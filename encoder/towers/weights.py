"""Weights files: read without running what is in them, and loaded as they are or refused with the reason."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from anykey.encoder.errors import CheckpointCorruptError, CheckpointNotFoundError
from anykey.encoder.towers.layouts.renaming import from_tinyclip, is_tinyclips
from anykey.encoder.towers.layouts.strangers import what_tensors_are
from anykey.encoder.towers.tensors import UNREADABLE, TensorFile, read_tensors

_POSITIONS = {"positional_embedding": "context_length", "visual.positional_embedding": "image_size"}


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
    if path.suffix in (".npz", ".npy"):
        _load_big_vision(model, path)
        return
    file = read_tensors(path)
    _require_activation(model, file)
    tensors = from_tinyclip(file.tensors) if any(map(is_tinyclips, file.tensors)) else file.tensors
    put_weights(model, tensors, path, stretch_positions)


def put_weights(model: nn.Module, tensors: Mapping[str, Tensor], path: Path, stretch_positions: bool = False) -> None:
    """Puts tensors into the network that they belong to, strictly.

    Args:
        model: An open_clip model.
        tensors: All its weights, by open_clip's names, or others that open_clip translates.
        path: Where they are from, for messages.
        stretch_positions: Interpolate positional embeddings to the model's own context length and image size.

    Raises:
        CheckpointCorruptError: they are another architecture's; says what differs.
    """
    try:
        weights = with_names_of(model, dict(tensors))
    except UNREADABLE as error:
        raise CheckpointCorruptError(f"{path} does not fit the architecture: {error}") from error
    if stretch_positions:
        resize_pos_embed(weights, model)
        resize_text_pos_embed(weights, model)
    else:
        _check_positions(model, weights, path)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        stranger = what_tensors_are(tensors)
        is_stranger = stranger is not None and not (weights.keys() & model.state_dict().keys())
        said = f"it is {stranger}" if is_stranger else mismatch(error)
        raise CheckpointCorruptError(f"{path} does not fit the architecture: {said}") from error


def mismatch(error: RuntimeError) -> str:
    """What torch says differs between weights and network, in one line: the first few names of each kind."""
    lines = (line.strip() for line in str(error).splitlines()[1:3])
    return "; ".join(line if len(line) <= 200 else f"{line[:200]} ..." for line in lines)


def _load_big_vision(model: nn.Module, path: Path) -> None:
    try:
        open_clip.load_checkpoint(model, str(path))
    except FileNotFoundError as error:
        raise CheckpointNotFoundError(f"weights file {path} does not exist") from error
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointCorruptError(f"{path} is damaged or no weights file: {reason}") from error


def _require_activation(model: nn.Module, file: TensorFile) -> None:
    """Raises `CheckpointCorruptError` where the file says that it was made with an activation that the model lacks."""
    if file.is_quick_gelu and not any(isinstance(module, QuickGELU) for module in model.modules()):
        raise CheckpointCorruptError(
            f"{file.path} was made with the activation QuickGELU, which the architecture does not have: name the one "
            'that ends in -quickgelu, or set "quick_gelu": true in its configuration'
        )


def with_names_of(model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names that this model has for them, as open_clip translates them."""
    weights = convert_state_dict(model, weights)
    if "positional_embedding" in weights and not hasattr(model, "positional_embedding"):
        weights = convert_to_custom_text_state_dict(weights)
    if "text.positional_embedding" in weights and hasattr(model, "positional_embedding"):
        weights = {name.removeprefix("text."): tensor for name, tensor in weights.items()}
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
