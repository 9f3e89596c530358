"""An index embedded anew by another encoder, from its own store alone."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anykey.encoder.item import Item
from anykey.index import FaissIndex, StoredImage
from anykey.index.__main__ import main
from anykey.index.errors import IndexExistsError, KeysNotEmbeddedError, LiveKeysError, UnusableOptionError
from anykey.index.key_index import NewKey
from anykey.index.publish.rollback import roll_back
from anykey.index.publish.verify import verify_index
from anykey.index.store.records import TuningQueries
from tests.factories import GREEN, build_with, image_bytes, mixed_corpus, reembed_with
from tests.fakes import FakeEncoder
from tests.live_index import everything, unit_vectors

NUM_KEYS = 9


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return mixed_corpus(tmp_path / "corpus", NUM_KEYS)


@pytest.fixture
def index_dir(tmp_path: Path, corpus: Path) -> Path:
    """An index with two keys stored live, one of them in the place of a corpus key, and one deleted live."""
    build_with(corpus, tmp_path / "i", structure="exact")
    vector_D = FakeEncoder().encode([Item("some words")])[0]
    image = StoredImage(image_bytes(GREEN), "image/png")
    with FaissIndex.open(tmp_path / "i", writable=True) as index:
        index.upsert(
            [NewKey("live", vector_D, "words", (image, image), {"n": 1}, ("p",)), NewKey("key-1", vector_D, "w")]
        )
        index.delete(["key-2"])
    return tmp_path / "i"


class Longer(FakeEncoder):
    """Another encoder, whose vectors are turned around."""

    def __init__(self) -> None:
        super().__init__("another")

    def encode_prepared(self, prepared: Any) -> Any:
        return super().encode_prepared(prepared)[:, ::-1].copy()


def but_vectors(index_dir: Path) -> dict[str, Any]:
    return {key: (stored, images) for key, (stored, _, images) in everything(index_dir).items()}


def check_vectors(index_dir: Path, encoder: FakeEncoder) -> None:
    """Each key has the vector that the encoder gives its content."""
    with FaissIndex.open(index_dir) as index:
        for stored in index.scan():
            images = tuple(index.image(stored.key, place).data for place in range(stored.payload.num_images))
            expected = encoder.encode([Item(stored.payload.text, images)])[0]
            assert np.array_equal(index.vector(stored.key), expected), stored.key
            (hits,) = index.search(expected[None], NUM_KEYS + 1, exact=True)
            assert stored.key in {hit.key for hit in hits if hit.score > 0.999}
    assert verify_index(index_dir) == []


def test_all_keys_stay_and_have_the_vectors_of_the_other_encoder(index_dir: Path, corpus: Path) -> None:
    before, vectors, encoder = but_vectors(index_dir), everything(index_dir), Longer()
    shutil.move(corpus.parent, corpus.parent.with_name("away"))  # nothing of it is needed

    report = reembed_with(index_dir, encoder)

    assert (report.num_embedded, sum(encoder.batches), report.manifest.version) == (NUM_KEYS, NUM_KEYS, "2")
    assert but_vectors(index_dir) == before
    check_vectors(index_dir, Longer())
    with FaissIndex.open(index_dir) as index:
        assert (index.encoder.name, index.manifest.options.structure) == ("another", "exact")
        assert index.info().pools == {"even": 4, "odd": 3, "p": 1}
    shutil.move(corpus.parent.with_name("away"), corpus.parent)
    encoder.batches.clear()
    again = build_with(corpus, index_dir, encoder)
    assert (sum(encoder.batches), again.num_deleted) == (1, 1)  # key-1, which the corpus has otherwise
    assert "live" in everything(index_dir)
    roll_back(index_dir, "2", undo_live=True)
    assert but_vectors(index_dir) == before
    assert vectors != before


def test_the_way_back_leads_to_the_encoder_of_before(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True) as index:
        index.compact()
    before = everything(index_dir)
    reembed_with(index_dir, Longer())

    roll_back(index_dir)

    assert everything(index_dir) == before
    with FaissIndex.open(index_dir) as index:
        assert index.encoder.name == "fake"


def test_the_way_back_undoes_what_no_version_covered_only_when_that_is_said(index_dir: Path) -> None:
    before = everything(index_dir)  # with three live changes that no version covers
    reembed_with(index_dir, Longer())

    with pytest.raises(LiveKeysError, match="3 keys of"):
        roll_back(index_dir)
    assert everything(index_dir).keys() == before.keys()
    assert roll_back(index_dir, undo_live=True).num_live == 3
    assert "live" not in everything(index_dir)


def test_a_new_index_leaves_the_old_one_as_it_is_and_in_use(index_dir: Path, tmp_path: Path) -> None:
    before = everything(index_dir)
    with FaissIndex.open(index_dir, writable=True):
        reembed_with(index_dir, Longer(), output=tmp_path / "new", vectors="float16")

    assert everything(index_dir) == before
    assert but_vectors(tmp_path / "new") == but_vectors(index_dir)
    with FaissIndex.open(tmp_path / "new") as index:
        assert (index.encoder.name, index.info().details["vectors"]) == ("another", "float16")
    with pytest.raises(IndexExistsError, match="new already"):
        reembed_with(index_dir, Longer(), output=tmp_path / "new")


def test_images_that_are_referred_to_are_read_again_and_no_key_is_lost_unasked(tmp_path: Path, corpus: Path) -> None:
    index_dir = tmp_path / "i"
    build_with(corpus, index_dir, images="reference", batch_size=2)
    before = but_vectors(index_dir)
    for number in (4, 5):
        image = corpus.parent / "images" / f"{number}.png"
        image.rename(image.with_suffix(".away"))

    with pytest.raises(
        KeysNotEmbeddedError, match=r"2 keys of .* cannot be embedded.*'key-4': .*No such file.*leave-out"
    ):
        reembed_with(index_dir, Longer())

    with FaissIndex.open(index_dir) as index:
        assert (index.encoder.name, index.count()) == ("fake", NUM_KEYS)
    image = corpus.parent / "images" / "4.png"
    image.with_suffix(".away").rename(image)
    encoder = Longer()
    report = reembed_with(index_dir, encoder, leave_out=True)
    assert (sum(encoder.batches), report.manifest.num_keys) == (1, NUM_KEYS - 1)  # the others had been embedded
    assert [row.key for row in report.left_out] == ["key-5"]
    image = corpus.parent / "images" / "5.png"
    image.with_suffix(".away").rename(image)
    assert but_vectors(index_dir) == {key: facts for key, facts in before.items() if key != "key-5"}
    check_vectors(index_dir, Longer())


class Meanwhile(Longer):
    """Lets somebody change the index while the first batch is embedded."""

    def __init__(self, change: Callable[[], None]) -> None:
        super().__init__()
        self._changes = [change]

    def encode_prepared(self, prepared: Any) -> Any:
        while self._changes:
            self._changes.pop()()
        return super().encode_prepared(prepared)


def test_a_key_that_failed_and_was_mended_meanwhile_is_not_left_out(tmp_path: Path, corpus: Path) -> None:
    index_dir = tmp_path / "i"
    build_with(corpus, index_dir, images="reference")
    for number in (4, 5):
        (corpus.parent / "images" / f"{number}.png").unlink()

    def mend() -> None:
        with FaissIndex.open(index_dir, writable=True) as index:
            vector_D = FakeEncoder().encode([Item("words")])[0]
            index.upsert([NewKey("key-4", vector_D, "words"), NewKey("key-0", vector_D, "words")])
            index.delete(["key-5"])

    report = reembed_with(index_dir, Meanwhile(mend), output=tmp_path / "new", leave_out=True)

    assert (report.left_out, report.num_embedded) == ([], NUM_KEYS - 1)
    assert but_vectors(tmp_path / "new").keys() == {f"key-{number}" for number in range(NUM_KEYS)} - {"key-5"}


def test_roots_that_are_named_hold_for_the_index_and_scratch_of_a_build_is_no_part_of_it(
    tmp_path: Path, corpus: Path
) -> None:
    index_dir = tmp_path / "i"
    build_with(corpus, index_dir, images="reference")
    (index_dir / "image_roots.json").unlink()
    (index_dir / "plan.sqlite").write_bytes(b"of a build that was killed")

    reembed_with(index_dir, Longer(), image_root=[str(corpus.parent)])

    with FaissIndex.open(index_dir) as index:
        assert index.image("key-1").media_type == "image/png"
    assert [path.name for path in (index_dir / "stores" / "2").iterdir()] == ["store.sqlite"]
    assert not (index_dir / "plan.sqlite").exists()


def test_what_cannot_be_done_is_told(index_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnusableOptionError, match="has the vectors of unused already"):
        reembed_with(index_dir, FakeEncoder())
    assert main(["reembed", "--index", str(tmp_path / "none"), "--checkpoint", str(tmp_path)]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "none").exists()


def test_queries_of_the_other_encoder_are_told_of(index_dir: Path) -> None:
    queries = TuningQueries(unit_vectors(20), np.zeros(20, np.uint8))
    with FaissIndex.open(index_dir, writable=True) as index:
        index.tune(queries)

    assert reembed_with(index_dir, Longer()).num_queries == 20
    assert verify_index(index_dir) == []
