"""Which search structure a version gets: what was chosen before, as long as it was chosen for about as many keys."""

import json
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import ValidationError

from anykey.index import FaissIndex
from anykey.index.errors import InvalidStructureError
from anykey.index.publish.creation import create_index
from anykey.index.settings import CompactSettings
from anykey.index.store.manifest import FoldOptions, Manifest
from anykey.index.store.store import Store
from anykey.index.vectors.structure_facts import StructureFacts
from tests.live_index import ENCODER, make_index, new_keys


def facts(manifest: Manifest) -> StructureFacts:
    assert manifest.structure is not None
    return manifest.structure


def test_structure_is_chosen_anew_once_keys_have_doubled_or_halved_however_slowly(tmp_path: Path) -> None:
    keys = new_keys(60)
    chosen_for = []
    with FaissIndex.open(make_index(tmp_path / "i", keys[:20]), writable=True, compact_after=0) as index:
        for count in (20, 30, 40, 41, 60, 40, 21, 20):
            index.upsert(keys[:count])
            index.delete([key.key for key in keys[count:]])
            chosen_for.append(facts(index.compact()).chosen_for)

    assert chosen_for == [20, 20, 20, 41, 41, 41, 41, 20]


def test_structure_that_was_named_is_not_chosen(tmp_path: Path) -> None:
    with FaissIndex.open(make_index(tmp_path / "i", new_keys(20)), writable=True, compact_after=0) as index:
        assert facts(index.compact(FoldOptions(structure="SQ8"))).chosen_for == 0
        assert facts(index.compact(FoldOptions())).chosen_for == 20


def test_impossible_structure_is_refused_also_without_keys(tmp_path: Path) -> None:
    impossible = FoldOptions(structure="HNSW1")
    with pytest.raises(InvalidStructureError, match="HNSW1"):
        create_index(tmp_path / "i", ENCODER, options=impossible)
    create_index(tmp_path / "i", ENCODER)
    with FaissIndex.open(tmp_path / "i", writable=True, compact_after=0) as index:
        with pytest.raises(InvalidStructureError, match="HNSW1"):
            index.compact(impossible)
        index.upsert(new_keys(3))
        assert index.compact().num_keys == 3


def test_version_that_does_not_say_is_taken_as_the_choice(tmp_path: Path) -> None:
    index_dir = make_index(tmp_path / "i", new_keys(20))
    (path,) = index_dir.glob("versions/2/manifest.json")
    content = json.loads(path.read_text())
    content["structure"]["chosen_for"] = 0
    path.write_text(json.dumps({**content, "checksum": None}))

    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        assert facts(index.manifest).chosen_for == 0
        index.upsert(new_keys(39))
        assert facts(index.compact()).chosen_for == 20


def test_structure_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="at least 1 character"):
        CompactSettings(index=tmp_path, structure="")


def test_structure_that_only_earlier_releases_built_gives_way_to_one_that_is_measured(tmp_path: Path) -> None:
    index_dir = make_index(tmp_path / "i", new_keys(20))
    (store,) = index_dir.glob("stores/*/store.sqlite")
    with closing(Store(store)) as opened:
        opened.note(**FoldOptions(structure="OPQ2,IVF2,PQ2").facts())
    with FaissIndex.open(index_dir, writable=True) as index:
        index.upsert(new_keys(21)[20:])
        manifest = index.compact()
    assert (manifest.num_keys, manifest.options.structure) == (21, "auto")
