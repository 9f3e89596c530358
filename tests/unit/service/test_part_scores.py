"""Protects why a hit matched: its score with each part, alone, and with the text and the images of a fused one.

Shape legend: D = width.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from anykey.encoder.item import Item, Modality
from anykey.index.faiss_index import FaissIndex
from anykey.index.key_index import NewKey
from anykey.index.store.manifest import FoldOptions
from tests.fakes import FakeEncoder
from tests.service_inputs import as_base64, png
from tests.serving import MemoryIndex, build_real_index, serving
from tests.unit.service.conftest import wire_keys
from tests.unit.service.test_query_parts import ONES, RED, asked, refused, scores_of

FUSED = {"text": "a red page", "image": [as_base64(RED), as_base64(png((9, 9, 9)))], "text_weight": 0.3}
PARTS: list[dict[str, Any]] = [
    {**FUSED, "weight": 2},
    {"text": "five words", "weight": -0.5},
    {"key": "blue", "weight": 0.25},
    {"vector": ONES, "vector_modality": "image"},
    {"image": as_base64(png((1, 2, 200)))},
]


@pytest.fixture(scope="module")
def calibrated_index(wire_encoder: FakeEncoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaissIndex]:
    """An index that is centred by modality, with a key that came after its version."""
    directory = build_real_index(tmp_path_factory.mktemp("calibrated"), wire_encoder, wire_keys())
    with FaissIndex.open(directory, writable=True, compact_after=0) as index:
        index.compact(FoldOptions(calibrate="modality-mean"))
        index.upsert([NewKey("recent", wire_encoder.encode([Item(text="came later")])[0], text="came later")])
        yield index


@pytest.fixture(scope="module")
def calibrated(wire_encoder: FakeEncoder, calibrated_index: FaissIndex) -> Iterator[httpx.Client]:
    with serving(wire_encoder, calibrated_index) as client:
        yield client


@pytest.fixture(params=["plain", "calibrated"])
def either(request: pytest.FixtureRequest, client: httpx.Client) -> httpx.Client:
    calibrated: httpx.Client = client if request.param == "plain" else request.getfixturevalue("calibrated")
    return calibrated


def alone(client: httpx.Client, part: dict[str, Any]) -> dict[str, float]:
    """The scores of all keys with one part alone, as a search of its own gives them."""
    searched = {name: value for name, value in part.items() if name != "weight"}
    return scores_of(asked(client, parts=[searched], exclude_query_keys=False, exact=True))


def part_scores(answer: dict[str, Any], number: int, name: str) -> dict[str, float]:
    return {hit["key"]: hit["part_scores"][number][name] for hit in answer["hits"]}


def test_part_scores_are_those_of_searches_for_each_part_alone(either: httpx.Client) -> None:
    answer = asked(either, parts=PARTS, include=["part_scores"], exclude_query_keys=False)
    assert len(answer["hits"]) >= 9
    for number, part in enumerate(PARTS):
        assert part_scores(answer, number, "score") == pytest.approx(alone(either, part), abs=1e-6)
    text, image = ({name: FUSED[name]} for name in ("text", "image"))
    assert part_scores(answer, 0, "text") == pytest.approx(alone(either, text), abs=1e-6)
    assert part_scores(answer, 0, "image") == pytest.approx(alone(either, image), abs=1e-6)
    for hit in answer["hits"]:
        _, words, key, vector, picture = hit["part_scores"]
        assert (words["text"], words["image"]) == (words["score"], None)
        assert (picture["text"], picture["image"]) == (None, picture["score"])
        assert [key["text"], key["image"], vector["text"], vector["image"]] == [None] * 4
        assert (hit["payload"], "vector" in hit) == ({}, False)


@pytest.mark.parametrize("ranked", [{"diversity": 0.3}, {"group_by": "duplicates"}, {"offset": 2}, {"min_score": 0}])
def test_hits_in_another_order_keep_their_part_scores(either: httpx.Client, ranked: dict[str, Any]) -> None:
    plain = asked(either, parts=PARTS, include=["part_scores", "vector"])
    other = asked(either, parts=PARTS, include=["part_scores", "vector"], **ranked)
    expected = {hit["key"]: (hit["score"], hit["part_scores"], hit["vector"]) for hit in plain["hits"]}
    assert other["hits"]
    for hit in other["hits"]:
        score, part_scores, vector = expected[hit["key"]]
        assert (hit["vector"], hit["score"]) == (vector, pytest.approx(score))
        for told, scores in zip(hit["part_scores"], part_scores, strict=True):
            assert told == pytest.approx(scores, abs=1e-6)


def test_scores_are_the_weighted_sums_of_part_scores(either: httpx.Client) -> None:
    """Each part is centred by its own modality, where the index is, before the sum is made."""
    answer = asked(either, parts=PARTS, include=["part_scores"])
    weights = [part.get("weight", 1) for part in PARTS]
    sums = [
        sum(w * part["score"] for w, part in zip(weights, hit["part_scores"], strict=True)) for hit in answer["hits"]
    ]
    scores = np.array([hit["score"] for hit in answer["hits"]])
    (length,) = np.linalg.lstsq(scores[:, None], np.array(sums), rcond=None)[0]
    assert length > 0
    assert scores * length == pytest.approx(sums, abs=1e-5)


def test_a_page_may_say_what_of_one_item_matched(client: httpx.Client) -> None:
    plain = asked(client, **FUSED)
    answer = asked(client, **FUSED, include=["text", "part_scores"])
    assert scores_of(answer) == scores_of(plain)
    for hit in answer["hits"]:
        (part,) = hit["part_scores"]
        assert part["score"] == pytest.approx(hit["score"], abs=1e-6)
    assert part_scores(answer, 0, "text") == pytest.approx(alone(client, {"text": FUSED["text"]}), abs=1e-6)
    nothing = asked(client, text="a", include=["part_scores"], within=[])
    assert nothing["hits"] == []


def test_a_model_that_embeds_only_both_together_has_no_halves() -> None:
    encoder = FakeEncoder(modalities=[Modality.FUSED])
    keys = [key for key in wire_keys() if key[0].modality is Modality.FUSED]
    with serving(encoder, MemoryIndex(encoder, keys)) as client:
        answer = asked(client, **FUSED, include=["part_scores"])
        assert len(answer["hits"]) == len(keys)
        for hit in answer["hits"]:
            (part,) = hit["part_scores"]
            assert (part["text"], part["image"]) == (None, None)


def centred(index: FaissIndex, vector_D: NDArray[np.float32], modality: Modality) -> NDArray[np.float64]:
    """A vector less the mean of the folded keys of its modality, of unit length: what calibration is, by hand."""
    folded = [key for key in index.scan() if key.key != "recent" and key.modality is modality]
    mean_D = np.mean([index.vector(key.key) for key in folded], axis=0, dtype=np.float64)
    centred_D = vector_D - mean_D
    return np.asarray(centred_D / np.linalg.norm(centred_D))


def test_in_a_calibrated_index_each_part_is_centred_by_its_own_modality(
    calibrated: httpx.Client, calibrated_index: FaissIndex, wire_encoder: FakeEncoder
) -> None:
    answer = asked(
        calibrated, parts=[{"text": "a red page"}, {"key": "blue", "weight": -0.5}], exclude_query_keys=False
    )
    text_D = centred(calibrated_index, wire_encoder.encode([Item(text="a red page")])[0], Modality.TEXT)
    blue_D = centred(calibrated_index, calibrated_index.vector("blue"), Modality.IMAGE)
    sum_D = text_D - 0.5 * blue_D
    sum_D /= np.linalg.norm(sum_D)
    by_hand = {
        key.key: float(centred(calibrated_index, calibrated_index.vector(key.key), key.modality) @ sum_D)
        for key in calibrated_index.scan()
    }
    assert scores_of(answer) == pytest.approx(by_hand, abs=1e-5)


def test_a_calibrated_index_is_told_what_a_vector_is_of(calibrated: httpx.Client) -> None:
    told = refused(calibrated, 400, "invalid_request", vector=ONES)
    assert told.startswith("vector: the index is calibrated by modality")
    told = refused(calibrated, 400, "invalid_request", parts=[{"text": "a"}, {"vector": ONES}])
    assert told.startswith("parts[1]: the index is calibrated by modality")
    assert asked(calibrated, vector=ONES, vector_modality="text")["hits"]


def test_a_stored_key_is_looked_up_at_the_moment_of_the_snapshot(wire_encoder: FakeEncoder, tmp_path: Path) -> None:
    directory = build_real_index(tmp_path, wire_encoder, wire_keys())
    with FaissIndex.open(directory, writable=True) as index, serving(wire_encoder, index) as client:
        first = asked(client, key="red")
        index.delete(["red"])
        again = asked(client, key="red", snapshot=first["snapshot"])
        assert again["hits"] == first["hits"]
        refused(client, 404, "not_found", key="red")
