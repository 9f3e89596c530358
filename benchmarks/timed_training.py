"""Runs one trainer in this process and writes down how long its steps took and how much memory it needed.

Both trainers are timed by the same instrument, torch's hook behind every optimizer step:
`python -m benchmarks.timed_training open_clip report.json --steps 2 10 -- --model ViT-B-32 ...`
"""

import argparse
import json
import platform
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook


class StepClock:
    """The time from the end of one optimizer step to the end of a later one.

    Attributes:
        seconds: That time; `None` until the later step has ended.
        peak_bytes: The most memory that the process (on a GPU: torch) held until then.
    """

    def __init__(self, first: int, last: int) -> None:
        """Sets the clock.

        Args:
            first: The step whose end starts it, from 1: those before warm up.
            last: The step whose end stops it.
        """
        self.seconds: float | None = None
        self.peak_bytes = 0
        self._first, self._last = first, last
        self._num_steps = 0
        self._began = 0.0

    def __call__(self, *step: Any) -> None:
        """Notes the end of a step."""
        self._num_steps += 1
        if self._num_steps not in (self._first, self._last):
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if self._num_steps == self._first:
            self._began = monotonic()
        else:
            self.seconds = monotonic() - self._began
            self.peak_bytes = _peak_bytes()


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _trainer(name: str) -> Callable[[list[str]], Any]:
    if name == "anykey":
        from anykey.training.__main__ import main as anykey_main

        return anykey_main
    from open_clip_train.main import main as open_clip_main  # needs pandas, which its wheel does not ask for

    return open_clip_main


def main() -> int:
    """Runs the trainer with the flags behind `--`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("trainer", choices=["anykey", "open_clip"])
    parser.add_argument("report", type=Path)
    parser.add_argument("--steps", type=int, nargs=2, required=True, help="clock from the end of one to the other's")
    own, flags = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    arguments = parser.parse_args(own)
    clock = StepClock(*arguments.steps)
    register_optimizer_step_post_hook(clock)
    code = _trainer(arguments.trainer)(flags)
    arguments.report.write_text(json.dumps({"seconds": clock.seconds, "peak_bytes": clock.peak_bytes}))
    return int(code or 0)


if __name__ == "__main__":
    sys.exit(main())
