"""Tries a search structure that somebody named, in a process of its own: FAISS ends the whole process over some.

Zero in the wrong place of a factory string (`PCA0,IVF4,Flat`, `IVF4_HNSW0,Flat`) is a division by zero, a write beyond
the end or an abort, mostly not before the first vector is added. As a program, this module is that process.

Shape legend: N = vectors, D = width.
"""

import functools
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from anykey.index.errors import InvalidStructureError
from anykey.index.vectors.faiss_errors import reason_of
from anykey.index.vectors.structure_facts import EXACT
from anykey.index.vectors.structures import TOO_FEW, make_structure, num_to_try

MOST_LISTS = 4  # in the trial; more would need more vectors, and are made in the same way
MEMORY_BYTES = 2 * 2**30  # that the trial may take beyond its libraries
TIMEOUT_S = 60.0  # what has not failed by then is taken
REFUSED = 3  # exit code


def require_possible(factory: str, width: int) -> None:
    """Makes sure that FAISS can build a structure over vectors of some width, provided there are enough of them.

    Takes about a second; what has been found possible is not tried again.

    Args:
        factory: FAISS factory string, or `exact`.
        width: D.

    Raises:
        InvalidStructureError: FAISS does not know it, it is of no use here, or building it fails or ends the process.
    """
    if factory != EXACT and (reason := _try_apart(factory, width)) is not None:
        raise InvalidStructureError(reason)


@functools.cache
def _try_apart(factory: str, width: int) -> str | None:
    """Why the structure is impossible; `None` where it is not."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", __name__, str(width), factory]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode == 0:
        return None
    if done.returncode == REFUSED:
        return done.stdout.strip()
    return f"structure '{factory}' cannot be built over vectors of width {width}: {_end_of(done)}"


def _end_of(done: "subprocess.CompletedProcess[str]") -> str:
    """How the process ended, in words."""
    if done.returncode < 0:
        return f"FAISS ends the process ({signal.Signals(-done.returncode).name})"
    return (done.stderr.strip().splitlines() or ["no reason is given"])[-1]


def try_structure(factory: str, width: int) -> None:
    """Builds a structure over a few random vectors and searches it, with fewer lists than it is to have.

    Raises:
        InvalidStructureError: FAISS does not know it, or it is of no use here.
        RuntimeError: FAISS cannot build it.
        MemoryError: it takes far more memory than so few vectors should.
    """
    make_structure(factory, width)
    structure = make_structure(_with_few_lists(factory), width)
    _hasten(structure)
    vectors_ND = _unit_vectors(num_to_try(width), width)
    try:
        structure.train(vectors_ND)
    except RuntimeError as error:
        if TOO_FEW in str(error):  # for codes of many bits; what lies before them has been trained
            return
        raise
    structure.add(vectors_ND)
    structure.search(vectors_ND[:1], 1)


def _with_few_lists(factory: str) -> str:
    return re.sub(r"IVF(\d+)", lambda lists: f"IVF{min(int(lists[1]), MOST_LISTS)}", factory)


def _hasten(structure: Any) -> None:
    """Leaves out what only makes it better: most steps of learning a rotation, and an order of the codes."""
    if isinstance(structure, faiss.IndexPreTransform):
        chain: Any = structure.chain
        for number in range(chain.size()):
            transform: Any = faiss.downcast_VectorTransform(chain.at(number))
            if isinstance(transform, faiss.OPQMatrix):
                transform.niter = transform.niter_pq = transform.niter_pq_0 = 1
        _hasten(faiss.downcast_index(structure.index))
    elif hasattr(structure, "do_polysemous_training"):
        structure.do_polysemous_training = False


def _unit_vectors(count: int, width: int) -> NDArray[np.float32]:
    vectors_ND = np.random.default_rng(0).standard_normal((count, width), dtype=np.float32)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND


def _limit_memory() -> None:
    """Bounds the process's memory, so that a number with too many digits is an error at once."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        limit = int(pages.read_text().split()[0]) * resource.getpagesize() + MEMORY_BYTES
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(width: int, factory: str) -> int:
    """Tries one structure; says why it is impossible and gives `REFUSED`, or gives 0."""
    _limit_memory()
    try:
        try_structure(factory, width)
    except InvalidStructureError as error:
        sys.stdout.write(str(error))
        return REFUSED
    except (RuntimeError, MemoryError) as error:
        reason = "it takes too much memory" if isinstance(error, MemoryError) else reason_of(error)
        sys.stdout.write(f"structure '{factory}' cannot be built over vectors of width {width}: {reason}")
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
