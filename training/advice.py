"""What to do with a run, from what it measured: the guide of `docs/training.md`, as one table of rules.

A rule is a condition and the sentence that follows from it. Those that apply are told in the table's order, two at
most. Scores are mean success@10: L in pools of one modality, M in the mixed pool.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from anykey.training.choices import Loss
from anykey.training.data import RunData, num_halves
from anykey.training.settings import TrainSettings
from anykey.training.validation import HIGH_END, LOW_END, MIN_PAIRS_TO_SHARE

MAX_TOLD = 2
# M is at least this share of L where a mixed pool is ranked by meaning: models whose loss compares modalities keep .92
# to .97 of L, all others .31 to .74 (docs/results/gcl-study.md, docs/results/flickr8k.md).
KEPT_SHARE = 0.8
# Below this share of pairs among the rows, drawing them more often wins: .02 in the mixed pool at 1 in 21, .01 at 1 in
# 6 (docs/results/imbalance.md).
FEW_PAIRS_SHARE = 0.2
# Below this temperature the modalities lie apart after CLIP's loss, and even GCL does better at 0.05
# (docs/results/gcl-sum-study.md).
COLD = 0.03
# Losses whose denominators never hold candidates of two modalities: what leaves M at .27 to .36 (the same pages).
BLIND_LOSSES = (Loss.CLIP, Loss.PAIRWISE)


@dataclass(frozen=True)
class Scores:
    """Mean success@10 of one measurement.

    Attributes:
        local: In pools of one modality.
        mixed: In the mixed pool.
        calibrated_local: In pools of one modality, of an index with `--calibrate modality-mean`.
        calibrated_mixed: In the mixed pool of such an index.
    """

    local: float
    mixed: float
    calibrated_local: float
    calibrated_mixed: float

    @property
    def kept_share(self) -> float:
        """M as a share of L; 1 where nothing is found at all."""
        return self.mixed / self.local if self.local else 1.0


@dataclass(frozen=True)
class Outcome:
    """What the rules ask about.

    Attributes:
        loss: What was minimised.
        is_tuned: Whether the run started from a trained encoder.
        num_pairs: Training rows that have two sides that belong together.
        num_alone: Training rows that are an image alone or a text alone.
        weighs_sources: Whether sources were drawn by weights.
        scores: Of every measurement, by step, the start's at 0; empty without held-out pairs.
        best_step: Where the best was measured.
        reach: How far other held-out pairs may have moved the best M: half its 95 % interval.
        temperature: At the last step that was logged.
    """

    loss: Loss
    is_tuned: bool
    num_pairs: int
    num_alone: int
    weighs_sources: bool
    scores: Mapping[int, Scores]
    best_step: int
    reach: float
    temperature: float

    @property
    def start(self) -> Scores:
        """What the run began with."""
        return self.scores[0]

    @property
    def best(self) -> Scores:
        """What `best` reaches."""
        return self.scores[self.best_step]

    @property
    def last(self) -> Scores:
        """What the last weights reach."""
        return self.scores[max(self.scores)]

    @property
    def gain_of_last(self) -> float:
        """How much the last measurement is above the one before it in the mixed pool."""
        *_, before, last = [0.0, *(self.scores[step].mixed for step in sorted(self.scores))]
        return last - before


def outcome_of(settings: TrainSettings, data: RunData, best: Mapping[str, Any], history: Mapping[str, Any]) -> Outcome:
    """What a run that has ended measured.

    Args:
        settings: The run's.
        data: Its pairs.
        best: Its best measurement.
        history: Steps and values of every number, by name (`report.history`).
    """
    num_alone = sum(num_halves(data.train))
    return Outcome(
        loss=settings.loss,
        is_tuned=settings.start is not None,
        num_pairs=len(data.train) - num_alone,
        num_alone=num_alone,
        weighs_sources=bool(settings.data_weights),
        scores=_scores(history),
        best_step=best["step"],
        reach=(best[HIGH_END] - best[LOW_END]) / 2 if HIGH_END in best else 0.0,
        temperature=float(history["train/temperature"][1][-1]) if "train/temperature" in history else 1.0,
    )


def _scores(history: Mapping[str, Any]) -> dict[int, Scores]:
    """The measurements, by step; one of an earlier release, which measured less, is left out."""
    names = [f"val/{how}{pool}/mean/success@10" for how in ("", "calibrated/") for pool in ("local", "mixed")]
    by_step = [
        dict(zip(*(column.tolist() for column in history[name]), strict=True)) for name in names if name in history
    ]
    if len(by_step) < len(names):
        return {}
    steps = set.intersection(*(set(values) for values in by_step))
    return {int(step): Scores(*(values[step] for values in by_step)) for step in sorted(steps)}


@dataclass(frozen=True)
class Rule:
    """One line of the table.

    Attributes:
        name: What it is called.
        applies: Whether it holds for a run with held-out pairs.
        says: What follows from it.
        alone: Whether nothing else matters where it applies.
    """

    name: str
    applies: Callable[[Outcome], bool]
    says: Callable[[Outcome], str]
    alone: bool = False


def _nothing_gained(run: Outcome) -> str:
    told = "Do not use what was trained here: no measurement was above the start's."
    if run.is_tuned and run.start.calibrated_mixed > run.start.mixed + run.reach:
        told += (
            f" An index of the start with --calibrate modality-mean finds {run.start.calibrated_mixed:.3f} instead of "
            f"{run.start.mixed:.3f} in a mixed pool, without training."
        )
    return told


def _start_is_enough(run: Outcome) -> bool:
    """Whether the start, centred, is as good as `best`, plain or centred."""
    local = max(run.best.local, run.best.calibrated_local)
    mixed = max(run.best.mixed, run.best.calibrated_mixed)
    start = run.start
    return run.is_tuned and start.calibrated_local >= local - run.reach and start.calibrated_mixed >= mixed - run.reach


def _ranks_by_modality(run: Outcome) -> str:
    told = (
        f"best ranks a mixed pool by modality: it finds {run.best.mixed:.3f} there, {run.best.local:.3f} in pools of "
        "one modality."
    )
    if run.best.calibrated_mixed > run.best.mixed + run.reach:
        told += f" An index with --calibrate modality-mean finds {run.best.calibrated_mixed:.3f}."
    if run.loss in BLIND_LOSSES:
        told += " --loss gcl, from best on, compares the modalities, which this loss never does."
    return told + _warmer(run)


def _centring_helps(run: Outcome) -> str:
    return (
        f"An index with --calibrate modality-mean finds {run.best.calibrated_mixed:.3f} instead of "
        f"{run.best.mixed:.3f} in a mixed pool, and {run.best.calibrated_local:.3f} instead of {run.best.local:.3f} in "
        f"pools of one modality.{_warmer(run)}"
    )


def _warmer(run: Outcome) -> str:
    """What else brings the modalities together, where the run was cold."""
    if run.temperature >= COLD:
        return ""
    return (
        f" The temperature ended at {run.temperature:.3f}: --temperature 0.05 --no-learn-temperature brings the "
        "modalities nearer to each other with any loss."
    )


RULES = (
    Rule("nothing gained", lambda run: run.best_step == 0, _nothing_gained, alone=True),
    Rule(
        "start is enough",
        _start_is_enough,
        lambda run: (
            f"Training was not needed for this: in an index with --calibrate modality-mean the start finds "
            f"{run.start.calibrated_mixed:.3f} in a mixed pool and {run.start.calibrated_local:.3f} in pools of one "
            f"modality, and best {run.best.calibrated_mixed:.3f} and {run.best.calibrated_local:.3f}."
        ),
    ),
    Rule("ranks by modality", lambda run: run.best.kept_share < KEPT_SHARE, _ranks_by_modality),
    Rule(
        "went on too long",
        lambda run: run.last.mixed < run.best.mixed - run.reach,
        lambda run: (
            f"The run went on for too long: success in the mixed pool fell from {run.best.mixed:.3f} at step "
            f"{run.best_step} to {run.last.mixed:.3f}. Fewer --num-epochs, more pairs, or more --weight-decay and "
            "--drop-tokens."
        ),
    ),
    Rule(
        "ended too early",
        lambda run: run.best_step == max(run.scores) and len(run.scores) > 2 and run.gain_of_last > run.reach,
        lambda run: (
            f"The run ended while it still gained ({run.gain_of_last:.3f} in the mixed pool since the measurement "
            "before the last): give it more --num-epochs."
        ),
    ),
    Rule(
        "lost local pools",
        lambda run: run.is_tuned and run.best.local < run.start.local - run.reach,
        lambda run: (
            f"Pools of one modality lost by it: from {run.start.local:.3f} to {run.best.local:.3f}. For an index of "
            "one modality keep the start, or take a point between the two (anykey-train interpolate)."
        ),
    ),
    Rule(
        "centring helps",
        lambda run: run.best.calibrated_mixed > run.best.mixed + run.reach,
        _centring_helps,
    ),
    Rule(
        "few rows are pairs",
        lambda run: not run.weighs_sources and run.num_pairs < FEW_PAIRS_SHARE * (run.num_pairs + run.num_alone),
        lambda run: (
            f"Only {run.num_pairs:,} of {run.num_pairs + run.num_alone:,} rows are pairs: draw their source more often "
            "(--data-weights), or leave out the others."
        ),
    ),
)


def rules_for(run: Outcome) -> list[Rule]:
    """The rules that are told of a run with held-out pairs, the weightiest first."""
    applying = [rule for rule in RULES if rule.applies(run)][:MAX_TOLD]
    return next(([rule] for rule in applying if rule.alone), applying)


def advice(run: Outcome) -> list[str]:
    """What to do, a sentence or two for each of `rules_for`, or where there are none that nothing speaks against it."""
    if not run.scores:
        return [
            f"Nothing was measured, so nobody knows whether this helped: name held-out pairs with --val-data, "
            f"{MIN_PAIRS_TO_SHARE} captioned images or more."
        ]
    return [rule.says(run) for rule in rules_for(run)] or [
        f"Index and serve best as it is: it finds {run.best.mixed:.3f} in a mixed pool and {run.best.local:.3f} in "
        "pools of one modality, and neither more training nor --calibrate modality-mean promises more."
    ]
