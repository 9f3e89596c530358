"""One optimiser step: gradient of the whole batch, clipping, update, temperature, average."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from anykey.training.averaging import Average
from anykey.training.batches import Batch, leave_out_words
from anykey.training.distributed import Processes, clip_gradients, sum_gradients
from anykey.training.errors import DivergedError
from anykey.training.family import Family, Features
from anykey.training.gradient_cache import backward
from anykey.training.objective import Objective
from anykey.training.optimizer import make_optimizer, set_learning_rate
from anykey.training.seeds import derive_seed
from anykey.training.settings import OptimizerSettings


@dataclass(frozen=True)
class StepNumbers:
    """What one step is worth logging for."""

    loss: float
    temperature: float
    gradient_norm: float
    learning_rate: float
    gap: float

    def by_name(self) -> dict[str, float]:
        """The numbers as they are logged."""
        return {f"train/{name}": value for name, value in vars(self).items()}

    def in_short(self) -> str:
        """The numbers as they are shown beside the progress."""
        return (
            f"loss {self.loss:.2f}, temperature {self.temperature:.3f}, "
            f"gradient norm {self.gradient_norm:.2f}, gap {self.gap:.2f}"
        )


class Stepper:
    """Makes steps, and knows everything that a later step depends on.

    What is random in a step is seeded by the run's seed and the step's number, so that a run that goes on
    from a saved state does what the uninterrupted one would have done.
    """

    def __init__(
        self,
        settings: OptimizerSettings,
        family: Family,
        objective: Objective,
        num_steps: int,
        batch_size: int,
        processes: Processes,
        seed: int = 0,
        drop_tokens: float = 0.0,
    ) -> None:
        """Sets it up.

        Args:
            settings: How it learns.
            family: What learns.
            objective: What is minimised.
            num_steps: Of the whole run: the learning rate falls until then.
            batch_size: Pairs of a step, over all processes.
            processes: Whose gradients are summed.
            seed: Of everything random.
            drop_tokens: Share of caption words left out at random.
        """
        self._settings = settings
        self._family = family
        self._objective = objective
        self._num_steps = num_steps
        self._processes = processes
        self._seed = seed
        self._drop_tokens = drop_tokens
        objective.choose_what_learns()
        self._optimizer = make_optimizer(
            family.model,
            family.layers,
            settings.learning_rate,
            settings.weight_decay,
            settings.beta2,
            settings.layer_decay,
            list(objective.parameters()),
        )
        self._trained = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        self._scaler = torch.amp.GradScaler(family.device.type, enabled=family.dtype is torch.float16)
        self.average = _average(family, settings.ema_decay)
        share, micro = batch_size / processes.count, settings.micro_batch_size
        self._num_parts = 1 if micro is None else -int(-share // micro)

    def step(self, batch: Batch, step: int) -> StepNumbers:
        """Makes step number `step`, from 0.

        Raises:
            DivergedError: the loss is no longer a finite number.
        """
        settings = self._settings
        self._family.train()
        seed = derive_seed(self._seed, step, self._processes.rank)
        set_learning_rate(self._optimizer, step, self._num_steps, settings.learning_rate, settings.warmup_share)
        self._optimizer.zero_grad(set_to_none=True)
        batch = self._objective.counted(self._without_words(batch, seed))
        loss_of = _Loss(self._family, self._objective, batch, self._processes)
        factor = float(self._scaler.scale(torch.ones((), device=self._family.device)))
        share = backward(self._family, batch, self._num_parts, seed, loss_of, factor)
        loss = self._processes.sum(float(share), self._family.device)
        if not torch.isfinite(torch.tensor(loss)):
            raise diverged(f"the loss is {loss}", step + 1, settings.learning_rate)
        norm = self._update()
        return StepNumbers(
            loss=loss,
            temperature=1.0 / self._objective.scale().detach().mean().item(),
            gradient_norm=norm,
            learning_rate=max(group["lr"] for group in self._optimizer.param_groups),
            gap=loss_of.gap,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything a later step depends on."""
        return {
            "model": self._family.model.state_dict(),
            "objective": self._objective.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to where `state_dict` was called."""
        self._family.model.load_state_dict(state["model"])
        self._objective.load_state_dict(state["objective"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def _without_words(self, batch: Batch, seed: int) -> Batch:
        if not self._drop_tokens or not len(batch.tokens_ST):
            return batch
        ends_S = self._family.text_ends(batch.tokens_ST)
        generator = torch.Generator().manual_seed(seed)
        return replace(batch, tokens_ST=leave_out_words(batch.tokens_ST, ends_S, self._drop_tokens, generator))

    def _update(self) -> float:
        """Applies the gradient; gives its norm before clipping."""
        sum_gradients(self._trained, self._processes)
        self._scaler.unscale_(self._optimizer)
        norm = clip_gradients(self._trained, self._settings.max_grad_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._objective.bound_temperatures()
        if self.average is not None:
            self.average.update()
        return norm


def _average(family: Family, decay: float | None) -> Average | None:
    return None if decay is None else Average(family.model.named_parameters(), decay)


class _Loss:
    """The loss of one batch's features; keeps the modality gap it saw, for the log."""

    def __init__(self, family: Family, objective: Objective, batch: Batch, processes: Processes) -> None:
        self._family = family
        self._objective = objective
        self._batch = batch
        self._processes = processes
        self.gap = 0.0

    def __call__(self, features: Features) -> Tensor:
        vectors = self._family.rows(features, self._batch)
        sides = self._family.sides(features, vectors)
        if all(map(len, sides)):
            means = [functional.normalize(side.detach(), dim=-1).mean(0) for side in sides]
            self.gap = float((means[0] - means[1]).norm())
        loss: Tensor = self._objective(vectors, self._batch, self._processes)
        return loss


def diverged(fact: str, step: int, learning_rate: float) -> DivergedError:
    """What to do about a run whose numbers are no longer finite."""
    return DivergedError(
        f"{fact} at step {step}: lower the learning rate ({learning_rate:g}) or raise the temperature; "
        "unfinished/last holds the last good weights"
    )
