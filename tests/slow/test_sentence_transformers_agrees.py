"""Our loss of two columns against sentence-transformers' ranking loss: a joint partition, and hardness."""

from typing import Any

import pytest
import torch
from torch import Tensor

from anykey.training.losses import IMAGE, TEXT, Reading, Terms, contrastive_loss, triples
from tests.unit.training.loss_cases import EXACT, number, unit_vectors

pytestmark = pytest.mark.slow  # the library takes seconds to import

SCALE = 12.0
IMAGE_TO_TEXT = tuple(tuple(float((a, b) == (IMAGE, TEXT)) for b in range(3)) for a in range(3))


def theirs(queries: Tensor, documents: Tensor, **options: Any) -> Tensor:
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    loss = losses.MultipleNegativesRankingLoss(None, scale=SCALE, partition_mode="joint", **options)
    found: Tensor = loss.compute_loss_from_embeddings([queries, documents], torch.empty(0))
    return found


@pytest.mark.parametrize("hardness", [0.0, 3.0])
@pytest.mark.parametrize(
    ("reading", "directions"),
    [(Reading.R5, ("query_to_doc",)), (Reading.R2, ("query_to_doc", "query_to_query"))],
)
def test_two_columns_give_the_value_and_gradient_of_multiple_negatives_ranking(
    reading: Reading, directions: tuple[str, ...], hardness: float
) -> None:
    vectors = unit_vectors(24).requires_grad_()
    image, text = vectors.chunk(2)
    mode = "in_batch_negatives" if hardness else None
    expected = theirs(image, text, directions=directions, hardness_mode=mode, hardness_strength=hardness)
    found = contrastive_loss(triples(image, text), number(SCALE), Terms(IMAGE_TO_TEXT, reading), hardness=hardness)
    torch.testing.assert_close(found, expected, **EXACT)
    gradient, wanted = (torch.autograd.grad(loss, vectors)[0] for loss in (found, expected))
    # Theirs is through the cosine of the vectors: it has no part along them.
    along = (gradient * vectors).sum(1, keepdim=True) * vectors
    torch.testing.assert_close(gradient - along, wanted, **EXACT)


def test_both_directions_of_two_columns_are_gcls_second_reading() -> None:
    image, text = unit_vectors(24).chunk(2)
    both = [
        theirs(one, other, directions=("query_to_doc", "query_to_query"))
        for one, other in ((image, text), (text, image))
    ]
    torch.testing.assert_close(contrastive_loss(triples(image, text), number(SCALE)), sum(both) / 2, **EXACT)
