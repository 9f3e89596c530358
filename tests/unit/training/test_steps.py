"""A step takes its batch through the towers in the parts that were asked for."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from anykey.sources.pairs.pair import Pair
from anykey.training.batches import DrawnPairs, EpochDraws, Sampling
from anykey.training.distributed import Processes
from anykey.training.objective import Objective
from anykey.training.steps import Stepper
from tests.drawn_pairs import drawn_pairs
from tests.training_runs import make_settings, make_table, make_towers


def sizes_of_a_step(micro_batch_size: int | None) -> dict[str, list[int]]:
    """How many images and texts each forward pass of a step of 8 pairs holds, in order."""
    settings = make_settings(Path("-"), Path("-"), micro_batch_size=micro_batch_size)
    towers = make_towers()
    table = make_table([Pair(pair.name, pair.image, pair.captions) for pair in drawn_pairs(8)])
    drawn = DrawnPairs(table)
    (draws,) = EpochDraws(table, Sampling(8, 0))
    seen: dict[str, list[int]] = {"images": [], "texts": []}

    def count(name: str, rows: Tensor) -> None:
        seen[name].append(len(rows))

    (patches,) = (module for module in towers.model.modules() if isinstance(module, nn.Conv2d))
    (words,) = (module for module in towers.model.modules() if isinstance(module, nn.Embedding))
    patches.register_forward_pre_hook(lambda _, arguments: count("images", *arguments))
    words.register_forward_pre_hook(lambda _, arguments: count("texts", *arguments))
    objective = Objective(settings, towers.log_scale, towers.bias, False)
    stepper = Stepper(settings, towers, objective, 10, 8, Processes())
    numbers = stepper.step(drawn.collate([drawn[draw] for draw in draws]), 0)
    assert torch.tensor(numbers.loss).isfinite()
    return seen


@pytest.mark.parametrize(
    ("micro_batch_size", "parts"),
    [(None, [8]), (8, [8]), (100, [8]), (7, [4, 4]), (4, [4, 4]), (3, [3, 3, 2]), (1, [1] * 8)],
)
def test_no_forward_pass_holds_more_than_a_micro_batch(micro_batch_size: int | None, parts: list[int]) -> None:
    """Parts are embedded twice: for the loss of them all, then each with the graph of its gradient."""
    expected = parts if len(parts) == 1 else parts * 2
    assert sizes_of_a_step(micro_batch_size) == {"images": expected, "texts": expected}
