"""Ordered maps in threads, for work that waits on other machines."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

CHUNK_SIZE = 256

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def map_in_threads(
    function: Callable[[_In], _Out],
    inputs: Iterable[_In],
    num_threads: int,
    waits: Callable[[_In], bool] = lambda _: True,
) -> Iterator[_Out]:
    """Maps in threads, in order, a chunk at a time.

    Args:
        function: What to do; its errors are raised here.
        inputs: What to do it with; read in the caller's thread.
        num_threads: How many threads.
        waits: Whether an input is worth threads; a chunk without such inputs is mapped as it is.

    Yields:
        The results.
    """
    rest = iter(inputs)
    with ThreadPoolExecutor(num_threads, thread_name_prefix="look-up") as pool:
        while chunk := list(islice(rest, CHUNK_SIZE)):
            yield from pool.map(function, chunk) if num_threads > 1 and any(map(waits, chunk)) else map(function, chunk)
