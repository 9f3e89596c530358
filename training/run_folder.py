"""The folder of one training run: what went in, what was measured, what came out.

settings.json     the resolved settings, without secrets, and a digest of them and the data
metrics.jsonl     one line a measurement: step, pairs seen, numbers
events.out...     the same for TensorBoard
bad_rows.jsonl    rows that were skipped, and why
unfinished/       best/, last/ and state/ of a run that goes on or was stopped, and its id at Weights & Biases
before.npz, after.npz   what the report shows of the model before and after
report.html       the report
best/, last/      checkpoint directories of the finished run
finished.json     written last: the digest, and the best measurement
"""

import hashlib
import json
import logging
import math
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from anykey.program.files import replace_file, replace_folder
from anykey.sources.pairs import source_states, without_secrets
from anykey.training.choices import Loss
from anykey.training.claim import Claim
from anykey.training.errors import InvalidRecipeError
from anykey.training.settings import TrainSettings
from anykey.training.table import BadRow
from anykey.training.trackers import TensorBoardTracker, Tracker, WandbTracker
from anykey.training.validation import HeldOut

if TYPE_CHECKING:
    from anykey.training.report import About, Snapshot

logger = logging.getLogger(__name__)

UNFINISHED = "unfinished"
MANIFEST = "encoder.json"  # in a checkpoint directory of any family
WANDB_ID = "wandb_id.txt"
SETTINGS, FINISHED = "settings.json", "finished.json"
_LOGS = ("metrics.jsonl", "before.npz", "after.npz", "report.html")  # of a run that starts over, these go
_EVENTS = "events.out.tfevents.*"
_OWN = (*_LOGS, _EVENTS, FINISHED, "bad_rows.jsonl", "best", "last", UNFINISHED)
# What may change without changing the result.
_IRRELEVANT = {
    "config",
    "output",
    "workers",
    "worker_timeout_s",
    "cache_images_bytes",
    "feature_cache",
    "data_cache",
    "max_data_cache_bytes",
    "max_feature_cache_bytes",
    "save_every_steps",
    "wandb_project",
    "overwrite",
    "report",
}
# Settings that came after the first release: a run that leaves them alone is the one it was before.
_LATER: dict[str, Any] = {
    "columns": [],
    "family": None,
    "text_model": None,
    "max_text_tokens": None,
    "clip_weight": 0.0,
    "pairwise_weight": 0.0,
    "separation_encoder": None,
    "covariance_weight": 0.0,
    "hardness": 0.0,
    "temperature_per_modality": False,
}
_FORMER_DEFAULTS: dict[str, Any] = {"separation_weight": 0.5}  # what was written where now nothing is


class RunFolder:
    """Writes a run's files; use as a context manager, so that the event file is closed.

    Of several processes the main one writes; the others' calls do nothing.
    """

    def __init__(self, path: Path, settings: TrainSettings, digest: str, is_main: bool = True) -> None:
        """Opens the folder: a stopped run with the same digest goes on, another is started over.

        The last finished run's checkpoints stay until this one ends.

        Raises:
            InvalidRecipeError: another process is writing there.
            OSError: the folder cannot be written.
        """
        self.path = path
        self._settings = settings
        self._digest = digest
        self._is_main = is_main
        self._trackers: list[Tracker] = []
        self._first_step = 0
        self._claim = Claim(path) if is_main else None
        if self._claim is not None:
            try:
                self._prepare()
            except BaseException:
                self._claim.release()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tracker in self._trackers:
            tracker.close()
        if self._claim is not None:
            self._claim.release()

    @property
    def states(self) -> Path:
        """Where the run keeps the states it can go on from."""
        return self.path / UNFINISHED / "state"

    @property
    def metrics(self) -> Path:
        """The log of all that was measured."""
        return self.path / "metrics.jsonl"

    def go_on(self, step: int, bad_rows: Iterable[BadRow]) -> None:
        """Takes back what was logged after `step`, and lists the rows found bad until then."""
        self._first_step = step + 1
        self.log_bad_rows(bad_rows)
        if not self._is_main:
            return
        kept = [line for line in _whole_lines(self.metrics) if json.loads(line)["step"] <= step]
        replace_file(self.metrics, "".join(kept).encode())

    def log(self, step: int, num_pairs: int, numbers: Mapping[str, float]) -> None:
        """Appends one measurement to `metrics.jsonl`, TensorBoard and, if wanted, Weights & Biases.

        JSON has no word for infinity, which is the gradient norm of a float16 step that is left out.
        """
        if not self._is_main:
            return
        for tracker in self._trackers or self._open_trackers():
            tracker.log(step, numbers)
        finite = {name: number for name, number in numbers.items() if math.isfinite(number)}
        with self.metrics.open("a") as file:
            file.write(json.dumps({"step": step, "pairs": num_pairs, **finite}) + "\n")

    def log_bad_rows(self, rows: Iterable[BadRow]) -> None:
        """Appends skipped rows to `bad_rows.jsonl`."""
        lines = [json.dumps(asdict(row)) + "\n" for row in rows]
        if lines and self._is_main:
            with (self.path / "bad_rows.jsonl").open("a") as file:
                file.writelines(lines)

    def tracking_id(self) -> str:
        """What the run is called at Weights & Biases from its start to its end, whoever goes on with it.

        It is drawn: nothing else tells two runs with equal settings apart.
        """
        path = self.path / UNFINISHED / WANDB_ID
        if not path.is_file() or not path.read_text():  # empty: a crash came between
            path.parent.mkdir(exist_ok=True)
            path.write_text(secrets.token_hex(8))
        return path.read_text()

    def checkpoint_dir(self, name: str) -> Path:
        """Where the run keeps its checkpoint of this name until it is finished."""
        return self.path / UNFINISHED / name

    def save_snapshot(self, name: str, held_out: HeldOut) -> None:
        """Keeps what the report shows of the model `before` or `after` training."""
        from anykey.training.report import Snapshot

        if self._is_main:
            Snapshot.of(held_out).save(self.path / f"{name}.npz")

    def snapshots(self) -> list["Snapshot"]:
        """What was kept of the model before and after training, as far as it was."""
        return [kept for kept in map(self._snapshot, ("before", "after")) if kept is not None]

    def place_checkpoints(self) -> None:
        """Puts the checkpoints of a run that has ended in place of an earlier run's.

        Raises:
            OSError: a rename failed; the earlier run's checkpoint is where it was.
        """
        for name in ("last", "best") if self._is_main else ():
            aside = self.checkpoint_dir(name)
            if aside.is_dir():  # else it is in place already, in this process or in one that was stopped
                replace_folder(aside, self.path / name)

    def finish(self, best: Mapping[str, Any], about: "About | None" = None) -> None:
        """Puts the checkpoints in an earlier run's place, writes the report if wanted, and marks the run as finished.

        Args:
            best: The best measurement: `step` and the numbers.
            about: What the report says of the run beside what is in its folder.

        Raises:
            OSError: a rename failed; the earlier run's checkpoint is where it was.
        """
        if not self._is_main:
            return
        self.place_checkpoints()  # before the report: what it may fail of takes no checkpoint with it
        if self._settings.report:
            self._write_report(best, about)
        replace_file(self.path / FINISHED, json.dumps({"digest": self._digest, **best}, indent=2).encode() + b"\n")
        shutil.rmtree(self.path / UNFINISHED, ignore_errors=True)  # last: until here a stopped run could go on

    def _prepare(self) -> None:
        (self.path / FINISHED).unlink(missing_ok=True)
        (self.path / "bad_rows.jsonl").unlink(missing_ok=True)
        if not (self.states.is_dir() and _settings_there(self.path).get("digest") == self._digest):
            self._start_over()
        resolved = {"digest": self._digest, "settings": publishable(self._settings)}
        replace_file(self.path / SETTINGS, json.dumps(resolved, indent=2).encode() + b"\n")

    def _start_over(self) -> None:
        shutil.rmtree(self.path / UNFINISHED, ignore_errors=True)
        for name in _LOGS:
            (self.path / name).unlink(missing_ok=True)
        for events in self.path.glob(_EVENTS):
            events.unlink()

    def _open_trackers(self) -> list[Tracker]:
        """Opens them with the first number, when it is known from which step the run goes on."""
        self._trackers = [TensorBoardTracker(self.path, self._first_step or None)]
        if self._settings.wandb_project is not None:
            settings = publishable(self._settings)
            self._trackers.append(
                WandbTracker(self._settings.wandb_project, self.path.name, settings, self.tracking_id(), self.path)
            )
        return self._trackers

    def _write_report(self, best: Mapping[str, Any], about: "About | None") -> None:
        from anykey.training.report import About, write_report  # loads matplotlib

        about = about or About(settings=publishable(self._settings))
        write_report(
            self.path / "report.html",
            str(self.path),
            replace(about, facts={**about.facts, **self._facts(best)}),
            self.metrics,
            self._snapshot("before"),
            self._snapshot("after"),
        )

    def _facts(self, best: Mapping[str, Any]) -> dict[str, str]:
        done, num_bad = effort(self.path), self._num_bad_rows()
        return {
            "best step": str(best["step"]),
            "pairs seen": f"{done.num_pairs:,}",
            "training steps": f"{done.minutes:.1f} minutes, measuring and saving left out",
            "bad rows": f"{num_bad:,}, listed in bad_rows.jsonl" if num_bad else "none",
        }

    def _snapshot(self, name: str) -> "Snapshot | None":
        from anykey.training.report import Snapshot

        path = self.path / f"{name}.npz"
        try:
            return Snapshot.load(path) if path.is_file() else None
        except OSError as error:  # a damaged one must not keep the run from ending
            logger.warning("the report leaves out what was measured %s training: %s", name, error)
            return None

    def _num_bad_rows(self) -> int:
        return len(_whole_lines(self.path / "bad_rows.jsonl"))


def _whole_lines(path: Path) -> list[str]:
    """A log's lines, without one that a crash cut short."""
    if not path.is_file():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


@dataclass(frozen=True)
class Effort:
    """What a run's training steps took.

    Attributes:
        num_pairs: Pairs in all its batches; one that came in two epochs counts twice.
        minutes: Time of the steps and of waiting for their batches; measuring and saving is left out.
    """

    num_pairs: int
    minutes: float


def effort(path: Path) -> Effort:
    """What the run in this folder took, from the rates that it logged."""
    lines = [json.loads(line) for line in _whole_lines(path / "metrics.jsonl")]
    num_pairs, seconds = 0, 0.0
    for line in lines:
        if "train/pairs_per_s" in line:
            seconds += (line["pairs"] - num_pairs) / line["train/pairs_per_s"]
            num_pairs = line["pairs"]
    return Effort(num_pairs, seconds / 60)


def publishable(settings: TrainSettings) -> dict[str, Any]:
    """The resolved settings, as JSON has them, without the secrets in the names of data."""
    values = settings.model_dump(mode="json")
    return {**values, **{name: [without_secrets(entry) for entry in values[name]] for name in ("data", "val_data")}}


def run_digest(settings: TrainSettings) -> str:
    """Digest of everything a run's result depends on: settings, and the named files' sizes and times.

    Raises:
        SourceError: the data named are not there.
    """
    values = settings.model_dump(mode="json")
    if settings.clip_weight is None and settings.loss is not Loss.GCL:  # no weight, as before there was one
        values["clip_weight"] = 0.0
    relevant = {
        name: _FORMER_DEFAULTS.get(name) if value is None else value
        for name, value in values.items()
        if name not in _IRRELEVANT and (name not in _LATER or value != _LATER[name])
    }
    digest = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode())
    for line in source_states([*settings.data, *settings.val_data], settings.data_cache):
        digest.update(line.encode())
    for path in _start_files(settings):
        stat = path.stat()
        digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()


def _start_files(settings: TrainSettings) -> list[Path]:
    """The files a run starts from: a checkpoint trained anew under the same name is another start."""
    named = [Path(settings.architecture)]
    if settings.image_weights is not None:
        named.append(settings.image_weights)
    if settings.text_model is not None:
        named += sorted(settings.text_model.glob("*"))
    if settings.separation_encoder is not None:
        named += sorted(Path(settings.separation_encoder).rglob("*"))
    if settings.start is not None:
        named += [*sorted(Path(settings.start).glob("*")), Path(settings.start.rpartition("@")[2])]
    return [path for path in named if path.is_file()]


def refuse_another_run(path: Path, settings: TrainSettings, digest: str) -> None:
    """Refuses a folder with another run in it, finished or stopped: to drop it is for the user to say.

    Raises:
        InvalidRecipeError: there is one, and the settings do not say that it may be overwritten; or files that no
            run wrote are where its own would go.
    """
    is_stopped, is_finished = (path / UNFINISHED / "state").is_dir(), (path / FINISHED).is_file()
    there = _settings_there(path)
    foreign = [] if there else [found.name for name in (SETTINGS, *_OWN) for found in sorted(path.glob(name))]
    if foreign:
        raise InvalidRecipeError(
            f"{path} holds {', '.join(foreign)}, and no {SETTINGS} with a digest as a run's folder does: they would be "
            "lost, choose another --output"
        )
    if settings.overwrite or there.get("digest") == digest or not (is_stopped or is_finished):
        return
    before, now = there.get("settings", {}), publishable(settings)
    differing = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    relevant = ", ".join(name for name in differing if name not in _IRRELEVANT)
    what = f"with other settings ({relevant})" if relevant else "whose data or start have changed since"
    raise InvalidRecipeError(
        f"{path} holds a {'stopped' if is_stopped else 'finished'} run {what}: "
        "choose another --output, or drop that run with --overwrite"
    )


def _settings_there(path: Path) -> dict[str, Any]:
    """What a run's `settings.json` holds; nothing where there is none that can be read, or another program's."""
    try:
        found = json.loads((path / SETTINGS).read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    is_ours = isinstance(found.get("digest"), str) and isinstance(found.get("settings"), dict)
    return found if is_ours else {}


def finished_run(path: Path, digest: str) -> dict[str, Any] | None:
    """What a finished run with this digest reported, or `None` when the folder holds no such run."""
    try:
        report = json.loads((path / FINISHED).read_text())
    except (OSError, ValueError):
        return None
    complete = (path / "best" / MANIFEST).is_file()
    return report if complete and isinstance(report, dict) and report.get("digest") == digest else None
