"""Gradients of a small batch, by one process or by several; run as a program, so that they are real ones.

python -m tests.distributed_step OUTPUT COUNT CASE...

A case is `whole` or `sharded`, the number of chunks and a recipe of `RECIPES`: sharded-2-sigmoid.
"""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from anykey.sources.pairs.pair import Pair, Side
from anykey.training.batches import Draw, DrawnPairs, EpochDraws, Sampling
from anykey.training.distributed import Processes, join_processes, sum_gradients
from anykey.training.family import Family, Features
from anykey.training.gradient_cache import backward
from anykey.training.objective import Objective
from anykey.training.table import PairTable
from tests.drawn_pairs import drawn_pairs
from tests.fusion_models import make_fusion
from tests.training_runs import make_settings, make_table, make_towers

BATCH_SIZE = 8
ROUNDING = 2e-5  # of a gradient's largest number; measured: up to 2e-6
RECIPES: dict[str, dict[str, Any]] = {
    "gcl": {},
    "pairwise": {"loss": "pairwise"},
    "clip": {"loss": "clip"},
    "alignclip": {"loss": "alignclip"},
    "sigmoid": {"loss": "sigmoid"},
    "normalized": {"loss": "normalized"},
    "sum": {
        "clip_weight": 3.0,
        "pairwise_weight": 0.5,
        "separation_weight": 0.5,
        "separation_encoder": "-",  # its meanings are drawn here
        "covariance_weight": 100.0,
        "hardness": 2.0,
        "temperature_per_modality": True,
    },
    "same_image": {"positives": "image"},
    "temperatures": {"temperature_per_pair": True},
    "fusion": {},  # the family that reads patches beside words
    "cached": {},  # a locked trunk's output in the place of images, of which not every process has one
    "cachedfusion": {},
}
FAMILIES: dict[str, Callable[[], Family]] = {
    "fusion": make_fusion,
    "cachedfusion": make_fusion,
    "cached": lambda: make_towers(timm=True),
}


def pairs() -> list[Pair]:
    """Captioned images, a repeated image, a text alone, and a query with a negative."""
    plain = [Pair(pair.name, pair.image, pair.captions) for pair in drawn_pairs(BATCH_SIZE - 3)]
    asked = Pair("asked", plain[0].image, (), "", Side(texts=("find it",)), (Side(texts=("not this",)),))
    return [*plain, Pair("again", plain[1].image, ("the same",)), Pair("text", None, ("only words",)), asked]


def few_images() -> list[Pair]:
    """Pairs of which fewer have an image than there are processes."""
    texts = [Pair(f"text {number}", None, (f"words {number}",)) for number in range(BATCH_SIZE - 3)]
    return [*pairs()[:3], *texts]


def share_of(table: PairTable, rank: int, count: int) -> list[Draw]:
    """The draws of one process."""
    (draws,) = EpochDraws(table, Sampling(BATCH_SIZE, 0), rank, count)
    return draws


def gradients(case: str, processes: Processes | None = None) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients, by name, of the whole batch; by this process alone unless there are others."""
    kind, num_chunks, recipe = case.split("-")
    processes = processes or Processes()
    settings = make_settings(Path("-"), Path("-"), **RECIPES[recipe])
    family: Family = FAMILIES.get(recipe, make_towers)()
    is_cached = recipe.startswith("cached")
    table = make_table(few_images() if is_cached else pairs(), family=family)
    trunk_output = None
    if is_cached:
        family.lock("image")
        family.eval()
        trunk_output = family.trunk_features(torch.stack([table.pixels(n) for n in range(table.num_images)]))[None]
    if kind == "sharded":
        family.shard()
    family.train()
    meanings = torch.rand(len(table.tokens_ST), 4, generator=torch.Generator().manual_seed(0))
    objective = Objective(
        settings, family.log_scale, family.bias, True, meanings if settings.separation_encoder else None
    )
    drawn = DrawnPairs(table, trunk_output, positives=settings.positives)
    batch = drawn.collate([drawn[draw] for draw in share_of(table, processes.rank, processes.count)])
    batch = objective.counted(batch)

    def loss_of(features: Features) -> torch.Tensor:
        share: torch.Tensor = objective(family.rows(features, batch), batch, processes)
        return share

    share = backward(family, batch, int(num_chunks), 0, loss_of)
    named = [*family.model.named_parameters(), *objective.named_parameters()]
    sum_gradients([parameter for _, parameter in named], processes)
    grads = {name: parameter.grad for name, parameter in named if parameter.grad is not None}
    whole = {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in grads.items()}
    return processes.sum(float(share), family.device), whole


def check_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], what: str) -> None:
    """Refuses gradients that differ by more than rounding; small numbers are sums of large ones that cancel.

    A bias of attention's keys moves all scores of a query alike: its gradient is nothing but what rounding leaves.
    """
    assert found.keys() == expected.keys(), what
    for name, gradient in expected.items():
        sized = expected[name.replace(".key.bias", ".key.weight")]
        atol = ROUNDING * float(sized.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=atol, msg=f"{what}: {name}")


def work(rank: int, environment: dict[str, str], output: Path, cases: list[str]) -> None:
    """Finds, case by case, what all processes find together; the first one writes it down."""
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    with join_processes(torch.device("cpu")) as processes:
        found = {case: gradients(case, processes) for case in cases}
    if rank == 0:
        torch.save(found, output)


def main(output: Path, count: int, cases: list[str]) -> None:
    """Lets the processes begin as `torchrun` would; forked, they share the imports, which take longer than they do."""
    torch.set_num_threads(1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=work, args=(n, environment, output, cases), daemon=True) for n in range(count)]
    for process in processes:
        process.start()
    running = {process.sentinel: process for process in processes}
    while running:
        for sentinel in wait(list(running)):
            process = running.pop(sentinel)
            process.join()
            if process.exitcode:
                sys.exit(f"a process ended with {process.exitcode}")  # the others are daemons: they end with this one


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
