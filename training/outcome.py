"""What a run tells of itself in its report: what it was, which settings were in force, and what to beware of."""

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from anykey.program.machine import num_cores, release
from anykey.training.choices import Loss
from anykey.training.data import RunData
from anykey.training.family import Family, batch_norms
from anykey.training.run_folder import publishable
from anykey.training.settings import LossSettings, ModelSettings, TrainSettings
from anykey.training.validation import MIN_PAIRS_TO_SHARE

FEW_STEPS = 100
FEW_PAIRS = 100
_OWN_DENOMINATORS = (Loss.CLIP, Loss.ALIGNCLIP, Loss.PAIRWISE)
_EQUAL_TERMS = (Loss.CLIP, Loss.ALIGNCLIP)
_PRECISIONS = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def settings_in_force(
    settings: TrainSettings, family: Family, data: RunData, batch_size: int
) -> tuple[dict[str, Any], list[str]]:
    """The settings as the run uses them, with what they leave to start and machine filled in, and those without effect.

    To be asked before the first step: the temperature is the one that training begins with.

    Args:
        settings: As they were given.
        family: The model.
        data: The pairs.
        batch_size: Pairs in a batch, which is all of them where there are fewer than asked for.
    """
    within = "1" if data.train.has_query_P.any() else "0"
    filled_in = {
        **family.description.settings,
        "batch_norm": "train" if family.uses_batch_statistics else "eval",
        "pair_weights": settings.pair_weights or f"1 between modalities, {within} within one",
        "temperature": round(1 / float(family.log_scale.detach().exp()), 4),
        **_weights(settings, family),
        "batch_size": batch_size,
        "device": str(family.device),
        "precision": _PRECISIONS[family.dtype],
    }
    idle = _without_effect(settings, family, data)
    values = publishable(settings) | filled_in
    return {name: value for name, value in values.items() if name not in idle}, idle


def _without_effect(settings: TrainSettings, family: Family, data: RunData) -> list[str]:
    """Names of the settings that change nothing in this run."""
    has_batch_norm = any(True for _ in batch_norms(family.model))
    has_negatives = bool((data.train.item_start_P.diff() > 1 + data.train.has_query_P.long()).any())
    unused = {
        "image_padding": settings.start is not None,
        "family": settings.family is None and "family" not in family.description.settings,
        "text_model": settings.text_model is None,
        "max_text_tokens": settings.max_text_tokens is None,
        "unlocked_image_groups": not settings.lock_image,
        "unlocked_text_groups": not settings.lock_text,
        "feature_cache": data.train_features is None,
        "max_feature_cache_bytes": data.train_features is None,
        "batch_norm": not has_batch_norm,
        "reading": settings.loss in _OWN_DENOMINATORS,
        "pair_weights": settings.loss in _EQUAL_TERMS and not settings.pairwise_weight,
        **{name: not weight for name, weight in _weights(settings, family).items()},
        "separation_encoder": not settings.separation,
        "hard_negatives": not has_negatives,
        "worker_timeout_s": settings.workers == 0,
        "val_every_epochs": data.val is None,
    }
    return [name for name, is_unused in unused.items() if is_unused]


def _weights(settings: LossSettings, family: Family) -> dict[str, float]:
    """What is added to the loss, with its weight in force."""
    return {
        "clip_weight": settings.clip(family.description.fusion),
        "pairwise_weight": settings.pairwise_weight,
        "separation_weight": settings.separation,
        "covariance_weight": settings.covariance_weight,
        "hardness": settings.hardness,
    }


def facts_of(settings: TrainSettings, family: Family, data: RunData) -> dict[str, str]:
    """When, with what and of what the run was made."""
    model = family.description
    weights = [parameter for parameter in family.model.parameters() if parameter.ndim]
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    facts = {
        "finished": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "model": f"{model.name}, width {model.width}, {model.fusion} fusion; "
        f"{_millions(sum(weight.numel() for weight in weights))} parameters, {_millions(trained)} of them trained",
        "started from": settings.start or _new_weights(settings, family),
        "training pairs": f"{len(data.train):,}, with {data.train.num_images:,} images and "
        f"{len(data.train.text_id_S):,} texts",
    }
    if data.val is not None:
        facts["held-out pairs"] = f"{len(data.val.captioned().image_P):,} with an image and a caption"
    libraries = ", ".join(f"{name} {release(of)}" for name, of in model.libraries.items())
    return facts | {
        "machine": f"{platform.platform(terse=True)}, {num_cores()} cores, device {family.device}",
        "versions": f"anykey {release()}, torch {torch.__version__}, {libraries}, Python {platform.python_version()}",
    }


def how_judged(num_pairs: int, num_choosing: int | None) -> str:
    """Which held-out pairs choose `best`, and which are reported.

    Args:
        num_pairs: Held-out pairs with an image and a caption.
        num_choosing: How many of them choose; `None` where all do.
    """
    if num_choosing is None:
        return (
            f"The checkpoint best was chosen by the very pairs that are reported, as {num_pairs:,} are too few to "
            f"share out (from {MIN_PAIRS_TO_SHARE} images on they are): what is shown after flatters it."
        )
    return (
        f"The checkpoint best was chosen by the queries of {num_choosing:,} held-out pairs; reported are those of the "
        f"other {num_pairs - num_choosing:,}, in pools of all {num_pairs:,}."
    )


def warnings_of(best_step: int, num_steps: int, measured_at: Sequence[int], num_asked: int | None) -> list[str]:
    """What keeps a run's numbers from meaning what they seem to mean.

    Args:
        best_step: Where `best` was measured.
        num_steps: Steps of the run.
        measured_at: All steps after the start at which it was measured.
        num_asked: Held-out pairs that are reported; `None` without any.
    """
    found = []
    if num_steps < FEW_STEPS:
        found.append(
            f"The run had {num_steps} steps, which is a handful: more epochs or a smaller --batch-size may change "
            "everything that is said here."
        )
    if num_asked is None:
        return found
    if best_step == 0:
        found.append("No measurement was above the start's: best is the start itself, and there is no after.")
    elif len(measured_at) > 2 and best_step == measured_at[0]:
        found.append(
            f"Best is step {best_step} of {num_steps}, the first of {len(measured_at)} measurements: nothing that was "
            "trained after it scored higher. A lower --learning-rate may."
        )
    if num_asked < FEW_PAIRS:
        found.append(
            f"Only {num_asked} held-out pairs are reported: one query more or less is {100 / num_asked:.1f} points. "
            "Grey changes may be chance."
        )
    return found


def _new_weights(settings: ModelSettings, family: Family) -> str:
    trained = []
    if settings.image_weights is not None:
        trained.append(f"the image trunk's from {settings.image_weights}")
    if text_model := family.description.provenance.get("text_model"):
        trained.append(f"the text encoder's from {text_model}")
    return ", ".join(["random weights", *trained])


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"
