"""JSON of a request that is kept, or sent back as it came: it must be possible to write it again."""

import math
from collections.abc import Iterator
from typing import Any

from anykey.service.errors import InvalidRequestError
from anykey.service.queries.wrong_values import shown

MAX_DEPTH = 100


def check_kept(value: Any, where: str, max_depth: int = MAX_DEPTH) -> None:
    """Makes sure that JSON can be written again.

    Args:
        value: The JSON, as it was read.
        where: What messages call it.
        max_depth: How many objects and lists may lie within each other.

    Raises:
        InvalidRequestError: it is nested too deeply, or has a number that no float holds or half a surrogate pair;
            says where.
    """
    check_depth(value, where, max_depth)
    level = [(where, value)]
    while level:
        level = [member for place, each in level for member in _members(place, each)]


def check_depth(value: Any, where: str, max_depth: int = MAX_DEPTH) -> None:
    """Refuses JSON that is nested so deeply that it could not be written again."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > max_depth + 1:
            raise InvalidRequestError(f"{where}: expected objects and lists at most {max_depth} levels deep")
        inner = [each for each in level if isinstance(each, dict | list)]
        level = [one for each in inner for one in (each.values() if isinstance(each, dict) else each)]


def _members(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What a value holds, each with its place; raises where the value itself cannot be written."""
    if isinstance(value, str):
        _check_letters(value, place)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequestError(f"{place} must be a finite number, got {shown(value)}")
    elif isinstance(value, dict):
        for name, inner in value.items():
            inner_place = f"{place}.{shown(name)[1:-1]}"
            _check_letters(name, f"the name {inner_place}")
            yield inner_place, inner
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield f"{place}[{number}]", inner


def _check_letters(text: str, place: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"{place}: half a surrogate pair at character {error.start}") from error
