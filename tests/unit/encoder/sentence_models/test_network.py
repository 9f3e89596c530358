"""The network in other number formats: weights are converted, and tables of positions are not."""

import torch
from torch import Tensor, nn

from anykey.encoder.sentence_models.network import Network


class Rotary(nn.Module):
    """A model with a table of angles, as transformers keeps them: computed, and not among the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("angles", 1.0 / 1e4 ** (torch.arange(4) / 4), persistent=False)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, features: dict[str, Tensor], task: str | None) -> dict[str, Tensor]:
        """Writes a vector of numbers that a position of 5,000 turns into."""
        turned = (5_000 * self.angles).cos().to(self.linear.weight.dtype)
        return {**features, "sentence_embedding": self.linear(features["pixel_values"] + turned + self.mean)}


def test_tables_keep_their_precision_and_weights_do_not() -> None:
    torch.manual_seed(0)
    network, pixels = Network(Rotary(), 3), torch.randn(2, 4)
    expected = network({"pixel_values": pixels, "task": "query"})
    assert expected.shape == (2, 3)
    torch.testing.assert_close(expected.norm(dim=1), torch.ones(2))

    network.to(torch.bfloat16)
    rotary = network.model
    assert (rotary.angles.dtype, rotary.linear.weight.dtype, rotary.mean.dtype) == (
        torch.float32, torch.bfloat16, torch.bfloat16,
    )  # fmt: skip
    half = network({"pixel_values": pixels.to(torch.bfloat16), "task": "query"})
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, atol=0.02, rtol=0.0)
    assert network.to("meta").model.angles.device.type == "meta"
