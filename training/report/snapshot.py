"""One state of a model on the held-out pairs: everything the report tells about it, small enough to keep.

Shape legend: P = held-out pairs, S = photos kept, D = width, B = bins, Q = queries, M = metrics, G = groups left out,
E = examples, K = hits shown.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anykey.program.files import replace_file
from anykey.training.gaps import measure_gaps
from anykey.training.report.noise import NUM_GROUPS, Range, of_mean
from anykey.training.validation import (
    ALL_COMBINATIONS,
    COMBINATIONS,
    MODALITIES,
    SELECTION_METRIC,
    HeldOut,
    gains_by_rank,
    gains_of_queries,
    measure,
    rank_of_own,
)

POOLS = ("local", "mixed")
CUTOFFS = (1, 5, 10, 50)
NDCG_CUTOFFS = (10,)
MAX_PHOTOS = 500
NUM_BINS = 80
BIN_EDGES = np.linspace(-1.0, 1.0, NUM_BINS + 1)
# What pairs of vectors a histogram counts: of one photo or of two, of one modality or of two.
HISTOGRAMS = ("true_same", "true_cross", "random_same", "random_cross")
EXAMPLES = ("t>i", "i>t", "it>t")  # of what queries the first hits are shown
NUM_EXAMPLES, NUM_HITS = 3, 4
_MAX_PAIRS_LEFT_OUT = 1000
_SEED = 0
_FORMAT = 2

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Snapshot:
    """What was measured of one state of the model.

    Attributes:
        num_pairs: Held-out pairs P it was measured on.
        numbers: `measure` over all nine combinations, and `measure_gaps`.
        vectors: Keys `[S, D]` of the same up to 500 photos in each modality, drawn with a fixed seed.
        histograms: Cosines of pairs of those photos, counted in `BIN_EDGES`, by the names in `HISTOGRAMS`.
        num_asked: Pairs whose queries were measured; the others' keys were in the pools.
        asked: Which pairs `[Q]` each combination asked for, by `pool/combination`.
        gains: What each of those queries gained by each metric `[M, Q]`, by the same names.
        left_out: Measures of all vectors together, with each of some groups of pairs left out `[G]`, by name.
        examples: `rows`, pairs `[E]`; `hits/t>i`, the first hits of each's query `[E, K]`; `rank/t>i`, the rank of its
            own key `[E]`; no combination that may not ask for all of them.
    """

    num_pairs: int
    numbers: Mapping[str, float]
    vectors: Mapping[str, Floats]
    histograms: Mapping[str, Counts]
    num_asked: int = 0
    asked: Mapping[str, Places] = field(default_factory=dict)
    gains: Mapping[str, Floats] = field(default_factory=dict)
    left_out: Mapping[str, Floats] = field(default_factory=dict)
    examples: Mapping[str, Places] = field(default_factory=dict)

    @classmethod
    def of(cls, held_out: HeldOut) -> Self:
        """Measures and samples the held-out vectors."""
        num_pairs = held_out.keys["i"].shape[0]
        sample = held_out.asking(None).rows(_drawn(num_pairs)[:MAX_PHOTOS].sort().values)
        asked, gains = _gains(held_out)
        return cls(
            num_pairs=num_pairs,
            numbers=measure(held_out, ALL_COMBINATIONS, CUTOFFS, NDCG_CUTOFFS) | measure_gaps(held_out),
            vectors={name: sample.keys[name].float().numpy() for name in MODALITIES},
            histograms=_histograms(sample),
            num_asked=num_pairs if held_out.asked_P is None else int(held_out.asked_P.sum()),
            asked=asked,
            gains=gains,
            left_out=_left_out(held_out),
            examples=_examples(held_out),
        )

    def save(self, path: Path) -> None:
        """Writes an `.npz` file, aside and then renamed; vectors are kept in half precision.

        Raises:
            OSError: the file cannot be written; an earlier one is as it was.
        """
        sizes = {"num_pairs": self.num_pairs, "num_asked": self.num_asked}
        about = {"format": _FORMAT, **sizes, "numbers": dict(self.numbers)}
        arrays: dict[str, Any] = {f"vectors_{name}": rows.astype(np.float16) for name, rows in self.vectors.items()}
        arrays |= {f"histogram_{name}": counts for name, counts in self.histograms.items()}
        for group in _GROUPS:
            arrays |= {f"{group}:{name}": values for name, values in getattr(self, group).items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, about=np.array(json.dumps(about)), **arrays)
        replace_file(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Reads what `save` wrote; `None` of what an earlier release did, which kept less.

        Raises:
            OSError: the file cannot be read, or is no snapshot.
        """
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                about = json.loads(str(arrays["about"]))
                if about["format"] < _FORMAT:
                    return None
                if about["format"] != _FORMAT:
                    raise ValueError(f"format {about['format']}, expected {_FORMAT}")
                return cls(
                    num_pairs=about["num_pairs"],
                    numbers=about["numbers"],
                    vectors={name: arrays[f"vectors_{name}"].astype(np.float32) for name in MODALITIES},
                    histograms={name: arrays[f"histogram_{name}"] for name in HISTOGRAMS},
                    num_asked=about["num_asked"],
                    **{group: _named(arrays, group) for group in _GROUPS},
                )
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise OSError(f"{path}: no snapshot of a run, or damaged: {error}") from error


_GROUPS = ("asked", "gains", "left_out", "examples")


def _named(arrays: Any, group: str) -> dict[str, Any]:
    """The arrays of one field, by the names they have there."""
    return {name.partition(":")[2]: arrays[name] for name in arrays.files if name.startswith(f"{group}:")}


def range_of_selection(held_out: HeldOut) -> Range:
    """95 % interval of `SELECTION_METRIC`: no pair is asked for in all combinations, and some in none."""
    metric = SELECTION_METRIC.rpartition("/")[2]
    by_rank = gains_by_rank([int(metric.partition("@")[2])], ())
    found = [gains_of_queries(held_out, "mixed", combination, by_rank) for combination in COMBINATIONS]
    return of_mean([(own_Q.numpy(), gained[metric].numpy()) for own_Q, gained in found if len(own_Q)])


def _drawn(num_pairs: int) -> Tensor:
    """All pairs in an order that is drawn, and the same in every state of a run."""
    return torch.randperm(num_pairs, generator=torch.Generator().manual_seed(_SEED))


def _gains(held_out: HeldOut) -> tuple[dict[str, Places], dict[str, Floats]]:
    """Pairs and gains of every combination for which a pair may be asked."""
    by_rank = gains_by_rank(CUTOFFS, NDCG_CUTOFFS)
    asked, gains = {}, {}
    for pool in POOLS:
        for combination in ALL_COMBINATIONS:
            own_Q, gained = gains_of_queries(held_out, pool, combination, by_rank)
            if len(own_Q):
                asked[f"{pool}/{combination}"] = own_Q.numpy()
                gains[f"{pool}/{combination}"] = torch.stack([*gained.values()]).numpy().astype(np.float32)
    return asked, gains


def _left_out(held_out: HeldOut) -> dict[str, Floats]:
    """What the gap's measures are without each of ten groups of pairs, of a thousand pairs at most.

    They differ as those of fewer pairs do, and are brought nearer to their mean for as many as there are. The other
    pairs keep their modality in the mixed pool, and each group has as many of every modality: another deal or another
    balance would move the measures more than the group does.
    """
    held_out = held_out.dealt()
    num_pairs = len(held_out.has_second_P)
    order = _drawn(num_pairs)[:_MAX_PAIRS_LEFT_OUT]
    if len(order) < 2 * NUM_GROUPS:
        return {}
    order = order[held_out.modalities[order].argsort(stable=True)]
    group = torch.arange(len(order)) % NUM_GROUPS
    measured = [measure_gaps(held_out.rows(order[group != left_out])) for left_out in range(NUM_GROUPS)]
    nearer = (len(order) / num_pairs) ** 0.5
    found = {}
    for name in measured[0]:
        if all(name in numbers for numbers in measured):
            value_G = np.array([numbers[name] for numbers in measured], dtype=np.float32)
            found[name] = value_G.mean() + nearer * (value_G - value_G.mean())
    return found


def _examples(held_out: HeldOut) -> dict[str, Places]:
    """A few pairs, and what their queries find first; the draw knows nothing of how they turned out."""
    drawn = _drawn(len(held_out.has_second_P))
    several = drawn[held_out.askable("t>t")[drawn]]  # of these all combinations can be asked
    rows_E = several[:NUM_EXAMPLES] if len(several) >= NUM_EXAMPLES else drawn[held_out.askable("t>i")[drawn]]
    rows_E = rows_E[:NUM_EXAMPLES]
    found = {"rows": rows_E.numpy()}
    for combination in EXAMPLES:
        if held_out.askable(combination)[rows_E].all():
            query, key = combination.split(">")
            score_EP = held_out.queries[query][rows_E] @ held_out.keys[key].T
            hits = score_EP.topk(min(NUM_HITS, score_EP.shape[1]), dim=1).indices
            found[f"hits/{combination}"] = hits.numpy()
            found[f"rank/{combination}"] = rank_of_own(held_out, combination, rows_E).numpy()
    return found


def _histograms(sample: HeldOut) -> dict[str, Counts]:
    counts = {name: np.zeros(NUM_BINS, dtype=np.int64) for name in HISTOGRAMS}
    other_SS = ~torch.eye(len(sample.has_second_P), dtype=torch.bool)
    for combination in ALL_COMBINATIONS:
        query, key = combination.split(">")
        cosine_SS = sample.queries[query] @ sample.keys[key].T
        kind = "same" if query == key else "cross"
        counts[f"random_{kind}"] += _count(cosine_SS[other_SS])
        if combination in COMBINATIONS:
            counts[f"true_{kind}"] += _count(cosine_SS.diagonal()[sample.askable(combination)])
    return counts


def _count(cosines: Tensor) -> Counts:
    return np.histogram(cosines.clamp(-1.0, 1.0).numpy(), BIN_EDGES)[0].astype(np.int64)
