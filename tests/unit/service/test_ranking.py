"""Pages, cutoff, groups and diversity over HTTP, each beside a slow twin that looks at everything.

Shape legend: N = keys, D = width.
"""

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from anykey.encoder.item import Item
from anykey.index import FaissIndex
from anykey.index.hits import Hit
from anykey.index.key_index import NewKey
from anykey.index.publish.creation import create_index
from anykey.index.store.manifest import EncoderFacts, FoldOptions
from tests.fakes import FakeEncoder
from tests.serving import serving, until

NUM_KEYS = 300
ENCODER = FakeEncoder()
FACTS = EncoderFacts(
    name=ENCODER.name, fingerprint=ENCODER.fingerprint, width=ENCODER.width, fusion=str(ENCODER.fusion)
)
TEXT = "a to the four words"
QUERY_D = ENCODER.encode([Item(TEXT)])[0]


def drawn_keys(num_keys: int = NUM_KEYS, seed: int = 0) -> list[NewKey]:
    """Keys around some centres: many near-duplicates, some exact ones, brands that go across, some without a brand."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((40, ENCODER.width))
    keys = []
    for number in range(num_keys):
        centre_D = QUERY_D if number % 25 == 0 else centres[rng.integers(40)]
        vector_D = centre_D + rng.choice([0.0, 0.1, 0.4]) * rng.standard_normal(ENCODER.width)
        brand = int(rng.integers(30))
        metadata: dict[str, Any] = {"maker": {"brand": f"b{brand}"}} if brand < 20 else {}
        if brand == 3:
            metadata = {"maker": {"brand": ["b4", "b5"]}}
        vector_D = (vector_D / np.linalg.norm(vector_D)).astype(np.float32)
        keys.append(NewKey(f"k{number:03}", vector_D, text=f"text {number}", metadata={"nr": number, **metadata}))
    return keys


@dataclass(frozen=True)
class Served:
    """A service over an index that can be changed."""

    client: httpx.Client
    index: FaissIndex

    def answer(self, **fields: Any) -> dict[str, Any]:
        """Of a search for the text."""
        response = self.client.post("/search", json={"text": TEXT, **fields})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def refusal(self, **fields: Any) -> str:
        """Why a search is refused."""
        response = self.client.post("/search", json={"text": TEXT, **fields})
        assert response.status_code == 400, response.text
        message: str = response.json()["error"]["message"]
        return message

    def everything(self, snapshot: str | None = None) -> list[Hit]:
        """All keys by score, compared one by one, with their vectors."""
        with self.index.moment(snapshot) as moment:
            return moment.search(QUERY_D[None], 100_000, exact=True, with_vectors=True)[0]


def make(index_dir: Path, structure: str | None = None) -> Path:
    create_index(index_dir, FACTS, options=None if structure is None else FoldOptions(structure=structure))
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        index.upsert(drawn_keys()[: NUM_KEYS - 40])
        index.compact()
        index.upsert(drawn_keys()[NUM_KEYS - 40 :])
        index.delete(["k005", "k290"])
    return index_dir


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("ranking")
    return {"exact": make(folder / "exact"), "clustered": make(folder / "clustered", "IVF16,Flat")}


@pytest.fixture(scope="module")
def served(made: dict[str, Path]) -> Iterator[Served]:
    with FaissIndex.open(made["exact"]) as index, serving(FakeEncoder(), index, max_k=500, max_depth=400) as client:
        yield Served(client, index)


def keys_of(answer: dict[str, Any]) -> list[str]:
    return [hit["key"] for hit in answer["hits"]]


def pages(served: Served, k: int, then: Callable[[dict[str, Any]], None] = lambda _: None) -> list[dict[str, Any]]:
    """Answers page after page, until one is empty; after the first one, something may happen."""
    found = [served.answer(k=k, offset=0)]
    then(found[0])
    while found[-1]["hits"]:
        found.append(served.answer(k=k, offset=k * len(found), snapshot=found[0]["snapshot"]))
    return found


# Pages.


@pytest.mark.parametrize("k", [7, 100])
def test_pages_are_one_large_search(served: Served, k: int) -> None:
    found = pages(served, k)
    hits = [hit for page in found for hit in page["hits"]]
    assert [(hit["key"], hit["score"]) for hit in hits] == [(hit.key, hit.score) for hit in served.everything()]
    assert [hit["rank"] for hit in hits] == list(range(1, NUM_KEYS - 1))
    assert len({(page["index_version"], page["index_seq"]) for page in found}) == 1


@pytest.mark.parametrize("structure", ["exact", "clustered"])
def test_pages_neither_overlap_nor_leave_gaps_while_keys_change(
    made: dict[str, Path], tmp_path: Path, structure: str
) -> None:
    shutil.copytree(made[structure], tmp_path / "index")
    stop = threading.Event()
    with FaissIndex.open(tmp_path / "index", writable=True, compact_after=0, exact_allowed=0) as index:

        def change() -> None:
            for number in range(1000):
                index.upsert(drawn_keys(20, seed=number))
                index.delete([f"k{(number * 7 + step) % NUM_KEYS:03}" for step in range(3)])
                if number % 10 == 5:
                    index.compact()
                if stop.wait(0.01):
                    return

        def until_it_changes(first: dict[str, Any]) -> None:
            until(lambda: index.info().details["seq"] > first["index_seq"], "the index changes")

        thread = threading.Thread(target=change)
        with serving(FakeEncoder(), index, max_k=500) as client:
            served = Served(client, index)
            thread.start()
            try:
                for k in (40, 130):
                    found = pages(served, k, until_it_changes)
                    keys = [key for page in found for key in keys_of(page)]
                    at_once = served.answer(k=500, offset=0, snapshot=found[0]["snapshot"])
                    assert keys == keys_of(at_once)
                    assert len(set(keys)) == len(keys)
                    if structure == "exact":
                        assert keys == [hit.key for hit in served.everything(found[0]["snapshot"])]
            finally:
                stop.set()
                thread.join()


def test_a_page_beyond_the_end_is_empty(served: Served) -> None:
    assert keys_of(served.answer(offset=NUM_KEYS, k=5)) == []


# The cutoff.


def test_the_cutoff_says_what_it_left_out(served: Served) -> None:
    everything = served.everything()
    cut = served.answer(k=200, cutoff="auto")
    assert 0 < len(cut["hits"]) < 200
    assert cut["cutoff"]["num_cut"] == 200 - len(cut["hits"])
    kept = [hit for hit in everything if hit.score >= cut["cutoff"]["score"]]
    assert keys_of(cut) == [hit.key for hit in kept]
    assert served.answer(k=200)["cutoff"] is None
    pair = [served.answer(k=5, offset=offset, cutoff="auto") for offset in (0, len(kept) - 2)]
    assert keys_of(pair[1]) == keys_of(cut)[-2:]
    assert [page["cutoff"]["num_cut"] for page in pair] == [max(0, 5 - len(kept)), 3]
    assert pair[0]["cutoff"]["score"] == cut["cutoff"]["score"]


def test_of_few_keys_nothing_is_cut(served: Served) -> None:
    answer = served.answer(cutoff="auto", within=[f"k{number:03}" for number in range(6, 16)])
    assert (len(answer["hits"]), answer["cutoff"]) == (10, {"score": None, "num_cut": 0})
    assert served.answer(cutoff="auto", within=[])["cutoff"] == {"score": None, "num_cut": 0}


# Groups.


def brand_of(hit: Hit) -> str | None:
    brand = hit.payload.metadata.get("maker", {}).get("brand")
    return brand[0] if isinstance(brand, list) else brand


def by_brand(hits: Sequence[Hit]) -> list[tuple[str | None, list[Hit]]]:
    """All hits in groups, the slow way."""
    groups: list[tuple[str | None, list[Hit]]] = []
    for hit in hits:
        brand = brand_of(hit)
        own = next((members for name, members in groups if name == brand and name is not None), None)
        groups.append((brand, [hit])) if own is None else own.append(hit)
    return groups


def by_likeness(hits: Sequence[Hit], score: float) -> list[tuple[str | None, list[Hit]]]:
    """All hits in groups of near-duplicates, the slow way."""
    groups: list[tuple[str | None, list[Hit]]] = []
    for hit in hits:
        for _, members in groups:
            if float(vector_of(members[0]) @ vector_of(hit)) >= score:
                members.append(hit)
                break
        else:
            groups.append((hit.key, [hit]))
    return groups


def vector_of(hit: Hit) -> NDArray[np.float32]:
    assert hit.vector_D is not None
    return hit.vector_D


GROUPINGS = [
    ({"group_by": "maker.brand"}, by_brand),
    ({"group_by": ["maker", "brand"]}, by_brand),
    ({"group_by": "duplicates"}, lambda hits: by_likeness(hits, 0.95)),
    ({"group_by": "duplicates", "duplicate_score": 0.8}, lambda hits: by_likeness(hits, 0.8)),
]


@pytest.mark.parametrize(("fields", "slowly"), GROUPINGS)
@pytest.mark.parametrize(("k", "size", "offset"), [(1, 1, 0), (10, 1, 0), (10, 3, 5), (300, 2, 0), (5, 400, 3)])
def test_groups_are_those_of_everything(
    served: Served, fields: dict[str, Any], slowly: Any, k: int, size: int, offset: int
) -> None:
    answer = served.answer(k=k, offset=offset, group_size=size, **fields)
    groups = slowly(served.everything())
    expected = [(value, hit) for value, members in groups[offset : offset + k] for hit in members[:size]]
    assert [(hit["group"]["value"], hit["key"], hit["score"]) for hit in answer["hits"]] == [
        (value, hit.key, hit.score) for value, hit in expected
    ]
    assert answer["grouping"]["is_complete"]
    first = sum(min(size, len(members)) for _, members in groups[:offset]) + 1
    assert [hit["rank"] for hit in answer["hits"]] == list(range(first, first + len(expected)))


def test_a_group_says_how_many_more_were_folded_into_it(served: Served) -> None:
    answer = served.answer(k=300, group_by="maker.brand")
    groups = by_brand(served.everything())
    assert [hit["group"]["num_folded"] for hit in answer["hits"]] == [len(members) - 1 for _, members in groups]
    assert answer["grouping"]["num_candidates"] == NUM_KEYS - 2
    assert "group" not in served.answer()["hits"][0]


def test_a_field_that_no_hit_has_is_told_of(served: Served) -> None:
    answer = served.answer(k=3, group_by="makerbrand")
    assert [hit["group"] for hit in answer["hits"]] == [{"value": None, "num_folded": 0}] * 3
    [note] = answer["notes"]
    assert note.startswith("group_by: no hit of the answer has a value of this field")
    assert served.answer(k=300, group_by="maker.brand")["notes"] == []


def test_an_answer_says_that_it_looked_no_further(made: dict[str, Path]) -> None:
    with FaissIndex.open(made["exact"]) as index, serving(FakeEncoder(), index, max_depth=50) as client:
        answer = Served(client, index).answer(k=30, group_by="duplicates", duplicate_score=0.5)
    assert answer["grouping"] == {"num_candidates": 50, "is_complete": False}
    assert 0 < len(answer["hits"]) < 30


# Diversity.


def diverse_slowly(hits: Sequence[Hit], diversity: float, num: int) -> list[str]:
    """Maximal marginal relevance as it is defined."""
    left, chosen = list(hits), list[Hit]()
    while left and len(chosen) < num:

        def value(hit: Hit) -> float:
            nearest = max((float(vector_of(hit) @ vector_of(other)) for other in chosen), default=0.0)
            return (1 - diversity) * hit.score - diversity * nearest

        best = max(left, key=value)
        left.remove(best)
        chosen.append(best)
    return [hit.key for hit in chosen]


@pytest.mark.parametrize("diversity", [0, 0.0, 0.3, 0.7, 1.0])
def test_diversity_is_maximal_marginal_relevance(served: Served, diversity: float) -> None:
    answer = served.answer(k=12, diversity=diversity)
    assert keys_of(answer) == diverse_slowly(served.everything()[:120], diversity, 12)
    if diversity == 0:
        assert keys_of(answer) == keys_of(served.answer(k=12))


def test_pages_of_a_diverse_order_fit_together(served: Served) -> None:
    found = [served.answer(k=10, offset=offset, diversity=0.5) for offset in range(0, 100, 10)]
    keys = [key for page in found for key in keys_of(page)]
    assert sorted(keys) == sorted(hit.key for hit in served.everything()[:100])
    assert keys[:10] == keys_of(served.answer(k=10, diversity=0.5))


# Several of them.


def test_what_is_cut_is_in_no_group_and_in_no_diverse_order(served: Served) -> None:
    kept = [hit.key for hit in served.everything() if hit.score >= served.answer(cutoff="auto")["cutoff"]["score"]]
    assert sorted(keys_of(served.answer(k=100, cutoff="auto", diversity=1.0))) == sorted(kept)
    grouped = served.answer(k=300, cutoff="auto", group_by="maker.brand", group_size=300)
    assert sorted(keys_of(grouped)) == sorted(kept)


def test_what_scores_too_low_is_in_no_page_and_in_no_group(served: Served) -> None:
    kept = [hit.key for hit in served.everything() if hit.score >= 0.3]
    page = served.answer(k=20, offset=len(kept) - 5, min_score=0.3)
    assert (keys_of(page), page["num_below_min_score"]) == (kept[-5:], 15)
    grouped = served.answer(k=300, group_by="maker.brand", group_size=300, min_score=0.3)
    assert sorted(keys_of(grouped)) == sorted(kept)
    assert sorted(keys_of(served.answer(k=50, offset=0, diversity=0.5, min_score=0.3, within=kept[:50]))) == sorted(
        kept[:50]
    )


def test_hits_come_with_what_is_included(served: Served) -> None:
    hits = served.answer(k=3, group_by="maker.brand", include=["vector", "metadata.nr"])["hits"]
    by_key = {hit.key: hit for hit in served.everything()}
    for hit in hits:
        assert hit["vector"] == pytest.approx(vector_of(by_key[hit["key"]]).tolist())
        assert hit["payload"] == {"metadata": {"nr": by_key[hit["key"]].payload.metadata["nr"]}}


def test_a_batch_may_ask_for_all_of_it(served: Served) -> None:
    queries = [
        {"text": TEXT, "k": 5, "offset": 5},
        {"text": TEXT, "k": 5, "offset": 5, "snapshot": served.answer()["snapshot"]},
        {"text": TEXT, "k": 5, "group_by": "maker.brand", "cutoff": "auto"},
        {"text": TEXT, "k": 5, "diversity": 2},
    ]
    answers = served.client.post("/search/batch", json={"queries": queries}).json()["answers"]
    assert [answer.get("hits") for answer in answers[:3]] == [
        served.client.post("/search", json=query).json()["hits"] for query in queries[:3]
    ]
    assert answers[3]["error"]["message"].startswith("diversity must be a number from 0 to 1")


def test_a_diverse_order_is_one_of_groups(served: Served) -> None:
    heads = [members[0] for _, members in by_likeness(served.everything(), 0.8)]
    answer = served.answer(k=5, diversity=0.4, group_by="duplicates", duplicate_score=0.8)
    assert keys_of(answer) == diverse_slowly(heads[:100], 0.4, 5)


def test_a_form_may_ask_for_all_of_it(served: Served) -> None:
    fields = {"k": 4, "offset": 2, "cutoff": "auto", "group_by": "maker.brand", "group_size": 2, "diversity": 0.2}
    form = {name: (None, str(value)) for name, value in {"text": TEXT, **fields}.items()}
    response = served.client.post("/search", files=form)
    assert response.json()["hits"] == served.answer(**fields)["hits"] != []
    form = {"text": (None, TEXT), "group_by": (None, "duplicates"), "duplicate_score": (None, "0.8")}
    assert served.client.post("/search", files=form).json()["hits"][0]["group"] is not None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"offset": -1}, "offset must be a whole number of at least 0, got -1"),
        ({"offset": 1.5}, "offset must be a whole number"),
        ({"offset": 395}, "offset + k must be at most 400 (limits.max_depth), got 405"),
        ({"cutoff": "flat"}, 'cutoff must be "auto"'),
        ({"cutoff": True}, 'cutoff must be "auto"'),
        ({"group_by": 7}, "group_by must be a field of the metadata, as a string or a list of names, got 7"),
        ({"group_by": [7]}, "group_by must be a field of the metadata"),
        ({"group_by": ""}, "group_by must name a field of the metadata: expected names, got an empty one"),
        ({"group_by": []}, "group_by must name a field of the metadata"),
        ({"group_by": "brand", "group_size": 0}, "group_size must be a whole number from 1 to 500"),
        ({"group_size": 2}, "group_size is about groups"),
        ({"duplicate_score": 0.9}, "duplicate_score is about groups"),
        ({"group_by": "brand", "duplicate_score": 0.9}, "duplicate_score is about near-duplicates"),
        ({"group_by": "duplicates", "duplicate_score": 0}, "duplicate_score must be a number above 0"),
        ({"group_by": "duplicates", "duplicate_score": 1.1}, "duplicate_score must be a number above 0"),
        ({"diversity": 1.5}, "diversity must be a number from 0 to 1, got 1.5"),
        ({"diversity": "much"}, "diversity must be a number from 0 to 1"),
        ({"diversity": 0.5, "offset": 95}, "with diversity, offset + k must be at most 100"),
        ({"diversity": 0.5, "rerank": {}}, "rerank and diversity"),
        ({"group_by": "brand", "group_size": 2, "rerank": {}}, "group_size must be 1"),
        ({"offset": 45, "rerank": {"top": 50}}, "offset + k must be at most rerank.top, 50, got 55"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(served: Served, fields: dict[str, Any], expected: str) -> None:
    assert expected in served.refusal(**fields)
