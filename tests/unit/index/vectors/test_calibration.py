"""Centring by modality: an encoder with a gap ranks by modality without it, and by meaning with it."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index import FaissIndex, StoredImage
from anykey.index.errors import IndexCorruptError, InvalidSearchError
from anykey.index.key_index import NewKey, Scope
from anykey.index.publish.creation import create_index
from anykey.index.store.manifest import FoldOptions
from anykey.index.vectors.calibration import MODALITIES, Calibration, codes_of, read_calibration
from tests.factories import build_with, image_bytes, mixed_corpus
from tests.live_index import ENCODER, unit_vectors


def gapped(meaning_ND: NDArray[np.float32], modality: Modality) -> NDArray[np.float32]:
    """Meanings with a large component of the modality's own, as CLIP's encoders give them."""
    shift_D = np.zeros(meaning_ND.shape[1], np.float32)
    shift_D[MODALITIES.index(modality)] = 3
    shifted_ND = meaning_ND + shift_D
    return np.asarray(shifted_ND / np.linalg.norm(shifted_ND, axis=1, keepdims=True), np.float32)


@pytest.fixture(name="meaning_ND")
def make_meanings() -> NDArray[np.float32]:
    """Twenty directions in the last five of eight dimensions: nothing that tells modalities apart."""
    vectors_ND = np.zeros((20, 8), np.float32)
    vectors_ND[:, 3:] = unit_vectors(20, width=5)
    return vectors_ND


def keys(meaning_ND: NDArray[np.float32]) -> list[NewKey]:
    """Each meaning once as a text and once as an image."""
    texts, images = gapped(meaning_ND, Modality.TEXT), gapped(meaning_ND, Modality.IMAGE)
    picture = (StoredImage(image_bytes(), "image/png"),)
    return [NewKey(f"text-{n}", vector, text="a") for n, vector in enumerate(texts)] + [
        NewKey(f"image-{n}", vector, images=picture) for n, vector in enumerate(images)
    ]


def calibrated_index(path: Path, new: list[NewKey]) -> None:
    create_index(path, ENCODER, options=FoldOptions(calibrate="modality-mean"))
    with FaissIndex.open(path, writable=True) as index:
        index.upsert(new)
        index.compact()


def test_centred_mixed_corpus_is_ranked_by_meaning(tmp_path: Path, meaning_ND: NDArray[np.float32]) -> None:
    calibrated_index(tmp_path / "i", keys(meaning_ND))
    queries = gapped(meaning_ND, Modality.TEXT)

    with FaissIndex.open(tmp_path / "i") as index:
        results = index.search(queries, 2, query_modalities=[Modality.TEXT] * 20)
        assert [{hit.key for hit in hits} for hits in results] == [{f"text-{n}", f"image-{n}"} for n in range(20)]
        raw = [{key: key_vector @ query for key, key_vector in vectors(index).items()} for query in queries]
    best_two = [sorted(scores, key=scores.__getitem__)[-2:] for scores in raw]
    assert all(key.startswith("text") for pair in best_two for key in pair)  # without centring: by modality


def vectors(index: FaissIndex) -> dict[str, NDArray[np.float32]]:
    return {stored.key: index.vector(stored.key) for stored in index.scan()}


def test_recent_and_folded_keys_are_centred_alike(tmp_path: Path, meaning_ND: NDArray[np.float32]) -> None:
    new = keys(meaning_ND)
    calibrated_index(tmp_path / "i", new)

    with FaissIndex.open(tmp_path / "i", writable=True) as index:
        query = {"vectors_QD": gapped(meaning_ND[:1], Modality.IMAGE), "query_modalities": [Modality.IMAGE]}
        (before,) = index.search(k=40, **query)  # type: ignore[arg-type]
        index.upsert(new[:10])
        (after,) = index.search(k=40, **query)  # type: ignore[arg-type]
    scores = [{hit.key: hit.score for hit in hits} for hits in (before, after)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-6)


def test_calibrated_index_wants_the_queries_modalities(tmp_path: Path, meaning_ND: NDArray[np.float32]) -> None:
    calibrated_index(tmp_path / "i", keys(meaning_ND))
    with FaissIndex.open(tmp_path / "i") as index:
        with pytest.raises(InvalidSearchError, match="expected the modality of each of 20 queries, got none"):
            index.search(meaning_ND, 1)
        with pytest.raises(InvalidSearchError, match="got 1"):
            index.search(meaning_ND, 1, Scope(), query_modalities=[Modality.TEXT])


def test_build_calibrates_and_later_builds_keep_to_it(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    assert build_with(corpus, tmp_path / "i").manifest.options.calibrate == "none"
    calibrated = build_with(corpus, tmp_path / "i", calibrate="modality-mean")
    assert (calibrated.is_new, calibrated.num_embedded) == (True, 0)
    assert "calibration.npy" in calibrated.manifest.files
    assert not build_with(corpus, tmp_path / "i").is_new
    with corpus.open("a") as file:
        file.write('{"key": "new", "text": "one"}\n')
    assert build_with(corpus, tmp_path / "i").manifest.options.calibrate == "modality-mean"
    assert "calibration.npy" not in build_with(corpus, tmp_path / "i", calibrate="none").manifest.files


def test_means_are_the_modalities_own() -> None:
    vectors_BD = np.array([[1, 0], [3, 0], [0, 5]], np.float32)
    codes_B = codes_of([Modality.TEXT, Modality.TEXT, Modality.IMAGE])

    calibration = Calibration.of([(vectors_BD[:2], codes_B[:2]), (vectors_BD[2:], codes_B[2:])], 2)

    means = {modality: calibration.means_MD[MODALITIES.index(modality)].tolist() for modality in Modality}
    assert means == {"text": [2, 0], "image": [0, 5], "fused": [1, 2.5]}  # fused: midway, as there are none
    assert calibration.apply(vectors_BD, codes_B).tolist() == [[-1, 0], [1, 0], [0, 0]]


def test_damaged_means_are_named(tmp_path: Path) -> None:
    path = tmp_path / "calibration.npy"
    for content in (b"", b"rubbish"):
        path.write_bytes(content)
        with pytest.raises(IndexCorruptError, match=r"calibration\.npy"):
            read_calibration(path, 8)
    np.save(path, np.full((3, 8), np.nan, np.float32))
    with pytest.raises(IndexCorruptError, match="finite"):
        read_calibration(path, 8)
