"""Qdrant's filters to scopes: conditions on the payload to those on metadata, and `has_id` to the keys that are meant.

A filter is written in our own grammar and read by its reader, so that its limits hold here too.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anykey.index.errors import InvalidFilterError
from anykey.index.filtering.conditions import Path
from anykey.index.filtering.filters import MAX_DEPTH, parse_condition
from anykey.index.key_index import EVERYTHING, Scope
from anykey.service.compat.qdrant.points import key_of, path_of
from anykey.service.errors import InvalidRequestError
from anykey.service.queries.wrong_values import shown
from anykey.service.schemas import Limits

CLAUSES = ("must", "should", "must_not", "min_should")
MAX_CHOICES = 100  # of so many conditions, of which `min_should` wants some
UNTRANSLATED = {
    "is_null": "null is no value here; is_empty asks whether there is one",
    "nested": "elements of a list are not told apart here",
    "has_vector": "every key has its one vector",
    "geo_radius": "places are not compared here",
    "geo_bounding_box": "places are not compared here",
    "geo_polygon": "places are not compared here",
    "values_count": "values are not counted here",
}
COMPARISONS = ("match", "range", "is_empty", *UNTRANSLATED)


def scope_of(value: Any, where: str, limits: Limits) -> Scope:
    """The keys that a filter leaves.

    Args:
        value: The filter as a client sent it, or `None` for all.
        where: What messages call it.
        limits: What a request may ask for.

    Raises:
        InvalidRequestError: it is none, or has something that cannot be said here; says where.
    """
    if value is None:
        return EVERYTHING
    found = _filter(value, where, 1)
    for names, most in ((found.within, limits.max_within), (found.without, limits.max_exclude)):
        if names is not None and len(names) > most:
            raise InvalidRequestError(f"{where}: has_id: at most {most} points, got {len(names)}")
    try:
        condition = parse_condition({"and": list(found.conditions)}) if found.conditions else None
    except InvalidFilterError as error:
        raise InvalidRequestError(f"{where}, which here is a filter of metadata: {error}") from error
    return Scope(condition=condition, within=found.within, exclude=found.without)


@dataclass(frozen=True)
class _Narrowed:
    """What holds of the keys that are meant: all of this.

    Attributes:
        conditions: Filters in our grammar.
        within: They are among these.
        without: They are none of these.
    """

    conditions: tuple[dict[str, Any], ...] = ()
    within: frozenset[str] | None = None
    without: frozenset[str] = frozenset()

    @property
    def is_condition(self) -> bool:
        """Whether no key is named."""
        return self.within is None and not self.without

    @property
    def is_always(self) -> bool:
        """Whether it holds of every key, as an empty filter does."""
        return self.is_condition and not self.conditions

    @property
    def is_never(self) -> bool:
        """Whether it holds of no key."""
        return self.within is not None and not self.within - self.without

    def also(self, other: "_Narrowed") -> "_Narrowed":
        """Both of them."""
        both = [names for names in (self.within, other.within) if names is not None]
        within = frozenset.intersection(*both) if both else None
        return _Narrowed(self.conditions + other.conditions, within, self.without | other.without)

    def negated(self, where: str) -> "_Narrowed":
        """The others."""
        if self.is_always or self.is_never:
            return _NEVER if self.is_always else _Narrowed()
        if self.is_condition:
            return _Narrowed(({"not": _all(self.conditions)},))
        if not self.conditions and self.within is not None and not self.without:
            return _Narrowed(without=self.within)
        if not self.conditions and self.within is None:
            return _Narrowed(within=self.without)
        raise InvalidRequestError(f"{where}: has_id cannot stand beside other conditions that are negated together")


_NEVER = _Narrowed(within=frozenset())


def _filter(value: Any, where: str, depth: int) -> _Narrowed:
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{where}: expected a filter, which is an object, got {shown(value)}")
    if depth > MAX_DEPTH:
        raise InvalidRequestError(f"{where}: expected filters at most {MAX_DEPTH} deep, got deeper ones")
    for name in value:
        if name not in CLAUSES:
            raise InvalidRequestError(f"{where}: expected {', '.join(CLAUSES)}, got {shown(name)}")
    found = _Narrowed()
    for one, place in _conditions(value.get("must"), f"{where}.must"):
        found = found.also(_condition(one, place, depth))
    for one, place in _conditions(value.get("must_not"), f"{where}.must_not"):
        found = found.also(_condition(one, place, depth).negated(place))
    if should := [_condition(one, place, depth) for one, place in _conditions(value.get("should"), f"{where}.should")]:
        found = found.also(_any(should, f"{where}.should"))
    if value.get("min_should") is not None:
        found = found.also(_min_should(value["min_should"], f"{where}.min_should", depth))
    return found


def _conditions(value: Any, where: str) -> list[tuple[Any, str]]:
    """The conditions of a clause, which may be one alone, and what messages call them."""
    if value is None:
        return []
    return (
        [(one, f"{where}[{place}]") for place, one in enumerate(value)] if isinstance(value, list) else [(value, where)]
    )


def _condition(value: Any, where: str, depth: int) -> _Narrowed:
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{where}: expected a condition, which is an object, got {shown(value)}")
    given = {name: inner for name, inner in value.items() if inner is not None}
    if any(name in CLAUSES for name in given) or not given:
        return _filter(given, where, depth + 1)
    if "has_id" in given and len(given) > 1:
        raise InvalidRequestError(f"{where}: expected has_id alone, got {_names(given)}")
    if "has_id" in given:
        names = given["has_id"]
        if not isinstance(names, list):
            raise InvalidRequestError(f"{where}.has_id: expected a list of points, got {shown(names)}")
        return _Narrowed(within=frozenset(key_of(name, f"{where}.has_id[{at}]") for at, name in enumerate(names)))
    if "key" in given:
        return _Narrowed((_comparison(given, where),))
    if isinstance(given.get("is_empty"), dict):
        return _Narrowed((_is_empty(path_of(given["is_empty"].get("key"), f"{where}.is_empty.key"), True),))
    for name, why in UNTRANSLATED.items():
        if name in given:
            raise InvalidRequestError(f"{where}.{name} cannot be asked for: {why}")
    raise InvalidRequestError(f"{where}: expected key, has_id, is_empty or a filter, got {_names(given)}")


def _comparison(given: dict[str, Any], where: str) -> dict[str, Any]:
    """A condition on one field of the payload."""
    path = path_of(given["key"], f"{where}.key")
    for name, why in UNTRANSLATED.items():
        if name in given:
            raise InvalidRequestError(f"{where}.{name} cannot be asked for: {why}")
    asked = [name for name in given if name != "key"]
    if len(asked) != 1 or asked[0] not in COMPARISONS:
        raise InvalidRequestError(f"{where}: expected one of match, range, is_empty beside key, got {_names(asked)}")
    (name,) = asked
    value, place = given[name], f"{where}.{name}"
    if name == "is_empty":
        if not isinstance(value, bool):
            raise InvalidRequestError(f"{place}: expected true or false, got {shown(value)}")
        return _is_empty(path, value)
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{place}: expected an object, got {shown(value)}")
    return _match(path, value, place) if name == "match" else _range(path, value, place)


def _match(path: Path, value: dict[str, Any], where: str) -> dict[str, Any]:
    given = {name: inner for name, inner in value.items() if inner is not None}
    if len(given) != 1 or next(iter(given)) not in ("value", "any", "except"):
        raise InvalidRequestError(
            f"{where}: expected one of value, any and except, got {_names(given)}; words within a text are not matched"
        )
    ((name, wanted),) = given.items()
    if name == "value":
        return {"field": list(path), "eq": wanted}
    if not isinstance(wanted, list):
        raise InvalidRequestError(f"{where}.{name}: expected a list of values, got {shown(wanted)}")
    is_there = {"field": list(path), "exists": True}
    if name == "any":
        return {"field": list(path), "in": wanted} if wanted else {"and": [is_there, {"not": is_there}]}
    return {"and": [is_there, {"not": {"field": list(path), "in": wanted}}]} if wanted else is_there


def _range(path: Path, value: dict[str, Any], where: str) -> dict[str, Any]:
    given = {name: bound for name, bound in value.items() if bound is not None}
    for name in given:
        if name not in ("gt", "gte", "lt", "lte"):
            raise InvalidRequestError(f"{where}: expected gt, gte, lt, lte, got {shown(name)}")
    if not given:
        raise InvalidRequestError(f"{where}: expected at least one of gt, gte, lt, lte; all are absent")
    return {"field": list(path), **given}


def _is_empty(path: Path, is_so: bool) -> dict[str, Any]:
    return {"field": list(path), "exists": not is_so}


def _any(choices: Sequence[_Narrowed], where: str) -> _Narrowed:
    """At least one of them."""
    if any(choice.is_always for choice in choices):
        return _Narrowed()
    choices = [choice for choice in choices if not choice.is_never]
    if len(choices) <= 1:
        return choices[0] if choices else _NEVER
    if all(choice.is_condition for choice in choices):
        return _Narrowed(({"or": [_all(choice.conditions) for choice in choices]},))
    named = [choice.within - choice.without for choice in choices if choice.within is not None]
    if len(named) == len(choices) and not any(choice.conditions for choice in choices):
        return _Narrowed(within=frozenset().union(*named))
    raise InvalidRequestError(f"{where}: has_id cannot be an alternative to other conditions; ask for each on its own")


def _min_should(value: Any, where: str, depth: int) -> _Narrowed:
    """At least so many of some conditions."""
    if not isinstance(value, dict) or not isinstance(count := value.get("min_count"), int) or isinstance(count, bool):
        raise InvalidRequestError(f"{where}: expected conditions and min_count, a whole number, got {shown(value)}")
    found = [_condition(one, at, depth) for one, at in _conditions(value.get("conditions"), f"{where}.conditions")]
    count -= sum(choice.is_always for choice in found)
    found = [choice for choice in found if not (choice.is_always or choice.is_never)]
    if not all(choice.is_condition for choice in found):
        raise InvalidRequestError(f"{where}: has_id cannot be one of these; put it into must")
    if count <= 0 or count > len(found):
        return _NEVER if count > 0 else _Narrowed()
    some = itertools.combinations(found, count)
    choices = [tuple(choice) for choice in itertools.islice(some, MAX_CHOICES + 1)]
    if len(choices) > MAX_CHOICES:
        raise InvalidRequestError(f"{where}: at most {MAX_CHOICES} ways to choose min_count of them, got more")
    each = [_all([_all(one.conditions) for one in choice]) for choice in choices]
    return _Narrowed(({"or": each},))


def _all(conditions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All of some conditions, of which there is one at least."""
    return conditions[0] if len(conditions) == 1 else {"and": list(conditions)}


def _names(given: Sequence[str] | dict[str, Any]) -> str:
    return ", ".join(map(shown, list(given)[:5])) or "nothing"
