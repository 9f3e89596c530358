"""Which search structures are worth building for a corpus, by its size and the memory there is."""

from dataclasses import dataclass

from anykey.index.vectors.structure_facts import ALWAYS_EXACT_BELOW, Targets, num_lists

EXACT_BELOW = 20_000  # vectors; exact search of so few takes 3 ms at width 512, less than encoding a query
CHEAP_GRAPH_BELOW = 100_000  # vectors; above, a graph takes several times as long to build as lists
GRAPH_LINKS = 32
COARSE_GRAPH_FROM = 8192  # lists; finding the nearest of so many centres needs a structure of its own


@dataclass(frozen=True)
class Proposal:
    """A structure that may be built.

    Attributes:
        factory: FAISS factory string.
        memory_bytes: What searching it will keep in memory, about.
        is_costly: Whether it is built only where the others miss the targets.
    """

    factory: str
    memory_bytes: int
    is_costly: bool


def propose(
    num_vectors: int, width: int, exact_bytes: int, targets: Targets, exact_below: int = EXACT_BELOW
) -> list[Proposal]:
    """The structures to build for a corpus, the most promising first; a small one gets costly ones, or none.

    Args:
        num_vectors: N.
        width: D.
        exact_bytes: Bytes of the exact vectors, which a graph walks over.
        targets: What is asked for.
        exact_below: Corpora of fewer vectors are small.
    """
    if num_vectors < ALWAYS_EXACT_BELOW:
        return []
    count = num_lists(num_vectors)
    lists = f"IVF{count}" + ("_HNSW32" if count >= COARSE_GRAPH_FROM else "")
    per_list = 4 * width * count
    sizes = [_num_codes(width, share) for share in (2, 4, 8)]
    is_small, graph_bytes = num_vectors < exact_below, exact_bytes + num_vectors * (8 * GRAPH_LINKS + 24)
    proposals = [
        Proposal(f"{lists},PQ{sizes[0]}x4fs", num_vectors * (sizes[0] // 2 + 8) + per_list, is_small),
        Proposal(f"{lists},RaBitQfs", num_vectors * (width // 8 + 16) + per_list, is_small),
        Proposal(f"HNSW{GRAPH_LINKS}", graph_bytes, is_small or num_vectors >= CHEAP_GRAPH_BELOW),
        Proposal(f"{lists},SQ8", num_vectors * (width + 8) + per_list, True),
    ]
    if targets.memory_bytes is not None:
        proposals += [
            Proposal(f"{lists},PQ{codes}x4fs", num_vectors * (codes // 2 + 8) + per_list, True)
            for codes in sizes[1:]
            if codes < sizes[0]
        ]
    return proposals


def _num_codes(width: int, numbers_per_code: int) -> int:
    """The most 4-bit codes that divide the width and stand for at least so many numbers each."""
    return max(
        codes for codes in range(1, width + 1) if width % codes == 0 and codes <= max(1, width // numbers_per_code)
    )
