"""Runs one forward and backward pass of a loss on N instances and says how far the peak memory rose.

Usage: python -m tests.slow.measure_loss_memory NUM_INSTANCES WIDTH THREADS; writes one JSON object.
"""

import json
import resource
import sys
from pathlib import Path
from time import monotonic

import torch
from torch.nn import functional

from anykey.training.losses import contrastive_loss, triples


def peak_bytes() -> int:
    """Highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(num_instances: int, width: int) -> dict[str, float]:
    """The loss, the seconds it took, and how far memory rose above what was resident with the inputs in place."""
    vectors = [functional.normalize(torch.randn(num_instances, width), dim=1) for _ in range(3)]
    rows = triples(*vectors)
    del vectors
    rows.vectors_RD.requires_grad_()
    scale = torch.tensor(50.0, requires_grad=True)
    before, began = resident_bytes(), monotonic()
    loss = contrastive_loss(rows, scale)
    loss.backward()
    return {"loss": loss.item(), "seconds": monotonic() - began, "bytes": peak_bytes() - before}


def main() -> None:
    num_instances, width, threads = map(int, sys.argv[1:])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    measure(16, width)
    sys.stdout.write(json.dumps(measure(num_instances, width)))


if __name__ == "__main__":
    main()
