"""Vectors of a FAISS file take the encoder's place: each row gets its own, and what cannot be right is refused.

Shape legend: N = rows, D = width.
"""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow
import pytest
from numpy.typing import NDArray
from pyarrow import parquet
from rich.console import Console

from anykey.index import FaissIndex
from anykey.index.jobs.build import BuildReport, build_index
from anykey.index.jobs.embedding_job import embed_corpus
from anykey.index.jobs.imported import ImportedSource
from anykey.index.jobs.transfer import export_faiss, load_shards
from anykey.index.settings import EmbedSettings
from anykey.sources.errors import SourceError
from tests.factories import build_settings, build_with, image_bytes, mixed_corpus, write_jsonl
from tests.fakes import FakeEncoderSource
from tests.live_index import everything, unit_vectors

NUM_ROWS = 40
VECTORS = unit_vectors(NUM_ROWS)


def ignore(count: int) -> None:
    """Takes progress."""


def write_faiss(path: Path, factory: str = "Flat", vectors_ND: NDArray[np.float32] = VECTORS) -> Path:
    structure = faiss.index_factory(vectors_ND.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    structure.train(vectors_ND)
    if factory.startswith("IDMap"):
        structure.add_with_ids(vectors_ND, np.arange(len(vectors_ND)) * 7 + 1000)
    else:
        structure.add(vectors_ND)
    faiss.write_index(structure, str(path))
    return path


def build_imported(
    corpus: Path, output: Path, faiss_path: Path, normalizes: bool = False, **changes: Any
) -> BuildReport:
    source = ImportedSource(faiss_path, FakeEncoderSource(), normalizes)
    return build_index(build_settings(corpus, output, batch_size=16, **changes), source, Console(quiet=True))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return mixed_corpus(tmp_path / "c", NUM_ROWS)


@pytest.mark.parametrize("factory", ["Flat", "IDMap,Flat", "IVF4,Flat", "HNSW8", "SQfp16", "Flat,RFlat"])
def test_every_row_gets_its_vector(tmp_path: Path, corpus: Path, factory: str) -> None:
    report = build_imported(corpus, tmp_path / "i", write_faiss(tmp_path / "v.faiss", factory), factory == "SQfp16")

    assert (report.num_embedded, report.bad_rows) == (NUM_ROWS, [])
    with FaissIndex.open(tmp_path / "i") as index:
        for row, vector_D in enumerate(VECTORS):
            np.testing.assert_allclose(index.vector(f"key-{row}"), vector_D, atol=2e-3 if factory == "SQfp16" else 1e-7)
        assert index.count() == NUM_ROWS
        assert index.image("key-1").media_type == "image/png"
        assert index.manifest.encoder.fingerprint == FakeEncoderSource().fingerprint()
        assert index.manifest.encoder.computed_in[0].startswith("imported on FAISS Index")


def test_the_metadata_of_clip_retrieval_is_a_corpus_as_it_is(tmp_path: Path) -> None:
    """A folder of Parquet parts; one column is the key and the image."""
    (tmp_path / "metadata").mkdir()
    photos = [tmp_path / f"{row}.png" for row in range(NUM_ROWS)]
    for row, photo in enumerate(photos):
        photo.write_bytes(image_bytes((row, 0, 0)))
    for number in range(4):
        part = photos[number * 10 : number * 10 + 10]
        columns = {"image_path": list(map(str, part)), "caption": ["a photo"] * 10}
        parquet.write_table(pyarrow.table(columns), tmp_path / "metadata" / f"metadata_{number}.parquet")
    columns = ["key=image_path", "text=caption", "image=image_path"]

    report = build_imported(tmp_path / "metadata", tmp_path / "i", write_faiss(tmp_path / "v.faiss"), columns=columns)

    assert (report.num_embedded, report.bad_rows) == (NUM_ROWS, [])
    with FaissIndex.open(tmp_path / "i") as index:
        for row, photo in enumerate(photos):
            assert index.vector(str(photo)).tolist() == VECTORS[row].tolist()
            assert index.image(str(photo)).data == photo.read_bytes()
            assert index.get(str(photo)).payload.text == "a photo"


def test_bad_rows_shift_no_vector(tmp_path: Path) -> None:
    rows: list[Any] = [{"key": f"k{row}", "text": "a"} for row in range(NUM_ROWS)]
    rows[3], rows[20] = "no JSON", {"key": "k1", "text": "again"}
    corpus = write_jsonl(tmp_path / "c.jsonl", rows)

    report = build_imported(corpus, tmp_path / "i", write_faiss(tmp_path / "v.faiss"))

    assert len(report.bad_rows) == 2
    with FaissIndex.open(tmp_path / "i") as index:
        for row in (2, 4, 19, 21, NUM_ROWS - 1):
            assert index.vector(f"k{row}").tolist() == VECTORS[row].tolist()


def test_shards_hold_the_vectors_too(tmp_path: Path, corpus: Path) -> None:
    path = write_faiss(tmp_path / "v.faiss")
    found = {"corpus": [str(corpus)], "checkpoint": "unused", "output": str(tmp_path / "out"), "shard_keys": 7}
    settings = EmbedSettings.model_validate({**found, "vectors": "float32", "faiss": path})
    source = ImportedSource(path, FakeEncoderSource())
    embed_corpus(settings, source, console=Console(quiet=True))
    load_shards([str(tmp_path / "out")], tmp_path / "loaded", ignore, "float32")
    build_imported(corpus, tmp_path / "built", path)

    assert everything(tmp_path / "loaded") == everything(tmp_path / "built")
    assert embed_corpus(settings, source, console=Console(quiet=True)).num_made == 0
    write_faiss(path, vectors_ND=unit_vectors(NUM_ROWS, seed=1))
    assert embed_corpus(settings, source, console=Console(quiet=True)).num_made == 6


@pytest.mark.parametrize("images", ["copy", "reference"])
def test_exported_keys_come_back_with_their_vectors_and_images(tmp_path: Path, corpus: Path, images: str) -> None:
    build_with(corpus, tmp_path / "i", images=images)
    export_faiss(tmp_path / "i", tmp_path / "out", ignore)

    build_imported(tmp_path / "out" / "keys.jsonl", tmp_path / "back", tmp_path / "out" / "vectors.faiss")

    assert everything(tmp_path / "back") == everything(tmp_path / "i")


def test_another_number_of_rows_is_refused_before_anything_is_stored(tmp_path: Path, corpus: Path) -> None:
    path = write_faiss(tmp_path / "v.faiss", vectors_ND=VECTORS[:-1])

    with pytest.raises(SourceError, match=r"v.faiss holds 39 vectors, the corpus has 40 rows: expected one for"):
        build_imported(corpus, tmp_path / "i", path)
    assert not (tmp_path / "i" / "CURRENT").exists()


def test_another_width_is_refused(tmp_path: Path, corpus: Path) -> None:
    path = write_faiss(tmp_path / "v.faiss", vectors_ND=unit_vectors(NUM_ROWS, width=16))
    with pytest.raises(SourceError, match="holds vectors of width 16, the encoder's have 8"):
        build_imported(corpus, tmp_path / "i", path)


def test_vectors_of_another_length_are_refused_or_scaled(tmp_path: Path, corpus: Path) -> None:
    vectors_ND = VECTORS.copy()
    vectors_ND[17] *= 3
    vectors_ND[18] *= np.float32(1e30)  # its square is beyond float32
    path = write_faiss(tmp_path / "v.faiss", vectors_ND=vectors_ND)

    with pytest.raises(SourceError, match=r"vector 17 \(from 0\) has length 3, expected 1; --normalize"):
        build_imported(corpus, tmp_path / "i", path)
    build_imported(corpus, tmp_path / "i", path, normalizes=True)
    with FaissIndex.open(tmp_path / "i") as index:
        for row in (17, 18):
            np.testing.assert_allclose(index.vector(f"key-{row}"), VECTORS[row], atol=1e-6)


def test_lists_with_numbers_that_are_no_places_are_refused(tmp_path: Path, corpus: Path) -> None:
    structure = faiss.index_factory(VECTORS.shape[1], "IVF4,Flat", faiss.METRIC_INNER_PRODUCT)
    structure.train(VECTORS)
    structure.add_with_ids(VECTORS, np.arange(NUM_ROWS) * 7 + 1000)
    faiss.write_index(structure, str(tmp_path / "v.faiss"))
    with pytest.raises(SourceError, match=r"does not give its vectors back: .*sequential ids"):
        build_imported(corpus, tmp_path / "i", tmp_path / "v.faiss")


@pytest.mark.parametrize("number", [np.nan, np.inf, 0.0])
def test_vector_that_cannot_be_scaled_is_refused(tmp_path: Path, corpus: Path, number: float) -> None:
    vectors_ND = VECTORS.copy()
    vectors_ND[17] = number
    path = write_faiss(tmp_path / "v.faiss", vectors_ND=vectors_ND)
    with pytest.raises(SourceError, match=r"vector 17 \(from 0\) has length"):
        build_imported(corpus, tmp_path / "i", path, normalizes=True)


@pytest.mark.parametrize("is_next_imported", [True, False])
def test_build_goes_on_with_no_vectors_of_another_file(tmp_path: Path, corpus: Path, is_next_imported: bool) -> None:
    wrong_ND = VECTORS[::-1].copy()
    wrong_ND[-1] *= 3
    with pytest.raises(SourceError, match="has length 3"):
        build_imported(corpus, tmp_path / "i", write_faiss(tmp_path / "wrong.faiss", vectors_ND=wrong_ND))

    if is_next_imported:
        report = build_imported(corpus, tmp_path / "i", write_faiss(tmp_path / "v.faiss"))
        with FaissIndex.open(tmp_path / "i") as index:
            assert index.vector("key-0").tolist() == VECTORS[0].tolist()
    else:
        report = build_with(corpus, tmp_path / "i")
    assert report.num_embedded == NUM_ROWS


def test_shard_is_made_again_where_its_rows_have_moved(tmp_path: Path) -> None:
    rows: list[Any] = [{"key": f"k{row}", "text": "a"} for row in range(NUM_ROWS - 1)]
    path = write_faiss(tmp_path / "v.faiss")
    found = {"checkpoint": "unused", "output": str(tmp_path / "out"), "faiss": path, "vectors": "float32"}
    for lines in (["no JSON", *rows], [*rows, "no JSON"]):
        corpus = write_jsonl(tmp_path / "c.jsonl", lines)
        settings = EmbedSettings.model_validate({**found, "corpus": [str(corpus)]})
        report = embed_corpus(settings, ImportedSource(path, FakeEncoderSource()), console=Console(quiet=True))
        assert report.num_made == 1


@pytest.mark.parametrize("content", [b"", b"no FAISS file at all", None])
def test_damaged_file_is_named(tmp_path: Path, corpus: Path, content: bytes | None) -> None:
    path = tmp_path / "v.faiss"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=r"v\.faiss cannot be read as a file that FAISS wrote"):
        build_imported(corpus, tmp_path / "i", path)


def test_file_that_was_cut_is_named(tmp_path: Path, corpus: Path) -> None:
    path = write_faiss(tmp_path / "v.faiss")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceError, match=r"v\.faiss cannot be read as a file that FAISS wrote"):
        build_imported(corpus, tmp_path / "i", path)


def test_scaling_without_a_file_of_vectors_is_refused(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(ValueError, match="normalize is for the vectors of a FAISS file"):
        build_settings(corpus, tmp_path / "i", normalize=True)
