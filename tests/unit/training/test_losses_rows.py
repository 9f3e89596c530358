"""Rows of any modality: how they are put together and what is refused."""

import pytest
import torch

from anykey.training.losses import FUSED, IMAGE, TEXT, Rows, contrastive_loss, triples
from tests.unit.training.loss_cases import unit_vectors


def test_triples_come_by_modality_with_the_instance_of_each() -> None:
    image, text, fused = unit_vectors(6).chunk(3)
    rows = triples(image, text, fused, alike_NK=torch.tensor([[7], [8]]))
    assert torch.equal(rows.vectors_RD, torch.cat([image, text, fused]))
    assert rows.modality_R.tolist() == [IMAGE, IMAGE, TEXT, TEXT, FUSED, FUSED]
    assert rows.instance_R.tolist() == [0, 1, 0, 1, 0, 1]
    assert rows.alike_RK is not None
    assert rows.alike_RK.tolist() == [[7], [8], [7], [8], [7], [8]]
    assert len(triples(image, text)) == 4


def test_no_rows_have_no_loss() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    rows = Rows(torch.zeros(0, 4, requires_grad=True), nothing, nothing)
    assert contrastive_loss(rows, torch.tensor(5.0)).item() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors_RD": torch.zeros(3)}, "vectors must be"),
        ({"modality_R": torch.zeros(2)}, "modality_R must have shape"),
        ({"instance_R": torch.zeros(3, 1)}, "instance_R must have shape"),
        ({"alike_RK": torch.zeros(3)}, "alike_RK must be"),
        ({"owner_R": torch.zeros(4)}, "owner_R must have shape"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    good = {"vectors_RD": torch.zeros(3, 4), "modality_R": torch.zeros(3), "instance_R": torch.zeros(3)}
    with pytest.raises(ValueError, match=message):
        Rows(**(good | change))
