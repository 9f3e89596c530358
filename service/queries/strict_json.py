"""JSON of requests as its standard has it: no field twice, no NaN."""

import json
from typing import Any

from anykey.service.errors import InvalidRequestError
from anykey.service.queries.wrong_values import MAX_SHOWN_CHARS, shown

BYTE_ORDER_MARK = "\ufeff"


def parse_json(data: bytes | bytearray, name: str) -> Any:
    """Reads JSON as its standard has it: no field twice, no NaN; a byte order mark is skipped.

    Args:
        data: The text.
        name: What it is, for messages.

    Raises:
        InvalidRequestError: it is none; says where.
    """
    try:
        text = data.decode("utf-8").removeprefix(BYTE_ORDER_MARK)
        try:
            return _STRICT.decode(text)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"{_place_of_wrong(text)}{error.message}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{name} must be UTF-8, byte {error.start} is not") from error
    except json.JSONDecodeError as error:
        if not data.strip():
            raise InvalidRequestError(f"{name} must be JSON, and is empty") from error
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""  # a lone line may be one of a stream
        where = f"{line}column {error.colno}"
        raise InvalidRequestError(f"{name} must be JSON: {error.msg.removesuffix(' at')} at {where}") from error
    except RecursionError as error:
        raise InvalidRequestError(f"{name} must be JSON nested at most a few levels deep") from error
    except ValueError as error:  # a number with more digits than Python converts
        raise InvalidRequestError(f"{name} must be JSON with numbers of ordinary length") from error


def _repeated_of(pairs: list[tuple[str, Any]]) -> str | None:
    """The first name that an object has twice."""
    if len(dict(pairs)) == len(pairs):
        return None
    seen: set[str] = set()
    return next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (repeated := _repeated_of(pairs)) is not None:
        raise InvalidRequestError(f"field {shown(repeated)} is given more than once")
    return dict(pairs)


def _refuse_constant(name: str) -> float:
    raise InvalidRequestError(f"JSON is expected: {name} is no JSON number")


class _Wrong:
    """What stands in the place of something that is not read."""


def _place_of_wrong(text: str) -> str:
    """Which entry of a list what is wrong with a text is in, such as `keys[1]: `; empty where it is in none."""
    pending: list[tuple[str, Any]] = [("", _LENIENT.decode(text))]
    while pending:
        place, value = pending.pop()
        if isinstance(value, _Wrong):
            return f"{place}: " if place.endswith("]") else ""
        inner: list[tuple[str, Any]] = []
        if isinstance(value, list):
            inner = [(f"{place}[{number}]", one) for number, one in enumerate(value)]
        elif isinstance(value, dict):
            inner = [(ascii(name)[1:-1][:MAX_SHOWN_CHARS], one) for name, one in value.items()]
        if place.endswith("]"):  # of what is deep within an entry, the entry is told
            inner = [(place, one) for _, one in inner]
        pending += reversed(inner)
    return ""


_STRICT = json.JSONDecoder(object_pairs_hook=_refuse_repeats, parse_constant=_refuse_constant)
_LENIENT = json.JSONDecoder(
    object_pairs_hook=lambda pairs: dict(pairs) if _repeated_of(pairs) is None else _Wrong(),
    parse_constant=lambda _: _Wrong(),
)
