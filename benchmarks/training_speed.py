"""Measures our trainer against open_clip's on this machine: `python -m benchmarks.training_speed --help`.

Both train the same architecture from random weights on synthetic pairs, one process each, one after the other, in
changing order. Ours compares all three modalities, theirs two. What they wait for their data is left out of their
time, so that only the training is compared; ours has its images decoded beforehand and pays for the rest.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console

from anykey.encoder.towers.architecture import preprocessing, read_architecture
from anykey.program.settings import plain_console
from benchmarks.loss_time import anykey_loss_seconds, open_clip_loss_seconds
from benchmarks.speed_report import Measured, Run, write_report
from benchmarks.synthetic_pairs import Captions, write_pairs

BATCHES = 4  # different ones; epochs repeat them
OPEN_CLIP_PRECISION = {"fp32": "fp32", "bf16": "amp_bf16"}
LATER = "1000000"  # never within a measurement


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        architecture: open_clip's name of it.
        batch_size: Pairs in a step.
        warmup_steps: Steps before the clock starts.
        steps: Steps that are timed.
        rounds: How often all trainers run.
        device: cpu or cuda.
        precision: fp32 or bf16.
        threads: torch's, on the CPU.
    """

    architecture: str
    batch_size: int
    warmup_steps: int
    steps: int
    rounds: int
    device: str
    precision: str
    threads: int

    @property
    def num_steps(self) -> int:
        """All steps of a run."""
        return self.warmup_steps + self.steps


def main() -> int:
    """Measures, shows and writes the report."""
    arguments = _parser().parse_args()
    plan = Plan(
        arguments.architecture,
        arguments.batch_size,
        arguments.warmup_steps,
        arguments.steps,
        arguments.pairs_of_runs,
        arguments.device,
        arguments.precision,
        arguments.threads,
    )
    console = plain_console()
    with tempfile.TemporaryDirectory() as folder:
        runs = measure(plan, Path(folder), console)
    step_seconds = median(plan.batch_size / run.pairs_per_s for run in runs if run.captions == "full")
    peer_seconds = median(plan.batch_size / run.pairs_per_s for run in runs if run.trainer == "open_clip")
    width = read_architecture(plan.architecture).width
    measured = Measured(
        vars(plan),
        runs,
        anykey_loss_seconds(plan.batch_size, width, plan.device, plan.threads) / step_seconds,
        open_clip_loss_seconds(plan.batch_size, width, plan.device, plan.threads) / peer_seconds,
    )
    write_report(arguments.output, measured)
    console.print(f"{arguments.output} is written")
    return 0


def measure(plan: Plan, folder: Path, console: Console) -> list[Run]:
    """All rounds of all trainers; every other round in reverse order."""
    size_px = preprocessing(read_architecture(plan.architecture)).size
    assert isinstance(size_px, int)
    shards: dict[Captions, Path] = {
        captions: write_pairs(folder / f"{captions}.tar", BATCHES * plan.batch_size, captions, size_px)
        for captions in ("full", "natural")
    }
    runs: list[Run] = []
    for number in range(plan.rounds):
        order: list[Captions | None] = ["full", None, "natural"]
        for captions in order if number % 2 == 0 else reversed(order):
            place = folder / f"run-{len(runs)}"
            place.mkdir()
            run = (
                run_open_clip(plan, place) if captions is None else run_anykey(plan, place, captions, shards[captions])
            )
            console.print(f"{run.trainer:<10} {run.captions:<8} {run.pairs_per_s:8.2f} pairs/s, load {run.load:.1f}")
            runs.append(run)
    return runs


def run_anykey(plan: Plan, place: Path, captions: Captions, shard: Path) -> Run:
    """One run of our trainer."""
    flags = ["--data", str(shard), "--output", str(place / "run"), "--architecture", plan.architecture]
    flags += ["--batch-size", str(plan.batch_size), "--num-epochs", str(plan.num_steps / BATCHES)]
    flags += [
        "--precision",
        plan.precision,
        "--device",
        plan.device,
        "--learning-rate",
        "1e-5",
        "--loss",
        "gcl",
        "--clip-weight",
        "0",
    ]
    flags += ["--val-every-epochs", "100000"]
    report, load = _run(plan, place, "anykey", flags)
    rate = plan.steps * plan.batch_size / report["seconds"]
    return Run("anykey", captions, rate, rate, int(report["peak_bytes"]), load)


def run_open_clip(plan: Plan, place: Path) -> Run:
    """One run of open_clip's trainer; its captions are padded to the context, whatever they say."""
    flags = ["--dataset-type", "synthetic", "--train-num-samples", str(plan.num_steps * plan.batch_size)]
    flags += ["--model", plan.architecture, "--batch-size", str(plan.batch_size), "--epochs", "1", "--workers", "0"]
    flags += ["--precision", OPEN_CLIP_PRECISION[plan.precision], "--device", plan.device, "--lr", "1e-5"]
    flags += ["--grad-clip-norm", "1.0", "--warmup", "1", "--log-every-n-steps", "1", "--logs", "none", "--name", "run"]
    report, load = _run(plan, place, "open_clip", flags)
    num_pairs = plan.steps * plan.batch_size
    log = (place / "none" / "run" / "out.log").read_text()
    waited = data_seconds(log, plan.warmup_steps, plan.num_steps)
    seconds = report["seconds"]
    return Run(
        "open_clip", "padded", num_pairs / (seconds - waited), num_pairs / seconds, int(report["peak_bytes"]), load
    )


def data_seconds(log: str, first: int, last: int) -> float:
    """What open_clip's trainer waited for data between the end of step `first` and the end of step `last`, from 1."""
    waits = [float(seconds) for seconds in re.findall(r"Data \(t\): ([\d.]+)", log)]
    assert len(waits) >= last, f"expected {last} steps in open_clip's log, found {len(waits)}"
    return sum(waits[first:last])


def _run(plan: Plan, place: Path, trainer: str, flags: list[str]) -> tuple[dict[str, float], float]:
    """Runs a trainer in a process of its own; its report and the machine's load before it."""
    load = os.getloadavg()[0]
    report = place / "report.json"
    steps = ["--steps", str(plan.warmup_steps), str(plan.num_steps)]
    command = [sys.executable, "-m", "benchmarks.timed_training", trainer, str(report), *steps, "--", *flags]
    root = Path(__file__).parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": str(plan.threads), "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{trainer} failed:\n{done.stderr[-3000:]}")
    measured = json.loads(report.read_text())
    if measured["seconds"] is None:
        raise SystemExit(f"{trainer} ended before step {plan.num_steps}")
    return measured, load


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--architecture", default="ViT-B-32", help="an open_clip name")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--warmup-steps", type=int, default=2, help="steps before the clock starts, at least 1")
    parser.add_argument("--steps", type=int, default=6, help="steps that are timed")
    parser.add_argument("--pairs-of-runs", type=int, default=3, help="how often each trainer runs")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=list(OPEN_CLIP_PRECISION))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="torch's, on the CPU")
    parser.add_argument("--output", type=Path, required=True, help="the report (Markdown)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
