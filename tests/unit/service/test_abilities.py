"""A query that the loaded model cannot embed whole is refused, by the model's name and the thing it cannot do."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from anykey.encoder.item import Item, Modality
from anykey.encoder.protocol import Ability, Role
from tests.fakes import FakeEncoder, FakePrepared
from tests.service_inputs import as_base64, png
from tests.serving import GatedEncoder, MemoryIndex, counters, serving, stored, until

IMAGE = as_base64(png((250, 0, 0)))
KEYS = [stored("note", Item(text="a note"))]
TEXT_ONLY = {"modalities": [Modality.TEXT]}


@pytest.mark.parametrize(
    ("abilities", "query", "status", "kind", "message"),
    [
        (TEXT_ONLY, {"image": IMAGE}, 422, "unsupported_modality", "model small embeds no image items, but text"),
        (
            TEXT_ONLY,
            {"image": IMAGE, "text": "red"},
            422,
            "unsupported_modality",
            "model small embeds no fused items, but text",
        ),
        (
            {"supports": [Ability.TEXT_WEIGHT]},
            {"image": [IMAGE, IMAGE]},
            400,
            "invalid_request",
            "model small takes one image of an item, got 2",
        ),
        (
            {"supports": [Ability.SEVERAL_IMAGES]},
            {"image": IMAGE, "text": "red", "text_weight": 0.7},
            400,
            "invalid_request",
            "model small fuses text and image by itself and takes no text_weight, got 0.7",
        ),
        (
            {"supports": [Ability.SEVERAL_IMAGES, Ability.TEXT_WEIGHT]},
            {"image": IMAGE, "instruction": "find it"},
            400,
            "invalid_request",
            "model small takes no instruction, got 'find it'",
        ),
    ],
)
def test_what_a_model_cannot_do_is_refused(
    abilities: dict[str, Sequence[Any]], query: dict[str, Any], status: int, kind: str, message: str
) -> None:
    encoder = FakeEncoder("small", **abilities)
    with serving(encoder, MemoryIndex(encoder, KEYS)) as client:
        answer = client.post("/search", json=query)
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["message"]) == (status, kind, message)
        assert client.post("/search", json={"text": "a note", "text_weight": 0.7}).status_code == 200


def test_one_image_and_an_even_weight_need_no_ability() -> None:
    encoder = FakeEncoder("small", supports=[])
    with serving(encoder, MemoryIndex(encoder, KEYS)) as client:
        query = {"image": IMAGE, "text": "red", "text_weight": 0.5}
        assert client.post("/search", json=query).status_code == 200


def test_queries_are_embedded_as_queries() -> None:
    class Noting(FakeEncoder):
        roles: ClassVar[list[Role]] = []

        def prepare(self, item: Item, role: Role, *asked: Any) -> FakePrepared:
            self.roles.append(role)
            return super().prepare(item, role, *asked)

    encoder = Noting()
    with serving(encoder, MemoryIndex(FakeEncoder(), KEYS)) as client:
        assert client.post("/search", json={"text": "a note"}).status_code == 200
    assert encoder.roles == [Role.QUERY]


@pytest.mark.parametrize(("max_batch_tokens", "batches"), [(39, [1, 1, 1]), (40, [1, 2])])
def test_queries_of_many_images_make_smaller_batches(max_batch_tokens: int, batches: list[int]) -> None:
    """An image is five tokens of the fake encoder, a query of four is twenty."""
    encoder = GatedEncoder()
    encoder.gate.clear()
    with (
        serving(encoder, MemoryIndex(FakeEncoder(), KEYS), max_batch_tokens=max_batch_tokens) as client,
        ThreadPoolExecutor(3) as pool,
    ):

        def ask(red: int) -> int:
            images = [as_base64(png((red, green, 0))) for green in range(4)]
            return client.post("/search", json={"image": images}).status_code

        first = pool.submit(ask, 0)
        encoder.wait_until_entered()
        others = [pool.submit(ask, red) for red in (1, 2)]
        until(lambda: counters(client, "batcher")["queued"] == 2, "two wait while one is encoded")
        encoder.gate.set()
        assert [answer.result() for answer in (first, *others)] == [200] * 3
    assert encoder.batches == batches
