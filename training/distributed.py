"""One run over several processes, as `torchrun` starts them: each trains on its share of every batch.

Embeddings are gathered with their gradient, each process computes the loss of its own anchors against
everybody's candidates, and gradients are summed: the result is that of one process with the whole batch.

Shape legend: n = rows of this process, R = rows of all processes.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

T = TypeVar("T")

_TIMEOUT = timedelta(hours=2)  # one process may compute a locked trunk's features while the others wait


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: This one's number, from 0.
        count: How many there are.
        local_rank: This one's number on its machine: its GPU.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this one writes files and messages."""
        return self.rank == 0

    def wait(self) -> None:
        """Waits until all have come here."""
        if self.count > 1:
            distributed.barrier()

    def sum(self, number: float, device: torch.device) -> float:
        """The sum of a number over all processes."""
        if self.count == 1:
            return number
        total = torch.tensor(number, dtype=torch.float64, device=device)
        distributed.all_reduce(total)
        return float(total)

    def collect(self, parts: Iterable[T]) -> list[T]:
        """The parts of all processes, in their order."""
        own = list(parts)
        if self.count == 1:
            return own
        collected: list[list[T]] = [[] for _ in range(self.count)]
        distributed.all_gather_object(collected, own)
        return [part for each in collected for part in each]


@contextmanager
def join_processes(device: torch.device) -> Iterator[Processes]:
    """Joins the processes that `torchrun` started; alone where it did not.

    Args:
        device: Where this process computes: GPUs talk over NCCL, CPUs over gloo.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) == 1:
        yield Processes()
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=_TIMEOUT)
    try:
        local_rank = int(os.environ.get("LOCAL_RANK") or 0)
        yield Processes(distributed.get_rank(), distributed.get_world_size(), local_rank)
    finally:
        distributed.destroy_process_group()


def gather(parts_n: list[Tensor], processes: Processes) -> tuple[list[Tensor], slice]:
    """Joins tensors of all processes along their first axis, with the gradient where there is one.

    Args:
        parts_n: This process's parts; all have the same number of rows, which may differ between processes.
        processes: The processes.

    Returns:
        The whole tensors `[R, ...]`, and which of the rows are this process's.
    """
    num_rows = len(parts_n[0])
    if processes.count == 1:
        return parts_n, slice(0, num_rows)
    counts = [torch.zeros(1, dtype=torch.long, device=parts_n[0].device) for _ in range(processes.count)]
    distributed.all_gather(counts, torch.tensor([num_rows], device=parts_n[0].device))
    sizes = [int(count) for count in counts]
    first = sum(sizes[: processes.rank])
    own = slice(first, first + num_rows)
    whole_R: list[Tensor] = [_Gather.apply(part, sizes, own) for part in parts_n]
    return whole_R, own


class _Gather(torch.autograd.Function):
    """All processes' rows; backward sums what every process's loss says of this one's."""

    @staticmethod
    def forward(ctx: Any, part_n: Tensor, sizes: list[int], own: slice) -> Tensor:
        ctx.own = own
        padded = part_n.new_zeros(max(sizes), *part_n.shape[1:])
        padded[: len(part_n)] = part_n
        received = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(received, padded)
        return torch.cat([rows[:size] for rows, size in zip(received, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient_R: Tensor) -> tuple[Tensor, None, None]:
        total_R = gradient_R.contiguous()
        distributed.all_reduce(total_R)
        return total_R[ctx.own], None, None


def sum_gradients(parameters: Iterable[nn.Parameter], processes: Processes) -> None:
    """Adds up the gradients of all processes, once a step; sharded parameters have done so already."""
    if processes.count == 1:
        return
    whole = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    if not whole:
        return
    for parameter in whole:
        if parameter.grad is None:  # this process's share may lack a modality
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in whole if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat)
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, summed in zip(gradients, parts, strict=True):
        gradient.copy_(summed.view_as(gradient))


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> float:
    """Scales gradients, whole and sharded ones, to a joint norm of at most `max_norm`; gives the norm before."""
    kinds = [[parameter for parameter in parameters if isinstance(parameter, DTensor) == sharded] for sharded in (0, 1)]
    norms = [_norm(kind) for kind in kinds]
    norm = torch.stack(norms).norm() if all(kinds) else norms[0] if kinds[0] else norms[1]
    for kind in kinds:
        clip_grads_with_norm_(kind, max_norm, norm)
    return float(norm)


def _norm(parameters: list[nn.Parameter]) -> Tensor:
    norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
