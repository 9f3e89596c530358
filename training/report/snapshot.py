"""One state of a model on the held-out pairs: everything the report tells about it, small enough to keep.

Shape legend: P = held-out pairs, S = photos kept, D = width, B = bins.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.gaps import measure_gaps
from training.report.files import replace_file
from training.validation import ALL_COMBINATIONS, COMBINATIONS, MODALITIES, HeldOut, measure

CUTOFFS = (1, 5, 10, 50)
NDCG_CUTOFFS = (10,)
MAX_PHOTOS = 500
NUM_BINS = 80
BIN_EDGES = np.linspace(-1.0, 1.0, NUM_BINS + 1)
# What pairs of vectors a histogram counts: of one photo or of two, of one modality or of two.
HISTOGRAMS = ("true_same", "true_cross", "random_same", "random_cross")
_SEED = 0
_FORMAT = 1

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Snapshot:
    """What was measured of one state of the model.

    Attributes:
        num_pairs: Held-out pairs P it was measured on.
        numbers: `measure` over all nine combinations, and `measure_gaps`.
        vectors: Keys `[S, D]` of the same up to 500 photos in each modality, drawn with a fixed seed.
        histograms: Cosines of pairs of those photos, counted in `BIN_EDGES`, by the names in `HISTOGRAMS`.
    """

    num_pairs: int
    numbers: Mapping[str, float]
    vectors: Mapping[str, Floats]
    histograms: Mapping[str, Counts]

    @classmethod
    def of(cls, held_out: HeldOut) -> Self:
        """Measures and samples the held-out vectors."""
        num_pairs = held_out.keys["i"].shape[0]
        rows = torch.randperm(num_pairs, generator=torch.Generator().manual_seed(_SEED))[:MAX_PHOTOS].sort().values
        sample = HeldOut(
            queries={name: vectors_PD[rows].float() for name, vectors_PD in held_out.queries.items()},
            keys={name: vectors_PD[rows].float() for name, vectors_PD in held_out.keys.items()},
            has_second_P=held_out.has_second_P[rows],
        )
        return cls(
            num_pairs=num_pairs,
            numbers=measure(held_out, ALL_COMBINATIONS, CUTOFFS, NDCG_CUTOFFS) | measure_gaps(held_out),
            vectors={name: sample.keys[name].numpy().astype(np.float32) for name in MODALITIES},
            histograms=_histograms(sample),
        )

    def save(self, path: Path) -> None:
        """Writes an `.npz` file, aside and then renamed; vectors are kept in half precision.

        Raises:
            OSError: the file cannot be written; an earlier one is as it was.
        """
        about = {"format": _FORMAT, "num_pairs": self.num_pairs, "numbers": dict(self.numbers)}
        arrays: dict[str, Any] = {f"vectors_{name}": rows.astype(np.float16) for name, rows in self.vectors.items()}
        arrays |= {f"histogram_{name}": counts for name, counts in self.histograms.items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, about=np.array(json.dumps(about)), **arrays)
        replace_file(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            OSError: the file cannot be read, or is no snapshot.
        """
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                about = json.loads(str(arrays["about"]))
                if about["format"] != _FORMAT:
                    raise ValueError(f"format {about['format']}, expected {_FORMAT}")
                return cls(
                    num_pairs=about["num_pairs"],
                    numbers=about["numbers"],
                    vectors={name: arrays[f"vectors_{name}"].astype(np.float32) for name in MODALITIES},
                    histograms={name: arrays[f"histogram_{name}"] for name in HISTOGRAMS},
                )
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise OSError(f"{path}: no snapshot of a run, or damaged: {error}") from error


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
