"""Milvus expressions: what they are made of, and how a condition becomes one with exactly its meaning.

Milvus compares in its own way: lists do not compare with bounds, large integers lose digits, and what compares with
nothing is neither true nor false, or false, as the release has it. So conditions ask for terms, which are there or not.
Only bounds compare values, of the keys whose single value at the path Milvus compares as we do; the rest of the keys
are looked at one by one.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from anykey.index.filtering.conditions import And, Condition, Equals, Exists, In, Not, Or, Path, Range, Scalar
from anykey.index.milvus.terms import Kind, exists_term, instant_name, is_exact, other_term, single_term, value_term

NOTHING = "key in []"

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_ .:@-]+")  # names that every release takes in brackets
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
_OPERATORS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}

LookUp = Callable[[str, Condition], list[str]]


def quote(text: str) -> str:
    """A string literal; the same in every release."""
    return f'"{text.translate(_ESCAPES)}"'


def listed(field: str, values: Iterable[str], *, are_in: bool = True) -> str:
    """Whether a field has one of the values, or none of them; each value once, in a fixed order."""
    return f"{field} {'in' if are_in else 'not in'} [{', '.join(map(quote, sorted(set(values))))}]"


def holds(field: str, value: str) -> str:
    """Whether a list has a value."""
    return f"array_contains({field}, {quote(value)})"


def holds_any(field: str, values: Iterable[str]) -> str:
    """Whether a list has one of the values."""
    return f"(array_contains_any({field}, [{', '.join(map(quote, sorted(values)))}]))"


def both(parts: Iterable[str]) -> str:
    """Whether all of the parts hold; everything, if there is none."""
    return " and ".join(parts)


def expression_of(condition: Condition, look_up: LookUp, *, tells_dates: bool = True) -> str:
    """The expression that holds where the condition does.

    Args:
        condition: What must hold of a key's metadata.
        look_up: Gives the keys where an expression holds and then, of their metadata, a condition too.
        tells_dates: Whether the terms of all keys tell dates from other strings, which those of format 1 do not.
    """

    def inner(part: Condition) -> str:
        return expression_of(part, look_up, tells_dates=tells_dates)

    match condition:
        case And(conditions):
            return f"({' and '.join(map(inner, conditions))})"
        case Or(conditions):
            return f"({' or '.join(map(inner, conditions))})"
        case Not(negated):
            return f"(not {inner(negated)})"
        case Exists(path):
            return f"({holds('terms', exists_term(path))})"
        case Equals() | In():
            return _equality(condition, look_up, tells_dates)
        case Range():
            return _range(condition, look_up, tells_dates)


def _equality(condition: Equals | In, look_up: LookUp, tells_dates: bool) -> str:
    path, terms = condition.path, {value_term(condition.path, wanted) for wanted in condition.wanted}
    found = f"({holds('terms', next(iter(terms)))})" if len(terms) == 1 else holds_any("terms", terms)
    if tells_dates or all(kind != "instant" for kind, _ in condition.wanted):
        return found
    strings = holds_any("terms", [single_term(path, "string"), other_term(path, "string")])
    others = look_up(strings, condition)
    return f"({found} or {listed('key', others)})" if others else found


class _Comparison(NamedTuple):
    """What Milvus compares with some bounds, of the keys whose only value at a path is of a kind; `None`: it cannot."""

    kind: Kind
    member: str | None
    bounds: Mapping[str, Scalar]


def _range(condition: Range, look_up: LookUp, tells_dates: bool) -> str:
    """Compares by Milvus what it compares as we do, and looks at the other keys with values of the kind one by one."""
    looked_at, parts = [], []
    for kind, member, bounds in _comparisons(condition, tells_dates):
        looked_at.append(other_term(condition.path, kind))
        if member is not None and all(map(is_exact, bounds.values())):
            compared = [f"{member} {_OPERATORS[name]} {_literal(bound)}" for name, bound in bounds.items()]
            parts.append(both([holds("terms", single_term(condition.path, kind)), *compared]))
        else:
            looked_at.append(single_term(condition.path, kind))
    if others := look_up(holds_any("terms", looked_at), condition):
        parts.append(listed("key", others))
    return f"({' or '.join(f'({part})' for part in parts) or NOTHING})"


def _comparisons(condition: Range, tells_dates: bool) -> list[_Comparison]:
    path, bounds, member = condition.path, condition.bounds, _member(condition.path)
    if condition.kind != "string":
        return [_Comparison("number", member, bounds)]
    if condition.instants is None:
        return [_Comparison("string", member, bounds), _Comparison("instant", member, bounds)]
    moments = {name: str(instant) for name, instant in condition.instants.items()}
    kept = f'images["instants"][{quote(instant_name(path))}]'
    return [_Comparison("instant", kept, moments), _Comparison("string", member if tells_dates else None, bounds)]


def _member(path: Path) -> str | None:
    """A member of the metadata as every release takes it; `None` where its names do not let it be written."""
    plain = all(map(_PLAIN_NAME.fullmatch, path))
    return "metadata" + "".join(f"[{quote(name)}]" for name in path) if plain else None


def _literal(bound: Scalar) -> str:
    return quote(bound) if isinstance(bound, str) else repr(bound)
