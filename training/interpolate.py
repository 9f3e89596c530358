"""`anykey-train interpolate`: a checkpoint between a start and what was fine-tuned from it."""

from pathlib import Path

import torch

from anykey.program.machine import release
from anykey.training.averaging import interpolate
from anykey.training.errors import InvalidRecipeError
from anykey.training.families.opening import holds_checkpoint, load_family
from anykey.training.family import Family
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
    cpu = torch.device("cpu")
    start, tuned = load_family(settings.start, cpu), load_family(settings.tuned, cpu)
    _check_networks(start, tuned)
    weights = interpolate(start.weights(), tuned.weights(), settings.share)
    provenance = {
        "made_by": f"anykey {release()}",
        "torch": torch.__version__,
        "start": settings.start,
        "start_fingerprint": start.description.fingerprint,
        "tuned": settings.tuned,
        "tuned_fingerprint": tuned.description.fingerprint,
        "share": settings.share,
    }
    return tuned.save(settings.output, weights, provenance)


def _check_output(settings: InterpolateSettings) -> None:
    output = settings.output
    if output.exists() and not holds_checkpoint(output):
        raise InvalidRecipeError(f"--output {output} is there and is no checkpoint: it is not overwritten")
    if output.resolve() in (Path(settings.start).resolve(), Path(settings.tuned).resolve()):
        raise InvalidRecipeError(f"--output {output} is one of the two encoders: it would be lost")


def _check_networks(start: Family, tuned: Family) -> None:
    """Refuses encoders that differ in network, tokenizer or preprocessing; says in what."""
    before, after = start.description.network, tuned.description.network
    differing = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if differing:
        raise InvalidRecipeError(
            f"{start.description.name} and {tuned.description.name} are different networks, they differ in: "
            f"{', '.join(differing)}"
        )
