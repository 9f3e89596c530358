"""The report on training speed, in Markdown."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

GOALS = {"full": 1.0, "natural": 1.25}


@dataclass(frozen=True)
class Run:
    """One run of one trainer.

    Attributes:
        trainer: anykey or open_clip.
        captions: full or natural; padded for open_clip.
        pairs_per_s: Its rate; open_clip's without what it waited for data.
        pairs_per_s_with_data: Its rate by the clock.
        peak_bytes: The most memory it held.
        load: The machine's load average before it.
    """

    trainer: str
    captions: str
    pairs_per_s: float
    pairs_per_s_with_data: float
    peak_bytes: int
    load: float


@dataclass(frozen=True)
class Measured:
    """Everything that is reported.

    Attributes:
        plan: What was measured, by name.
        runs: In the order in which they ran.
        loss_share: Our loss's share of our step, equal work.
        peer_loss_share: Their loss's share of their step.
    """

    plan: Mapping[str, Any]
    runs: Sequence[Run]
    loss_share: float
    peer_loss_share: float


def ratios(runs: Sequence[Run], captions: str) -> list[float]:
    """Our rate over open_clip's, round by round."""
    ours = [run.pairs_per_s for run in runs if run.trainer == "anykey" and run.captions == captions]
    theirs = [run.pairs_per_s for run in runs if run.trainer == "open_clip"]
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def write_report(path: Path, measured: Measured) -> None:
    """Writes the report."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([_introduction(measured), *_summary(measured), *_runs(measured.runs)]) + "\n")


_INTRODUCTION = """# Training speed

Our trainer against open_clip's (`open_clip_train`), on one machine, one after the other, written by
`python -m benchmarks.training_speed`.

- {architecture} from random weights, {precision}, {batch_size} pairs a step, AdamW, gradients clipped; {processor};
  torch {torch}, open_clip {open_clip}.
- {steps} steps are timed after {warmup_steps} to warm up, each run in a process of its own, by torch's hook behind the
  optimizer's step in both; {rounds} rounds in changing order.
- Ours minimises GCL (R2) over image, text and fused vectors; open_clip minimises CLIP's loss over two.
- *Equal work*: our captions fill the context of 77 tokens, as open_clip pads all of its. *Natural captions*: random
  words, as many as Flickr8k's captions have (12 on average), which our text tower reads without their padding.
- Our images are decoded before the run and kept. open_clip makes its synthetic ones as it goes: what it waits for them
  is left out of its time; the last column has it in.
"""


def _introduction(measured: Measured) -> str:
    on_gpu = measured.plan["device"] == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else f"{processor()}, {measured.plan['threads']} threads"
    versions = {"torch": torch.__version__, "open_clip": version("open_clip_torch")}
    return _INTRODUCTION.format(**measured.plan, **versions, processor=name)


def _summary(measured: Measured) -> list[str]:
    lines = [
        "| | ours / open_clip, median of rounds | lowest | highest | goal | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for captions, name in (("full", "equal work"), ("natural", "natural captions")):
        found = ratios(measured.runs, captions)
        verdict = "reached" if median(found) >= GOALS[captions] else "**not reached**"
        middle, low, high = median(found), min(found), max(found)
        lines.append(f"| {name} | **{middle:.2f}** | {low:.2f} | {high:.2f} | {GOALS[captions]:.2f} | {verdict} |")
    return [
        *lines,
        "",
        f"The loss, with normalisation and fusion, forward and backward, takes {measured.loss_share:.2%} of our step "
        f"(equal work); open_clip's takes {measured.peer_loss_share:.2%} of its step.",
        "",
    ]


def _runs(runs: Sequence[Run]) -> list[str]:
    lines = [
        "| run | trainer | captions | pairs/s | peak memory, GB | load before | pairs/s by the clock |",
        "|---:|---|---|---:|---:|---:|---:|",
    ]
    for number, run in enumerate(runs, 1):
        lines.append(
            f"| {number} | {run.trainer} | {run.captions} | {run.pairs_per_s:.2f} | {run.peak_bytes / 1e9:.2f} "
            f"| {run.load:.1f} | {run.pairs_per_s_with_data:.2f} |"
        )
    return lines


def processor() -> str:
    """Name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
