"""A live service over a fake encoder and a small corpus, shared by the tests of the wire."""

from collections.abc import Iterator

import httpx
import pytest

from anykey.encoder.images import ImageLimits
from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from anykey.index.hits import StoredKey
from anykey.service.schemas import Limits
from tests.fakes import FakeEncoder
from tests.service_inputs import png
from tests.serving import build_real_index, make_settings, serving, stored

MAX_PIXELS = 1_000_000


@pytest.fixture(scope="session")
def wire_encoder() -> FakeEncoder:
    return FakeEncoder(limits=ImageLimits(max_pixels=MAX_PIXELS))


def wire_keys() -> list[tuple[StoredKey, Item]]:
    """Keys of all modalities, some with names that are hard to put into an address."""
    red, blue = png((250, 0, 0)), png((0, 0, 250))
    return [
        stored("red", Item(images=(red,)), ("pictures",), price=3),
        stored("blue", Item(images=(blue,)), ("pictures",)),
        stored("two frames", Item(images=(red, blue))),
        stored("page", Item(text="a red page", images=(red,)), ("pages",)),
        stored("note", Item(text="five words of some length"), ("pages",)),
        stored("a/b:c", Item(text="a key with a slash", images=(blue,))),
        stored("shelf/image", Item(text="a key that ends like an address")),
        stored("Schlüssel 鍵 %41", Item(text="a key of many letters", images=(red,))),
        stored("plain", Item(text="plain")),
    ]


@pytest.fixture(scope="session")
def wire_index(wire_encoder: FakeEncoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaissIndex]:
    with FaissIndex.open(build_real_index(tmp_path_factory.mktemp("wire"), wire_encoder, wire_keys())) as index:
        yield index


@pytest.fixture(scope="session")
def client(wire_encoder: FakeEncoder, wire_index: FaissIndex) -> Iterator[httpx.Client]:
    with serving(
        wire_encoder,
        wire_index,
        max_body_bytes=1_000_000,
        max_image_bytes=200_000,
        max_text_chars=500,
        max_exclude=5,
        max_within=5,
    ) as client:
        yield client


@pytest.fixture(scope="session")
def limits() -> Limits:
    settings = make_settings(max_image_bytes=10_000, max_text_chars=100, max_exclude=3, max_within=4, max_images=2)
    return Limits.model_validate(settings.model_dump(include=set(Limits.model_fields)))
