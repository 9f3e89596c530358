"""A batch that goes through the towers in chunks has the gradient of the batch that goes through at once."""

import pytest
import torch
from torch import Tensor

from anykey.encoder.fusion import Fusion, fuse
from anykey.sources.pairs.pair import Pair
from anykey.training.batches import Batch, DrawnPairs, EpochDraws, Sampling
from anykey.training.families.towers import Towers
from anykey.training.family import Features, Items
from anykey.training.gradient_cache import backward
from anykey.training.seeds import derive_seed
from tests.distributed_step import check_gradients, gradients
from tests.drawn_pairs import drawn_pairs
from tests.networks import VISION, small_architecture
from tests.training_runs import NO_ROW, make_table, towers_of


@pytest.mark.parametrize("recipe", ["gcl", "fusion"])
@pytest.mark.parametrize("num_chunks", [2, 3, 8, 30])
def test_chunks_give_the_gradient_of_the_whole_batch(num_chunks: int, recipe: str) -> None:
    """More chunks than images or texts leave some chunks empty."""
    loss, expected = gradients(f"whole-1-{recipe}")
    chunked_loss, found = gradients(f"whole-{num_chunks}-{recipe}")
    assert chunked_loss == pytest.approx(loss, rel=1e-6)
    check_gradients(found, expected, f"{num_chunks} chunks")


def loss_of(features: Features) -> Tensor:
    image_ID, text_SD = features
    fused = fuse(image_ID, text_SD, Fusion.RAW)
    return ((image_ID @ text_SD.T).sigmoid() @ fused).square().mean()


def random_towers() -> Towers:
    """An image tower that leaves out patches at random."""
    architecture = small_architecture(vision={**VISION, "patch_dropout": 0.5})
    return towers_of(architecture)


def batch_of_six() -> Batch:
    table = make_table([Pair(pair.name, pair.image, pair.captions) for pair in drawn_pairs(6)])
    drawn = DrawnPairs(table)
    (draws,) = EpochDraws(table, Sampling(6, 0))
    return drawn.collate([drawn[draw] for draw in draws])


def test_what_is_random_in_a_chunk_is_the_same_in_both_passes() -> None:
    """The twin keeps the graph of every chunk; equal bit for bit."""
    batch, towers, twin = batch_of_six(), random_towers(), random_towers()
    towers.train()
    twin.train()
    loss = backward(towers, batch, 3, 7, loss_of)
    parts = []
    for number, chunk in enumerate(zip(batch.images_I.chunk(3), batch.tokens_ST.chunk(3), strict=True)):
        torch.manual_seed(derive_seed(7, number))
        parts.append(twin.features(Items(*chunk, NO_ROW, NO_ROW)))
    expected = loss_of((torch.cat([image for image, _ in parts]), torch.cat([text for _, text in parts])))
    expected.backward()
    assert torch.equal(loss, expected)
    for (name, found), wanted in zip(towers.model.named_parameters(), twin.model.parameters(), strict=True):
        if wanted.grad is not None:
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-5, atol=1e-8, msg=name)
    torch.manual_seed(8)
    assert not torch.equal(twin.features(batch)[0], torch.cat([image for image, _ in parts]))


def test_the_gradient_is_scaled_for_half_precision() -> None:
    batch, plain, scaled = batch_of_six(), random_towers(), random_towers()
    for towers, factor in ((plain, 1.0), (scaled, 1024.0)):
        towers.train()
        backward(towers, batch, 2, 0, loss_of, factor)
    for one, other in zip(plain.model.parameters(), scaled.model.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad * 1024.0, rtol=1e-4, atol=1e-6)
