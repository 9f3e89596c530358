"""Milvus expressions: what they are made of, and how a condition becomes one with exactly its meaning.

Milvus compares in its own way: lists do not compare with bounds, large integers lose digits, and what compares with
nothing is neither true nor false, or false, as the release has it. So conditions ask for terms, which are there or not.
Only bounds compare values, of the keys whose single value at the path Milvus compares as we do; the rest of the keys
are looked at one by one.
"""

import re
from collections.abc import Callable, Iterable

from index.filtering.filters import And, Condition, Equals, Exists, In, Not, Or, Path, Range, Scalar
from index.milvus.terms import exists_term, is_exact, kind_of, other_term, single_term, value_term

NOTHING = "key in []"

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_ .:@-]+")  # names that every release takes in brackets
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
_OPERATORS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}

LookUp = Callable[[str, Range], list[str]]


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


def expression_of(condition: Condition, look_up: LookUp) -> str:
    """The expression that holds where the condition does.

    Args:
        condition: What must hold of a key's metadata.
        look_up: Gives the keys where an expression holds and then, of their metadata, a range too.
    """
    match condition:
        case And(conditions):
            return f"({' and '.join(expression_of(part, look_up) for part in conditions)})"
        case Or(conditions):
            return f"({' or '.join(expression_of(part, look_up) for part in conditions)})"
        case Not(negated):
            return f"(not {expression_of(negated, look_up)})"
        case Exists(path):
            return f"({holds('terms', exists_term(path))})"
        case Equals(path, value):
            return f"({holds('terms', value_term(path, value))})"
        case In(path, values):
            return holds_any("terms", {value_term(path, value) for value in values})
        case Range(path):
            return _range(path, condition, look_up)


def _range(path: Path, wanted: Range, look_up: LookUp) -> str:
    bounds = {name: bound for name in _OPERATORS if (bound := getattr(wanted, name)) is not None}
    kind = kind_of(next(iter(bounds.values())))
    terms, parts = [other_term(path, kind)], []
    if all(map(_PLAIN_NAME.fullmatch, path)) and all(map(is_exact, bounds.values())):
        value = "metadata" + "".join(f"[{quote(name)}]" for name in path)
        compared = [f"{value} {_OPERATORS[name]} {_literal(bound)}" for name, bound in bounds.items()]
        parts.append(both([holds("terms", single_term(path, kind)), *compared]))
    else:
        terms.append(single_term(path, kind))
    others = look_up(holds_any("terms", terms), wanted)
    if others:
        parts.append(listed("key", others))
    return f"({' or '.join(f'({part})' for part in parts) or NOTHING})"


def _literal(bound: Scalar) -> str:
    return quote(bound) if isinstance(bound, str) else repr(bound)
