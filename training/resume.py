"""Where a run is, on disk: written aside, renamed when whole, and checked before it is used.

unfinished/state/step-000000120/   rank-0.pt and, of several processes, rank-1.pt ...; sums.json: their digests

The last two are kept, so that a damaged one leaves another.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from anykey.program.files import sync
from anykey.training.distributed import Processes
from anykey.training.errors import DamagedStateError

_KEPT = 2
_SUMS = "sums.json"


def save_state(folder: Path, step: int, state: dict[str, Any], processes: Processes) -> None:
    """Saves the state after `step`; every process its own. What was saved before stays until this one is whole.

    Args:
        folder: Where states are kept.
        step: Steps done.
        state: Tensors, numbers, texts, and lists and dicts of them.
        processes: The processes.

    Raises:
        OSError: the disk is full or not writable; the states there before stay usable.
    """
    aside = folder / ".new"
    if processes.is_main:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    processes.wait()
    try:
        name = f"rank-{processes.rank}.pt"
        digest = _write(aside / name, state)
        (aside / f"{name}.sum").write_text(digest)
        processes.wait()
        if processes.is_main:
            _publish(aside, folder, step, processes.count)
    finally:
        if processes.is_main:
            shutil.rmtree(aside, ignore_errors=True)
    processes.wait()


def load_state(folder: Path, processes: Processes) -> dict[str, Any] | None:
    """The newest saved state, or `None` where there is none.

    Raises:
        DamagedStateError: its files are damaged, or of another number of processes; the message says what to do.
    """
    saved = _saved(folder)
    if not saved:
        return None
    newest = saved[-1]
    path = newest / f"rank-{processes.rank}.pt"
    before = f"remove it to go on from {saved[-2].name}" if len(saved) > 1 else f"remove {folder} to start over"
    try:
        sums = json.loads((newest / _SUMS).read_text())
        if len(sums) != processes.count:
            raise DamagedStateError(
                f"{newest} was saved by {len(sums)} processes and cannot be continued by {processes.count}: "
                f"use as many, or remove {folder} to start over"
            )
        if sums[path.name] != _digest(path):
            raise ValueError("its content changed since it was written")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DamagedStateError(f"{path} is damaged ({error}): {newest.name} cannot be used, {before}") from error
    return state


def _write(path: Path, state: dict[str, Any]) -> str:
    """Writes one file to the disk; gives its digest."""
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's word for a write that failed
            raise OSError(f"cannot write {path}: {error}") from error
    sync(path)
    return _digest(path)


def _publish(aside: Path, folder: Path, step: int, count: int) -> None:
    sums = {}
    for rank in range(count):
        sum_file = aside / f"rank-{rank}.pt.sum"
        sums[f"rank-{rank}.pt"] = sum_file.read_text()
        sum_file.unlink()
    (aside / _SUMS).write_text(json.dumps(sums))
    final = folder / f"step-{step:09d}"
    shutil.rmtree(final, ignore_errors=True)
    aside.replace(final)
    for old in _saved(folder)[:-_KEPT]:
        shutil.rmtree(old)


def _saved(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
