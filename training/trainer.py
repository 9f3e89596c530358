"""The training loop.

Shape legend: N = pairs in the batch, D = width.
"""

import math
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from torch import Tensor
from torch.nn import functional

from encoder.architecture import preprocessing
from encoder.checkpoint import save_checkpoint
from encoder.fusion import fuse
from encoder.images import ImageLimits
from encoder.model import choose_device
from encoder.text import can_trim, end_positions
from encoder.tokens import Tokenizer
from training.batches import Batch, DrawnPairs, EpochDraws, leave_out_words, make_loader
from training.errors import DivergedError, InvalidRecipeError, NoPairsError
from training.features import trunk_features
from training.losses import clip_loss, duplicate_pairs, gcl_loss, pairwise_loss
from training.optimizer import clamp_temperature, make_optimizer, make_schedule
from training.run_folder import RunFolder, finished_run, run_digest
from training.settings import TrainSettings
from training.sources import expand, open_pairs
from training.table import BadRow, ImageReader, PairTable, check_bad_share, read_table
from training.towers import Start, Towers, open_start
from training.validation import SELECTION_METRIC, embed_held_out, measure

_LOG_EVERY_STEPS = 10


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


@dataclass
class _Data:
    """Pairs ready for the loop."""

    train: PairTable
    val: PairTable | None = None
    train_features: Tensor | None = None
    val_features: Tensor | None = None


@dataclass
class _Progress:
    """Where the loop is."""

    step: int = 0
    num_pairs: int = 0
    bad_rows: dict[str, BadRow] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)


def train(settings: TrainSettings, console: Console) -> TrainResult:
    """Trains an encoder and writes its run folder.

    Args:
        settings: Everything about the run.
        console: Where progress is shown.

    Returns:
        How it ended.

    Raises:
        TrainingError: the data or the recipe cannot be used, or the loss diverged.
        EncoderError: the start or the device cannot be used.
        OSError: the run folder cannot be written; a checkpoint already there stays usable.
    """
    files = expand([*settings.data, *settings.val_data])
    digest = run_digest(settings, files)
    report = finished_run(settings.output, digest)
    if report is not None:
        console.print(f"{settings.output}: finished already with these settings and data")
        return TrainResult(settings.output, False, report)
    device = choose_device(settings.device)
    dtype = _train_dtype(settings.precision, device)
    start = open_start(settings)
    if settings.drop_tokens and not can_trim(start.model):
        raise InvalidRecipeError(
            f"--drop-tokens needs a text tower read at its end-of-text token, {start.architecture.name} has another"
        )
    towers = Towers(start, device, dtype, settings.lock_image, settings.batch_norm)
    with _progress_bar(console) as progress, RunFolder(settings.output, settings, digest) as folder:
        data = _read_data(settings, start, towers, progress, folder)
        best = _Loop(settings, start, towers, data, folder, progress).run()
        folder.finish(best)
    return TrainResult(settings.output, True, best)


class _Loop:
    """Steps, measurements and checkpoints of one run."""

    def __init__(
        self,
        settings: TrainSettings,
        start: Start,
        towers: Towers,
        data: _Data,
        folder: RunFolder,
        progress: Progress,
    ) -> None:
        self._settings = settings
        self._start = start
        self._towers = towers
        self._data = data
        self._folder = folder
        self._progress = progress
        self._at = _Progress()
        self._draws = EpochDraws(data.train, settings.batch_size, settings.seed, settings.mirror_images)
        pairs = DrawnPairs(data.train, data.train_features)
        pin_memory = towers.device.type == "cuda"
        self._loader = make_loader(self._draws, pairs, settings.num_workers, pin_memory)
        self._num_steps = max(1, round(settings.num_epochs * len(self._draws)))
        self._val_steps = max(1, round(settings.val_every_epochs * len(self._draws)))
        towers.model.logit_scale.requires_grad_(settings.learn_temperature)
        self._optimizer = make_optimizer(towers.model, settings.learning_rate, settings.weight_decay, settings.beta2)
        self._schedule = make_schedule(self._optimizer, self._num_steps, settings.warmup_share)
        self._scaler = torch.amp.GradScaler(enabled=towers.dtype is torch.float16)
        self._words = torch.Generator().manual_seed(settings.seed)

    def run(self) -> dict[str, Any]:
        """Trains to the end; gives the best measurement back."""
        torch.manual_seed(self._settings.seed)
        self._measure()
        task = self._progress.add_task("train", total=self._num_steps, facts="")
        began = monotonic()
        for batch in self._batches():
            numbers = self._step(batch)
            if self._at.step % _LOG_EVERY_STEPS == 0 or self._at.step == self._num_steps:
                rate = self._at.num_pairs / (monotonic() - began)
                self._folder.log(self._at.step, self._at.num_pairs, numbers | {"train/pairs_per_s": rate})
                loss, temperature = numbers["train/loss"], numbers["train/temperature"]
                facts = f"loss {loss:.2f}, temperature {temperature:.3f}"
                self._progress.update(task, facts=facts)
            self._progress.advance(task)
            if self._at.step % self._val_steps == 0 or self._at.step == self._num_steps:
                self._measure()
        return self._at.best

    def _batches(self) -> Iterator[Batch]:
        """Batches of as many epochs as the steps need."""
        epoch = 0
        while self._at.step < self._num_steps:
            self._draws.epoch = epoch
            first_step = self._at.step
            for batch in self._loader:
                self._count_bad(batch)
                if len(batch.image_id_N) >= 2:
                    yield batch
                if self._at.step >= self._num_steps:
                    return
            if self._at.step == first_step:
                raise NoPairsError("no batch has two readable images left, see bad_rows.jsonl")
            epoch += 1

    def _count_bad(self, batch: Batch) -> None:
        """Lists rows that turned out bad in this batch, each once, and stops the run when there are too many."""
        new = {row.where: row for row in batch.bad_rows if row.where not in self._at.bad_rows}
        if new:
            self._folder.log_bad_rows(new.values())
            self._at.bad_rows.update(new)
            check_bad_share(list(self._at.bad_rows.values()), len(self._data.train), self._settings.max_bad_share)

    def _step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; the numbers worth logging."""
        self._towers.train()
        loss, scale = self._loss(batch)
        if not torch.isfinite(loss):
            raise self._diverged(f"the loss is {loss.item()}")
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self._optimizer)
        trained = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(trained, self._settings.max_grad_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._schedule.step()
        if self._settings.learn_temperature:
            clamp_temperature(self._towers.model)
        self._at.step += 1
        self._at.num_pairs += len(batch.image_id_N)
        return {
            "train/loss": loss.item(),
            "train/temperature": 1.0 / scale.item(),
            "train/gradient_norm": float(norm),
            "train/learning_rate": self._optimizer.param_groups[0]["lr"],
        }

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        settings, device = self._settings, self._towers.device
        tokens_NT = batch.tokens_NT
        if settings.drop_tokens:
            ends_N = end_positions(self._towers.model, tokens_NT)
            tokens_NT = leave_out_words(tokens_NT, ends_N, settings.drop_tokens, self._words)
        image_ND = self._towers.image_features(batch.images_N)
        text_ND = self._towers.text_features(tokens_NT)
        scale = self._towers.model.logit_scale.exp()
        duplicates_NN = duplicate_pairs(batch.image_id_N, batch.text_id_N).to(device)
        unit_image_ND = functional.normalize(image_ND, dim=-1)
        unit_text_ND = functional.normalize(text_ND, dim=-1)
        if settings.loss == "clip":
            return clip_loss(unit_image_ND, unit_text_ND, scale, duplicates_NN), scale
        fused_ND = fuse(image_ND, text_ND, self._start.fusion)
        if settings.loss == "pairwise":
            return pairwise_loss(unit_image_ND, unit_text_ND, fused_ND, scale, duplicates_NN), scale
        return gcl_loss(unit_image_ND, unit_text_ND, fused_ND, scale, settings.reading, duplicates_NN), scale

    def _diverged(self, fact: str) -> DivergedError:
        return DivergedError(
            f"{fact} at step {self._at.step + 1}: lower the learning rate ({self._settings.learning_rate:g}) "
            "or raise the temperature; unfinished/last holds the last good weights"
        )

    def _measure(self) -> None:
        """Measures on the held-out pairs and saves `last`, and `best` when it is."""
        numbers: dict[str, float] = {}
        if self._data.val is not None:
            held_out = embed_held_out(self._towers, self._data.val, self._data.val_features, self._start.fusion)
            numbers = measure(held_out)
            self._folder.log(self._at.step, self._at.num_pairs, {f"val/{name}": n for name, n in numbers.items()})
            self._show(numbers)
        self._save("last", numbers)
        if not numbers or numbers[SELECTION_METRIC] >= self._at.best.get(SELECTION_METRIC, -math.inf):
            self._at.best = {"step": self._at.step, **numbers}
            self._save("best", numbers)

    def _show(self, numbers: dict[str, float]) -> None:
        self._progress.console.print(
            f"step {self._at.step:>6}  held-out success@10: "
            f"t>i {numbers['local/t>i/success@10']:.3f}  i>t {numbers['local/i>t/success@10']:.3f}  "
            f"local mean {numbers['local/mean/success@10']:.3f}  mixed mean {numbers[SELECTION_METRIC]:.3f}  "
            f"gap i-t {numbers['gap/i-t']:.2f}"
        )

    def _save(self, name: str, numbers: dict[str, float]) -> None:
        provenance = {
            **self._start.provenance,
            "made_by": f"anykey {version('anykey')}",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "data": self._settings.data,
            "loss": self._settings.loss,
            "reading": self._settings.reading,
            "step": self._at.step,
            "num_steps": self._num_steps,
            "held_out": {key: round(value, 4) for key, value in numbers.items()},
        }
        weights = self._towers.model.state_dict()
        if not all(tensor.isfinite().all() for tensor in weights.values()):
            raise self._diverged("weights are no longer finite numbers")
        save_checkpoint(
            self._folder.checkpoint_dir(name), self._start.architecture, weights, self._start.fusion, provenance
        )


def _read_data(settings: TrainSettings, start: Start, towers: Towers, progress: Progress, folder: RunFolder) -> _Data:
    """Reads, decodes and, for a locked trunk, embeds the pairs."""
    train_table = _read_table(settings, start, "read pairs", settings.data, settings.lock_image, progress, folder)
    if len(train_table) < 2:
        raise InvalidRecipeError("contrastive training needs at least 2 pairs, found 1")
    data = _Data(train_table)
    if settings.val_data:
        data.val = _read_table(settings, start, "read held-out pairs", settings.val_data, True, progress, folder)
    if settings.lock_image:
        cache_dir = settings.feature_cache or settings.output / "features"
        num_images = len(train_table) * (2 if settings.mirror_images else 1) + (len(data.val) if data.val else 0)
        advance = _advance(progress, progress.add_task("embed images", total=num_images, facts=""))
        data.train_features = trunk_features(towers, train_table, settings.mirror_images, cache_dir, advance)
        if data.val is not None:
            data.val_features = trunk_features(towers, data.val, False, cache_dir, advance)
    return data


def _read_table(
    settings: TrainSettings,
    start: Start,
    name: str,
    sources: list[str],
    check_images: bool,
    progress: Progress,
    folder: RunFolder,
) -> PairTable:
    pairs = open_pairs(sources)
    config = preprocessing(start.architecture)
    table = read_table(
        source=pairs,
        tokenize=Tokenizer(start.architecture),
        reader=ImageReader(config, ImageLimits(settings.max_image_bytes, settings.max_image_pixels)),
        cache_images_bytes=settings.cache_images_bytes,
        max_bad_share=settings.max_bad_share,
        check_images=check_images,
        advance=_advance(progress, progress.add_task(name, total=len(pairs), facts="")),
    )
    folder.log_bad_rows(table.bad_rows)
    if table.bad_rows:
        progress.console.print(f"{name}: {len(table.bad_rows)} of {len(pairs)} rows skipped, see bad_rows.jsonl")
    return table


def _advance(progress: Progress, task: TaskID) -> Callable[[int], None]:
    return lambda steps: progress.advance(task, steps)


def _train_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    if precision == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


class RateColumn(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        """The recent rate, or nothing before there is one."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


def _progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        RateColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console,
        refresh_per_second=2,
    )
