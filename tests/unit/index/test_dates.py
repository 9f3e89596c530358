"""Filters compare dates as moments in every part of an index: folded, recent, of an earlier release, and in Milvus."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from anykey.index import FaissIndex, parse_condition
from anykey.index.key_index import NewKey, Scope
from anykey.index.milvus.collection import Collection, CollectionFacts
from anykey.index.milvus.connection import Connection
from anykey.index.milvus.records import record_of
from anykey.index.milvus.terms import exists_term, single_term, value_term
from anykey.index.milvus_index import MilvusIndex
from anykey.index.store.manifest import file_facts, read_manifest
from tests.engines import ENCODER, EVERY_ENGINE, Place, new_index
from tests.factories import build_with, write_jsonl
from tests.live_index import unit_vectors
from tests.unit.index.filtering.test_postings import as_former, row

MOMENTS = {"utc": "2024-06-30T22:00:00+00:00", "east": "2024-07-01T00:30:00+02:00", "zulu": "2024-06-30T22:00:00Z"}
MOMENTS |= {"day": "2024-07-01", "naive": "2024-06-30T22:30:00"}
CASES: list[tuple[dict[str, Any], set[str]]] = [
    ({"gte": "2024-06-30T22:00:00Z"}, {"utc", "east", "zulu", "day", "naive"}),
    ({"gt": "2024-06-30T22:00:00Z"}, {"east", "day", "naive"}),
    ({"lt": "2024-06-30T22:15:00Z"}, {"utc", "zulu"}),
    ({"gte": "2024-07-01T00:30+02:00", "lte": "2024-06-30T23:59:59Z"}, {"east"}),
    ({"eq": "2024-06-30T22:00:00Z"}, {"utc", "zulu"}),
    ({"in": ["2024-06-30T22:30:00Z", "2024-07-01T00:00:00+00:00"]}, {"east", "day"}),
    ({"gte": "2024-07"}, {"east", "day"}),
]


def keys() -> list[NewKey]:
    vectors = unit_vectors(len(MOMENTS))
    return [
        NewKey(key, vector, text="a note", metadata={"ts": text})
        for (key, text), vector in zip(MOMENTS.items(), vectors, strict=True)
    ]


def found(index: Any, comparison: dict[str, Any]) -> set[str]:
    scope = Scope(condition=parse_condition({"field": "ts", **comparison}))
    hits = index.search(unit_vectors(1), 10, scope)[0]
    assert index.count(scope) == len(hits)
    return {hit.key for hit in hits}


@pytest.mark.parametrize("made", EVERY_ENGINE)
def test_dates_compare_as_moments_in_every_engine(tmp_path: Path, made: Any) -> None:
    place: Place = made(tmp_path)
    with new_index(place) as index:
        index.upsert(keys())
        for comparison, expected in CASES:
            assert found(index, comparison) == expected, comparison


@pytest.mark.parametrize("is_former", [False, True])
def test_versions_compare_dates_alike_also_of_earlier_releases(tmp_path: Path, is_former: bool) -> None:
    rows = [{"key": key, "text": "a note", "metadata": {"ts": text}} for key, text in MOMENTS.items()]
    report = build_with(write_jsonl(tmp_path / "c.jsonl", rows), tmp_path / "i")
    if is_former:
        path = report.version_dir / "fields.sqlite"
        as_former(path, [row(each["metadata"]) for each in rows])  # type: ignore[arg-type]
        files = {**report.manifest.files, path.name: file_facts(path)}
        read_manifest(report.version_dir).model_copy(update={"files": files}).write(report.version_dir)
    with FaissIndex.open(tmp_path / "i") as index:
        for comparison, expected in CASES:
            assert found(index, comparison) == expected, comparison


def former_record(new: NewKey) -> dict[str, Any]:
    """The record of a key as collections of format 1 have it: a date is a string like any other."""
    path = ("ts",)
    terms = [exists_term(path), value_term(path, ("string", new.metadata["ts"])), single_term(path, "string")]
    return {**record_of(new, []), "terms": terms, "images": {"files": []}}


def test_collections_of_the_former_format_compare_dates_alike(tmp_path: Path) -> None:
    pytest.importorskip("milvus_lite")
    uri = str(tmp_path / "keys.db")
    with closing(Connection(uri, may_create=True)) as connection:
        facts = CollectionFacts(format_version=1, encoder=ENCODER)
        made = Collection.create(connection, "former", facts)
        made.upsert(list(map(former_record, keys()[:-2])))
    with MilvusIndex.open(uri, "former") as index:
        index.upsert(keys()[-2:])
        for comparison, expected in CASES:
            assert found(index, comparison) == expected, comparison
