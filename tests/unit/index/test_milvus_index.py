"""What is particular to MilvusIndex: making and opening it, its images, its limits, its pages."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anykey.index.deadline import Deadline
from anykey.index.errors import (
    DeadlineExceededError,
    ImageUnavailableError,
    IndexExistsError,
    IndexFormatError,
    IndexNotFoundError,
    IndexUnavailableError,
)
from anykey.index.filtering.conditions import Range
from anykey.index.hits import StoredImage
from anykey.index.key_index import NewKey, Scope
from anykey.index.milvus import collection as collection_module
from anykey.index.milvus.collection import Structure
from anykey.index.milvus.limits import Limits
from anykey.index.milvus_index import MilvusIndex
from tests.engines import ENCODER, MILVUS_URI, needs_milvus, unit_vectors

pytestmark = [needs_milvus, pytest.mark.skipif(MILVUS_URI is not None, reason="looks at Milvus Lite")]

PICTURE = StoredImage(b"bytes", "image/png")


def keys(number: int) -> list[NewKey]:
    return [
        NewKey(f"key-{place:03}", vector_D, "text", metadata={"n": [place]}, pools=("all",))
        for place, vector_D in enumerate(unit_vectors(0, number))
    ]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "keys.db")


@pytest.fixture
def index(uri: str) -> Iterator[MilvusIndex]:
    with MilvusIndex.create(uri, "keys", ENCODER) as made:
        yield made


def test_collection_says_what_made_it(uri: str, tmp_path: Path) -> None:
    structure = Structure(kind="HNSW", search={"ef": 99})
    MilvusIndex.create(uri, "keys", ENCODER, structure=structure, images_dir=str(tmp_path / "images")).close()

    with MilvusIndex.open(uri, "keys") as opened:
        details = opened.info().details
        assert opened.encoder == ENCODER
    assert details["structure"] == structure.model_dump()
    assert details["images_dir"] == str(tmp_path / "images")
    assert details["server"] == uri
    assert details["collection"] == "keys"


def test_second_index_of_one_name_is_refused(index: MilvusIndex, uri: str) -> None:
    with pytest.raises(IndexExistsError, match="has a collection 'keys' already"):
        MilvusIndex.create(uri, "keys", ENCODER)
    index.upsert(keys(1))  # the refusal closed nothing


def test_collections_of_one_file_are_apart(index: MilvusIndex, uri: str) -> None:
    with MilvusIndex.create(uri, "others", ENCODER) as other:
        index.upsert(keys(2))
        assert (index.count(), other.count()) == (2, 0)


def test_missing_collection_is_not_found(index: MilvusIndex, uri: str) -> None:
    with pytest.raises(IndexNotFoundError, match="has no collection 'missing'"):
        MilvusIndex.open(uri, "missing")


@pytest.mark.parametrize("noted", [None, "{}", '{"format_version": 2}'])
def test_foreign_collection_is_refused(index: MilvusIndex, uri: str, noted: str | None) -> None:
    from pymilvus import MilvusClient

    client = MilvusClient(uri)
    properties = {} if noted is None else {"properties": {"anykey": noted}}
    schema = collection_module._schema("", 8)
    client.create_collection("foreign", schema=schema, **properties)
    client.close()

    with pytest.raises(IndexFormatError, match=r"collection 'foreign' .* is no index of ours"):
        MilvusIndex.open(uri, "foreign")


def test_newer_format_is_refused(index: MilvusIndex, uri: str) -> None:
    facts = collection_module.CollectionFacts(format_version=3, encoder=ENCODER)
    collection_module.Collection.create(index._collection.connection, "newer", facts)

    with pytest.raises(IndexFormatError, match="has format 3, this release reads formats 1 and 2"):
        MilvusIndex.open(uri, "newer")


def test_name_that_milvus_does_not_take_is_reported(uri: str) -> None:
    with pytest.raises(IndexUnavailableError, match=r"Milvus at .*keys\.db: "):
        MilvusIndex.create(uri, "no/name", ENCODER)
    MilvusIndex.create(uri, "a_name", ENCODER).close()  # the file was let go


def test_images_without_a_folder_are_counted_but_not_kept(index: MilvusIndex) -> None:
    index.upsert([replace(keys(1)[0], images=(PICTURE,))])

    assert index.get("key-000").payload.num_images == 1
    with pytest.raises(ImageUnavailableError, match="'key-000' were not kept: there was no images_dir"):
        index.image("key-000")


def test_images_are_found_where_they_were_moved(uri: str, tmp_path: Path) -> None:
    with MilvusIndex.create(uri, "keys", ENCODER, images_dir=str(tmp_path / "old")) as index:
        index.upsert([replace(keys(1)[0], images=(PICTURE,))])
    (tmp_path / "old").rename(tmp_path / "new")

    with MilvusIndex.open(uri, "keys") as index, pytest.raises(ImageUnavailableError):
        index.image("key-000")
    with MilvusIndex.open(uri, "keys", images_dir=str(tmp_path / "new")) as index:
        assert index.image("key-000") == PICTURE


def test_image_that_cannot_be_written_keeps_all_out(uri: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with MilvusIndex.create(uri, "keys", ENCODER, images_dir=str(tmp_path / "file")) as index:
        with pytest.raises(ImageUnavailableError):
            index.upsert([*keys(3), replace(keys(4)[3], images=(PICTURE,))])
        assert index.count() == 0


def test_what_exceeds_the_limits_of_milvus_is_done_in_parts(uri: str) -> None:
    low = Limits(found=20, page_records=4, batch_records=7, deleted=3, flush_after=10, listed_by_lite=5)
    with MilvusIndex.create(uri, "keys", ENCODER, limits=low) as index:
        stored = keys(50)
        index.upsert(stored)
        queries_QD = unit_vectors(1, 9)
        scores_QN = queries_QD @ np.array([new.vector_D for new in stored]).T

        assert [key.key for key in index.scan("key-004")] == [new.key for new in stored[5:]]
        for k in (3, 20, 21, 50, 99):
            for hits, scores_N in zip(index.search(queries_QD, k), scores_QN, strict=True):
                assert [hit.key for hit in hits] == [stored[place].key for place in np.argsort(-scores_N)[:k]]
        names = [new.key for new in stored]
        condition = Range(("n",), gte=5)
        assert index.count(Scope(within=names[:30], condition=condition)) == 25
        assert index.count(Scope(exclude=names[:30], condition=condition, pool="all")) == 20
        assert index.delete(names[:10]) == 10
        assert index.info().pools == {"all": 40}


@pytest.mark.parametrize(
    ("kind", "given", "k", "exact", "expected"),
    [
        ("FLAT", {}, 10, False, {}),
        ("IVF_FLAT", {}, 10, False, {"nprobe": 16}),
        ("IVF_FLAT", {"nprobe": 7}, 10, False, {"nprobe": 7}),
        ("IVF_FLAT", {"nprobe": 7}, 10, True, {"nprobe": 1024}),
        ("HNSW", {}, 10, False, {"ef": 64}),
        ("HNSW", {"ef": 100}, 200, False, {"ef": 200}),
    ],
)
def test_structures_are_searched_with_what_milvus_needs(
    kind: Any, given: dict[str, int], k: int, exact: bool, expected: dict[str, int]
) -> None:
    assert Structure(kind=kind, search=given).search_parameters(k, exact) == expected


def test_stopped_upsert_says_how_many_keys_were_stored(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pymilvus import MilvusClient, MilvusException

    batches, upsert = [], MilvusClient.upsert

    def goes_away(client: MilvusClient, *arguments: Any, **options: Any) -> Any:
        batches.append(options)
        if len(batches) == 3:
            raise MilvusException(message="gone")
        return upsert(client, *arguments, **options)

    monkeypatch.setattr(MilvusClient, "upsert", goes_away)
    with MilvusIndex.create(uri, "keys", ENCODER, limits=Limits(batch_records=4)) as index:
        with pytest.raises(IndexUnavailableError, match=r"gone \(8 of 10 keys were stored\)"):
            index.upsert(keys(10))
        assert index.count() == 8


def test_answers_that_nobody_waits_for_are_given_up(index: MilvusIndex) -> None:
    index.upsert(keys(20))
    query_1D, some = unit_vectors(0, 1), Scope(condition=Range(("n",), gte=10))
    given_up = Deadline(60)
    given_up.cancel()
    for deadline in (Deadline(0), given_up):
        with pytest.raises(DeadlineExceededError):
            index.search(query_1D, 5, some, deadline=deadline)
        with pytest.raises(DeadlineExceededError):
            index.count(some, deadline=deadline)

    assert index.search(query_1D, 5, some, deadline=Deadline(60)) == index.search(query_1D, 5, some)
    assert index.count(some, deadline=Deadline(60)) == 10


def test_turn_of_a_file_is_waited_for_no_longer_than_the_answer_is(index: MilvusIndex) -> None:
    index.upsert(keys(3))
    late: list[str] = []

    def search() -> None:
        try:
            index.search(unit_vectors(0, 1), 1, deadline=Deadline(0.05))
        except DeadlineExceededError:
            late.append("late")

    turns = index._collection.connection._turns
    assert turns is not None
    with turns:  # as a call of another thread has it
        thread = threading.Thread(target=search)
        thread.start()
        thread.join(20)
    assert late == ["late"]
    assert len(index.search(unit_vectors(0, 1), 1, deadline=Deadline(60))[0]) == 1
