"""Which search structure a version gets: the one before it, as long as that still fits, or one that is chosen anew.

Shape legend: D = width, Q = queries.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anykey.index.publish.tuning.tuning import choose_structure
from anykey.index.search.version_files import STRUCTURE_NAME, VECTORS_NAME
from anykey.index.store.manifest import AUTO, FoldOptions, Manifest
from anykey.index.vectors.exact import ExactVectors
from anykey.index.vectors.structure_facts import StructureFacts
from anykey.index.vectors.structures import GpuUse
from anykey.program.progress import Report

MOST_GROWTH = 2  # of the number of keys, until a search structure is chosen anew


def structure_of(
    folder: Path,
    num_keys: int,
    previous: Manifest | None,
    options: FoldOptions,
    queries_QD: NDArray[np.float32] | None,
    report: Report,
    gpu: GpuUse,
) -> StructureFacts:
    """Builds a version's search structure, and measures it; notes for how many keys it was chosen, if it was.

    Args:
        folder: The version's, with its exact vectors; the structure is written there.
        num_keys: How many they are.
        previous: The version before, whose choice may still be good.
        options: How the version is derived.
        queries_QD: Real queries to measure with, if there are any.
        report: Told of the progress.
        gpu: GPUs that help, and whose own structures are chosen and measured too.

    Raises:
        InvalidStructureError: the structure that the options name cannot be built.
        OSError: the disk is full or not writable.
    """
    factory = _factory(options, previous, num_keys)
    exact = ExactVectors.open(folder / VECTORS_NAME)
    structure = choose_structure(
        exact,
        folder / STRUCTURE_NAME,
        options.targets,
        factory=factory,
        queries_QD=queries_QD,
        gpu=gpu,
        report=report,
    )
    if options.structure != AUTO:
        return structure
    return structure.model_copy(update={"chosen_for": num_keys if factory is None else _chosen_for(previous)})


def _factory(options: FoldOptions, previous: Manifest | None, num_keys: int) -> str | None:
    """The search structure to build; `None` to choose one by measurement.

    What was chosen before is built again, and only its search parameters are chosen anew, as long as the same is asked
    for and the number of keys is about what it was at that choice, however slowly it changes.
    """
    if options.structure != AUTO:
        return options.structure
    if previous is None or previous.structure is None or not previous.options.derives_as(options):
        return None
    chosen_for = _chosen_for(previous)
    is_alike = chosen_for / MOST_GROWTH <= num_keys <= chosen_for * MOST_GROWTH
    return previous.structure.factory if is_alike and previous.structure.instead_of is None else None


def _chosen_for(previous: Manifest | None) -> int:
    """Number of keys for which a version's search structure was chosen, maybe several versions before."""
    if previous is None or previous.structure is None:
        return 0
    return previous.structure.chosen_for or previous.num_keys
