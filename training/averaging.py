"""Averages of weights: over the steps of a run, and between the start and what fine-tuning made of it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from anykey.training.errors import InvalidRecipeError


class Average:
    """Exponential moving average of the weights that train.

    After the t-th update (from 0) the average keeps `min(decay, (1 + t) / (10 + t))` of itself: the first steps,
    which are far from where the run ends, are forgotten fast. Buffers are not averaged: an averaged model runs
    with the buffers (batch normalisation's statistics) that the model has by then.

    Attributes:
        num_updates: How many steps the average holds.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]], decay: float) -> None:
        """Starts at the present weights.

        Args:
            named_parameters: A model's, sharded already if it is to be; those that do not train are left alone.
            decay: What the average keeps of itself in a step, once it is warm.
        """
        trained = {name: parameter for name, parameter in named_parameters if parameter.requires_grad}
        self.num_updates = 0
        self._decay = decay
        self._names = list(trained)
        self._parameters = list(trained.values())
        self._averages = [parameter.detach().clone() for parameter in trained.values()]
        self._is_swapped = False

    @torch.no_grad()
    def update(self) -> None:
        """Takes the present weights in; to be called after each optimizer step."""
        assert not self._is_swapped, "the model holds the average"
        kept = min(self._decay, (1 + self.num_updates) / (10 + self.num_updates))
        for averages, parameters in self._by_kind():
            torch._foreach_lerp_(averages, parameters, 1.0 - kept)
        self.num_updates += 1

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the model holds the average, to be measured and saved; after, its own weights, also on error."""
        assert not self._is_swapped, "the model holds the average already"
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs; the tensors are the live ones, not copies."""
        assert not self._is_swapped, "the model holds the average"
        return {"num_updates": self.num_updates, "weights": dict(zip(self._names, self._averages, strict=True))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with an average that was saved.

        Raises:
            InvalidRecipeError: it is of other weights.
        """
        weights: Mapping[str, Tensor] = state["weights"]
        _check_alike(dict(zip(self._names, self._averages, strict=True)), weights, "this model", "the saved average")
        with torch.no_grad():
            for name, average in zip(self._names, self._averages, strict=True):
                average.copy_(weights[name])
        self.num_updates = int(state["num_updates"])

    def _by_kind(self) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Averages and parameters, plain tensors apart from sharded ones: torch takes no mixed lists."""
        for kind in {type(average) for average in self._averages}:
            pairs = zip(self._averages, self._parameters, strict=True)
            of_kind = [(average, parameter.detach()) for average, parameter in pairs if type(average) is kind]
            yield [average for average, _ in of_kind], [parameter for _, parameter in of_kind]

    @torch.no_grad()
    def _exchange(self) -> None:
        for parameter, average in zip(self._parameters, self._averages, strict=True):
            own = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(own)
        self._is_swapped = not self._is_swapped


def interpolate(start: Mapping[str, Tensor], tuned: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights on the straight line between a start and what was fine-tuned from it.

    WiSE-FT (Wortsman et al., 2022, arXiv 2109.01903): much of what fine-tuning gains, little of what it forgets.

    Args:
        start: The start's state dictionary.
        tuned: The fine-tuned model's.
        share: 0 gives the start, 1 the fine-tuned weights.

    Returns:
        A state dictionary of new tensors; counters (integers) are those of `tuned`.

    Raises:
        InvalidRecipeError: the two are not of one network.
    """
    _check_alike(start, tuned, "the start", "the fine-tuned model")
    return {
        name: torch.lerp(start[name], after, share) if after.is_floating_point() else after.clone()
        for name, after in tuned.items()
    }


def _check_alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor], one_name: str, other_name: str) -> None:
    """Refuses weights of different names or shapes; says the first that differ."""
    if one.keys() != other.keys():
        only_one, only_other = sorted(one.keys() - other.keys()), sorted(other.keys() - one.keys())
        facts = [
            f"only {owner} has {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
            for owner, names in ((one_name, only_one), (other_name, only_other))
            if names
        ]
        raise InvalidRecipeError(f"{one_name} and {other_name} differ in their weights: {'; '.join(facts)}")
    for name, tensor in one.items():
        if tensor.shape != other[name].shape:
            raise InvalidRecipeError(
                f"{one_name} and {other_name} differ in the shape of {name}: "
                f"{tuple(tensor.shape)} and {tuple(other[name].shape)}"
            )
