"""Builds the search structures that it is told of, a line each, and answers how that went: a process that may die."""

import json
import sys
import tempfile
from pathlib import Path

import faiss
import numpy as np

from anykey.index.errors import InvalidStructureError, UntrainableError
from anykey.index.vectors.exact import ExactVectors
from anykey.index.vectors.structure_kinds import require_possible
from anykey.index.vectors.structures import ApproximateIndex
from tests.unit.index.drawn_vectors import written


def build(factory: str, width: int, exact: ExactVectors, path: Path) -> str:
    """Builds and searches one; says how it went."""
    try:
        require_possible(factory, width)
    except InvalidStructureError:
        return "refused"
    try:
        index = ApproximateIndex.build(factory, exact, path)
    except UntrainableError:
        return "untrainable"
    scores, _ = index.search(exact.vectors(np.arange(1)), 1)
    return "found" if np.isfinite(scores).all() else "lost"


def main() -> None:
    """Answers until there is nothing more to build."""
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for number, line in enumerate(sys.stdin):
            factory, width, count = json.loads(line)
            vectors_ND = np.random.default_rng(0).standard_normal((count, width), dtype=np.float32)
            vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
            exact = written(Path(folder) / f"{number}.faiss", vectors_ND)
            sys.stdout.write(build(factory, width, exact, Path(folder) / "structure.faiss") + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
