"""JSON exactly as JavaScript reads and prints it, with the String() and Number() that go with it.

It is the text of KV values, metadata and hashed documents. The standard library's ``json`` differs in what a
hash or another Workers runtime notices: ``1.0`` and ``1e21`` print differently, ``NaN`` is written and read,
and a lone surrogate ends in an encoding error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

_MAX_SAFE = 2**53 - 1
_MAX_INDEX = 2**32 - 2
_INT_DIGITS_ALWAYS_SAFE = 15
_NOT_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_RADIX = re.compile(r"0x[0-9a-f]+|0o[0-7]+|0b[01]+", re.ASCII | re.IGNORECASE)
_INFINITY = re.compile(r"[+-]?Infinity")
# https://tc39.es/ecma262/#prod-StrWhiteSpaceChar
_SPACE = "\t\n\v\f\r \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(map(chr, range(0x2000, 0x200B)))
_HALVES = re.compile("[\ud800-\udbff][\udc00-\udfff]|[\ud800-\udfff]")

_quote_raw = json.JSONEncoder(ensure_ascii=False).encode
_Put = Callable[[str], None]


class JsDict(dict[str, Any]):
    """A dict whose keys are also attributes, as Cloudflare's Python SDK gives for JavaScript objects."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


def stringify(value: object) -> str:
    """The text that ``JSON.stringify(value)`` gives, compact and with non-ASCII characters as they are.

    Takes None, bool, int, float, str, list, tuple and dict. Numbers are doubles: ``1.0`` is ``1``, NaN and
    the infinities are ``null``, an int beyond 2**53 prints as the nearest double. As in a JavaScript object,
    keys that are array indices come first, ascending; all others keep their order.

    ``TypeError`` for a circular structure, a key that is not str, or another type; ``ValueError`` when nested
    too deeply. https://tc39.es/ecma262/#sec-json.stringify
    """
    pieces: list[str] = []
    try:
        _write(value, pieces.append, set())
    except RecursionError:
        raise ValueError("Maximum call stack size exceeded") from None
    return "".join(pieces)


def parse(text: str, *, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The value that ``JSON.parse(text)`` gives, in Python's types.

    A number is a double, as in JavaScript: an int when it is integral and within 2**53 - 1, else a float.
    ``object_hook`` replaces each object, inner ones first. ``ValueError`` for anything but JSON (a leading
    BOM, NaN and Infinity included) and for text nested too deeply; its message never quotes the text.

    https://tc39.es/ecma262/#sec-json.parse
    """
    decoder = _DECODER if object_hook is None else _decoder(object_hook)
    try:
        return decoder.decode(text)
    except json.JSONDecodeError as error:
        message = _syntax_error(error)
    except RecursionError:
        message = "JSON is nested too deeply"
    # Raised out here so that the error does not carry the document along as its context.
    raise ValueError(message)


def number_to_string(value: float) -> str:
    """What JavaScript's ``String(number)`` gives. https://tc39.es/ecma262/#sec-numeric-types-number-tostring"""
    if isinstance(value, int):
        if -_MAX_SAFE <= value <= _MAX_SAFE:
            return int.__repr__(value)
        try:
            value = float(value)
        except OverflowError:
            value = math.inf if value > 0 else -math.inf
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0:
        return "0"
    # repr() gives the same shortest digits as JavaScript; only the notation changes at other magnitudes.
    text = float.__repr__(value)
    mantissa, exponential, exponent = text.partition("e")
    if not exponential:
        return text.removesuffix(".0")
    return _positional(mantissa, int(exponent))


def to_string(value: object) -> str | None:
    """What ``String(value)`` gives for a primitive; None when ``value`` is an object in JavaScript."""
    if isinstance(value, str):
        return str.__str__(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)  # every digit: a large int crosses to JavaScript as a BigInt
    return number_to_string(value) if isinstance(value, float) else None


def to_number(text: str) -> float:
    """What ``Number(text)`` gives. https://tc39.es/ecma262/#sec-stringtonumber"""
    digits = text.strip(_SPACE)
    if _DECIMAL.fullmatch(digits) or _INFINITY.fullmatch(digits):
        return float(digits)
    if _RADIX.fullmatch(digits):
        return int(digits, 0)
    return math.nan if digits else 0


def to_utf8(text: str) -> bytes:
    """``text`` in UTF-8 as Workers send it.

    A JavaScript string is UTF-16: surrogates that meet are one character. A lone one is written as it is:
    three bytes that readers see as replacement characters.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return whole.encode("utf-8", "surrogatepass")


def _positional(mantissa: str, exponent: int) -> str:
    sign = "-" if mantissa.startswith("-") else ""
    digits = mantissa.removeprefix("-").replace(".", "")
    if 0 <= exponent < 21:
        return sign + digits.ljust(exponent + 1, "0")
    if -7 < exponent < 0:
        return sign + "0." + "0" * (-exponent - 1) + digits
    return f"{mantissa}e{exponent:+d}"


def _write(value: object, put: _Put, parents: set[int]) -> None:
    if isinstance(value, str):
        put(_quote(value))
    elif value is None:
        put("null")
    elif isinstance(value, bool):
        put("true" if value else "false")
    elif isinstance(value, int | float):
        text = number_to_string(value)
        put("null" if text in _NOT_FINITE else text)
    elif isinstance(value, dict | list | tuple):
        if id(value) in parents:
            raise TypeError("Converting circular structure to JSON")
        parents.add(id(value))
        if isinstance(value, dict):
            _write_object(value, put, parents)
        else:
            _write_array(value, put, parents)
        parents.discard(id(value))
    else:
        raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _write_array(value: list[Any] | tuple[Any, ...], put: _Put, parents: set[int]) -> None:
    separator = "["
    for item in value:
        put(separator)
        _write(item, put, parents)
        separator = ","
    put("[]" if separator == "[" else "]")


def _write_object(value: dict[Any, Any], put: _Put, parents: set[int]) -> None:
    separator = "{"
    for name in _key_order(value):
        put(separator)
        put(_quote(name))
        put(":")
        _write(value[name], put, parents)
        separator = ","
    put("{}" if separator == "{" else "}")


def _key_order(value: dict[Any, Any]) -> list[str]:
    """The keys in the order of a JavaScript object. https://tc39.es/ecma262/#sec-ordinaryownpropertykeys"""
    names = list(value)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"JSON object keys must be str, not {type(name).__name__}")
    indices = [name for name in names if _is_index(name)]
    if not indices:
        return names
    first = set(indices)
    return sorted(indices, key=int) + [name for name in names if name not in first]


def _is_index(name: str) -> bool:
    if not (len(name) <= 10 and name.isascii() and name.isdecimal()):
        return False
    return name == "0" or (name[0] != "0" and int(name) <= _MAX_INDEX)


def _quote(text: str) -> str:
    quoted = _quote_raw(text)
    return quoted if quoted.isascii() else _HALVES.sub(_whole_or_escaped, quoted)


def _whole_or_escaped(match: re.Match[str]) -> str:
    halves = match.group()
    if len(halves) == 2:
        return chr(0x10000 + ((ord(halves[0]) - 0xD800) << 10) + (ord(halves[1]) - 0xDC00))
    return f"\\u{ord(halves):04x}"


def _decoder(object_hook: Callable[[dict[str, Any]], Any] | None) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_hook=object_hook, parse_int=_integer, parse_float=_double, parse_constant=_refuse_constant
    )


def _integer(text: str) -> int | float:
    # The shortcut also keeps int() away from thousands of digits, which it refuses.
    return int(text) if len(text) <= _INT_DIGITS_ALWAYS_SAFE else _double(text)


def _double(text: str) -> int | float:
    number = float(text)
    return int(number) if number.is_integer() and abs(number) <= _MAX_SAFE else number


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"Unexpected token {name} in JSON")


def _syntax_error(error: json.JSONDecodeError) -> str:
    if error.pos >= len(error.doc):
        return "Unexpected end of JSON input"
    what = error.msg.removesuffix(" at").removesuffix(" starting")
    return f"{what} in JSON at position {error.pos} (line {error.lineno} column {error.colno})"


_DECODER = _decoder(None)
