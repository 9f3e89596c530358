"""Dates in metadata: the strings that name a moment, whatever offset from UTC they are written with."""

import re
from datetime import date
from typing import NamedTuple

# ISO 8601 in its extended form: a date, or a date with a time of day and an offset, as RFC 3339 has it.
_DATE = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ]([0-9]{2}:[0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?([Zz]|[+-][0-9]{2}(?::?[0-9]{2})?))?"
)
_FIRST_DAY = date(1970, 1, 1).toordinal()
_DAY_S = 86_400
_LARGEST_OFFSET_S = _DAY_S - 60
LONGEST = 40  # characters of any date


class Instant(NamedTuple):
    """A moment; instants compare as the moments do.

    Attributes:
        second: Seconds since 1970 in UTC, without leap seconds; negative before.
        fraction: Digits of the second behind the point, without zeros at the end.
    """

    second: int
    fraction: str = ""

    def iso(self) -> str | None:
        """As a date in UTC; `None` where that is before year 1 or after year 9999."""
        day, second = divmod(self.second, _DAY_S)
        if not 1 <= day + _FIRST_DAY <= date.max.toordinal():
            return None
        clock = f"{second // 3600:02}:{second % 3600 // 60:02}:{second % 60:02}"
        return f"{date.fromordinal(day + _FIRST_DAY)}T{clock}{'.' * bool(self.fraction)}{self.fraction}Z"

    def written(self) -> str:
        """The date that stands for all that name the moment, in UTC: midnight as the day alone.

        With an offset where UTC has it in no year from 1 to 9999.

        Raises:
            ValueError: no date names it.

        >>> Instant(19905 * 86400).written(), Instant(19904 * 86400 + 79200, "5").written()
        ('2024-07-01', '2024-06-30T22:00:00.5Z')
        """
        text = self.iso()
        if text is not None:
            return text.removesuffix("T00:00:00Z")
        is_early = self.second < 0
        local = self._replace(second=self.second + (_LARGEST_OFFSET_S if is_early else -_LARGEST_OFFSET_S)).iso()
        if local is None:
            raise ValueError("expected a moment no further from years 1 to 9999 than an offset reaches")
        return local.removesuffix("Z") + ("+" if is_early else "-") + "23:59"

    @classmethod
    def of_ordered(cls, text: str) -> "Instant":
        """The moment whose form in the order of moments, that of `str`, a text is; else raises `ValueError`."""
        day, second, fraction = re.split("[:.]", text)
        return cls((int(day) - _FIRST_DAY) * _DAY_S + int(second), fraction)

    def __str__(self) -> str:
        """In UTC, in a form whose order as text is that of the moments."""
        day, second = divmod(self.second, _DAY_S)
        return f"{day + _FIRST_DAY:07}:{second:05}.{self.fraction}"


def instant_of(text: str) -> Instant | None:
    """The moment that a string names; `None` for one that names none.

    A date without time is its first moment in UTC. A time without an offset names no moment, and neither does one that
    is on no calendar or clock.

    >>> instant_of("2024-07-01T00:30:00+02:00") == instant_of("2024-06-30 22:30Z")
    True
    >>> instant_of("2024-06-30T22:30:00"), instant_of("2024-06-31")
    (None, None)
    """
    if not 10 <= len(text) <= LONGEST or (match := _DATE.fullmatch(text)) is None:
        return None
    day, minutes, seconds, fraction, offset = match.groups()
    try:
        start = (date.fromisoformat(day).toordinal() - _FIRST_DAY) * _DAY_S
        return Instant(start + _clock_s(minutes, seconds) - _offset_s(offset), (fraction or "").rstrip("0"))
    except ValueError:
        return None


def _clock_s(minutes: str | None, seconds: str | None) -> int:
    if minutes is None:
        return 0
    hour, minute, second = int(minutes[:2]), int(minutes[3:]), int(seconds or 0)
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError("on no clock")
    return hour * 3600 + minute * 60 + second


def _offset_s(offset: str | None) -> int:
    if offset is None or offset in "Zz":
        return 0
    hour, minute = int(offset[1:3]), int(offset[3:].lstrip(":") or 0)
    if hour > 23 or minute > 59:
        raise ValueError("no offset")
    return (hour * 3600 + minute * 60) * (-1 if offset[0] == "-" else 1)
