"""JSON as JavaScript: literal vectors printed by Node 20 (V8), and properties over generated documents."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_compat.jsjson import JsDict, number_to_string, parse, stringify, to_number, to_string, to_utf8

NUMBERS: list[tuple[float, str]] = [
    (0, "0"),
    (-0.0, "0"),
    (1.0, "1"),
    (-1.0, "-1"),
    (1.5, "1.5"),
    (0.1 + 0.2, "0.30000000000000004"),
    (1 / 3, "0.3333333333333333"),
    (100.0, "100"),
    (1e15, "1000000000000000"),
    (1e16, "10000000000000000"),
    (123456789012345680.0, "123456789012345680"),
    (1e20, "100000000000000000000"),
    (123456789012345680000.0, "123456789012345680000"),
    (1e21, "1e+21"),
    (1.5e21, "1.5e+21"),
    (-1e21, "-1e+21"),
    (1.7976931348623157e308, "1.7976931348623157e+308"),
    (5e-324, "5e-324"),
    (2.2250738585072014e-308, "2.2250738585072014e-308"),
    (0.000123, "0.000123"),
    (1.5e-5, "0.000015"),
    (1e-6, "0.000001"),
    (-1e-6, "-0.000001"),
    (1.23e-6, "0.00000123"),
    (9.99e-7, "9.99e-7"),
    (1e-7, "1e-7"),
    (-1.5e-7, "-1.5e-7"),
    (1e-10, "1e-10"),
    (1e100, "1e+100"),
    (4503599627370496.5, "4503599627370496"),
    (9007199254740991, "9007199254740991"),
    (9007199254740992, "9007199254740992"),
    (9007199254740993, "9007199254740992"),
    (9007199254740994, "9007199254740994"),
    (-9007199254740993, "-9007199254740992"),
    (2**60, "1152921504606847000"),
    (2**63, "9223372036854776000"),
    (2**64, "18446744073709552000"),
    (2**70, "1.1805916207174113e+21"),
    (10**23, "1e+23"),
    (12345678901234567890, "12345678901234567000"),
    (math.nan, "null"),
    (math.inf, "null"),
    (-math.inf, "null"),
    (10**400, "null"),
]


@pytest.mark.parametrize(("value", "text"), NUMBERS)
def test_numbers_print_as_in_javascript(value: float, text: str) -> None:
    assert stringify(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity"), (-(10**400), "-Infinity")],
)
def test_numbers_that_json_lacks_have_a_string(value: float, text: str) -> None:
    assert number_to_string(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        ("", '""'),
        ([], "[]"),
        ({}, "{}"),
        ([[], {}], "[[],{}]"),
        ((1, (2,)), "[1,[2]]"),
        ({"b": 1, "a": [None, "x"]}, '{"b":1,"a":[null,"x"]}'),
        (JsDict(a=JsDict(b=1.0)), '{"a":{"b":1}}'),
        ("é€😀\u2028\u2029\x7f", '"é€😀\u2028\u2029\x7f"'),
        ('"\\/', '"\\"\\\\/"'),
        ("\b\f\n\r\t\x00\x1f", '"\\b\\f\\n\\r\\t\\u0000\\u001f"'),
        ("\ud800", '"\\ud800"'),
        ("a\udfffb", '"a\\udfffb"'),
        ("\ude00\ud83d", '"\\ude00\\ud83d"'),
        ("\ud83d\ude00", '"😀"'),
        ("\ud83d\ud83d\ude00", '"\\ud83d😀"'),
        ({"\ud800": 1}, '{"\\ud800":1}'),
    ],
)
def test_values_print_as_in_javascript(value: object, text: str) -> None:
    assert stringify(value) == text


def test_array_indices_come_first_in_an_object() -> None:
    names = ["b", "2", "1", "01", "4294967294", "4294967295", "-1", "1.5", "__proto__", "0", "٣"]
    text = stringify(dict.fromkeys(names, 0))
    assert text == ('{"0":0,"1":0,"2":0,"4294967294":0,"b":0,"01":0,"4294967295":0,"-1":0,"1.5":0,"__proto__":0,"٣":0}')


@pytest.mark.parametrize("value", [{1: 2}, {None: 1}, {"a": {(): 1}}])
def test_keys_must_be_str(value: object) -> None:
    with pytest.raises(TypeError, match="keys must be str"):
        stringify(value)


@pytest.mark.parametrize("value", [b"x", {1}, object(), [1j], {"a": bytearray()}])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        stringify(value)


def test_a_circle_is_refused_and_a_shared_part_is_not() -> None:
    circle: dict[str, Any] = {"a": []}
    circle["a"].append(circle)
    with pytest.raises(TypeError, match=r"^Converting circular structure to JSON$"):
        stringify(circle)
    shared = [1]
    assert stringify([shared, {"a": shared}, shared]) == '[[1],{"a":[1]},[1]]'


def test_depth_ends_in_a_value_error() -> None:
    deep: list[Any] = []
    for _ in range(20_000):
        deep = [deep]
    with pytest.raises(ValueError, match="Maximum call stack"):
        stringify(deep)
    with pytest.raises(ValueError, match="nested too deeply"):
        parse("[" * 200_000)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        (" \t\r\n[1 , 2]\n", [1, 2]),
        ('{"a":1,"b":2,"a":3}', {"a": 3, "b": 2}),
        ('"\\ud83d\\ude00\\u0041\\/"', "😀A/"),
        ('"\\ud800"', "\ud800"),
        ('"\x7f\u2028"', "\x7f\u2028"),
        ('{"__proto__":1}', {"__proto__": 1}),
        ("1E5", 100_000),
    ],
)
def test_parse(text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1.0", 1),
        ("-0.0", 0),
        ("1e3", 1000),
        ("1.5", 1.5),
        ("9007199254740991", 9007199254740991),
        ("9007199254740993", 9007199254740992.0),
        ("123456789012345678901234567890", 1.2345678901234568e29),
        ("1e400", math.inf),
        ("9" * 6000, math.inf),
    ],
)
def test_parsed_numbers_are_doubles(text: str, value: float) -> None:
    parsed = parse(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        *("", "  ", "{", "[", "[1,]", '{"a":1,}', "nul", "NaN", "Infinity", "-Infinity", "[NaN]", "-", "01"),
        *("1.", ".5", "+1", "1e", '"a', '"\\x"', '"\\u12"', '"\\u+123"', '"\t"', '"\x1f"', "{a:1}", "'a'"),
        *("1 2", "[1 2]", '{"a" 1}', '{"a":1}}', "٣", "1_000", "0x10", "\x0b1", "\u00a0{}", "1\x00", "/**/1"),
        *("\ufeff{}", "\ufeff", "undefined"),
    ],
)
def test_parse_refuses_what_json_parse_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="JSON"):
        parse(text)


def test_a_syntax_error_does_not_carry_the_document() -> None:
    with pytest.raises(ValueError, match=r"JSON at position 10 \(line 1 column 11\)$") as caught:
        parse('["secret" 1]')
    error: BaseException | None = caught.value
    while error is not None:
        assert "secret" not in f"{error!r} {vars(error)}"
        error = error.__cause__ or error.__context__


def test_object_hook_makes_every_object() -> None:
    parsed = parse('{"a":[{"b":{}}]}', object_hook=JsDict)
    assert parsed.a[0].b == {}
    assert isinstance(parsed.a[0].b, JsDict)


def test_js_dict_attributes() -> None:
    value = JsDict(a=1)
    value.b = 2
    assert (value.a, value["b"]) == (1, 2)
    with pytest.raises(AttributeError, match="missing"):
        _ = value.missing


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("", "0"), (" \n\u00a0\ufeff\u2003", "0"), ("60", "60"), (" 60 ", "60"), ("+60", "60")),
        *(("0x1F", "31"), ("0B11", "3"), ("0o17", "15"), ("-0x1", "NaN"), ("0x", "NaN"), ("0b2", "NaN")),
        *((".6e2", "60"), ("5.", "5"), (".", "NaN"), ("1e", "NaN"), ("1E+3", "1000"), ("00012", "12")),
        *(("1_0", "NaN"), ("60abc", "NaN"), ("60n", "NaN"), ("1 2", "NaN"), ("٣", "NaN"), ("\x1c1", "NaN")),
        *(("Infinity", "Infinity"), ("-Infinity", "-Infinity"), ("infinity", "NaN"), ("1e400", "Infinity")),
        *(("nan", "NaN"), ("\u200b1", "NaN"), ("--1", "NaN")),
    ],
)
def test_to_number(text: str, value: str) -> None:
    assert number_to_string(to_number(text)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, "null"), (True, "true"), (1.0, "1"), (math.nan, "NaN"), (-0.0, "0"), ("x", "x")),
        *((10**30, "1" + "0" * 30), ([], None), ({}, None), (b"x", None)),
    ],
)
def test_to_string(value: object, text: str | None) -> None:
    assert to_string(value) == text


def test_to_utf8_keeps_a_lone_surrogate_and_joins_a_pair() -> None:
    assert to_utf8("aé😀") == "aé😀".encode()
    assert to_utf8("\ud83d\ude00") == "😀".encode()
    assert to_utf8("a\ud800b") == b"a\xed\xa0\x80b"


_text = st.text(max_size=8)
_leaves = st.none() | st.booleans() | st.integers() | st.floats() | _text
_documents = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=4),
    max_leaves=12,
)


@given(_documents)
def test_what_is_printed_is_json_and_stays_the_same_when_read(value: object) -> None:
    text = stringify(value)
    json.loads(text)
    assert stringify(parse(text)) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_printed_double_reads_back_as_itself(value: float) -> None:
    assert parse(stringify(value)) == value
