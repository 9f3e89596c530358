"""`anykey-train interpolate`: a checkpoint between a start and what was fine-tuned from it."""

import json
from dataclasses import asdict
from pathlib import Path

import torch

from anykey.encoder.architecture import open_clip_cfg, preprocessing
from anykey.encoder.checkpoint import CONFIG_NAME, Checkpoint, save_checkpoint
from anykey.encoder.model import load_checkpoint
from anykey.program.machine import release
from anykey.training.averaging import interpolate
from anykey.training.errors import InvalidRecipeError
from anykey.training.interpolate_settings import InterpolateSettings


def interpolate_checkpoints(settings: InterpolateSettings) -> str:
    """Writes the checkpoint; fusion and tokenizer are the fine-tuned encoder's.

    Args:
        settings: The two encoders, the share, and where the result goes.

    Returns:
        The new checkpoint's fingerprint.

    Raises:
        InvalidRecipeError: the encoders are of different networks, or something else than a checkpoint is where
            the output goes.
        EncoderError: one of them cannot be loaded.
        OSError: the disk is full or not writable; what was there before is untouched.
    """
    _check_output(settings)
    start, tuned = load_checkpoint(settings.start), load_checkpoint(settings.tuned)
    _check_networks(start, tuned)
    weights = interpolate(start.model.state_dict(), tuned.model.state_dict(), settings.share)
    provenance = {
        "made_by": f"anykey {release()}",
        "torch": torch.__version__,
        "start": settings.start,
        "start_fingerprint": start.fingerprint,
        "tuned": settings.tuned,
        "tuned_fingerprint": tuned.fingerprint,
        "share": settings.share,
    }
    return save_checkpoint(settings.output, tuned.architecture, weights, tuned.fusion, provenance)


def _check_output(settings: InterpolateSettings) -> None:
    output = settings.output
    if output.exists() and not (output / CONFIG_NAME).is_file():
        raise InvalidRecipeError(f"--output {output} is there and is no checkpoint: it is not overwritten")
    if output.resolve() in (Path(settings.start).resolve(), Path(settings.tuned).resolve()):
        raise InvalidRecipeError(f"--output {output} is one of the two encoders: it would be lost")


def _check_networks(start: Checkpoint, tuned: Checkpoint) -> None:
    """Refuses encoders that differ in network, tokenizer or preprocessing; says in what."""
    before, after = _facts(start), _facts(tuned)
    differing = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if differing:
        raise InvalidRecipeError(
            f"{start.architecture.name} and {tuned.architecture.name} are different networks, they differ in: "
            f"{', '.join(differing)}"
        )


def _facts(checkpoint: Checkpoint) -> dict[str, str]:
    """Everything but the weights that a feature depends on, by name; the configuration names the tokenizer too."""
    architecture = checkpoint.architecture
    facts = {**open_clip_cfg(architecture), "preprocessing": asdict(preprocessing(architecture))}
    facts["padding"] = architecture.padding
    return {name: json.dumps(fact, sort_keys=True) for name, fact in facts.items()}
