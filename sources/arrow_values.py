"""The cells of an Arrow column as JSON has them, whatever the column's type.

Python's own types hold neither all dates nor nanoseconds, and what pyarrow makes of them depends on whether pandas is
installed. So times are written here, and what cannot be written is an error that names the column.
"""

from decimal import Decimal
from math import isinf, isnan
from typing import Any
from uuid import UUID

import pyarrow
from pyarrow import types

from anykey.sources.rows import RowError

UNREADABLE = (ValueError, ArithmeticError, LookupError, TypeError, NotImplementedError, pyarrow.ArrowException)
_PARTS_PER_S = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# Most cells are of types whose values are JSON's own, so that nothing has to be found out about each of them.
_OWN_TYPES = frozenset(
    (
        *(pyarrow.string(), pyarrow.large_string(), pyarrow.bool_()),
        *(pyarrow.int8(), pyarrow.int16(), pyarrow.int32(), pyarrow.int64()),
        *(pyarrow.uint8(), pyarrow.uint16(), pyarrow.uint32(), pyarrow.uint64()),
    )
)
_OWN_SCALARS = frozenset(type(pyarrow.scalar(None, kind)) for kind in _OWN_TYPES)


def json_cell(column: pyarrow.Array, offset: int, name: str) -> Any:
    """One cell as a JSON value.

    Numbers, booleans, texts, lists and structures stay what they are, maps become structures, decimals numbers, dates
    and times ISO 8601, durations seconds, UUIDs and bytes texts; `NaN` becomes null.

    Args:
        column: The cells.
        offset: Which of them, from 0.
        name: What messages call the column.

    Raises:
        RowError: JSON has no such value: an infinite number, bytes that are not UTF-8, a date after the year 9999.
    """
    try:
        return _json_value(column[offset])
    except UNREADABLE as error:
        is_unread = isinstance(error, UnicodeDecodeError)
        raise RowError(f"column '{name}': {_reason(error)}", is_unread=is_unread) from error


def python_cell(column: pyarrow.Array, offset: int, name: str) -> Any:
    """One cell as Python has it, bytes too.

    Raises:
        RowError: Python has no such value.
    """
    try:
        return column[offset].as_py()
    except UNREADABLE as error:
        raise RowError(f"column '{name}': {_reason(error)}") from error


def holds_bytes(kind: pyarrow.DataType) -> bool:
    """Whether there are bytes in values of a type, for which JSON has no place."""
    if isinstance(kind, pyarrow.BaseExtensionType):
        return not isinstance(kind, pyarrow.UuidType) and holds_bytes(kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return holds_bytes(kind.value_type)
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return True
    if types.is_fixed_size_binary(kind):
        return True
    return any(holds_bytes(kind.field(number).type) for number in range(kind.num_fields))


def _json_value(scalar: pyarrow.Scalar) -> Any:
    if type(scalar) in _OWN_SCALARS:
        return scalar.as_py()
    if not scalar.is_valid:
        return None
    if isinstance(scalar, pyarrow.DictionaryScalar) or _is_wrapped(scalar.type):
        return _json_value(scalar.value)
    if isinstance(scalar, pyarrow.StructScalar):
        names = [scalar.type.field(number).name for number in range(scalar.type.num_fields)]
        return {name: _json_value(scalar[number]) for number, name in enumerate(_all_different(names))}
    if isinstance(scalar, pyarrow.MapScalar):
        keys = [str(_json_value(pair[0])) for pair in scalar.values]
        return dict(zip(_all_different(keys), (_json_value(pair[1]) for pair in scalar.values), strict=True))
    if isinstance(scalar, pyarrow.ListScalar):
        return _json_list(scalar)
    if isinstance(scalar, pyarrow.TimestampScalar | pyarrow.Time64Scalar):
        return _time_text(scalar)
    if isinstance(scalar, pyarrow.Date32Scalar | pyarrow.Date64Scalar | pyarrow.Time32Scalar):
        return scalar.as_py().isoformat()
    if isinstance(scalar, pyarrow.DurationScalar):
        return scalar.value / _PARTS_PER_S[scalar.type.unit]
    return _plain(scalar.as_py())


def _json_list(scalar: pyarrow.ListScalar) -> list[Any]:
    kind = scalar.type.value_type
    if kind in _OWN_TYPES:
        return list(scalar.as_py())
    if types.is_floating(kind):  # vectors, which are long
        return [_finite(number) if number is not None else None for number in scalar.as_py()]
    return [_json_value(inner) for inner in scalar.values]


def _is_wrapped(kind: pyarrow.DataType) -> bool:
    """Whether a value is another one by another name; two extensions have values of their own."""
    return isinstance(kind, pyarrow.BaseExtensionType) and not isinstance(kind, pyarrow.UuidType | pyarrow.Bool8Type)


def _plain(value: Any) -> Any:
    """What is left: JSON's own kinds of values, and those that become one of them."""
    if isinstance(value, Decimal):
        return int(value) if value.as_tuple().exponent == 0 else _finite(float(value))
    if isinstance(value, float):
        return _finite(value)
    if isinstance(value, bytes):
        return value.decode()
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, UUID):
        return str(value)
    raise ValueError(f"JSON has no {type(value).__name__}")


def _all_different(names: list[str]) -> list[str]:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"its field '{twice}' is there twice")
    return names


def _time_text(scalar: pyarrow.Scalar) -> str:
    """ISO 8601, with nine digits of a second where the last three tell something."""
    kind = scalar.type
    if kind.unit != "ns":
        return str(scalar.as_py().isoformat())
    micros, nanos = divmod(scalar.value, 1000)
    coarse = pyarrow.timestamp("us", kind.tz) if types.is_timestamp(kind) else pyarrow.time64("us")
    moment = pyarrow.scalar(micros, coarse).as_py()
    if not nanos:
        return str(moment.isoformat())
    head, _, tail = moment.isoformat(timespec="microseconds").partition(".")
    return f"{head}.{tail[:6]}{nanos:03}{tail[6:]}"


def _finite(value: float) -> float | None:
    if isinf(value):
        raise ValueError("not standard JSON (an infinite number)")
    return None if isnan(value) else value


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start})"
    if isinstance(error, OverflowError):
        return "a date or time outside the years 1 to 9999, or outside the day"
    if "zoneinfo" in str(error):
        return "a time zone that is not known here"
    return " ".join(str(error).split()) or type(error).__name__
