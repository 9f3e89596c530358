"""The embedded engine: what a search promises, and what a damaged index says."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from anykey.encoder.item import Item, Modality
from anykey.index import FaissIndex
from anykey.index.errors import (
    ImageUnavailableError,
    IndexCorruptError,
    IndexFormatError,
    IndexNotFoundError,
    InvalidSearchError,
    InvalidStructureError,
    KeyNotFoundError,
)
from anykey.index.key_index import Scope
from anykey.index.vectors.structures import num_gpus
from tests.factories import BLUE, GREEN, RED, build_with, image_bytes, mixed_corpus, write_jsonl
from tests.fakes import FakeEncoder

TEXT = FakeEncoder().encode([Item("one two three")])  # words of 3, 3 and 5 letters


@pytest.fixture
def shop_dir(tmp_path: Path) -> Path:
    """Seven keys; `same-*` share one vector."""
    for name, colour in {"red": RED, "green": GREEN, "blue": BLUE}.items():
        (tmp_path / f"{name}.png").write_bytes(image_bytes(colour))
    rows = [
        {"key": "same-0", "text": "one two three", "pool": "a"},
        {"key": "red", "image": "red.png", "pool": ["a", "b"], "metadata": {"colour": "red"}},
        {"key": "same-1", "text": "two one three", "pool": "b"},
        {"key": "both", "text": "one two three", "image": ["green.png", "blue.png"]},
        {"key": "same-2", "text": "three one two"},
        {"key": "same-3", "text": "three two one"},
        {"key": "far", "text": "four"},
        {"text": "a bad row, so that all files of the version hold something"},
    ]
    build_with(write_jsonl(tmp_path / "c.jsonl", rows), tmp_path / "i")
    return tmp_path / "i"


@pytest.fixture
def shop(shop_dir: Path) -> Iterator[FaissIndex]:
    with FaissIndex.open(shop_dir) as index:
        yield index


def test_a_thread_that_searches_uses_the_cores_that_it_may_and_others_are_left_alone(shop_dir: Path) -> None:
    before = faiss.omp_get_max_threads()
    with FaissIndex.open(shop_dir) as free, FaissIndex.open(shop_dir, search_cores=3) as bound:

        def search(index: FaissIndex) -> tuple[list[str], int]:
            return found(index, 5), faiss.omp_get_max_threads()

        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
            (as_bound, num_bound), (as_free, num_free) = (
                one.submit(search, bound).result(),
                other.submit(search, free).result(),
            )
        assert as_bound == as_free
        assert (num_bound, num_free, faiss.omp_get_max_threads()) == (3, before, before)


def found(index: FaissIndex, k: int, **parts: Any) -> list[str]:
    (hits,) = index.search(TEXT, k, Scope(**parts), exact=True)
    return [hit.key for hit in hits]


def test_hits_carry_key_score_rank_modality_and_payload(shop: FaissIndex) -> None:
    hits = shop.search(FakeEncoder().encode([Item(images=(image_bytes(RED),))]), 1)[0]

    assert (hits[0].key, hits[0].rank, hits[0].modality) == ("red", 1, Modality.IMAGE)
    assert hits[0].score == pytest.approx(1.0)
    assert (hits[0].payload.text, hits[0].payload.num_images) == (None, 1)
    assert hits[0].payload.metadata == {"colour": "red"}


def test_scores_are_cosines_in_falling_order_with_ranks_from_1(shop: FaissIndex) -> None:
    (hits,) = shop.search(TEXT, 7)

    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6, 7]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[4].key == "both"
    assert hits[4].score == pytest.approx(2**-0.5)
    assert all(-1.0 <= hit.score <= 1.0 for hit in hits)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_equal_scores_come_in_the_order_of_the_corpus_even_where_k_cuts_them(shop: FaissIndex, k: int) -> None:
    assert found(shop, k) == ["same-0", "same-1", "same-2", "same-3"][:k]


def test_many_equal_keys_are_cut_in_the_order_of_the_corpus(tmp_path: Path) -> None:
    rows = [{"key": f"k{number}", "text": "one two three"} for number in range(300)]
    build_with(write_jsonl(tmp_path / "c.jsonl", rows), tmp_path / "i")

    with FaissIndex.open(tmp_path / "i") as index:
        assert found(index, 9) == [f"k{number}" for number in range(9)]
        assert found(index, 9, exclude=["k3", "k5"]) == [f"k{number}" for number in (0, 1, 2, 4, 6, 7, 8, 9, 10)]


def test_k_above_the_number_of_keys_gives_all_of_them(shop: FaissIndex) -> None:
    assert len(found(shop, 10**9)) == 7


def test_filters_still_give_k_hits(shop: FaissIndex) -> None:
    assert found(shop, 1, modalities=[Modality.IMAGE]) == ["red"]
    assert found(shop, 2, modalities=[Modality.IMAGE, Modality.FUSED]) == ["both", "red"]
    assert found(shop, 2, pool="b") == ["same-1", "red"]
    assert found(shop, 3, exclude=["same-0", "same-1", "same-2", "unknown", "\ud800"]) == ["same-3", "both", "red"]
    assert found(shop, 9, pool="a", modalities=[Modality.TEXT], exclude=["same-0"]) == []


def test_keys_that_hold_a_null_are_told_from_their_beginning(tmp_path: Path) -> None:
    rows = [{"key": key, "text": "one two three"} for key in ("a", "a\0b", "a\0c", "\0")]
    build_with(write_jsonl(tmp_path / "c.jsonl", rows), tmp_path / "i")

    with FaissIndex.open(tmp_path / "i") as index:
        assert found(index, 9, exclude=["a\0b", "a\0d"]) == ["a", "a\0c", "\0"]
        assert found(index, 9, within=["a\0b", "a\0", "\0"]) == ["a\0b", "\0"]
        assert found(index, 9, within=["a"]) == ["a"]


def test_no_modality_at_all_matches_nothing(shop: FaissIndex) -> None:
    assert found(shop, 5, modalities=[]) == []


def test_no_query_gives_no_results(shop: FaissIndex) -> None:
    assert shop.search(np.zeros((0, 8), dtype=np.float32), 5) == []


def test_each_query_of_a_batch_gets_the_hits_it_gets_alone(shop: FaissIndex) -> None:
    vectors_QD = FakeEncoder().encode([Item("four"), Item("one two three"), Item(images=(image_bytes(BLUE),))])
    scope = Scope(exclude=["same-1"])

    together = shop.search(vectors_QD, 3, scope)

    assert together == [shop.search(vectors_QD[i : i + 1], 3, scope)[0] for i in range(3)]


@pytest.mark.parametrize("k", [0, -1, 1.5, True, None, "3"])
def test_bad_k_is_refused(shop: FaissIndex, k: int) -> None:
    with pytest.raises(InvalidSearchError, match="k must be a whole number of at least 1"):
        shop.search(TEXT, k)


def test_vectors_of_another_width_are_refused(shop: FaissIndex) -> None:
    with pytest.raises(InvalidSearchError, match=r"expected query vectors \[Q, 8\], got \[1, 9\]"):
        shop.search(np.ones((1, 9), dtype=np.float32), 1)
    with pytest.raises(InvalidSearchError, match=r"got \[8\]"):
        shop.search(TEXT[0], 1)


@pytest.mark.parametrize("value", [0.0, 2.0, float("nan"), float("inf")])
def test_vectors_that_are_not_of_unit_norm_are_refused(shop: FaissIndex, value: float) -> None:
    with pytest.raises(InvalidSearchError, match="query vector 1 has norm"):
        shop.search(np.concatenate([TEXT, np.full((1, 8), value, dtype=np.float32)]), 1)


def test_unknown_pool_is_refused_with_the_known_ones(shop: FaissIndex) -> None:
    with pytest.raises(InvalidSearchError, match=r"unknown pool 'c'; known: a, b$"):
        shop.search(TEXT, 1, Scope(pool="c"))


def test_unknown_modality_is_refused_with_the_known_ones(shop: FaissIndex) -> None:
    with pytest.raises(InvalidSearchError, match="unknown modality 'video'; expected some of text, image, fused"):
        shop.search(TEXT, 1, Scope(modalities=["video"]))  # type: ignore[list-item]


def test_get_shows_a_key_as_it_is_stored(shop: FaissIndex) -> None:
    both = shop.get("both")

    assert (both.key, both.modality, both.pools) == ("both", Modality.FUSED, ())
    assert (both.payload.text, both.payload.num_images) == ("one two three", 2)
    assert shop.get("red").pools == ("a", "b")


def test_images_come_as_the_corpus_had_them(shop: FaissIndex) -> None:
    assert shop.image("both", 1).data == image_bytes(BLUE)
    assert shop.image("both").media_type == "image/png"


def test_unknown_keys_and_images_are_named(shop: FaissIndex) -> None:
    with pytest.raises(KeyNotFoundError, match="no key 'nobody'"):
        shop.get("nobody")
    with pytest.raises(KeyNotFoundError):
        shop.get("\ud800")
    with pytest.raises(KeyNotFoundError, match="key 'red' has 1 images, there is none at position 1"):
        shop.image("red", 1)
    with pytest.raises(KeyNotFoundError):
        shop.image("red", -1)


def test_referenced_image_that_is_gone_is_an_error_of_its_own(tmp_path: Path) -> None:
    build_with(mixed_corpus(tmp_path, 3), tmp_path / "i", images="reference")

    with FaissIndex.open(tmp_path / "i") as index:
        assert index.image("key-1").data == (tmp_path / "images" / "1.png").read_bytes()
        (tmp_path / "images" / "1.png").unlink()
        with pytest.raises(ImageUnavailableError, match=r"key-1.*1\.png"):
            index.image("key-1")


def test_threads_search_at_the_same_time(shop: FaissIndex) -> None:
    scope = Scope(pool="a")
    expected = shop.search(TEXT, 5, scope)
    start = threading.Barrier(8)

    def work(_: int) -> bool:
        start.wait()
        return all(shop.search(TEXT, 5, scope) == expected for _ in range(20))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))


def test_missing_index_says_how_to_build_one(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(IndexNotFoundError, match="build one with `anykey-index build"):
            FaissIndex.open(path)


@pytest.mark.parametrize("name", ["manifest.json", "rows.npy", "vectors.faiss", "fields.sqlite", "bad_rows.jsonl"])
def test_missing_file_is_named(shop_dir: Path, name: str) -> None:
    (shop_dir / "versions" / "1" / name).unlink()

    with pytest.raises(IndexCorruptError, match=rf"{name} is damaged: it is missing"):
        FaissIndex.open(shop_dir)


@pytest.mark.parametrize("name", ["manifest.json", "rows.npy", "vectors.faiss", "fields.sqlite", "bad_rows.jsonl"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damaged_file_is_named(shop_dir: Path, name: str, damage: str) -> None:
    path = shop_dir / "versions" / "1" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x80
    path.write_bytes({"cut": data[: len(data) // 2], "flipped": bytes(data), "empty": b""}[damage])

    with pytest.raises(IndexCorruptError, match=name) as caught:
        FaissIndex.open(shop_dir)
    assert caught.value.path == path


def rewrite_manifest(index_dir: Path, **changes: object) -> None:
    path = index_dir / "versions" / "1" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes, "checksum": None}))


def test_rows_that_do_not_fit_the_manifest_are_refused(shop_dir: Path) -> None:
    rewrite_manifest(shop_dir, num_keys=8)

    with pytest.raises(IndexCorruptError, match=r"rows\.npy is damaged: expected 8 rows as int64, got \(7,\)"):
        FaissIndex.open(shop_dir)


def test_format_of_another_release_is_refused(shop_dir: Path) -> None:
    rewrite_manifest(shop_dir, format_version=99)

    with pytest.raises(IndexFormatError, match="has format 99, this release reads format 2; build it again"):
        FaissIndex.open(shop_dir)


def test_published_version_that_is_gone_is_refused(shop_dir: Path) -> None:
    (shop_dir / "CURRENT").write_text("7\n")
    with pytest.raises(IndexCorruptError, match=r"versions/7 is damaged: it is missing, though CURRENT names it"):
        FaissIndex.open(shop_dir)

    (shop_dir / "CURRENT").write_text("../../etc\n")
    with pytest.raises(IndexCorruptError, match="CURRENT is damaged: expected the number of a version"):
        FaissIndex.open(shop_dir)


def test_closing_twice_is_fine(shop_dir: Path) -> None:
    index = FaissIndex.open(shop_dir)
    index.close()
    index.close()


def test_closed_index_refuses_calls(shop_dir: Path) -> None:
    with FaissIndex.open(shop_dir, writable=True) as index:
        pass

    for call in (lambda: found(index, 1), lambda: index.get("red"), lambda: index.delete(["red"]), index.compact):
        with pytest.raises(ValueError, match=r"index .* is closed"):
            call()


def test_reader_moves_to_each_version_that_is_published(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path, 3)
    build_with(corpus, tmp_path / "i")
    with FaissIndex.open(tmp_path / "i") as index:
        for number in range(4):
            with corpus.open("a") as file:
                file.write(json.dumps({"key": f"new-{number}", "text": "one two three"}) + "\n")
            build_with(corpus, tmp_path / "i")
            with ThreadPoolExecutor(1) as thread:  # a thread that has no connection to the store yet
                assert thread.submit(found, index, 9).result() == found(index, 9)
            assert len(found(index, 99)) == 4 + number
            assert index.manifest.version == str(number + 2)
        assert sorted(path.name for path in (tmp_path / "i" / "versions").iterdir()) == ["4", "5"]


def test_reader_stays_with_its_version_when_another_encoder_builds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = mixed_corpus(tmp_path, 3)
    build_with(corpus, tmp_path / "i")
    with FaissIndex.open(tmp_path / "i") as index:
        for name in ("other", "another", "yet another"):
            build_with(corpus, tmp_path / "i", FakeEncoder(name=name))
            assert len(found(index, 9)) == 3
        assert (index.manifest.version, index.manifest.encoder.name) == ("1", "fake")
        assert "version 2 is of another encoder; open the index again" in caplog.text
        assert sorted(path.name for path in (tmp_path / "i" / "versions").iterdir()) == ["1", "3", "4"]
    with FaissIndex.open(tmp_path / "i") as index:
        assert index.manifest.encoder.name == "yet another"


def test_reader_stays_with_its_version_when_the_next_one_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = mixed_corpus(tmp_path, 3)
    build_with(corpus, tmp_path / "i")
    with FaissIndex.open(tmp_path / "i") as index, FaissIndex.open(tmp_path / "i", writable=True) as writer:
        writer.delete(["key-0"])
        writer.compact()
        (tmp_path / "i" / "versions" / "2" / "rows.npy").unlink()

        assert len(found(index, 9)) == 2
        assert index.manifest.version == "1"
        assert "staying with the one in use" in caplog.text


def test_auto_searches_on_the_cpu_where_there_is_no_gpu_and_cuda_is_refused(shop_dir: Path) -> None:
    if num_gpus():
        pytest.skip("there is a GPU")
    with FaissIndex.open(shop_dir, device="auto") as index:
        assert found(index, 1) == ["same-0"]
    with pytest.raises(InvalidStructureError, match=r"device 'cuda': FAISS finds no GPU"):
        FaissIndex.open(shop_dir, device="cuda")
    with pytest.raises(InvalidStructureError, match="expected a device such as auto"):
        FaissIndex.open(shop_dir, device="tpu", writable=True)
    FaissIndex.open(shop_dir, writable=True).close()  # the lock was given back
