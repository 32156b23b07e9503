"""Cron expressions as Cloudflare reads them: five fields in UTC, weekday 1 is Sunday, with L, W and #.

The rules are those of Cloudflare's own parser, cloudflare/saffron.
https://developers.cloudflare.com/workers/configuration/cron-triggers/
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from .errors import ConfigError

_EPOCH = date(1970, 1, 1).toordinal()
_LAST_DAY = date.max.toordinal() - _EPOCH
_CALENDAR_MONTHS = 400 * 12
"""The calendar repeats after 400 years: what has not matched by then never will."""

_MONTHS = {name: number for number, name in enumerate("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split(), 1)}
_WEEKDAYS = {name: number for number, name in enumerate("SUN MON TUE WED THU FRI SAT".split(), 1)}
_NICKNAMES = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 1",
    "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}  # fmt: skip

_Days = Callable[[int, int], int]
"""From a month's length and the weekday of its first day (0 is Sunday) to a mask: bit n is set when day n matches."""


@dataclass(frozen=True, slots=True)
class _Field:
    """One of the five: its name in messages, its bounds, and the names that stand for numbers."""

    name: str
    low: int
    high: int
    names: Mapping[str, int] = field(default_factory=dict)

    @property
    def allowed(self) -> str:
        words = list(self.names)
        return f"{self.low}-{self.high}" + (f" or {words[0]}-{words[-1]}" if words else "")


_MINUTE, _HOUR = _Field("minute", 0, 59), _Field("hour", 0, 23)
_DAY, _MONTH = _Field("day of month", 1, 31), _Field("month", 1, 12, _MONTHS)
_WEEKDAY = _Field("day of week", 1, 7, _WEEKDAYS)


class Cron:
    """One expression, read: ``text`` is what was configured, character for character."""

    __slots__ = ("_days", "_hours", "_minutes", "_months", "text")

    def __init__(self, text: str, minutes: int, hours: int, months: int, days: _Days) -> None:
        self.text = text
        self._minutes = minutes
        self._hours = hours
        self._months = months
        self._days = days

    @classmethod
    def parse(cls, text: str) -> Cron:
        """Read ``text``; ``ConfigError`` names the field, the text and the fix."""
        try:
            minute, hour, day, month, weekday = _split(text)
            return cls(text, _mask(_MINUTE, minute), _mask(_HOUR, hour), _mask(_MONTH, month), _days(day, weekday))
        except ConfigError as error:
            raise ConfigError(f"cron {text!r}: {error}") from None

    def __repr__(self) -> str:
        return f"Cron.parse({self.text!r})"

    def matches(self, when: datetime) -> bool:
        """Whether the minute of ``when`` is a tick; a datetime without a zone is taken as UTC."""
        if when.tzinfo is not None:
            when = when.astimezone(UTC)
        if not (self._minutes >> when.minute & self._hours >> when.hour & 1):
            return False
        return bool(self._in_month(when.year, when.month) >> when.day & 1)

    def next_after(self, seconds: float) -> int | None:
        """The first tick after the minute of ``seconds`` since the epoch, in whole seconds; None when none comes."""
        day, minute = divmod(int(seconds // 60) + 1, 1440)
        time = self._next_time(minute)
        found = self._next_day(day if time is not None else day + 1)
        if found is None:
            return None
        if found != day or time is None:
            time = self._next_time(0)
            assert time is not None  # no field is empty
        return found * 86_400 + time * 60

    def _next_time(self, minute: int) -> int | None:
        """The first matching minute of a day from ``minute`` on."""
        hour, minute = divmod(minute, 60)
        if self._hours >> hour & 1:
            left = self._minutes >> minute
            if left:
                return hour * 60 + minute + _lowest(left)
        left = self._hours >> hour + 1
        return (hour + 1 + _lowest(left)) * 60 + _lowest(self._minutes) if left else None

    def _next_day(self, day: int) -> int | None:
        """The first matching day from ``day`` on; both count from the epoch."""
        if day > _LAST_DAY:
            return None
        start = date.fromordinal(_EPOCH + day)
        first = start.year * 12 + start.month - 1
        passed = start.day
        for number in range(first, min(first + _CALENDAR_MONTHS + 1, (date.max.year + 1) * 12)):
            year, month = divmod(number, 12)
            days = self._in_month(year, month + 1) >> passed << passed
            if days:
                return date(year, month + 1, _lowest(days)).toordinal() - _EPOCH
            passed = 0
        return None

    def _in_month(self, year: int, month: int) -> int:
        if not self._months >> month & 1:
            return 0
        length = _length(year, month)
        return self._days(length, date(year, month, 1).isoweekday() % 7) & (2 << length) - 1


def _split(text: str) -> list[str]:
    nickname = _NICKNAMES.get(text.strip().lower())
    if nickname is not None:
        raise ConfigError(f"names for whole expressions are not known; write {nickname!r}")
    if text != text.strip():
        raise ConfigError("blanks before or after the expression are not allowed; remove them")
    fields = re.split("[ \t]+", text)
    if len(fields) != 5:
        raise ConfigError(
            f"an expression has five fields, this has {len(fields) if text else 0}; "
            "write minute, hour, day of month, month and day of week, without seconds or year"
        )
    return fields


def _mask(kind: _Field, text: str) -> int:
    """The numbers of a field as a mask: ``*``, or a list of values, ranges and steps."""
    if text == "*":
        return _mask_of(range(kind.low, kind.high + 1))
    mask = 0
    for item in text.split(","):
        mask |= _mask_of(_item(kind, text, item))
    return mask


def _item(kind: _Field, text: str, item: str) -> range | list[int]:
    """The numbers of ``a``, ``a-b``, ``a/s``, ``a-b/s`` or ``*/s``; a range may wrap around."""
    body, slash, step = item.partition("/")
    start, dash, end = body.partition("-")
    if start == "*" and (dash or not slash):
        raise ConfigError(f"{kind.name} {text!r} has '*' beside something else; write '*' alone, or '*/' and a step")
    low = kind.low if start == "*" else _value(kind, text, start)
    high = _value(kind, text, end) if dash else kind.high if slash else low
    every = _step(kind, text, step) if slash else 1
    if low <= high:
        return range(low, high + 1, every)
    return [*range(low, kind.high + 1), *range(kind.low, high + 1)][::every]


def _value(kind: _Field, text: str, word: str) -> int:
    number = _number(word)
    if number is None:
        number = kind.names.get(word.upper())
    if number is not None and kind.low <= number <= kind.high:
        return number
    raise ConfigError(f"{kind.name} {text!r}: {word!r} is not {kind.allowed}; {_advice(kind, word)}")


def _advice(kind: _Field, word: str) -> str:
    if word == "?":
        return "write '*' for any"
    if kind is _WEEKDAY and word == "0":
        return "write 1 for Sunday"
    if kind is _WEEKDAY and word == "8":
        return "the week is 1 (Sunday) to 7 (Saturday)"
    if kind in (_DAY, _WEEKDAY) and re.search(r"[LW#]", word):
        return "L, W and # stand alone in their field"
    if kind in (_DAY, _WEEKDAY) and re.search(r"[lw]", word):
        return "write L and W in upper case, alone in their field"
    if not word:
        return "write a value on both sides of every ',', '-' and '/'"
    return f"write {kind.allowed}, '*', or a list, range or step of them"


def _step(kind: _Field, text: str, word: str) -> int:
    step = _number(word)
    if step is not None and 1 <= step <= kind.high - kind.low:
        return step
    raise ConfigError(f"{kind.name} {text!r}: {word!r} is no step; write 1-{kind.high - kind.low} after '/'")


def _days(day: str, weekday: str) -> _Days:
    """Which days of a month match: a bare ``*`` restricts nothing, two restrictions match where either does."""
    in_month, in_week = _month_rule(day), _week_rule(weekday)
    if day == "*":
        return in_week
    if weekday == "*":
        return in_month
    return lambda length, first: in_month(length, first) | in_week(length, first)


def _month_rule(text: str) -> _Days:
    last = re.fullmatch(r"L(?:-([0-9]+))?(W?)", text)
    if last:
        offset = 0 if last[1] is None else _number(last[1])
        if offset is None or (last[1] is not None and not 1 <= offset <= 30):
            raise ConfigError(f"{_DAY.name} {text!r}: {last[1]!r} is not 1-30; write L, or L- and 1-30")
        near = bool(last[2])
        return lambda length, first: _one_day(length - offset, length, first, near)
    nearest = re.fullmatch(r"([0-9]+)W", text)
    if nearest:
        day = _value(_DAY, text, nearest[1])
        return lambda length, first: _one_day(day, length, first, True)
    mask = _mask(_DAY, text)
    return lambda length, first: mask


def _one_day(day: int, length: int, first: int, near: bool) -> int:
    """The mask of ``day``, or of the weekday nearest to it in the same month; empty when the month lacks it."""
    if not 1 <= day <= length:
        return 0
    weekday = (first + day - 1) % 7
    if near and weekday == 6:
        day = day - 1 if day > 1 else 3
    elif near and weekday == 0:
        day = day + 1 if day < length else day - 2
    return 1 << day


def _week_rule(text: str) -> _Days:
    if text == "L":
        text = "SAT"
    one = re.fullmatch(r"([^,/#-]+)(?:L|#([0-9]+))", text)
    if one:
        weekday = _value(_WEEKDAY, text, one[1]) - 1
        if one[2] is None:
            return lambda length, first: 1 << length - (first + length - 1 - weekday) % 7
        week = _number(one[2])
        if week is None or not 1 <= week <= 5:
            raise ConfigError(f"{_WEEKDAY.name} {text!r}: {one[2]!r} is not 1-5; write the week of the month after '#'")
        return lambda length, first: 1 << 1 + (weekday - first) % 7 + 7 * (week - 1)
    mask = _mask(_WEEKDAY, text)
    # Six weeks in a row, moved so that bit 1 is the month's first day.
    weeks = sum(mask >> 1 << 7 * week for week in range(6))
    return lambda length, first: weeks >> first << 1


def _number(word: str) -> int | None:
    return int(word) if word.isascii() and word.isdigit() and len(word) < 20 else None


def _mask_of(numbers: range | list[int]) -> int:
    return sum(1 << number for number in numbers)


def _lowest(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def _length(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31
