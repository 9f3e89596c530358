"""A run from its settings to its folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from anykey.encoder.model import choose_device
from anykey.program.progress import open_progress
from anykey.training.advice import advice, outcome_of
from anykey.training.data import RunData, read_data
from anykey.training.distributed import Processes, join_processes
from anykey.training.errors import InvalidRecipeError
from anykey.training.families.opening import open_family
from anykey.training.family import Family
from anykey.training.loop import Loop
from anykey.training.outcome import facts_of, how_judged, settings_in_force, warnings_of
from anykey.training.run_folder import RunFolder, finished_run, refuse_another_run, run_digest
from anykey.training.settings import TrainSettings
from anykey.training.trackers import import_wandb

if TYPE_CHECKING:
    from anykey.training.report import About


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        output: The run folder.
        is_new: False when a finished run with the same settings and data was there already.
        best: The best measurement: `step` and the numbers.
    """

    output: Path
    is_new: bool
    best: dict[str, Any]


OpenFamily = Callable[[TrainSettings, torch.device, torch.dtype | None], Family]


def train(settings: TrainSettings, console: Console, opens: OpenFamily = open_family) -> TrainResult:
    """Trains an encoder and writes its run folder; a run that was stopped goes on.

    A folder that holds another run is refused, unless the settings say that it may be overwritten. Started by
    `torchrun`, every process calls this and trains on its share of each batch.

    Args:
        settings: Everything about the run.
        console: Where progress is shown.
        opens: Opens the model that is trained, on its device.

    Returns:
        How it ended.

    Raises:
        TrainingError: the data or the recipe cannot be used, the saved state is damaged, or the loss diverged.
        EncoderError: the start or the device cannot be used.
        OSError: the run folder cannot be written; a checkpoint already there stays usable.
    """
    _check_output(settings)
    digest = run_digest(settings)
    report = finished_run(settings.output, digest)
    if report is not None:
        console.print(f"{settings.output}: finished already with these settings and data")
        console.print(_outcome(settings, report))
        return TrainResult(settings.output, False, report)
    device = choose_device(settings.device)
    with join_processes(device) as processes:
        if device.type == "cuda" and processes.count > 1:
            device = torch.device("cuda", processes.local_rank)
            torch.cuda.set_device(device)
        if not processes.is_main:
            console = Console(quiet=True)
        if processes.is_main:
            refuse_another_run(settings.output, settings, digest)
        _check_recipe(settings, processes)
        family = opens(settings, device, _train_dtype(settings.precision, device))
        _prepare(family, settings, processes)
        with (
            open_progress(console) as progress,
            RunFolder(settings.output, settings, digest, processes.is_main) as folder,
        ):
            processes.wait()
            data = read_data(settings, family, progress, folder, processes)
            if settings.shard:
                family.shard()
            loop = Loop(settings, family, data, folder, progress, processes)
            in_force = settings_in_force(settings, family, data, loop.batch_size)
            best = loop.run()
            if processes.is_main:
                folder.place_checkpoints()  # before anything is asked that may fail
                about = _about(settings, family, data, loop, folder, best, in_force)
                folder.finish(best, about)
                for warning in about.warnings:
                    progress.print(f"warning: {warning}")
        console.print(_outcome(settings, best))
        if processes.is_main:
            for sentence in about.advice:
                console.print(sentence)
    return TrainResult(settings.output, True, best)


def _check_output(settings: TrainSettings) -> None:
    """Refuses a run folder among the pairs, where its files would count as data."""
    for name in [*settings.data, *settings.val_data]:
        if Path(name).is_dir() and settings.output.resolve().is_relative_to(Path(name).resolve()):
            raise InvalidRecipeError(f"--output {settings.output} lies inside the data {name}: choose another place")


def _outcome(settings: TrainSettings, best: dict[str, Any]) -> str:
    report = f", report: {settings.output / 'report.html'}" if settings.report else ""
    return f"checkpoint: {settings.output / 'best'} (step {best['step']}){report}"


def _about(
    settings: TrainSettings,
    family: Family,
    data: RunData,
    loop: Loop,
    folder: RunFolder,
    best: dict[str, Any],
    in_force: tuple[dict[str, Any], list[str]],
) -> "About":
    """What the report says of a run that has ended."""
    from anykey.training.report import About, numbers_of_pairs, read_history, shown_pairs  # loads matplotlib

    num_pairs, num_asked, pairs = None, None, {}
    if data.val is not None:
        num_pairs = len(data.val.captioned().image_P)
        num_asked = num_pairs - (loop.num_choosing or 0)
        pairs = shown_pairs(data.val, numbers_of_pairs(folder.snapshots()))
    steps = {"steps": f"{loop.num_steps:,}, measured after {len(loop.measured_at)} of them"}
    return About(
        facts={**facts_of(settings, family, data), **steps},
        settings=in_force[0],
        idle=in_force[1],
        judging="" if num_pairs is None else how_judged(num_pairs, loop.num_choosing),
        warnings=warnings_of(best["step"], loop.num_steps, loop.measured_at, num_asked),
        advice=advice(outcome_of(settings, data, best, read_history(folder.metrics))),
        pairs=pairs,
    )


def _prepare(family: Family, settings: TrainSettings, processes: Processes) -> None:
    """Locks, recomputes and compiles of a model what the settings say.

    Raises:
        InvalidRecipeError: the model cannot do what they ask for.
    """
    name = family.description.name
    if settings.drop_tokens and not family.can_leave_out_words:
        raise InvalidRecipeError(f"--drop-tokens needs a text tower read at its end-of-text token, {name} has another")
    if settings.lock_image:
        family.lock("image", settings.unlocked_image_groups)
    if settings.lock_text:
        family.lock("text", settings.unlocked_text_groups)
    if settings.checkpoint_activations:
        family.recompute_activations()
    if settings.compile:
        family.compile()
    embeds_in_parts_or_twice = (
        processes.count > 1 or settings.micro_batch_size is not None or settings.checkpoint_activations
    )
    if family.uses_batch_statistics and embeds_in_parts_or_twice:
        raise InvalidRecipeError(
            f"{name} normalises by batch statistics, which several processes, micro-batches or "
            "--checkpoint-activations (a second update of its running statistics in every step) would change: set "
            "--batch-norm eval, or use an architecture without batch normalisation"
        )


def _check_recipe(settings: TrainSettings, processes: Processes) -> None:
    """Refuses what this machine or its processes cannot do, before anything is loaded."""
    if settings.wandb_project is not None:
        import_wandb()  # known now, not after the data are read
    if settings.batch_size % processes.count:
        raise InvalidRecipeError(
            f"--batch-size {settings.batch_size} cannot be divided among {processes.count} processes"
        )
    if settings.shard and processes.count == 1:
        raise InvalidRecipeError(
            "--shard needs several processes: start with torchrun --nproc-per-node N -m -- training"
        )


def _train_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    if precision == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
