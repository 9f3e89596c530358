"""Whatever a shard holds, loading it either stores its keys or says in one sentence what is wrong with it."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anykey.index.errors import SearchIndexError
from anykey.index.jobs.shards import ENCODER_FIELD, read_shard, write_shard
from anykey.index.store.new_keys import to_record
from anykey.index.store.records import NewImage, Record
from anykey.index.store.store import Store
from tests.factories import image_bytes
from tests.live_index import ENCODER, new_keys, unit_vectors

VECTOR = unit_vectors(1)[0].tolist()
GOOD: dict[str, Any] = {
    "key": "a", "vector": VECTOR, "text": "t", "metadata": "{}", "pools": ["p"],
    "images": [{"media_type": "image/png", "path": None, "data": image_bytes()}],
}  # fmt: skip
ODD = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.sampled_from(
        ["[" * 5000, '{"a": NaN}', "[]", '"x"', '{"\\ud800": 1}', "{", VECTOR, [VECTOR], VECTOR[:3], "\0"]
    )
)
ODD_IMAGES = st.lists(
    st.fixed_dictionaries({}, optional={"media_type": ODD, "path": ODD, "data": ODD}) | ODD, max_size=2
)
odd_rows = st.fixed_dictionaries(
    {},
    optional={
        "key": ODD, "vector": ODD | st.lists(st.floats(), max_size=9), "text": ODD, "metadata": ODD, "crc32": ODD,
        "pools": ODD | st.lists(ODD, max_size=2), "images": ODD_IMAGES | ODD,
    },
)  # fmt: skip


def read_or_refused(path: Path) -> list[Record] | None:
    """All keys of a shard; `None` if it is refused, in one sentence."""
    try:
        return [record for batch in read_shard(str(path)) for record in batch]
    except SearchIndexError as error:
        said = str(error)
    assert "\n" not in said
    return None


def store_all(path: Path, records: list[Record]) -> None:
    """Stores keys as `load` does: what the reading let through has to be storable."""
    store = Store(path)
    try:
        store.commit(records)
    finally:
        store.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=odd_rows)
def test_cells_of_other_types_and_contents_are_told_of(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "s.parquet"
    try:
        table = pa.Table.from_pylist([GOOD, {**GOOD, "key": "b"}, {**GOOD, **changes}][2:])
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return  # no table can hold it
    facts = {ENCODER_FIELD: ENCODER.model_dump_json().encode()}
    try:
        pq.write_table(table.replace_schema_metadata(facts), path)
    except pa.ArrowException:
        return
    if (records := read_or_refused(path)) is not None:
        store_all(tmp_path / "s.sqlite", records)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("shard") / "s.parquet"
    write_shard(str(path), [to_record(key, ENCODER.width) for key in new_keys(5)], ENCODER, "float32")
    return path.read_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.none() | st.integers(0),
)
def test_bytes_that_changed_are_told_of_or_change_nothing(
    tmp_path: Path, shard: bytes, changes: list[tuple[int, int]], cut: int | None
) -> None:
    data = bytearray(shard)
    for place, byte in changes:
        data[place % len(data)] = byte
    path = tmp_path / "s.parquet"
    path.write_bytes(bytes(data if cut is None else data[: cut % len(data)]))
    found = read_or_refused(path)
    if found is None:
        return
    assert [record.key for record in found] == [key.key for key in new_keys(5)]
    assert all(json.loads(record.metadata) == key.metadata for record, key in zip(found, new_keys(5), strict=True))
    assert all(isinstance(image, NewImage) for record in found for image in record.images)
