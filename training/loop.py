"""The training loop: batches, steps, measurements, checkpoints, and states to go on from.

Shape legend: I = images, S = texts, D = width.
"""

import math
import platform
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from anykey.program.machine import release
from anykey.program.progress import Display
from anykey.sources.errors import NoPairsError
from anykey.sources.pairs import without_secrets
from anykey.training.augmentation import Augmentation
from anykey.training.batches import Batch, DrawnPairs, EpochDraws, Sampling, make_loader
from anykey.training.data import RunData
from anykey.training.distributed import Processes
from anykey.training.errors import WorkerError
from anykey.training.family import Family
from anykey.training.gaps import measure_calibrated
from anykey.training.objective import Objective
from anykey.training.resume import load_state, save_state
from anykey.training.run_folder import RunFolder
from anykey.training.settings import DataSettings, TrainSettings
from anykey.training.steps import StepNumbers, Stepper, diverged
from anykey.training.table import BadRow, check_bad_share
from anykey.training.validation import (
    HIGH_END,
    LOW_END,
    SELECTION_METRIC,
    HeldOut,
    choosing_pairs,
    embed_held_out,
    measure,
)

_LOG_EVERY_STEPS = 10
_NUM_PAIRS = "num_pairs"  # held out, among the numbers of the best measurement
_CHOSEN_BY = "chosen_by"  # the score of the pairs that choose, among the numbers of the best measurement


@dataclass
class _Place:
    """Where the loop is."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    num_pairs: int = 0
    bad_rows: list[dict[str, str]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)


class Loop:
    """Steps, measurements and checkpoints of one run."""

    def __init__(
        self,
        settings: TrainSettings,
        family: Family,
        data: RunData,
        folder: RunFolder,
        progress: Display,
        processes: Processes,
    ) -> None:
        self._settings = settings
        self._family = family
        self._data = data
        self._folder = folder
        self._progress = progress
        self._processes = processes
        self._state_processes = processes if family.is_sharded else Processes()
        self._at = _Place()
        self._draws = EpochDraws(
            data.train, _sampling(settings, settings.batch_size, settings.seed), processes.rank, processes.count
        )
        augmentation = _augmentation(settings, family.image_input.size_px)
        pairs = DrawnPairs(data.train, data.train_features, settings.positives, augmentation)
        pin_memory = family.device.type == "cuda"
        self._loader = make_loader(self._draws, pairs, settings.workers, pin_memory, settings.worker_timeout_s)
        self._num_steps = max(1, round(settings.num_epochs * len(self._draws)))
        self._val_steps = max(1, round(settings.val_every_epochs * len(self._draws)))
        has_queries = bool(data.train.has_query_P.any())
        fusion = family.description.fusion
        objective = Objective(settings, family.log_scale, family.bias, has_queries, data.meanings_SW, fusion)
        self._stepper = Stepper(
            settings,
            family,
            objective,
            self._num_steps,
            self._draws.batch_size,
            processes,
            settings.seed,
            settings.drop_tokens,
        )
        self._choosing_P = None if data.val is None else choosing_pairs(data.val)
        if self._draws.batch_size < settings.batch_size:
            progress.print(f"--batch-size {settings.batch_size}: a pass has {self._draws.batch_size} pairs, one batch")

    @property
    def batch_size(self) -> int:
        """Pairs in a batch, over all processes."""
        return self._draws.batch_size

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self._num_steps

    @property
    def measured_at(self) -> list[int]:
        """The steps after which the held-out pairs are measured."""
        return sorted({*range(self._val_steps, self._num_steps, self._val_steps), self._num_steps})

    @property
    def num_choosing(self) -> int | None:
        """Held-out pairs whose queries choose `best`; `None` where all choose, as there are few."""
        return None if self._choosing_P is None else int(self._choosing_P.sum())

    def run(self) -> dict[str, Any]:
        """Trains to the end, from the saved state if there is one; gives the best measurement back."""
        if not self._go_on():
            self._measure(is_first=True)
        advance = self._progress.begin("train", self._num_steps, self._at.step)
        began, num_before = monotonic(), self._at.num_pairs  # of the steps since the last line of the log
        for batch, num_pairs in self._batches():
            numbers = self._stepper.step(batch, self._at.step)
            self._at.step += 1
            self._at.num_pairs += num_pairs
            is_last = self._at.step == self._num_steps
            if self._at.step % _LOG_EVERY_STEPS == 0 or is_last:
                self._log(numbers, (self._at.num_pairs - num_before) / (monotonic() - began))
                began, num_before = monotonic(), self._at.num_pairs
            advance(facts=numbers.in_short())
            paused = monotonic()
            if self._at.step % self._val_steps == 0 or is_last:
                self._measure()
                self._save_state()
            elif self._at.step % self._settings.save_every_steps == 0:
                self._save_state()
            began += monotonic() - paused
        return self._at.best

    def _go_on(self) -> bool:
        """Goes back to the saved state; gives whether there was one."""
        state = load_state(self._folder.states, self._state_processes)
        if state is None:
            return False
        self._at = _Place(**state["place"])
        self._stepper.load_state_dict(state["stepper"])
        self._folder.go_on(self._at.step, [BadRow(**row) for row in self._at.bad_rows])
        self._progress.print(f"goes on from step {self._at.step} of {self._num_steps}")
        return True

    def _save_state(self) -> None:
        """Saves where the run is; of whole weights, one process does it for all."""
        if self._family.is_sharded or self._processes.is_main:
            state = {"place": asdict(self._at), "stepper": self._stepper.state_dict()}
            save_state(self._folder.states, self._at.step, state, self._state_processes)
        self._processes.wait()

    def _batches(self) -> Iterator[tuple[Batch, int]]:
        """This process's share of as many batches as the steps need, and the pairs in each over all processes."""
        while self._at.step < self._num_steps:
            first_step = self._at.step
            self._draws.epoch, self._draws.first_batch = self._at.epoch, self._at.batch
            for batch in self._load():
                self._at.batch += 1
                num_bad = self._processes.sum(len(batch.bad_rows), self._family.device)
                if num_bad:
                    self._count_bad(self._processes.collect(batch.bad_rows))
                num_pairs = int(self._processes.sum(batch.num_pairs, self._family.device))
                if num_pairs >= 2:
                    yield batch, num_pairs
                if self._at.step >= self._num_steps:
                    return
            if self._at.step == first_step and self._draws.first_batch == 0:
                raise NoPairsError("no batch has two readable images left, see bad_rows.jsonl")
            self._at.epoch, self._at.batch = self._at.epoch + 1, 0

    def _load(self) -> Iterator[Batch]:
        """One epoch's batches; a worker that died or hangs ends the run with its reason."""
        batches = iter(self._loader)
        while True:
            try:
                batch: Batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if "DataLoader" not in str(error):
                    raise
                raise WorkerError(
                    f"reading images failed: {error}. Try fewer --workers, or a longer --worker-timeout-s"
                ) from error
            yield batch

    def _count_bad(self, bad_rows: Sequence[BadRow]) -> None:
        """Lists rows that turned out bad in this batch, each once, and stops the run when there are too many."""
        known = {row["where"] for row in self._at.bad_rows}
        new = {row.where: row for row in bad_rows if row.where not in known}
        if new:
            self._folder.log_bad_rows(new.values())
            self._at.bad_rows += [asdict(row) for row in new.values()]
            rows = [BadRow(**row) for row in self._at.bad_rows]
            check_bad_share(rows, len(self._data.train), self._settings.max_bad_share)

    def _log(self, numbers: StepNumbers, pairs_per_s: float) -> None:
        facts = {**numbers.by_name(), "train/pairs_per_s": pairs_per_s}
        self._folder.log(self._at.step, self._at.num_pairs, facts)

    def _measure(self, is_first: bool = False) -> None:
        """Measures on the held-out pairs and saves `last`, and `best` when it is."""
        average = self._stepper.average
        with nullcontext() if average is None else average.swapped():
            numbers: dict[str, float] = {}
            held_out = None
            if self._data.val is not None:
                held_out = embed_held_out(self._family, self._data.val, self._data.val_features)
                numbers = measure(held_out) | measure_calibrated(held_out)
                self._folder.log(self._at.step, self._at.num_pairs, {f"val/{name}": n for name, n in numbers.items()})
                self._show(numbers)
            weights = self._family.weights()
            self._save("last", numbers, weights)
            if held_out is not None:
                numbers |= {_CHOSEN_BY: self._score(held_out, numbers), _NUM_PAIRS: float(len(held_out.has_second_P))}
            if not numbers or numbers[_CHOSEN_BY] >= self._best_score():
                numbers |= {} if held_out is None else self._sure(held_out)
                self._at.best = {"step": self._at.step, **numbers}
                self._save("best", numbers, weights)
                if held_out is not None:
                    reported = held_out if self._choosing_P is None else held_out.asking(~self._choosing_P)
                    self._folder.save_snapshot("before" if is_first else "after", reported)

    def _score(self, held_out: HeldOut, numbers: dict[str, float]) -> float:
        """What chooses `best`."""
        if self._choosing_P is None:
            return numbers[SELECTION_METRIC]
        return measure(held_out.asking(self._choosing_P))[SELECTION_METRIC]

    def _sure(self, held_out: HeldOut) -> dict[str, float]:
        """Ends of the interval of the score that is reported of `best`."""
        from anykey.training.report import range_of_selection  # loads matplotlib

        own = range_of_selection(held_out)
        return {LOW_END: own.low, HIGH_END: own.high}

    def _best_score(self) -> float:
        """The best until now; a state that an earlier release saved has that of all queries."""
        return float(self._at.best.get(_CHOSEN_BY, self._at.best.get(SELECTION_METRIC, -math.inf)))

    def _show(self, numbers: dict[str, float]) -> None:
        self._progress.print(
            f"step {self._at.step:>6}  held-out success@10: "
            f"t>i {numbers['local/t>i/success@10']:.3f}  i>t {numbers['local/i>t/success@10']:.3f}  "
            f"local mean {numbers['local/mean/success@10']:.3f}  mixed mean {numbers[SELECTION_METRIC]:.3f}  "
            f"gap i-t {numbers['gap/i-t']:.2f}"
        )

    def _save(self, name: str, numbers: dict[str, float], weights: dict[str, Tensor]) -> None:
        if not self._processes.is_main:
            return
        if not all(tensor.isfinite().all() for tensor in weights.values()):
            raise diverged("weights are no longer finite numbers", self._at.step, self._settings.learning_rate)
        provenance = {
            **self._family.description.provenance,
            "made_by": f"anykey {release()}",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "data": [without_secrets(name) for name in self._settings.data],
            "loss": self._settings.loss,
            "reading": self._settings.reading,
            "step": self._at.step,
            "num_steps": self._num_steps,
            "held_out": {key: round(value, 4) for key, value in numbers.items()},
        }
        self._family.save(self._folder.checkpoint_dir(name), weights, provenance)


def _sampling(settings: DataSettings, batch_size: int, seed: int) -> Sampling:
    return Sampling(
        batch_size=batch_size,
        seed=seed,
        mirror=settings.mirror_images,
        captions=settings.caption_sampling,
        num_negatives=settings.hard_negatives,
        weights=tuple(settings.data_weights),
    )


def _augmentation(settings: DataSettings, size_px: tuple[int, int]) -> Augmentation | None:
    if not settings.changes_pixels:
        return None
    return Augmentation(size_px, settings.min_crop, settings.color_jitter, settings.gray_share)
