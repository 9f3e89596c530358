"""Rows of any modality: how they are put together and what is refused."""

import pytest
import torch

from tests.unit.training.loss_cases import unit_vectors
from training.losses import FUSED, IMAGE, TEXT, Rows, concatenate, contrastive_loss, triples


def test_triples_come_by_modality_with_the_instance_of_each() -> None:
    image, text, fused = unit_vectors(6).chunk(3)
    rows = triples(image, text, fused, alike_NK=torch.tensor([[7], [8]]))
    assert torch.equal(rows.vectors_RD, torch.cat([image, text, fused]))
    assert rows.modality_R.tolist() == [IMAGE, IMAGE, TEXT, TEXT, FUSED, FUSED]
    assert rows.instance_R.tolist() == [0, 1, 0, 1, 0, 1]
    assert rows.alike_RK is not None
    assert rows.alike_RK.tolist() == [[7], [8], [7], [8], [7], [8]]
    assert len(triples(image, text)) == 4


def test_parts_without_duplicates_and_owners_get_none() -> None:
    plain = triples(*unit_vectors(2).chunk(2))
    hard = Rows(unit_vectors(1), torch.tensor([FUSED]), torch.tensor([9]), torch.tensor([[3, 4]]), torch.tensor([0]))
    rows = concatenate([plain, hard])
    assert rows.alike_RK is not None
    assert rows.owner_R is not None
    assert rows.alike_RK.tolist() == [[-1, -1], [-1, -1], [3, 4]]
    assert rows.owner_R.tolist() == [-1, -1, 0]
    assert rows.instance_R.tolist() == [0, 0, 9]
    assert concatenate([plain, plain]).alike_RK is None


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


def test_parts_that_differ_in_columns_are_refused() -> None:
    one, two = (triples(*unit_vectors(2).chunk(2), alike_NK=torch.zeros(1, k, dtype=torch.long)) for k in (1, 2))
    with pytest.raises(ValueError, match="columns"):
        concatenate([one, two])
