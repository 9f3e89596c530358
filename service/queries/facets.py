"""Which counts of values a request asks for."""

from collections.abc import Sequence
from typing import Any

from anykey.index.errors import InvalidFilterError
from anykey.index.filtering.conditions import MAX_STRING_BYTES, Exists, Path, Range, describe
from anykey.index.filtering.facets import DEFAULT_VALUES, Facet, RangeFacet, ValueFacet
from anykey.index.filtering.filters import parse_condition, parse_path
from anykey.service.errors import InvalidRequestError
from anykey.service.queries.schemas import (
    MAX_FACET_RANGES,
    MAX_FACET_VALUES,
    MAX_FACET_VALUES_TOGETHER,
    MAX_FACETS,
    FacetRange,
    FacetRequest,
)

EXPECTED = 'a list of fields such as "brand", or of objects such as {"field": "brand", "limit": 20}'
MAX_SHOWN_CHARS = 40


def read_facets(given: Any) -> tuple[Facet, ...]:
    """Reads the facets of a request; none when absent.

    Raises:
        InvalidRequestError: they cannot be meant; says where and why.
    """
    if given is None:
        return ()
    if not isinstance(given, list):
        raise InvalidRequestError(f"facets must be {EXPECTED}, got {describe(given)}")
    if not 1 <= len(given) <= MAX_FACETS:
        raise InvalidRequestError(f"facets: expected from 1 to {MAX_FACETS} of them, got {len(given)}")
    facets = tuple(_facet(one, f"facets[{number}]") for number, one in enumerate(given))
    num_values = sum(facet.limit for facet in facets if isinstance(facet, ValueFacet))
    if num_values > MAX_FACET_VALUES_TOGETHER:
        raise InvalidRequestError(
            f"facets: expected limits of at most {MAX_FACET_VALUES_TOGETHER} in all, got {num_values}"
        )
    return facets


def _facet(given: Any, where: str) -> Facet:
    if isinstance(given, str):
        return ValueFacet(_path(given, where))
    if not isinstance(given, dict):
        raise InvalidRequestError(
            f'{where} must be a field, or an object such as {{"field": "brand"}}, got {describe(given)}'
        )
    _check_members(given, list(FacetRequest.model_fields), where)
    if "field" not in given:
        raise InvalidRequestError(f"{where}: expected a field")
    path = _path(given["field"], f"{where}.field")
    if given.get("ranges") is not None:
        for name in ("limit", "prefix"):
            if given.get(name) is not None:
                raise InvalidRequestError(f"{where}: {name} is about values; give it without ranges")
        return RangeFacet(path, _ranges(given["ranges"], path, f"{where}.ranges"))
    return ValueFacet(path, _limit(given.get("limit"), where), _prefix(given.get("prefix"), where))


def _limit(given: Any, where: str) -> int:
    if given is None:
        return DEFAULT_VALUES
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MAX_FACET_VALUES:
        came = (
            given if isinstance(given, int) and not isinstance(given, bool) and abs(given) < 10**18 else describe(given)
        )
        raise InvalidRequestError(f"{where}.limit must be a whole number from 1 to {MAX_FACET_VALUES}, got {came}")
    return given


def _prefix(given: Any, where: str) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str):
        raise InvalidRequestError(f"{where}.prefix must be a string, got {describe(given)}")
    try:
        num_bytes = len(given.encode())
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"{where}.prefix: half a surrogate pair at character {error.start}") from error
    if num_bytes > MAX_STRING_BYTES:
        raise InvalidRequestError(f"{where}.prefix: expected at most {MAX_STRING_BYTES} bytes, got {num_bytes}")
    return given


def _ranges(given: Any, path: Path, where: str) -> tuple[Range, ...]:
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_FACET_RANGES:
        came = len(given) if isinstance(given, list) else describe(given)
        raise InvalidRequestError(f"{where} must be a list of 1 to {MAX_FACET_RANGES} ranges, got {came}")
    return tuple(_range(one, path, f"{where}[{number}]") for number, one in enumerate(given))


def _range(given: Any, path: Path, where: str) -> Range:
    if not isinstance(given, dict) or not given:
        came = "nothing" if given == {} else describe(given)
        raise InvalidRequestError(f'{where} must be an object such as {{"gte": 10, "lt": 50}}, got {came}')
    _check_members(given, list(FacetRange.model_fields), where)
    try:
        wanted = parse_condition({"field": list(path), **given})
    except InvalidFilterError as error:
        raise InvalidRequestError(f"{where}{'.' if error.where else ''}{error.where}: {error.reason}") from error
    assert isinstance(wanted, Range)
    return wanted


def _path(given: Any, where: str) -> Path:
    try:
        return Exists(parse_path(given)).path  # which checks what a path may be
    except InvalidFilterError as error:
        raise InvalidRequestError(f"{where} must name a field of the metadata: {error.reason}") from error


def _check_members(given: dict[str, Any], known: Sequence[str], where: str) -> None:
    for name in given:
        if name not in known:
            shown = ascii(name if len(name) <= MAX_SHOWN_CHARS else f"{name[:MAX_SHOWN_CHARS]}...")
            raise InvalidRequestError(f"{where}: unknown field {shown}; known: {', '.join(known)}")
