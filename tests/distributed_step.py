"""One gradient of a small batch, by one process or by several; run by `torchrun`, so that they are real ones.

python -m torch.distributed.run --standalone --nproc-per-node N -m tests.distributed_step whole|sharded CHUNKS OUTPUT
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from encoder.fusion import Fusion
from tests.drawn_pairs import drawn_pairs
from tests.training_runs import make_settings, make_table, make_towers
from training.batches import DrawnPairs, EpochDraws, Sampling
from training.distributed import join_processes, sum_gradients
from training.gradient_cache import backward
from training.objective import Objective
from training.pairs import Pair, Side

BATCH_SIZE = 8


def pairs() -> list[Pair]:
    """Captioned images, a repeated image, a text alone, and a query with a negative."""
    plain = [Pair(pair.name, pair.image, pair.captions) for pair in drawn_pairs(BATCH_SIZE - 3)]
    asked = Pair("asked", plain[0].image, (), "", Side(texts=("find it",)), (Side(texts=("not this",)),))
    return [*plain, Pair("again", plain[1].image, ("the same",)), Pair("text", None, ("only words",)), asked]


def gradients(kind: str, num_chunks: int, **changes: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients, by name, of the whole batch."""
    with join_processes(torch.device("cpu")) as processes:
        table = make_table(pairs())
        towers = make_towers()
        objective = Objective(make_settings(Path("-"), Path("-"), **changes), Fusion.RAW, towers.model, True)
        (draws,) = EpochDraws(table, Sampling(BATCH_SIZE, 0), processes.rank, processes.count)
        drawn = DrawnPairs(table)
        batch = drawn.collate([drawn[draw] for draw in draws])
        if kind == "sharded":
            towers.shard()
        towers.train()

        def loss_of(image_ID: torch.Tensor, text_SD: torch.Tensor) -> torch.Tensor:
            share: torch.Tensor = objective(image_ID, text_SD, batch, processes)
            return share

        share = backward(towers, batch, num_chunks, 0, loss_of)
        named = [*towers.model.named_parameters(), *objective.named_parameters()]
        sum_gradients([parameter for _, parameter in named], processes)
        grads = {name: parameter.grad for name, parameter in named}
        whole = {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in grads.items()}
        return processes.sum(float(share), towers.device), whole


if __name__ == "__main__":
    torch.set_num_threads(1)
    loss, found = gradients(sys.argv[1], int(sys.argv[2]))
    output = Path(sys.argv[3])
    aside = output.with_suffix(f".{os.getpid()}")
    torch.save({"loss": loss, "gradients": found}, aside)
    aside.replace(output)  # every process has the same
