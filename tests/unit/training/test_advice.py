"""What a run is told to do follows from what it measured: the studies' own numbers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anykey.training.advice import Outcome, Scores, advice, rules_for
from anykey.training.choices import Loss

RESULTS = Path(__file__).parents[3] / "docs" / "results"
REACH = 0.02  # of a thousand photos


def measured(study: str, variant: str) -> Scores:
    """What the first seed of a study's variant reached, plain and as in an index that is calibrated by modality."""
    rows = json.loads((RESULTS / study / "gcl-study.json").read_text())["rows"]
    found = {
        row["centring"]: row["numbers"]
        for row in rows
        if (row["variant"], row["seed"]) == (variant, 0) and row["fusion"] in ("raw", "native")
    }
    pools = [f"{pool}/mean/success@10" for pool in ("local", "mixed")]
    return Scores(*(found[centring][pool] for centring in ("plain", "own-means") for pool in pools))


def outcome(study: str, variant: str, **changes: Any) -> Outcome:
    """A run from the study's start to a variant, as if it had been measured twice."""
    scores = {0: measured(study, "start"), 138: measured(study, variant)}
    loss = Loss(variant) if variant in list(Loss) else Loss.GCL
    return replace(Outcome(loss, True, 6000, 0, False, scores, 138, REACH, 0.01), **changes)


@pytest.mark.parametrize(
    ("study", "variant", "names"),
    [
        ("gcl-study", "clip", ["start is enough", "ranks by modality"]),
        ("gcl-study", "pairwise", ["start is enough", "ranks by modality"]),
        ("gcl-study", "alignclip", ["centring helps"]),
        ("gcl-study", "gcl-R1", ["lost local pools"]),
        ("gcl-study", "gcl-R2", []),
        ("fusion-study", "clip", ["ranks by modality", "centring helps"]),
        ("fusion-study", "gcl-R2", []),
    ],
)
def test_the_studies_numbers_lead_to_the_studies_conclusions(study: str, variant: str, names: list[str]) -> None:
    run = outcome(study, variant)
    assert [rule.name for rule in rules_for(run)] == names
    assert len(advice(run)) == max(1, len(names))


def test_a_start_that_nothing_was_above_is_kept_and_centred() -> None:
    run = outcome("gcl-study", "clip", best_step=0)
    told = advice(run)
    assert [rule.name for rule in rules_for(run)] == ["nothing gained"]
    assert "0.488 instead of 0.198" in told[0]
    assert "instead" not in advice(replace(run, is_tuned=False))[0]  # nobody serves random weights


def test_a_run_that_fell_or_still_rose_is_told_so() -> None:
    start, best = measured("gcl-study", "start"), measured("gcl-study", "gcl-R2")
    lower = replace(best, mixed=best.mixed - 2 * REACH)
    fell = outcome("gcl-study", "gcl-R2", scores={0: start, 69: best, 138: lower}, best_step=69)
    rose = replace(fell, scores={0: start, 69: lower, 138: best}, best_step=138)
    assert [rule.name for rule in rules_for(fell)] == ["went on too long"]
    assert [rule.name for rule in rules_for(rose)] == ["ended too early"]
    assert [rule.name for rule in rules_for(replace(rose, reach=0.05))] == []  # chance may have made it


def test_pairs_that_are_few_among_halves_are_to_be_drawn_more_often() -> None:
    run = outcome("gcl-study", "gcl-R2", num_pairs=300, num_alone=5700)
    assert [rule.name for rule in rules_for(run)] == ["few rows are pairs"]
    assert not rules_for(replace(run, weighs_sources=True))
    assert not rules_for(replace(run, num_alone=300))
