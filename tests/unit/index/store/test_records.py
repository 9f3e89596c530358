"""Checksums of what a store holds."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anykey.index.store.records import checksum_of, payload_checksum, vector_checksum
from anykey.index.store.store_records import dump_images, dump_no_images

TEXT = st.text(st.characters(codec="utf-8"))


@given(
    facts=st.tuples(
        st.integers(1), TEXT, st.sampled_from(["image", "text"]), st.none() | TEXT, TEXT, TEXT, st.integers(0)
    )
)
def test_the_fast_checksum_of_a_payload_is_that_of_its_facts(facts: tuple[Any, ...]) -> None:
    assert payload_checksum(*facts) == checksum_of(facts)


@given(key=TEXT, vector=st.binary(max_size=16), content=st.binary(max_size=32))
def test_the_fast_forms_of_what_every_text_has_are_the_slow_ones(key: str, vector: bytes, content: bytes) -> None:
    assert vector_checksum(key, vector) == checksum_of([key], vector)
    assert dump_no_images(key, vector, content) == dump_images((), key, vector, content)


def test_a_vector_of_damaged_types_has_another_checksum() -> None:
    damaged: list[tuple[Any, Any]] = [(b"key", b"1"), (None, b"1"), ("key", "1"), ("key", None)]
    assert len({vector_checksum(*facts) for facts in [("key", b"1"), *damaged]}) == 5


@pytest.mark.parametrize("damaged", [b"text", None, 1, 1.5])
def test_a_payload_of_damaged_types_has_another_checksum(damaged: object) -> None:
    sound = (1, "key", "text", "words", "{}", "[]", 0)
    for position, fact in enumerate(sound):
        facts: tuple[Any, ...] = (*sound[:position], damaged, *sound[position + 1 :])
        assert (payload_checksum(*facts) == payload_checksum(*sound)) == (damaged == fact)
