"""Cron: the 125 cases of Cloudflare's own parser as data, the contract's own rules, and random expressions."""

from __future__ import annotations

import json
import random
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.scale import figure, scaled
from worker_compat.cron import Cron
from worker_compat.errors import ConfigError

CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("cron_cases.json").read_text(encoding="utf-8"))[
    "cases"
]
FIELDS = ("minute", "hour", "day of month", "month", "day of week")
# Values of each field, each with a moment that has it; 1 January 2023 was a Sunday and has 31 days.
MOMENTS = {
    "minute": {value: datetime(2023, 1, 1, 0, value) for value in range(60)},
    "hour": {value: datetime(2023, 1, 1, value) for value in range(24)},
    "day of month": {value: datetime(2023, 1, value) for value in range(1, 32)},
    "month": {value: datetime(2023, value, 1) for value in range(1, 13)},
    "day of week": {value: datetime(2023, 1, value) for value in range(1, 8)},
}
MINUTE = timedelta(minutes=1)


def expression(field: str, text: str) -> str:
    return " ".join(text if name == field else "*" for name in FIELDS)


def moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=UTC)


def seconds(when: datetime) -> int:
    """Also for years that datetime.timestamp() does not know."""
    return (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)


def ticks(cron: Cron, start: int, end: int) -> list[datetime]:
    """Every tick after ``start`` and up to ``end``, which are seconds since the epoch."""
    found = []
    tick = cron.next_after(start)
    while tick is not None and tick <= end:
        found.append(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=tick))
        tick = cron.next_after(tick)
    return found


def test_there_are_125_cases_and_each_checks_something() -> None:
    assert len({case["name"] for case in CASES}) == 125
    assert sum(case["name"].startswith("parse::") for case in CASES) == 99
    assert all(set(case) & {"accept", "reject", "february_2020", "checks", "ranges"} for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_as_in_cloudflares_parser(case: dict[str, Any]) -> None:
    field = case.get("field", "")
    for text, expected in case.get("accept", {}).items():
        cron = Cron.parse(expression(field, text))
        assert [value for value, when in MOMENTS[field].items() if cron.matches(when)] == expected, text
    for text, expected in case.get("february_2020", {}).items():
        cron = Cron.parse(expression(field, text))
        assert [day for day in range(1, 30) if cron.matches(datetime(2020, 2, day))] == expected, text
    for text in case.get("reject", ()):
        with pytest.raises(ConfigError):
            Cron.parse(expression(field, text))
    for check in case.get("checks", ()):
        cron = Cron.parse(check["cron"])
        assert [date for date in check.get("contains", ()) if not cron.matches(moment(date))] == []
        assert [date for date in check.get("lacks", ()) if cron.matches(moment(date))] == []
    for span in case.get("ranges", ()):
        start = moment(span["from"]) - MINUTE if "from" in span else moment(span.get("after", "0001-01-01 00:00"))
        end = (
            seconds(moment(span["before"])) - 60
            if "before" in span
            else seconds(moment(span.get("to", "9999-12-31 23:59")))
        )
        assert ticks(Cron.parse(span["cron"]), seconds(start), end) == [moment(date) for date in span["ticks"]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has 0; write minute, hour, day of month, month and day of week"),
        ("* * * *", "has 4; write minute"),
        ("0 * * * * *", "has 6; write minute, hour, day of month, month and day of week, without seconds or year"),
        ("* * * * * 2030", "has 6; write minute"),
        ("@daily", "write '0 0 * * *'"),
        ("@HOURLY", "write '0 * * * *'"),
        ("@reboot", "has 1; write minute"),
        (" * * * * *", "blanks before or after the expression are not allowed; remove them"),
        ("* * * * *\n", "blanks before or after the expression are not allowed; remove them"),
        ("* *\n* * *", "has 4; write minute"),
        ("* * ? * *", "day of month '?': '?' is not 1-31; write '*' for any"),
        ("* * * * ?", "day of week '?': '?' is not 1-7 or SUN-SAT; write '*' for any"),
        ("* * * * 0", "day of week '0': '0' is not 1-7 or SUN-SAT; write 1 for Sunday"),
        ("* * * * 8", "day of week '8': '8' is not 1-7 or SUN-SAT; the week is 1 (Sunday) to 7 (Saturday)"),
        ("60 * * * *", "minute '60': '60' is not 0-59; write 0-59"),
        ("* 24 * * *", "hour '24': '24' is not 0-23"),
        ("* * 0 * *", "day of month '0': '0' is not 1-31"),
        ("* * * 13 *", "month '13': '13' is not 1-12 or JAN-DEC"),
        ("* * * MON *", "month 'MON': 'MON' is not 1-12 or JAN-DEC"),
        ("* * * JANUARY *", "month 'JANUARY': 'JANUARY' is not 1-12 or JAN-DEC"),
        ("JAN * * * *", "minute 'JAN': 'JAN' is not 0-59"),
        ("1,* * * * *", "minute '1,*' has '*' beside something else; write '*' alone, or '*/' and a step"),
        ("*-5 * * * *", "minute '*-5' has '*' beside something else"),
        ("1-* * * * *", "minute '1-*': '*' is not 0-59"),
        ("1,,2 * * * *", "minute '1,,2': '' is not 0-59; write a value on both sides of every ',', '-' and '/'"),
        ("-5 * * * *", "minute '-5': '' is not 0-59; write a value on both sides"),
        ("1-2-3 * * * *", "minute '1-2-3': '2-3' is not 0-59"),
        ("*/0 * * * *", "minute '*/0': '0' is no step; write 1-59 after '/'"),
        ("*/60 * * * *", "minute '*/60': '60' is no step; write 1-59 after '/'"),
        ("* * * */12 *", "month '*/12': '12' is no step; write 1-11 after '/'"),
        ("*/1/2 * * * *", "minute '*/1/2': '1/2' is no step"),
        ("*/ * * * *", "minute '*/': '' is no step"),
        ("* * L,3 * *", "day of month 'L,3': 'L' is not 1-31; L, W and # stand alone in their field"),
        ("* * 1W,3 * *", "day of month '1W,3': '1W' is not 1-31; L, W and # stand alone in their field"),
        ("* * 32W * *", "day of month '32W': '32' is not 1-31"),
        ("* * l * *", "day of month 'l': 'l' is not 1-31; write L and W in upper case"),
        ("* * L-31 * *", "day of month 'L-31': '31' is not 1-30; write L, or L- and 1-30"),
        ("* * W * *", "day of month 'W': 'W' is not 1-31; L, W and # stand alone"),
        ("* * 1L * *", "day of month '1L': '1L' is not 1-31; L, W and # stand alone"),
        ("* * * * 2#6", "day of week '2#6': '6' is not 1-5; write the week of the month after '#'"),
        ("* * * * 2#1,3", "day of week '2#1,3': '2#1' is not 1-7 or SUN-SAT; L, W and # stand alone"),
        ("* * * * 0L", "day of week '0L': '0' is not 1-7 or SUN-SAT; write 1 for Sunday"),
        ("* * * * FRI#", "day of week 'FRI#': 'FRI#' is not 1-7"),
        ("\u0665 * * * *", "minute '\u0665': '\u0665' is not 0-59"),
        ("\xb2* * * * *", "minute '\xb2*': '\xb2*' is not 0-59"),
        ("1" * 6000 + " * * * *", "is not 0-59"),
        ("* * L-" + "1" * 6000 + " * *", "is not 1-30"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_the_field_the_text_and_the_fix(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Cron.parse(text)
    message = str(caught.value)
    assert message.startswith(f"cron {text!r}: ")
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("*  *   *\t* *", "* * * * *"),
        ("05 007 * * *", "5 7 * * *"),
        ("* * * jan,Feb sun", "* * * 1,2 1"),
        ("0 0 * * L", "0 0 * * 7"),
        ("0 0 * * friL", "0 0 * * 6L"),
        ("0 0 LW * *", "0 0 LW * *"),
    ],
)
def test_spellings_of_the_same(text: str, same: str) -> None:
    start, end = seconds(moment("2024-01-01 00:00")), seconds(moment("2024-01-03 00:00"))
    assert Cron.parse(text).text == text
    assert ticks(Cron.parse(text), start, end) == ticks(Cron.parse(same), start, end)


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("0 0 13 * 6", [3, 10, 13, 17, 24]),  # the 13th and every Friday
        ("0 0 13 * *", [13]),
        ("0 0 * * 6", [3, 10, 17, 24]),
        ("0 0 13 * */3", [1, 4, 5, 8, 11, 12, 13, 15, 18, 19, 22, 25, 26, 29]),  # `*/3` restricts
        ("0 0 */10 * 6", [1, 3, 10, 11, 17, 21, 24]),
        ("0 0 L * 1#1", [5, 30]),
        ("0 0 1-30 * 6", list(range(1, 31))),
    ],
)
def test_two_restricted_day_fields_match_where_either_does(text: str, days: list[int]) -> None:
    cron = Cron.parse(text)
    # June 2022 has 30 days and begins on a Wednesday.
    assert [day for day in range(1, 31) if cron.matches(datetime(2022, 6, day))] == days


def test_wrapped_ranges_hold_what_they_say() -> None:
    """Cloudflare's parser adds the value before the first: a slip of its bit masks that nobody means."""
    hours = [hour for hour in range(24) if Cron.parse("0 22-2 * * *").matches(datetime(2023, 1, 1, hour))]
    days = [day for day in range(1, 8) if Cron.parse("0 0 * * SAT-SUN").matches(datetime(2023, 1, day))]
    months = [month for month in range(1, 13) if Cron.parse("0 0 1 NOV-2 *").matches(datetime(2023, month, 1))]
    stepped = [day for day in range(1, 32) if Cron.parse("0 0 29-5/2 * *").matches(datetime(2023, 1, day))]
    assert (hours, days, months, stepped) == ([0, 1, 2, 22, 23], [1, 7], [1, 2, 11, 12], [2, 4, 29, 31])


def test_times_are_utc() -> None:
    cron = Cron.parse("0 12 * * *")
    assert cron.matches(datetime(2024, 7, 1, 12))
    assert cron.matches(datetime(2024, 7, 1, 14, tzinfo=timezone(timedelta(hours=2))))
    assert not cron.matches(datetime(2024, 7, 1, 12, tzinfo=timezone(timedelta(hours=2))))


@pytest.mark.parametrize("start", [0, 59, 59.999, 60, -1, -60, -60.5, 1_700_000_039.999, 1_700_000_040])
def test_the_next_tick_is_the_next_full_minute(start: float) -> None:
    tick = Cron.parse("* * * * *").next_after(start)
    assert tick is not None
    assert tick % 60 == 0
    assert tick - 60 <= start < tick


@pytest.mark.parametrize("text", ["* * 31 2 *", "0 0 30 FEB *", "* * 31 4,6,9,11 *", "0 0 L-30 2 *", "0 0 30W 2 *"])
def test_what_can_never_match_yields_nothing_soon(text: str) -> None:
    cron = Cron.parse(text)
    began = time.process_time()
    assert cron.next_after(1_700_000_000) is None
    assert time.process_time() - began < 0.5
    assert not any(cron.matches(datetime(2024, 2, day)) for day in range(1, 30))


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        ("0 0 29 2 *", "2096-03-01 00:00", "2104-02-29 00:00"),
        ("0 0 29W 2 *", "2096-03-01 00:00", "2104-02-29 00:00"),
        ("0 0 * 2 1#5", "2020-03-01 00:00", "2032-02-29 00:00"),
        ("0 0 * 2 7#5", "2020-03-01 00:00", "2048-02-29 00:00"),
        ("0 0 * 2 4#5", "2096-03-01 00:00", "2108-02-29 00:00"),
        ("0 0 29 2 5#1", "2021-02-28 00:00", "2022-02-03 00:00"),
    ],
)
def test_rare_ones_are_found_soon(text: str, after: str, expected: str) -> None:
    cron = Cron.parse(text)
    began = time.process_time()
    found = cron.next_after(seconds(moment(after)))
    assert time.process_time() - began < 0.5
    assert found == seconds(moment(expected))


class Naive:
    """The contract read word by word, without masks: the second opinion of the random test."""

    def __init__(self, text: str) -> None:
        minute, hour, self.day, month, self.week = text.split()
        self.minutes = self.values(minute, 0, 59)
        self.hours = self.values(hour, 0, 23)
        self.months = self.values(month, 1, 12)

    @staticmethod
    def values(text: str, low: int, high: int) -> set[int]:
        found: set[int] = set()
        for item in text.split(","):
            body, _, step = item.partition("/")
            first, dash, last = ("" if body == "*" else body).partition("-")
            value = int(first or low)
            end = int(last) if dash else high if step or body == "*" else value
            taken = 0
            while True:
                if taken % int(step or 1) == 0:
                    found.add(value)
                if value == end:
                    break
                value = low if value == high else value + 1
                taken += 1
        return found

    def on(self, when: datetime) -> bool:
        """Whether a day matches."""
        if when.month not in self.months:
            return False
        answers = [rule(when) for text, rule in ((self.day, self.in_month), (self.week, self.in_week)) if text != "*"]
        return any(answers) or not answers

    def in_month(self, when: datetime) -> bool:
        last = (when.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
        near = self.day.endswith("W")
        text = self.day.rstrip("W")
        if text.startswith("L"):
            aim = last.day - int(text[2:] or 0)
        elif near:
            aim = int(text)
        else:
            return when.day in self.values(text, 1, 31)
        if not 1 <= aim <= last.day:
            return False
        if not near:
            return when.day == aim
        days = [when.replace(day=day) for day in range(1, last.day + 1)]
        weekdays = [day for day in days if day.isoweekday() < 6]
        return when == min(weekdays, key=lambda day: (abs(day.day - aim), day.day))

    def in_week(self, when: datetime) -> bool:
        weekday = when.isoweekday() % 7 + 1
        if self.week == "L":
            return weekday == 7
        if self.week.endswith("L"):
            return weekday == int(self.week[:-1]) and (when + timedelta(days=7)).month != when.month
        if "#" in self.week:
            named, _, week = self.week.partition("#")
            return weekday == int(named) and (when.day + 6) // 7 == int(week)
        return weekday in self.values(self.week, 1, 7)

    def next_after(self, start: datetime, days: int) -> datetime | None:
        """Day by day, then minute by minute; None when nothing comes within ``days``."""
        when = start.replace(second=0, microsecond=0) + MINUTE
        for _ in range(days):
            if self.on(when.replace(hour=0, minute=0)):
                day = when.date()
                while when.date() == day:
                    if when.hour in self.hours and when.minute in self.minutes:
                        return when
                    when += MINUTE
            else:
                when = when.replace(hour=0, minute=0) + timedelta(days=1)
        return None


def some_field(dice: random.Random, low: int, high: int) -> str:
    def item() -> str:
        a, b, step = dice.randint(low, high), dice.randint(low, high), dice.randint(1, high - low)
        return dice.choice([f"{a}", f"{a}-{b}", f"{a}/{step}", f"{a}-{b}/{step}", f"*/{step}"])

    return "*" if dice.random() < 0.4 else ",".join(item() for _ in range(dice.randint(1, 3)))


def some_expression(dice: random.Random) -> str:
    day, week = some_field(dice, 1, 31), some_field(dice, 1, 7)
    if dice.random() < 0.4:
        number = dice.randint(1, 30)
        day = dice.choice(["L", "LW", f"L-{number}", f"L-{number}W", f"{number}W", "31W"])
    if dice.random() < 0.4:
        week = dice.choice(["L", f"{dice.randint(1, 7)}L", f"{dice.randint(1, 7)}#{dice.randint(1, 5)}"])
    if dice.random() < 0.3:
        day, week = dice.choice([(day, "*"), ("*", week)])
    return " ".join([some_field(dice, 0, 59), some_field(dice, 0, 23), day, some_field(dice, 1, 12), week])


@pytest.mark.proof
@pytest.mark.parametrize("seed", range(4))
def test_random_expressions_agree_with_a_day_by_day_search_over_years(seed: int) -> None:
    dice = random.Random(seed)
    number = scaled(150, 5000)
    for _ in range(number):
        text = some_expression(dice)
        cron, naive = Cron.parse(text), Naive(text)
        start = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(seconds=dice.randrange(86_400 * 365 * 40))
        expected = naive.next_after(start, 366 * 3)
        found = cron.next_after(start.timestamp())
        if expected is None:
            assert found is None or found > (start + timedelta(days=366 * 3 - 1)).timestamp(), text
        else:
            assert found == expected.timestamp(), f"{text} after {start}"
            assert cron.matches(expected)
        some = start + timedelta(minutes=dice.randrange(1440 * 400))
        minute = some.minute in naive.minutes and some.hour in naive.hours
        assert cron.matches(some) == (minute and naive.on(some.replace(hour=0, minute=0, second=0))), f"{text} {some}"
    figure(f"random cron expressions against a day-by-day search, seed {seed}", f"{number} expressions, 0 differences")
