"""Vectors of a corpus's keys on disk, and the exact search of them.

Shape legend: N = keys, B = keys of a block, R = keys of a scope, D = width.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FACTS, VECTORS = "facts.json", "vectors.f32"
BLOCK = 16_384


class VectorFile:
    """Unit vectors in the order of the keys, as little-endian float32, which grow as they come.

    Those of other facts are begun anew; a row that a kill cut off is dropped.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], width: int) -> None:
        """Opens the file.

        Args:
            folder: Where it lies, beside what it was made from.
            facts: What decides the vectors.
            width: How many numbers each has.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._width = folder / VECTORS, width
        known = json.loads(json.dumps({**facts, "width": width}))
        if _read(folder / FACTS) != known:
            self._path.unlink(missing_ok=True)
            (folder / FACTS).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        self._path.touch()
        with self._path.open("r+b") as file:
            file.truncate(len(self) * width * 4)

    def __len__(self) -> int:
        return self._path.stat().st_size // (self._width * 4)

    def append(self, vectors_BD: NDArray[np.float32]) -> None:
        """Writes further vectors."""
        with self._path.open("ab") as file:
            file.write(vectors_BD.astype("<f4").tobytes())

    def open(self) -> NDArray[np.float32]:
        """All vectors `[N, D]`, read from the disk as they are looked at."""
        return np.memmap(self._path, dtype="<f4", mode="r").reshape(-1, self._width)


def best(
    vectors_ND: NDArray[np.float32], query_D: NDArray[np.float32], rows_R: NDArray[np.int64] | None, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The rows with the highest inner products, best first; equal ones in the order of the rows.

    Args:
        vectors_ND: All vectors.
        query_D: The query's.
        rows_R: The rows to look at, rising; None for all.
        k: How many to give at most.

    Returns:
        The rows and their products.

    >>> rows, products = best(np.eye(3, dtype=np.float32), np.array([0, 1, 0], dtype=np.float32), None, 2)
    >>> rows.tolist(), products.tolist()
    ([1, 0], [1.0, 0.0])
    """
    rows_R = np.arange(len(vectors_ND)) if rows_R is None else rows_R
    best_rows, best_products = np.empty(0, np.int64), np.empty(0, np.float32)
    for start in range(0, len(rows_R), BLOCK):
        rows_B = rows_R[start : start + BLOCK]
        is_whole = len(rows_R) == len(vectors_ND)
        block_BD = vectors_ND[start : start + BLOCK] if is_whole else vectors_ND[rows_B]
        rows = np.concatenate([best_rows, rows_B])
        products = np.concatenate([best_products, block_BD @ query_D])
        order = np.argsort(-products, kind="stable")[:k]
        best_rows, best_products = rows[order], products[order]
    return best_rows, best_products


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
