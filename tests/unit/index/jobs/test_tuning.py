"""Search structures are measured with real queries, once an index has some, and with its own keys again without.

Shape legend: Q = queries, D = width.
"""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index import FaissIndex
from anykey.index.__main__ import main
from anykey.index.errors import EncoderMismatchError, IndexCorruptError, InvalidShardError, InvalidStructureError
from anykey.index.hits import StoredImage
from anykey.index.jobs.shards import write_shard
from anykey.index.jobs.tuning import NUM_QUERIES, read_queries, tune_index
from anykey.index.key_index import NewKey
from anykey.index.publish.backup import restore_snapshot, write_snapshot
from anykey.index.publish.creation import create_index
from anykey.index.publish.directory import WritableDirectory
from anykey.index.publish.tuning.candidates import ALWAYS_EXACT_BELOW
from anykey.index.publish.verify import repair_index, verify_index
from anykey.index.settings import TuneSettings
from anykey.index.store.manifest import FoldOptions, Manifest
from anykey.index.store.new_keys import to_record
from anykey.index.store.records import TuningQueries
from anykey.index.vectors.calibration import codes_of
from anykey.index.vectors.structure_facts import StructureFacts, Targets
from anykey.index.vectors.structures import EXACT_ALLOWED
from anykey.program.progress import Report, quietly
from tests.live_index import ENCODER, make_index, new_keys, unit_vectors

WIDE = ENCODER.model_copy(update={"width": 16})
PICTURE = (StoredImage(b"bytes", "image/png"),)


def write_queries(path: Path, vectors_QD: NDArray[np.float32], encoder: object = WIDE) -> str:
    width = vectors_QD.shape[1]
    records = [to_record(NewKey(f"q{n}", vector_D, "asked"), width) for n, vector_D in enumerate(vectors_QD)]
    write_shard(str(path), records, encoder, "float32")  # type: ignore[arg-type]
    return str(path)


NUM_GROUPS = EXACT_ALLOWED // 11 + 1  # of keys so many together that the structure is searched


@pytest.fixture(scope="module")
def grouped_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Groups of eleven keys that nearly are one: a key finds its ten nearest in one list, another query does not."""
    path = tmp_path_factory.mktemp("grouped") / "i"
    noise_ND = 0.02 * np.random.default_rng(0).standard_normal((11 * NUM_GROUPS, 16))
    vectors_ND = np.repeat(unit_vectors(NUM_GROUPS, seed=7, width=16), 11, axis=0) + noise_ND.astype(np.float32)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    create_index(path, WIDE, options=FoldOptions(structure="IVF32,Flat", targets=Targets(recall=0.9)))
    with FaissIndex.open(path, writable=True, compact_after=0) as index:
        index.upsert([NewKey(f"k{n}", vector_D, "text") for n, vector_D in enumerate(vectors_ND)])
        index.compact()
    return path


@pytest.fixture(scope="module")
def few_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So few keys, with a structure all the same, that it is tuned in a moment."""
    path = tmp_path_factory.mktemp("few") / "i"
    create_index(path, WIDE, options=FoldOptions(structure="IVF32,Flat"))
    with FaissIndex.open(path, writable=True, compact_after=0) as index:
        index.upsert([NewKey(f"k{n}", vector_D, "text") for n, vector_D in enumerate(unit_vectors(400, 7, 16))])
        index.compact()
    return path


@pytest.fixture
def index_dir(few_dir: Path, tmp_path: Path) -> Path:
    """A copy of that index."""
    return Path(shutil.copytree(few_dir, tmp_path / "i"))


def tune_with(
    index_dir: Path, shards: list[str], report: Report, advance: Callable[[int], None] = lambda count: None
) -> Manifest:
    settings = TuneSettings(index=index_dir, queries=shards, forget=not shards)
    return tune_index(settings, report, advance)


def structure(index_dir: Path) -> StructureFacts:
    with FaissIndex.open(index_dir) as index:
        facts = index.manifest.structure
    assert facts is not None
    return facts


def test_parameters_are_chosen_for_real_queries(tmp_path: Path, grouped_dir: Path) -> None:
    index_dir = Path(shutil.copytree(grouped_dir, tmp_path / "i"))
    before = structure(index_dir)
    scattered = unit_vectors(400, width=16)
    told: list[int] = []

    manifest = tune_with(index_dir, [write_queries(tmp_path / "q.parquet", scattered)], quietly, told.append)

    after = structure(index_dir)
    assert (before.query_source, after.query_source, after.num_queries) == ("sampled keys", "query vectors", 200)
    assert after.search.probes > before.search.probes == 1
    assert after.measured.recall_at_10 >= 0.88
    assert (manifest.structure, sum(told)) == (after, 400)


def test_structure_is_chosen_anew_for_real_queries(tmp_path: Path) -> None:
    create_index(tmp_path / "i", WIDE, options=FoldOptions(targets=Targets(latency_ms=1e-6)))  # all are worth trying
    queries = TuningQueries(unit_vectors(20, 1, 16), codes_of([Modality.TEXT] * 20))
    with FaissIndex.open(tmp_path / "i", writable=True, compact_after=0) as index:
        vectors_ND = unit_vectors(ALWAYS_EXACT_BELOW + 1, width=16)
        index.upsert([NewKey(f"k{n}", vector_D, "text") for n, vector_D in enumerate(vectors_ND)])
        index.tune(queries)
        kept, anew = set[str](), set[str]()
        index.delete(["k0"])
        index.compact(report=lambda step, done, total: kept.add(step))
        index.tune(queries, lambda *told: anew.add(told[0]))

    num_kept, num_anew = (sum("building" in step for step in steps) for steps in (kept, anew))
    assert num_kept <= 1 < num_anew


def test_queries_stay_with_the_index(tmp_path: Path, index_dir: Path) -> None:
    tune_with(index_dir, [write_queries(tmp_path / "q.parquet", unit_vectors(50, width=16))], quietly)
    with FaissIndex.open(index_dir, writable=True) as index:
        index.delete(["k1"])
        index.compact()
    assert structure(index_dir).query_source == "query vectors"
    assert structure(index_dir).num_queries == 25
    repair_index(index_dir)
    assert structure(index_dir).query_source == "query vectors"
    write_snapshot(index_dir, tmp_path / "i.tar")
    restore_snapshot(tmp_path / "i.tar", tmp_path / "restored")
    with FaissIndex.open(tmp_path / "restored", writable=True) as index:
        index.delete(["k2"])
        index.compact()
    assert structure(tmp_path / "restored").num_queries == 25
    assert verify_index(tmp_path / "restored", lambda count: None) == []

    tune_with(index_dir, [], quietly)
    assert structure(index_dir).query_source == "sampled keys"


def test_queries_are_centred_as_they_will_be(tmp_path: Path) -> None:
    def shifted(count: int, seed: int, towards: int) -> NDArray[np.float32]:
        vectors_QD = unit_vectors(count, seed, 16) + 3 * np.eye(16, dtype=np.float32)[towards]
        return np.asarray(vectors_QD / np.linalg.norm(vectors_QD, axis=1, keepdims=True), np.float32)

    half = EXACT_ALLOWED // 2 + 1
    options = FoldOptions(calibrate="modality-mean", structure="IVF32,Flat", targets=Targets(recall=0.9))
    create_index(tmp_path / "i", WIDE, options=options)
    with FaissIndex.open(tmp_path / "i", writable=True, compact_after=0) as index:
        index.upsert([NewKey(f"t{n}", vector_D, "text") for n, vector_D in enumerate(shifted(half, 0, 0))])
        index.upsert([NewKey(f"i{n}", vector_D, None, PICTURE) for n, vector_D in enumerate(shifted(half, 1, 1))])

    tune_with(tmp_path / "i", [write_queries(tmp_path / "q.parquet", shifted(200, 2, 0))], quietly)

    facts = structure(tmp_path / "i")
    with FaissIndex.open(tmp_path / "i") as index:
        queries_QD, modalities = shifted(200, 3, 0), [Modality.TEXT] * 200
        found, best = (index.search(queries_QD, 10, exact=e, query_modalities=modalities) for e in (False, True))
    overlaps = [len({hit.key for hit in a} & {hit.key for hit in b}) / 10 for a, b in zip(found, best, strict=True)]
    assert np.mean(overlaps) == pytest.approx(facts.measured.recall_at_10, abs=0.05)


def test_query_that_comes_to_equal_its_mean_is_passed_over(tmp_path: Path) -> None:
    vectors_ND = unit_vectors(10, width=16)
    create_index(tmp_path / "i", WIDE, options=FoldOptions(calibrate="modality-mean"))
    with FaissIndex.open(tmp_path / "i", writable=True, compact_after=0) as index:
        index.upsert([NewKey(f"t{n}", vector_D, "text") for n, vector_D in enumerate(vectors_ND[:8])])
        index.upsert([NewKey(f"i{n}", vector_D, None, PICTURE) for n, vector_D in enumerate(vectors_ND[8:])])
        index.compact()
        index.tune(TuningQueries(vectors_ND[8:9], codes_of([Modality.IMAGE])))
        index.delete(["i1"])  # i0 alone is the images' mean now
        index.compact()
    assert structure(tmp_path / "i").query_source == "sampled keys"


@pytest.mark.parametrize("calibrate", ["none", "modality-mean"])
@pytest.mark.parametrize("num_keys", [0, 6])
@pytest.mark.parametrize("vectors_QD", [unit_vectors(3, width=5), 2 * unit_vectors(3), np.zeros((0, 8), np.float32)])
def test_queries_that_no_structure_can_be_measured_with_are_refused(
    tmp_path: Path, calibrate: Literal["none", "modality-mean"], num_keys: int, vectors_QD: NDArray[np.float32]
) -> None:
    create_index(tmp_path / "i", ENCODER, options=FoldOptions(calibrate=calibrate))
    with FaissIndex.open(tmp_path / "i", writable=True, compact_after=0) as index:
        index.upsert(new_keys(num_keys))
        index.compact()
        with pytest.raises(InvalidStructureError, match="query vector"):
            index.tune(TuningQueries(vectors_QD, codes_of([Modality.TEXT] * len(vectors_QD))))
        index.upsert(new_keys(9))
        assert index.compact().num_keys == 9


def test_a_sample_of_many_queries_is_kept(tmp_path: Path) -> None:
    vectors_QD = unit_vectors(2 * NUM_QUERIES, width=16)
    path = write_queries(tmp_path / "q.parquet", vectors_QD)

    queries, again = read_queries([path], WIDE), read_queries([path], WIDE)

    places = [int(np.argmax(vectors_QD @ vector_D)) for vector_D in queries.vectors_QD]
    assert len(set(places)) == NUM_QUERIES
    assert max(places) > 1.5 * NUM_QUERIES
    assert np.array_equal(queries.vectors_QD, again.vectors_QD)
    assert queries.codes_Q.tolist() == codes_of([Modality.TEXT] * NUM_QUERIES).tolist()


def test_queries_of_another_encoder_or_none_are_refused(tmp_path: Path, index_dir: Path) -> None:
    before = structure(index_dir)
    other = write_queries(tmp_path / "o.parquet", unit_vectors(3), ENCODER)
    none = write_queries(tmp_path / "none.parquet", np.zeros((0, 16), np.float32))

    with pytest.raises(EncoderMismatchError, match="width: index has 16, encoder has 8"):
        tune_with(index_dir, [other], quietly)
    with pytest.raises(InvalidStructureError, match="there is no query in 1 shards"):
        tune_with(index_dir, [none], quietly)
    with pytest.raises(InvalidShardError, match=r"nothing\.parquet"):
        tune_with(index_dir, [str(tmp_path / "nothing.parquet")], quietly)
    assert structure(index_dir) == before


def test_store_without_a_place_for_queries_gets_one(tmp_path: Path) -> None:
    index_dir = make_index(tmp_path / "i", new_keys(6))
    path = WritableDirectory(index_dir).store_path("1")
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE queries")
    db.close()
    assert verify_index(index_dir, lambda count: None) == []
    with FaissIndex.open(index_dir, writable=True) as index:
        index.delete(["k1"])
        index.compact()

    tune_with(index_dir, [write_queries(tmp_path / "q.parquet", unit_vectors(4), ENCODER)], quietly)
    assert structure(index_dir).query_source == "query vectors"


def test_damaged_query_is_told(tmp_path: Path) -> None:
    index_dir = make_index(tmp_path / "i", new_keys(6))
    tune_with(index_dir, [write_queries(tmp_path / "q.parquet", unit_vectors(4), ENCODER)], quietly)
    with sqlite3.connect(WritableDirectory(index_dir).store_path("1")) as db:
        db.execute("UPDATE queries SET modality = 1 WHERE position = 2")
    db.close()

    (error,) = verify_index(index_dir, lambda count: None)
    assert "query 2 for tuning differs from its checksum" in str(error)
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        index.delete(["k1"])
        with pytest.raises(IndexCorruptError, match="query 2"):
            index.compact()
        assert index.count() == 5


def test_command_says_what_was_chosen(tmp_path: Path, index_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = write_queries(tmp_path / "q.parquet", unit_vectors(60, width=16))
    assert main(["tune", "--index", str(index_dir), "--queries", shard]) == 0
    out = capsys.readouterr().out
    assert "structure   IVF32,Flat" in out
    assert "on 30 query vectors" in out
    assert main(["tune", "--index", str(index_dir), "--forget"]) == 0
    assert "sampled keys" in capsys.readouterr().out
    for wrong in (["--forget", "--queries", shard], []):
        assert main(["tune", "--index", str(index_dir), *wrong]) == 2
        assert "expected either queries, or forget" in capsys.readouterr().err
