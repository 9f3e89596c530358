"""What Milvus cannot store is refused with a reason; what it can comes back as it was."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from anykey.encoder.item import Modality
from anykey.index.errors import InvalidKeyError
from anykey.index.hits import Payload, StoredImage, StoredKey
from anykey.index.key_index import NewKey
from anykey.index.milvus.limits import AS_INSTALLED
from anykey.index.milvus.records import (
    check_key,
    in_batches,
    payload_of,
    record_of,
    stored_key_of,
)

WIDTH = 4
KEY = NewKey("sku-1", np.eye(WIDTH, dtype=np.float32)[0], "text", metadata={"n": 1}, pools=("b", "a", "b"))
PICTURE = StoredImage(b"bytes", "image/png")


def nested(levels: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(levels - 1):
        metadata = {"a": metadata}
    return metadata


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"key": "k" * 65_535},
        {"text": "\u20ac" * 21_845},
        {"text": None, "images": (PICTURE,)},
        {"metadata": {"a": "x" * 65_528}},
        {"metadata": {"n": [2**63 - 1, -(2**63)]}},
        {"metadata": nested(100)},
        {"pools": tuple(map(str, range(4_096)))},
        {"vector_D": np.eye(WIDTH, dtype=np.float16)[0]},
        {"vector_D": np.eye(WIDTH, dtype=np.float32)[0] * 1.0009},
    ],
)
def test_everything_up_to_the_limits_is_stored(changes: dict[str, Any]) -> None:
    check_key(replace(KEY, **changes), WIDTH)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": "k" * 65_536}, "at most 65,535 bytes in UTF-8, got 65,536"),
        ({"key": ""}, "expected its key to be a string that is not blank, got ''"),
        ({"key": 7}, "expected its key to be a string that is not blank, got 7"),
        ({"key": "\ud800"}, "its key is no Unicode text"),
        ({"text": "\u20ac" * 21_846}, "expected its text to have at most 65,535 bytes in UTF-8, got 65,538"),
        ({"text": None}, "it has neither text nor image"),
        ({"metadata": {"a": "x" * 65_529}}, "at most 65,536 bytes as JSON, got 65,537"),
        ({"metadata": {"n": [{"m": 2**63}]}}, "an integer beyond 64 bits"),
        ({"metadata": nested(101)}, "at most 100 levels deep"),
        ({"metadata": {"n": float("inf")}}, "not JSON compliant"),
        ({"metadata": {1: "n"}}, "the names in its metadata to be strings"),
        ({"metadata": {"a": "\ud800"}}, "surrogates"),
        ({"metadata": {"a": b"x"}}, "not JSON serializable"),
        ({"metadata": None}, "expected metadata to be an object, got NoneType"),
        ({"metadata": {"a": list(range(5_000))}}, "at most 4,096 terms, got 5,002"),
        ({"pools": tuple(map(str, range(4_097)))}, "at most 4,096 pools, got 4,097"),
        ({"pools": ("ok", " ")}, "expected its pool to be a string that is not blank"),
        ({"vector_D": np.eye(3, dtype=np.float32)[0]}, r"expected a vector of 4 numbers, got shape \[3\]"),
        ({"vector_D": np.arange(4)}, "of int64"),
        ({"vector_D": np.full(4, np.nan, dtype=np.float32)}, "expected a unit vector, got norm nan"),
        ({"vector_D": np.zeros(4, dtype=np.float32)}, "expected a unit vector, got norm 0"),
    ],
)
def test_what_cannot_be_stored_is_named_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidKeyError, match=f"^key .* cannot be stored: .*{reason}"):
        check_key(replace(KEY, **changes), WIDTH)


def test_long_names_are_shortened_in_messages() -> None:
    with pytest.raises(InvalidKeyError) as caught:
        check_key(replace(KEY, key="k" * 70_000), WIDTH)
    assert len(str(caught.value)) < 250


def test_row_comes_back_as_the_key_it_was() -> None:
    new = replace(KEY, images=(PICTURE, PICTURE))

    record = record_of(new, ["ab/cd", None])

    assert stored_key_of(record) == StoredKey("sku-1", Modality.FUSED, Payload("text", {"n": 1}, 2), ("a", "b"))
    assert [image["location"] for image in record["images"]["files"]] == ["ab/cd", None]
    assert record["num_pools"] == 2


def test_key_without_text_has_none_rather_than_an_empty_one() -> None:
    record = record_of(replace(KEY, text=None, images=(PICTURE,)), [None])

    assert record["text"] == ""  # Milvus has no absent text
    assert payload_of(record).text is None


@pytest.mark.parametrize(
    ("num_records", "text_bytes"), [(0, 0), (1, 10), (AS_INSTALLED.batch_records + 1, 1), (600, 60_000)]
)
def test_batches_stay_below_both_limits_and_lose_nothing(num_records: int, text_bytes: int) -> None:
    records = [record_of(replace(KEY, key=str(number), text="t" * text_bytes), []) for number in range(num_records)]

    batches = list(in_batches(records))

    assert [record["key"] for batch in batches for record in batch] == [record["key"] for record in records]
    for batch in batches:
        assert 0 < len(batch) <= AS_INSTALLED.batch_records
        assert sum(len(record["text"]) for record in batch) <= AS_INSTALLED.batch_bytes
    assert len(batches) == {0: 0, 1: 1, 5_001: 2, 600: 3}[num_records]
