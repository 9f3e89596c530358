"""The folder of one training run: what went in, what was measured, what came out.

settings.json     the resolved settings, and a digest of them and the data
metrics.jsonl     one line a measurement: step, pairs seen, numbers
events.out...     the same for TensorBoard
bad_rows.jsonl    rows that were skipped, and why
unfinished/       best/ and last/ of a run that goes on or was stopped
best/, last/      checkpoint directories of the finished run
finished.json     written last: the digest, and the best measurement
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from encoder.checkpoint import replace_directory
from training.settings import TrainSettings
from training.table import BadRow

UNFINISHED = "unfinished"
# What may change without changing the result.
_IRRELEVANT = {"config", "output", "num_workers", "cache_images_bytes", "feature_cache"}


class RunFolder:
    """Writes a run's files; use as a context manager, so that the event file is closed."""

    def __init__(self, path: Path, settings: TrainSettings, digest: str) -> None:
        """Starts the folder over: the logs begin anew; the last finished run's checkpoints stay until this one ends.

        Raises:
            OSError: the folder cannot be written.
        """
        self.path = path
        self._digest = digest
        path.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(path / UNFINISHED, ignore_errors=True)
        for stale in (path / "finished.json", path / "metrics.jsonl", path / "bad_rows.jsonl"):
            stale.unlink(missing_ok=True)
        for events in path.glob("events.out.tfevents.*"):
            events.unlink()
        self._writer = SummaryWriter(log_dir=str(path))
        resolved = {"digest": digest, "settings": settings.model_dump(mode="json")}
        (path / "settings.json").write_text(json.dumps(resolved, indent=2) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def log(self, step: int, num_pairs: int, numbers: Mapping[str, float]) -> None:
        """Appends one measurement to `metrics.jsonl` and TensorBoard."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "pairs": num_pairs, **numbers}) + "\n")

    def log_bad_rows(self, rows: Iterable[BadRow]) -> None:
        """Appends skipped rows to `bad_rows.jsonl`."""
        lines = [json.dumps(asdict(row)) + "\n" for row in rows]
        if lines:
            with (self.path / "bad_rows.jsonl").open("a") as file:
                file.writelines(lines)

    def checkpoint_dir(self, name: str) -> Path:
        """Where the run keeps its checkpoint of this name until it is finished."""
        return self.path / UNFINISHED / name

    def finish(self, best: Mapping[str, Any]) -> None:
        """Puts the checkpoints in place of an earlier run's and marks the run as finished.

        Raises:
            OSError: a rename failed; the earlier run's checkpoint is where it was.
        """
        for aside in sorted((self.path / UNFINISHED).iterdir()):
            replace_directory(aside, self.path / aside.name)
        (self.path / UNFINISHED).rmdir()
        (self.path / "finished.json").write_text(json.dumps({"digest": self._digest, **best}, indent=2) + "\n")


def run_digest(settings: TrainSettings, data_files: Iterable[Path]) -> str:
    """Digest of everything a run's result depends on: settings, and the named files' sizes and times."""
    relevant = {name: value for name, value in settings.model_dump(mode="json").items() if name not in _IRRELEVANT}
    digest = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode())
    for path in [*data_files, *_start_files(settings)]:
        stat = path.stat()
        digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()


def _start_files(settings: TrainSettings) -> list[Path]:
    """The files a run starts from: a checkpoint trained anew under the same name is another start."""
    named = [Path(settings.architecture)]
    if settings.image_weights is not None:
        named.append(settings.image_weights)
    if settings.start is not None:
        named += [*sorted(Path(settings.start).glob("*")), Path(settings.start.rpartition("@")[2])]
    return [path for path in named if path.is_file()]


def finished_run(path: Path, digest: str) -> dict[str, Any] | None:
    """What a finished run with this digest reported, or `None` when the folder holds no such run."""
    try:
        report = json.loads((path / "finished.json").read_text())
    except (OSError, ValueError):
        return None
    complete = (path / "best" / "encoder.json").is_file()
    return report if complete and isinstance(report, dict) and report.get("digest") == digest else None
