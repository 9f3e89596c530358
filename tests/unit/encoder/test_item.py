"""What counts as an item, and of which modality it is."""

import pytest

from anykey.encoder.errors import EmptyItemError, InvalidItemError, UndecodableImageError
from anykey.encoder.item import Item, Modality


@pytest.mark.parametrize(
    ("item", "modality"),
    [
        (Item(text="a cat"), Modality.TEXT),
        (Item(images=(b"...",)), Modality.IMAGE),
        (Item(text=" \n\t", images=(b"...",)), Modality.IMAGE),
        (Item(text="a cat", images=(b"...",)), Modality.FUSED),
        (Item(text="a cat", images=(b"...", b"...")), Modality.FUSED),
    ],
)
def test_modality_follows_from_the_parts(item: Item, modality: Modality) -> None:
    assert item.modality is modality


@pytest.mark.parametrize("text", [None, "", " ", "\n\t\u3000"])
def test_neither_text_nor_image_is_refused(text: str | None) -> None:
    with pytest.raises(EmptyItemError, match="a text, an image, or both"):
        Item(text=text)


def test_modality_words_are_the_wire_words() -> None:
    assert [str(modality) for modality in Modality] == ["text", "image", "fused"]


def test_an_error_says_which_item_once_its_place_is_known() -> None:
    error = UndecodableImageError("cannot decode 3 bytes").at(17)
    assert isinstance(error, UndecodableImageError)
    assert isinstance(error, ValueError)
    assert (error.position, error.reason, str(error)) == (17, "cannot decode 3 bytes", "item 17: cannot decode 3 bytes")


def test_a_single_item_has_no_place() -> None:
    assert str(InvalidItemError("too long")) == "too long"
