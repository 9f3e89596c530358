"""What a training step of two checkouts costs, measured in turns on one machine.

    python -m benchmarks.step_cost --before ../older

Both train the small model of the demo, one thread each, in a process of its own, one after the other. Processor time is
taken from the end of one optimizer step to that of a later one, so that other work on the machine matters little.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from anykey.program.settings import plain_console
from benchmarks.synthetic_pairs import write_pairs

BATCHES, BATCH_SIZE, WARMUP_STEPS, STEPS = 4, 64, 6, 30
# A program of its own, that imports nothing of this checkout before the other's path comes first.
PROGRAM = """
import importlib, sys
from time import process_time
from torch.optim.optimizer import register_optimizer_step_post_hook

source, module, first, last, *arguments = sys.argv[1:]
sys.path.insert(0, source)
times_s = []
register_optimizer_step_post_hook(lambda *_: times_s.append(process_time()))
assert importlib.import_module(module).main(arguments) == 0
sys.stdout.write(f"\\nSTEPS TOOK {times_s[int(last) - 1] - times_s[int(first) - 1]}\\n")
"""


def measure(checkout: Path, shard: Path, output: Path) -> float:
    """Processor seconds of a checkout's `STEPS` steps."""
    is_part_of_anykey = (checkout / "src" / "anykey").is_dir()
    source, module = (checkout / "src", "anykey.training") if is_part_of_anykey else (checkout, "training")
    num_epochs = (WARMUP_STEPS + STEPS) / BATCHES
    clock = [str(source), f"{module}.__main__", str(WARMUP_STEPS), str(WARMUP_STEPS + STEPS)]
    flags = ["--data", str(shard), "--output", str(output), "--architecture", "anykey-tiny", "--device", "cpu"]
    flags += ["--batch-size", str(BATCH_SIZE), "--num-epochs", str(num_epochs), "--loss", "pairwise"]  # alike in both
    command = [sys.executable, "-c", PROGRAM, *clock, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=output.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float(done.stdout.rpartition("STEPS TOOK ")[2])


def main() -> None:
    """Measures both in turns; every other turn begins with the other one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="root of the other checkout")
    parser.add_argument("--turns", type=int, default=5, help="how often each is measured")
    arguments = parser.parse_args()
    roots = {"before": arguments.before.resolve(), "now": Path(__file__).resolve().parents[1]}
    console = plain_console()
    taken_s: dict[str, list[float]] = {name: [] for name in roots}
    with tempfile.TemporaryDirectory() as folder:
        shard = write_pairs(Path(folder) / "pairs.tar", BATCHES * BATCH_SIZE, "natural", size_px=64)
        for turn in range(arguments.turns):
            for name in sorted(roots, reverse=bool(turn % 2)):
                taken_s[name].append(measure(roots[name], shard, Path(folder) / f"{name}-{turn}"))
            before_s, now_s = (taken_s[name][-1] for name in ("before", "now"))
            console.print(f"turn {turn + 1}: before {before_s:.2f} s, now {now_s:.2f} s, ratio {now_s / before_s:.3f}")
    ratios = [now_s / before_s for before_s, now_s in zip(taken_s["before"], taken_s["now"], strict=True)]
    least = min(taken_s["now"]) / min(taken_s["before"])
    console.print(
        f"{STEPS} steps of {BATCH_SIZE} pairs, processor time: before {median(taken_s['before']):.2f} s, "
        f"now {median(taken_s['now']):.2f} s; median of the ratios {median(ratios):.3f}, ratio of the least {least:.3f}"
    )


if __name__ == "__main__":
    main()
