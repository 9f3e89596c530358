"""The network of a model of sentence-transformers, as one that computes in any number format.

Shape legend: B = batch (items), D = width.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from anykey.encoder.sentence_models.features import Features


class Network(nn.Module):
    """The library's model as one that gives vectors of the width that is wanted."""

    def __init__(self, model: Any, width: int) -> None:
        """Takes a model.

        Args:
            model: A module that writes `sentence_embedding` `[B, D]` into the features it is given.
            width: D, at most as many numbers as it writes.
        """
        super().__init__()
        self.model = model
        self.width = width

    def forward(self, features: Features) -> Tensor:
        """Unit vectors `[B, D]`."""
        given = dict(features)  # the library writes into it
        output_BD = self.model(given, task=given["task"])["sentence_embedding"]
        return functional.normalize(output_BD[:, : self.width].float(), dim=-1)

    def _apply(self, fn: Any, recurse: bool = True) -> "Network":
        """Moves and converts weights; tables that are computed and not learned keep their precision.

        Angles of rotary positions are such tables: in 16 bits, distant positions would be far from where they are.
        """
        kept = [
            (module, name, buffer)
            for module in self.modules()
            for name, buffer in module._buffers.items()
            if name in module._non_persistent_buffers_set and buffer is not None and buffer.is_floating_point()
        ]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for module, name, buffer in kept:
            moved = module._buffers[name]
            if moved is not None and moved.dtype != buffer.dtype:
                module._buffers[name] = buffer.to(moved.device)
        return self
