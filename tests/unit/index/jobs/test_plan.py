"""The plan: one entry per key, whatever the corpus repeats; images looked at before anything is embedded."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anykey.index.jobs.plan import PAGE_ROWS, Plan
from anykey.sources.corpus.entry import CorpusEntry
from anykey.sources.errors import DuplicateKeyError, InvalidRowError
from anykey.sources.files.images import ImageStamp, ImageStorage


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Plan]:
    plan = Plan(tmp_path / "plan.sqlite", "copy")
    yield plan
    plan.close()


def entry(key: str, where: str = "a.jsonl:1", **changes: Any) -> CorpusEntry:
    return CorpusEntry(**{"key": key, "text": "t", "images": (), "where": where, **changes})


def test_entries_come_back_in_order_beyond_one_page(plan: Plan) -> None:
    keys = [f"k{number}" for number in range(2 * PAGE_ROWS + 1)]
    for key in keys:
        plan.add(entry(key))

    assert [planned.key for planned in plan.entries()] == keys
    assert plan.count() == len(keys)


def test_entry_keeps_text_metadata_pools_and_images(plan: Plan) -> None:
    stamp = ImageStamp("/i.png", 5, "7")

    plan.add(entry("k", metadata={"b": 1, "a": "\u00e9"}, pools=("p",)), [stamp])

    (planned,) = plan.entries()
    assert (planned.text, planned.metadata, planned.pools) == ("t", '{"a": "\u00e9", "b": 1}', ("p",))
    assert planned.images == (stamp,)


def test_duplicate_key_names_the_first_place(plan: Plan) -> None:
    plan.add(entry("k", "a.jsonl:3"))

    with pytest.raises(DuplicateKeyError, match=r"b\.jsonl:9: duplicate key 'k', first at a\.jsonl:3"):
        plan.add(entry("k", "b.jsonl:9"))


def test_same_candidate_in_two_mbeir_files_is_one_key_in_two_pools(plan: Plan) -> None:
    plan.add(entry("1:1", "a.jsonl:1", pools=("a",), may_repeat=True))
    plan.add(entry("1:1", "b.jsonl:1", pools=("b",), may_repeat=True))

    (planned,) = plan.entries()
    assert planned.pools == ("a", "b")


def test_differing_candidates_with_one_did_are_refused(plan: Plan) -> None:
    plan.add(entry("1:1", "a.jsonl:1", may_repeat=True))

    with pytest.raises(DuplicateKeyError, match=r"differs from the row with the same did at a\.jsonl:1"):
        plan.add(entry("1:1", "b.jsonl:1", text="other", may_repeat=True))


def test_candidate_twice_in_one_mbeir_file_is_a_duplicate(plan: Plan) -> None:
    plan.add(entry("1:1", "a.jsonl:1", may_repeat=True))

    with pytest.raises(DuplicateKeyError, match="duplicate key"):
        plan.add(entry("1:1", "a.jsonl:2", may_repeat=True))


def test_bad_rows_come_in_the_order_of_the_corpus(plan: Plan) -> None:
    for line in (1, 2, 3):
        if line != 2:
            plan.add(entry(f"k{line}", f"a.jsonl:{line}"))
        else:
            plan.pass_over()
            plan.add_bad_row(InvalidRowError("a.jsonl:2", "no key"))
    first, _ = plan.entries()
    plan.add_bad_row(InvalidRowError(first.where, "undecodable", first.key), first.position)

    assert [str(row) for row in plan.bad_rows()] == ["a.jsonl:1: undecodable", "a.jsonl:2: no key"]


def test_entry_that_turned_out_bad_is_not_usable_but_a_repeated_one_is(plan: Plan) -> None:
    for line, key in enumerate("aab", start=1):
        try:
            plan.add(entry(key, f"a.jsonl:{line}"))
        except DuplicateKeyError as error:
            plan.add_bad_row(error)
    assert (plan.count(), plan.num_usable()) == (2, 2)

    last = list(plan.entries())[-1]
    plan.add_bad_row(InvalidRowError(last.where, "undecodable", last.key), last.position)

    assert (plan.count(), plan.num_usable()) == (2, 1)


@pytest.mark.parametrize(("images", "num_digests"), [("copy", 1), ("reference", 2)])
def test_payload_digest_follows_paths_only_when_the_store_keeps_paths(
    tmp_path: Path, images: ImageStorage, num_digests: int
) -> None:
    with contextlib.closing(Plan(tmp_path / "p.sqlite", images)) as plan:
        for name in "ab":
            plan.add(entry(name), [ImageStamp(f"/{name}", 4, "1")])
        assert len({planned.payload_sha256 for planned in plan.entries()}) == num_digests


def test_closing_deletes_the_scratch_file(tmp_path: Path) -> None:
    plan = Plan(tmp_path / "p.sqlite", "copy")
    plan.close()
    plan.close()

    assert not (tmp_path / "p.sqlite").exists()
