"""What is known to be joined is joined; an item with anything else goes through the model alone."""

import torch

from anykey.encoder.sentence_models.features import Padding, count_tokens, joined, kind_of


def tokens(*ids: int, **others: object) -> dict[str, object]:
    ids_1T = torch.tensor([ids])
    return {"input_ids": ids_1T, "attention_mask": torch.ones_like(ids_1T), "modality": "text", **others}


def test_tokens_are_padded_on_the_models_side() -> None:
    fills = {"input_ids": 9}
    left, right = (joined([tokens(1, 2, 3), tokens(4)], Padding(fills, is_left)) for is_left in (True, False))
    assert left["input_ids"].tolist() == [[1, 2, 3], [9, 9, 4]]
    assert left["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert right["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert right["modality"] == "text"


def test_items_go_together_that_have_the_same_parts_and_facts() -> None:
    image = {"pixel_values": torch.zeros(1, 3, 32, 32)}
    assert kind_of(tokens(1, 2)) == kind_of(tokens(3))
    assert kind_of(tokens(1, prompt_length=3)) != kind_of(tokens(1, prompt_length=4))
    assert kind_of(tokens(1, **image)) not in (None, kind_of(tokens(1)))
    assert kind_of(tokens(1, **image)) != kind_of(tokens(1, pixel_values=torch.zeros(1, 3, 32, 48)))


def test_what_is_not_known_goes_alone() -> None:
    assert kind_of(tokens(1, offsets=torch.tensor([0]))) is None
    assert kind_of(tokens(1, image_text_info=[0])) is None
    assert kind_of({"input_ids": torch.tensor([1, 2])}) is None


def test_whole_pictures_count_by_their_area() -> None:
    assert count_tokens(tokens(1, 2, pixel_values=torch.zeros(1, 3, 32, 48))) == 2 + 2 * 3
    assert count_tokens(tokens(1, pixel_values=torch.zeros(24, 384))) == 1 + 24
    assert count_tokens({}) == 1
