"""What is wrong with a value of a request, as a sentence: where it is, what was expected, and what came."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

MAX_SHOWN_CHARS = 40
LARGE = 10**18

_KINDS: Mapping[str, str] = {
    "string_type": "a string",
    "string_unicode": "Unicode text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of ordinary length",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
_BOUNDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than": lambda bound: f"above {bound['gt']:g}",
    "greater_than_equal": lambda bound: f"at least {bound['ge']:g}",
    "less_than": lambda bound: f"below {bound['lt']:g}",
    "less_than_equal": lambda bound: f"at most {bound['le']:g}",
    "enum": lambda known: f"one of {known['expected']}".replace(" or ", ", "),
    "literal_error": lambda known: f"one of {known['expected']}".replace(" or ", ", "),
}
# What fields that may be of several kinds are as a whole, and as an entry of a list.
_SEVERAL_KINDS: Mapping[str, tuple[str, str]] = {
    "image": ("base64, or a list of these", "base64"),
    "vector": ("a list of numbers, or base64 of float32", "a number"),
    "group_by": ("a field of the metadata, as a string or a list of names", "a name"),
}


def wrong_value(place: str, detail: ErrorDetails) -> str:
    """The sentence about a value that pydantic refuses.

    Args:
        place: Where it is, as clients name it.
        detail: What pydantic says of it, with context and input.

    >>> wrong_value("k", {"type": "int_type", "loc": ("k",), "msg": "", "input": "5"})
    "k must be a whole number, got '5'"
    """
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        return f"{place} is absent; it must be given"
    if kind == "too_short":
        return f"{place} must have at least {context['min_length']} in it, got {context['actual_length']}"
    expected = _KINDS.get(kind) or (_BOUNDS[kind](context) if kind in _BOUNDS else None)
    if expected is None:  # a sentence of our own
        return f"{place}: {detail['msg']}"
    return f"{place} must be {expected}, got {shown(detail['input'])}"


def wrong_field(prefix: str, detail: ErrorDetails) -> str:
    """The sentence about a field of an object, or about what is in it.

    Args:
        prefix: What messages put before the field's name.
        detail: What pydantic says; its `loc` is the place within the object.
    """
    name = str(detail["loc"][0]) if detail["loc"] else "the name of a field"
    place = prefix + name + place_in_list(detail["loc"][1:])
    if name not in _SEVERAL_KINDS or detail["type"] == "lone_surrogate":
        return wrong_value(place, detail)
    of_whole, of_entry = _SEVERAL_KINDS[name]
    return f"{place} must be {of_entry if place.endswith(']') else of_whole}, got {shown(detail['input'])}"


def place_in_list(loc: Sequence[int | str]) -> str:
    """Where in a list something is; the branches of a union, which pydantic names too, are left out."""
    return "".join(f"[{part}]" for part in loc if isinstance(part, int))


def telling(details: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """What is wrong with each field; where it may be several things and is none, what tells the place best."""
    found: dict[tuple[int | str, ...], ErrorDetails] = {}
    for detail in details:
        depth = next((at for at, name in enumerate(detail["loc"]) if name in _SEVERAL_KINDS), len(detail["loc"]))
        field = detail["loc"][: depth + 1]
        if field not in found or (len(field) < len(detail["loc"]) and isinstance(detail["loc"][-1], int)):
            found[field] = detail
    return list(found.values())


def shown(value: object) -> str:
    """A short ASCII form of a value for a message; of what holds others only the type.

    >>> shown("x" * 50), shown(10**20), shown([1])
    ("'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...'", 'a number of more than 18 digits', 'a list')
    """
    if isinstance(value, str):
        return ascii(value if len(value) <= MAX_SHOWN_CHARS else value[:MAX_SHOWN_CHARS] + "...")
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        return str(value) if abs(value) < LARGE else "a number of more than 18 digits"
    if isinstance(value, float):
        return repr(value)
    return {"dict": "an object", "list": "a list"}.get(type(value).__name__, type(value).__name__)
