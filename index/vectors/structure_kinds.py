"""Names of search structures that may be asked for: those that FAISS can build and AnyKey can search.

FAISS' factory takes far more, and ends the whole process over some (`PCA0,IVF4,Flat`, `HNSW1`). So a name is read here,
and what is not of these kinds never reaches it.

    exact                      no structure
    SQ8                        8-bit codes, all of them compared
    HNSWm                      a graph of m links a vector
    IVFn,CODES                 n lists of codes
    IVFn_HNSWm,CODES           the same, with a graph of m links over the lists' centres

CODES are Flat, SQ8, RaBitQ, RaBitQfs, PQm (8 bits for each m-th part of a vector) or PQmx4fs (4 bits).
"""

import re

from anykey.index.errors import InvalidStructureError
from anykey.index.vectors.structure_facts import EXACT

KINDS = (
    f"{EXACT}, SQ8, HNSWm, IVFn,CODES or IVFn_HNSWm,CODES, where CODES are Flat, SQ8, RaBitQ, RaBitQfs, PQm or PQmx4fs"
)
LISTS = (1, 2**20)  # more than any corpus here wants: a billion keys get 2**17
LINKS = (2, 256)  # FAISS divides by the logarithm of their number

_NUMBER = "([1-9][0-9]{0,8})"
_NAME = re.compile(
    rf"{EXACT}|SQ8|HNSW(?P<links>{_NUMBER})"
    rf"|IVF(?P<lists>{_NUMBER})(?:_HNSW(?P<list_links>{_NUMBER}))?"
    rf",(?:Flat|SQ8|RaBitQ|RaBitQfs|PQ(?P<codes>{_NUMBER})(?:x4fs)?)"
)


def require_kind(factory: str) -> None:
    """Makes sure that a name is one of `KINDS`, with numbers that FAISS can build.

    Raises:
        InvalidStructureError: it is not; says which kinds there are, or which number is out of bounds.
    """
    _bounded_numbers(factory)


def require_possible(factory: str, width: int) -> None:
    """Makes sure that a structure can be built over vectors of some width, provided there are enough of them.

    Args:
        factory: FAISS factory string, or `exact`.
        width: D.

    Raises:
        InvalidStructureError: it is none of `KINDS`, a number is out of bounds, or its codes do not divide the width.
    """
    num_codes = _bounded_numbers(factory)["codes"]
    if num_codes is not None and width % int(num_codes):
        raise InvalidStructureError(
            f"structure '{factory}' cannot be built over vectors of width {width}: {num_codes} codes do not divide it"
        )


def _bounded_numbers(factory: str) -> dict[str, str | None]:
    found = _NAME.fullmatch(factory)
    if found is None:
        raise InvalidStructureError(f"expected a search structure such as {KINDS}; got '{factory}'")
    numbers = found.groupdict()
    for name, (least, most) in {"lists": LISTS, "links": LINKS, "list_links": LINKS}.items():
        number = numbers[name]
        if number is not None and not least <= int(number) <= most:
            what = name.removeprefix("list_")
            raise InvalidStructureError(
                f"structure '{factory}': expected from {least} to {most:,} {what}, got {number}"
            )
    return numbers
