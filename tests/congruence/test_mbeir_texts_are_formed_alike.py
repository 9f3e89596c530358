"""Queries take M-BEIR's form in the benchmark, candidates in the index: the two must be the same form."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anykey.benchmark.mbeir import format_string as form_of_queries
from anykey.sources.corpus.mbeir import format_string as form_of_candidates


@given(st.one_of(st.none(), st.text(), st.text(alphabet=' "\r\n\t.?!aB\xdf\u01c6', max_size=8)))
@example('""')
@example('" "')
@example("\r")
def test_both_forms_are_the_same(text: str | None) -> None:
    assert form_of_candidates(text) == form_of_queries(text)


@pytest.mark.parametrize(
    ("text", "formed"), [('"two dogs"', "Two dogs."), (" who?\r\n", "Who?"), ("a!", "A!"), ("", ""), (None, "")]
)
def test_the_form_is_mbeir_s(text: str | None, formed: str) -> None:
    assert form_of_candidates(text) == formed
