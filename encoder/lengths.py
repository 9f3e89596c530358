"""Which items of a batch go through a network together, where a shorter one is padded to the longest."""

from collections.abc import Iterator, Sequence

MAX_ITEMS_AT_ONCE = 128  # through the network; bounds memory whatever the batch
MAX_PADDED = 1.5  # times the tokens that are there
FEW_TOKENS = 2_000  # whose padding costs less than another pass


def alike_in_length(lengths: Sequence[int], max_tokens: int | None = None) -> Iterator[list[int]]:
    """Places in groups of like lengths: one long text must not pad all others of its batch to its own length.

    Args:
        lengths: Tokens of each item.
        max_tokens: The most tokens of a group, padding included; an item that has more is a group of its own.

    >>> list(alike_in_length([8, 4_000, 9, 7]))
    [[3, 0, 2], [1]]
    >>> list(alike_in_length([8, 8, 8, 30], max_tokens=20))
    [[0, 1], [2], [3]]
    """
    group: list[int] = []
    total = 0
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        padded = (len(group) + 1) * lengths[place]
        is_full = len(group) == MAX_ITEMS_AT_ONCE or (max_tokens is not None and padded > max_tokens)
        if group and (is_full or padded > max(MAX_PADDED * (total + lengths[place]), FEW_TOKENS)):
            yield group
            group, total = [], 0
        group.append(place)
        total += lengths[place]
    if group:
        yield group
