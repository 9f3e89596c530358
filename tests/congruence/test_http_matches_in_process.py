"""A query over HTTP has the hits the searcher gives in this process, and those of an exhaustive search."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from anykey.encoder.item import Item, Modality
from anykey.index.faiss_index import FaissIndex
from anykey.index.filtering.filters import parse_condition, to_json
from anykey.index.hits import Hit
from anykey.index.key_index import Scope
from anykey.service.indexes.parts import Parts
from anykey.service.lifecycle import Lifecycle
from anykey.service.queries.query import ItemPart, Query
from tests.fakes import FakeEncoder
from tests.service_inputs import as_base64, png
from tests.serving import MemoryIndex, build_real_index, make_settings, serving, stored

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (120, 120, 120)]
TEXTS = ["a red circle", "something blue and square", "grey", "one two three four"]
KEYS = [
    *(stored(f"text {n}", Item(text=text), ("texts",)) for n, text in enumerate(TEXTS)),
    *(stored(f"image {n}", Item(images=(png(colour),)), ("images",)) for n, colour in enumerate(COLOURS)),
    *(
        stored(f"page {n}", Item(text=text, images=(png(colour),)), nr=n)
        for n, (text, colour) in enumerate(zip(TEXTS, COLOURS, strict=True))
    ),
]
GREY = ItemPart(Item(text="grey"))
BLUE = Item(text="a red circle", images=(png((30, 30, 200)),))
QUERIES = [
    Query((ItemPart(Item(text="a green triangle")),)),
    Query((ItemPart(Item(images=(png((210, 40, 20)),))),), k=3),
    Query((ItemPart(BLUE, text_weight=0.2),), k=12),
    Query((ItemPart(BLUE, text_weight=0.8),), k=12),
    Query((GREY,), k=12, scope=Scope(modalities=frozenset({Modality.IMAGE, Modality.FUSED}))),
    Query((GREY,), k=2, scope=Scope(pool="texts", exclude=frozenset({"text 2"}))),
    Query((GREY,), k=12, scope=Scope(condition=parse_condition({"field": "nr", "gte": 2}))),
    Query((GREY,), k=3, scope=Scope(condition=parse_condition({"not": {"field": "nr", "in": [0, 1, 2]}}))),
    Query(
        (ItemPart(Item(images=(png((1, 2, 3)),))),),
        k=12,
        scope=Scope(within=frozenset({"text 1", "page 2", "image 3", "unknown"})),
    ),
]


def part_of(query: Query) -> ItemPart:
    """The only part."""
    (part,) = query.parts
    assert isinstance(part, ItemPart)
    return part


def as_fields(query: Query) -> dict[str, Any]:
    """The query as a JSON body."""
    part = part_of(query)
    images = [as_base64(image) for image in part.item.images if isinstance(image, bytes)]
    return {
        "text": part.item.text,
        "image": images or None,
        "k": query.k,
        "modalities": sorted(query.scope.modalities) if query.scope.modalities else None,
        "pool": query.scope.pool,
        "exclude": sorted(query.scope.exclude),
        "filter": None if query.scope.condition is None else to_json(query.scope.condition),
        "within": None if query.scope.within is None else sorted(query.scope.within),
        "text_weight": part.text_weight,
    }


async def hits_of(parts: Parts, query: Query) -> list[Hit]:
    """What the service's parts find for a query."""
    embedded = await parts.embedder.embed(query)
    return await parts.searcher.search(
        embedded.vector_D, embedded.modality, query.wanted, query.scope, lambda found: found.hits
    )


def in_process(encoder: FakeEncoder, index: FaissIndex) -> list[list[Hit]]:
    """Each query's hits from the searcher, called directly."""

    async def search_all() -> list[list[Hit]]:
        lifecycle = Lifecycle(make_settings(), encoder, index)
        async with lifecycle.running():
            return [await hits_of(lifecycle.parts(), query) for query in QUERIES]

    return asyncio.run(search_all())


def by_score(hits: list[Hit]) -> dict[float, set[str]]:
    """Keys grouped by score: inside a group they may permute."""
    groups: dict[float, set[str]] = {}
    for hit in hits:
        groups.setdefault(round(hit.score, 5), set()).add(hit.key)
    return groups


@pytest.fixture
def index(tmp_path: Path) -> FaissIndex:
    return FaissIndex.open(build_real_index(tmp_path, FakeEncoder(), KEYS))


def test_http_matches_in_process(index: FaissIndex) -> None:
    with index, serving(FakeEncoder(), index) as client:
        direct = in_process(FakeEncoder(), index)
        for query, hits in zip(QUERIES, direct, strict=True):
            answer = client.post("/search", json=as_fields(query)).json()
            assert answer["query_modality"] == part_of(query).item.modality
            assert [
                (
                    hit["key"],
                    hit["score"],
                    hit["rank"],
                    hit["modality"],
                    hit["payload"]["text"],
                    hit["payload"]["metadata"],
                )
                for hit in answer["hits"]
            ] == [(h.key, h.score, h.rank, h.modality, h.payload.text, h.payload.metadata) for h in hits]


def test_in_process_matches_an_exhaustive_search(index: FaissIndex) -> None:
    encoder = FakeEncoder()
    with index:
        for query, hits in zip(QUERIES, in_process(encoder, index), strict=True):
            vector_QD = encoder.encode([part_of(query).item], part_of(query).text_weight)
            (exact,) = MemoryIndex(encoder, KEYS).search(vector_QD, len(KEYS), query.scope)
            expected = by_score(exact)
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in exact[: query.k]], abs=1e-5)
            for score, keys in by_score(hits).items():
                assert keys <= expected[score]


class LossyIndex(MemoryIndex):
    """An index whose structure leads past the best key."""

    def search(self, vectors_QD: Any, k: int, *args: Any, exact: bool = False, **more: Any) -> list[list[Hit]]:
        found = super().search(vectors_QD, k + 1, *args, exact=exact, **more)
        return [hits[:k] if exact else hits[1:] for hits in found]


def test_an_exact_search_finds_what_the_structure_loses() -> None:
    encoder = FakeEncoder()
    with serving(encoder, LossyIndex(encoder, KEYS)) as client:
        asked = {"text": "grey", "k": 3}
        exact, approximate = (client.post("/search", json={**asked, "exact": e}).json()["hits"] for e in (True, False))
    assert [hit["key"] for hit in exact[1:]] == [hit["key"] for hit in approximate[:2]]
    assert exact[0]["key"] == "text 2"
