"""Measures what a run left on the test pairs; results are kept beside the run until something changes.

Shape legend: P = held-out pairs.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from anykey.encoder.fusion import Fusion
from anykey.encoder.model import choose_device
from anykey.sources.columns import parse_columns
from anykey.sources.pairs import open_pairs, source_states
from anykey.training.averaging import interpolate
from anykey.training.data import open_table
from anykey.training.families.opening import load_family
from anykey.training.family import Family
from anykey.training.features import trunk_features
from anykey.training.run_folder import MANIFEST
from anykey.training.settings import DataSettings
from anykey.training.study.measures import JUDGED, PLAIN, POOLS, gains_of_pairs, measure_centrings, measure_rotations
from anykey.training.study.plan import Run
from anykey.training.study.settings import NATIVE, StudyFusion, StudySettings, fusion_named
from anykey.training.table import PairTable
from anykey.training.validation import HeldOut, embed_held_out

FILE_NAME, VALIDATION_NAME = "evaluation.json", "validation.json"
_FORMAT = 3  # raised when the numbers mean something else than before


@dataclass(frozen=True)
class Row:
    """What one encoder reaches in one way of use.

    Attributes:
        variant: The run's variant.
        seed: The run's seed.
        fusion: How image and text features are added.
        centring: One of `measures.CENTRINGS`.
        numbers: Everything measured, by name.
        gains: As of `gains_of_pairs`; only as trained.
    """

    variant: str
    seed: int
    fusion: StudyFusion
    centring: str
    numbers: dict[str, float]
    gains: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """A run of the search.

    Attributes:
        run: The run.
        scores: Its mean success@10 on the validation pairs, by pool.
    """

    run: Run
    scores: dict[str, float]

    @property
    def value(self) -> float:
        """What the search chooses by: the mean over both pools."""
        return sum(self.scores.values()) / len(self.scores)


class Evaluator:
    """Measures runs; tables of pairs are read once for all of them."""

    def __init__(self, settings: StudySettings, console: Console) -> None:
        """Notes the state of the pairs' files before any is read: what changes later is measured the next time.

        Raises:
            SourceError: the validation or test pairs are not there.
            DeviceUnavailableError: the device asked for is not there.
        """
        self._settings = settings
        self._console = console
        self._device = choose_device(settings.device)
        self._tables: dict[tuple[str, str], PairTable] = {}
        self._pairs = [source_states(names) for names in (settings.val_data, settings.test_data)]

    def measure(self, run: Run) -> list[Row]:
        """Everything about one finished run: a row for each fusion and centring.

        Raises:
            EncoderError: its checkpoint cannot be read.
            SourceError: the validation or test pairs cannot be used.
            OSError: the result cannot be written beside the run.
        """
        key = self._key(run)
        path = run.folder / (FILE_NAME if run.share == 1 else f"evaluation-{run.share:g}.json")
        measured = _kept(path, key)
        if measured is None:
            self._console.print(f"measure {run.folder}")
            measured = {fusion: self._measure(run, fusion) for fusion in run.fusions}
            path.write_text(json.dumps({"key": key, "measured": measured}, indent=1) + "\n")
        return list(_rows(run, measured))

    def search(self, runs: Sequence[Run]) -> list[Trial]:
        """The runs with a point of the search, in their order, by their success on the validation pairs.

        Raises:
            EncoderError, SourceError, OSError: as of `measure`.
        """
        return [Trial(run, self._validate(run)) for run in runs if run.point]

    def _validate(self, run: Run) -> dict[str, float]:
        key = self._key(run)
        scores = _kept(run.folder / VALIDATION_NAME, key)
        if scores is None:
            numbers = measure_rotations(self.embed(run, run.fusions[0], "validation"))
            scores = {pool: numbers[f"{pool}/mean/{JUDGED}"] for pool in POOLS}
            (run.folder / VALIDATION_NAME).write_text(json.dumps({"key": key, "measured": scores}) + "\n")
        return scores

    def _measure(self, run: Run, fusion: StudyFusion) -> dict[str, Any]:
        test, validation = (self.embed(run, fusion, split) for split in ("test", "validation"))
        return {"numbers": measure_centrings(test, validation), "gains": gains_of_pairs(test)}

    def embed(self, run: Run, fusion: StudyFusion, split: str) -> HeldOut:
        """Vectors of the `test` or `validation` pairs from the weights that the run left, or its `share` of them."""
        score_fusion = None if fusion == NATIVE else Fusion(fusion)
        family = load_family(run.checkpoint, self._device, score_fusion)
        if run.share != 1 and run.settings.start is not None:
            start = load_family(run.settings.start, self._device, score_fusion)
            family.model.load_state_dict(interpolate(start.weights(), family.weights(), run.share))
        table = self._table(family, run.settings, split)
        features_P = None
        if run.settings.keeps_trunk:
            cache_dir = run.settings.feature_cache or run.folder / "features"
            max_bytes = run.settings.max_feature_cache_bytes
            features_P = trunk_features(family, table, False, cache_dir, lambda done: None, max_bytes)
        return embed_held_out(family, table, features_P)

    def _table(self, family: Family, settings: DataSettings, split: str) -> PairTable:
        images = (settings.max_image_bytes, settings.max_image_pixels, settings.max_image_aspect)
        limits = (*images, settings.max_bad_share, *settings.columns)
        key = (split, f"{family.description.network} {limits}")
        if key not in self._tables:
            names = self._settings.test_data if split == "test" else self._settings.val_data
            columns = parse_columns(settings.columns)
            pairs = open_pairs(names, settings.data_cache, settings.max_data_cache_bytes, columns)
            self._tables[key] = open_table(pairs, family, settings)
        return self._tables[key]

    def _key(self, run: Run) -> str:
        """Digest of what the numbers depend on: weights, ways of use, and the pairs' files."""
        manifest = json.loads((run.checkpoint / MANIFEST).read_text())
        parts = f"{_FORMAT} {manifest['fingerprint']} {[*run.fusions]} {self._pairs}{''.join(run.settings.columns)}"
        return hashlib.sha256(parts.encode()).hexdigest()


def _kept(path: Path, key: str) -> dict[str, Any] | None:
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return kept["measured"] if isinstance(kept, dict) and kept.get("key") == key else None


def choose(trials: Sequence[Trial]) -> dict[str, Mapping[str, Any]]:
    """Each variant's best point of the search; of equals the first."""
    best: dict[str, Trial] = {}
    for trial in trials:
        known = best.get(trial.run.variant)
        if known is None or trial.value > known.value:
            best[trial.run.variant] = trial
    return {variant: trial.run.point for variant, trial in best.items()}


def _rows(run: Run, measured: dict[str, dict[str, Any]]) -> Iterator[Row]:
    for fusion, found in measured.items():
        for centring, numbers in found["numbers"].items():
            gains = found["gains"] if centring == PLAIN else {}
            yield Row(run.variant, run.seed, fusion_named(fusion), centring, numbers, gains)
