"""A notice changes the one place of a body where it belongs, and not a byte elsewhere, or says why it cannot."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smoltbot_worker.relay import json_text
from smoltbot_worker.relay.splice import Spliced, insert_notice
from tests.scale import figure, scaled

ANTHROPIC = ("anthropic", "/v1/messages")
CHAT = ("openai", "/v1/chat/completions")
RESPONSES = ("openai", "/v1/responses")
GEMINI = ("gemini", "/v1beta/models/gemini-2.5-pro:generateContent")
TARGETS = {"anthropic": ANTHROPIC, "chat": CHAT, "responses": RESPONSES, "gemini": GEMINI}
TEXT = 'A "notice" —\nof two lines.'
SAID = rb"A \"notice\" \u2014\nof two lines."
LITERAL = b'"' + SAID + b'"'
EXAMPLES = scaled(150, 2_000)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def spliced(target: tuple[str, str], body: bytes, text: str = TEXT) -> Spliced:
    result = insert_notice(*target, body, text)
    assert isinstance(result, Spliced), result
    return result


@pytest.mark.parametrize(
    ("target", "body", "changed", "location", "before", "after"),
    [
        (ANTHROPIC, b"{}", b'{"system":%s}', "/system", None, b"%s"),
        (ANTHROPIC, b'\t{ "a" : 1.0 }\r\n', b'\t{"system":%s, "a" : 1.0 }\r\n', "/system", None, b"%s"),
        (ANTHROPIC, b'{"system" : null}', b'{"system" : %s}', "/system", b"null", b"%s"),
        (ANTHROPIC, rb'{"system":"a\\"}', rb'{"system":"a\\\n\n%t"}', "/system", rb'"a\\"', rb'"a\\\n\n%t"'),
        (ANTHROPIC, rb'{"syst\u0065m":"\""}', rb'{"syst\u0065m":"\"\n\n%t"}', "/system", rb'"\""', rb'"\"\n\n%t"'),
        (ANTHROPIC, '{"ü":"ü","system":"ü"}'.encode(), '{"ü":"ü","system":"ü'.encode() + rb'\n\n%t"}', "/system",
         '"ü"'.encode(), '"ü'.encode() + rb'\n\n%t"'),
        (ANTHROPIC, b'{"system":[ ]}', b'{"system":[ {"type":"text","text":%s}]}', "/system", b"[ ]",
         b'[ {"type":"text","text":%s}]'),
        (ANTHROPIC, b'{"system":[{}\n],"a":[]}', b'{"system":[{}\n,{"type":"text","text":%s}],"a":[]}', "/system",
         b"[{}\n]", b'[{}\n,{"type":"text","text":%s}]'),
        (CHAT, b'{"messages":[]}', b'{"messages":[{"role":"system","content":%s}]}', "/messages", b"[]",
         b'[{"role":"system","content":%s}]'),
        (CHAT, b'{"messages":[ {"role":"user"} ]}', b'{"messages":[{"role":"system","content":%s}, {"role":"user"} ]}',
         "/messages", b'[ {"role":"user"} ]', b'[{"role":"system","content":%s}, {"role":"user"} ]'),
        (RESPONSES, b'{"input":"x"}', b'{"instructions":%s,"input":"x"}', "/instructions", None, b"%s"),
        (RESPONSES, b'{"instructions":null }', b'{"instructions":%s }', "/instructions", b"null", b"%s"),
        (RESPONSES, b'{"instructions":""}', rb'{"instructions":"\n\n%t"}', "/instructions", b'""', rb'"\n\n%t"'),
        (GEMINI, b'{"contents":[]}', b'{"systemInstruction":{"parts":[{"text":%s}]},"contents":[]}',
         "/systemInstruction", None, b'{"parts":[{"text":%s}]}'),
        (GEMINI, b'{"system_instruction":null}', b'{"system_instruction":{"parts":[{"text":%s}]}}',
         "/system_instruction", b"null", b'{"parts":[{"text":%s}]}'),
        (GEMINI, b'{"systemInstruction":{}}', b'{"systemInstruction":{"parts":[{"text":%s}]}}',
         "/systemInstruction/parts", None, b'[{"text":%s}]'),
        (GEMINI, b'{"systemInstruction":{"role":"x", "parts":null}}',
         b'{"systemInstruction":{"role":"x", "parts":[{"text":%s}]}}', "/systemInstruction/parts", b"null",
         b'[{"text":%s}]'),
        (GEMINI, b'{"a":"b","system_instruction":{"r":"x","parts":[{"text":"a"}]}}',
         b'{"a":"b","system_instruction":{"r":"x","parts":[{"text":"a"},{"text":%s}]}}', "/system_instruction/parts",
         b'[{"text":"a"}]', b'[{"text":"a"},{"text":%s}]'),
    ],
)  # fmt: skip
def test_where_it_goes(
    target: tuple[str, str], body: bytes, changed: bytes, location: str, before: bytes | None, after: bytes
) -> None:
    def filled(pattern: bytes) -> bytes:
        return pattern.replace(b"%s", LITERAL).replace(b"%t", SAID)

    expected = Spliced(filled(changed), location, None if before is None else sha256(before), sha256(filled(after)))
    assert insert_notice(*target, body, TEXT) == expected


@pytest.mark.parametrize(
    ("target", "body", "reason"),
    [
        (ANTHROPIC, b'{"system":1}', "`system` is of another type"),
        (ANTHROPIC, b'{"system":{}}', "`system` is of another type"),
        (ANTHROPIC, b'{"system":false}', "`system` is of another type"),
        (ANTHROPIC, b'{"system":"a","system":"b"}', "the body has `system` more than once"),
        (ANTHROPIC, rb'{"system":"a","\u0073ystem":[]}', "the body has `system` more than once"),
        (CHAT, b'{"messages":{}}', "the body has no list `messages`"),
        (CHAT, b'{"messages":null}', "the body has no list `messages`"),
        (CHAT, b"{}", "the body has no list `messages`"),
        (RESPONSES, b'{"instructions":["a"]}', "`instructions` is of another type"),
        (GEMINI, b'{"systemInstruction":"a"}', "`systemInstruction` is not an object"),
        (GEMINI, b'{"system_instruction":{"parts":{}}}', "`parts` of `system_instruction` is not a list"),
        (GEMINI, b'{"systemInstruction":{"parts":[],"parts":[]}}', "the body has `parts` more than once"),
        (
            GEMINI,
            b'{"systemInstruction":{},"system_instruction":{}}',
            "the body has `systemInstruction` more than once",
        ),
    ],
)
def test_what_has_no_safe_place(target: tuple[str, str], body: bytes, reason: str) -> None:
    assert insert_notice(*target, body, TEXT) == reason


@pytest.mark.parametrize("target", TARGETS.values())
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the body is not JSON"),
        (b" ", "the body is not JSON"),
        (b"hello", "the body is not JSON"),
        (b"[]", "the body is not a JSON object"),
        (b'"system"', "the body is not a JSON object"),
        (b"\xef\xbb\xbf{}", "the body is not JSON"),
        (b'{"a":1}x', "the body is not JSON"),
        (b'{"a":1}"', "the body is not JSON"),
        (b"{}{}", "the body is not JSON"),
        (b'{"a":NaN}', "the body is not JSON"),
        (b'{"a":-Infinity}', "the body is not JSON"),
        (b'{"a":01}', "the body is not JSON"),
        (b'{"a":1.}', "the body is not JSON"),
        (b'{"a":1,}', "the body is not JSON"),
        (b"{'a':1}", "the body is not JSON"),
        (b'{"a":1 "b":2}', "the body is not JSON"),
        (b'{"a":[1}', "the body is not JSON"),
        (b'{"a":"b\n"}', "the body is not JSON"),
        (b'{"a":"\\x"}', "the body is not JSON"),
        (b'{"a":"\\u12g4"}', "the body is not JSON"),
        (b'{"a":"\\"}', "the body is not JSON"),
        (b'{"a":\\"b"}', "the body is not JSON"),
        (b'{"a":"\0"}', "the body is not JSON"),
        (b'{"a":1}\0', "the body is not JSON"),
        (b'{"a":"\xff"}', "the body is not UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "the body is not UTF-8"),
        (b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "the body nests deeper than 200 levels"),
        (b'{"a":' * 10_000, "the body nests deeper than 200 levels"),
        (b'{"a":[' + b"1," * 100_000 + b"1]}", "the body has more than 100000 values"),
        (b'{"a":[' + b"[" * 100_000, "the body has more than 100000 values"),
        (b'"' * 200_001, "the body has more than 100000 values"),
    ],
)
def test_what_is_refused_whole(target: tuple[str, str], body: bytes, reason: str) -> None:
    assert insert_notice(*target, body, TEXT) == reason


def test_the_limits_are_exact() -> None:
    """The outermost object is a level, and a value."""
    levels = json_text.MOST_LEVELS - 1
    spliced(ANTHROPIC, b'{"a":' + b"[" * levels + b"]" * levels + b"}")
    assert isinstance(insert_notice(*ANTHROPIC, b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", TEXT), str)
    more = json_text.MOST_VALUES - 2
    spliced(ANTHROPIC, b'{"a":[' + b"1," * more + b"1]}")
    assert isinstance(insert_notice(*ANTHROPIC, b'{"a":[1,' + b"1," * more + b"1]}", TEXT), str)


def test_what_text_holds_is_not_counted() -> None:
    """Brackets, commas and quotes in a prompt are no values."""
    prompt = json.dumps({"messages": [], "a": '[{,"]' * 200_000}).encode()
    assert json.loads(spliced(CHAT, prompt).body)["messages"][0]["content"] == TEXT


def test_numbers_may_have_any_number_of_digits() -> None:
    """Python's limit for the digits of an integer is none of JSON's."""
    body = b'{"a":' + b"9" * 10_000 + b"}"
    assert spliced(ANTHROPIC, body).body == b'{"system":%b,' % LITERAL + body[1:]


@pytest.mark.parametrize(
    ("provider", "path", "chosen"),
    [
        ("anthropic", "/v1/messages/", "/system"),
        ("anthropic", "//v1/%6dessages", "/system"),
        ("openai", "/v1/chat/completions/", "/messages"),
        ("openai", "/v1/%72esponses/", "/instructions"),
        ("gemini", "/v1/models/x:streamGenerateContent", "/systemInstruction"),
        ("gemini", "/v1beta/tunedModels/y%3AgenerateContent", "/systemInstruction"),
        ("anthropic", "/v1/messages/count_tokens", None),
        ("anthropic", "/v1/responses", None),
        ("openai", "/v1/embeddings", None),
        ("openai", "/v1/messages", None),
        ("gemini", "/v1beta/models/x:countTokens", None),
        ("other", "/v1/messages", None),
    ],
)
def test_only_generation_requests(provider: str, path: str, chosen: str | None) -> None:
    result = insert_notice(provider, path, b'{"messages":[]}', TEXT)
    if chosen is None:
        assert result == "the request is none that has a system text"
    else:
        assert isinstance(result, Spliced)
        assert result.location == chosen


@dataclass(frozen=True)
class Speller:
    """Writes JSON with as many different bytes for the same value as JSON has."""

    random: Random

    def space(self) -> bytes:
        return bytes(self.random.choices(b" \t\n\r", k=self.random.choice((0, 0, 0, 1, 2))))

    def text(self, text: str) -> bytes:
        return b'"' + b"".join(map(self._char, text)) + b'"'

    def value(self, value: Any) -> bytes:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return b"[" + b",".join(self._spaced(self.value(item)) for item in value) + self._gap(value) + b"]"
        if isinstance(value, dict):
            return self.object([(name, self.value(item)) for name, item in value.items()])
        if isinstance(value, int) and not isinstance(value, bool):
            return self.random.choice((f"{value}", f"{value}.0", f"{value}e0", f"{value}0E-1"[value == 0 :])).encode()
        return json.dumps(value).encode()

    def object(self, members: list[tuple[str, bytes]]) -> bytes:
        written = [self._spaced(self.text(name)) + b":" + self._spaced(value) for name, value in members]
        return b"{" + b",".join(written) + self._gap(members) + b"}"

    def _gap(self, members: list[Any]) -> bytes:
        return b"" if members else self.space()

    def _spaced(self, value: bytes) -> bytes:
        return self.space() + value + self.space()

    def _char(self, char: str) -> bytes:
        short = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "/": "\\/", "\b": "\\b"}
        escapes = "".join(f"\\u{unit:04x}" for unit in _units(char))
        ways = [short.get(char, escapes), escapes, escapes.upper().replace("\\U", "\\u")]
        if char >= " " and char not in '"\\' and not "\ud800" <= char <= "\udfff":
            ways += [char] * 4
        return self.random.choice(ways).encode()


def _units(char: str) -> list[int]:
    raw = char.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(raw[at : at + 2], "big") for at in range(0, len(raw), 2)]


TEXTS = st.text(st.one_of(st.characters(), st.sampled_from('"\\{}[],:\n\ud800')), max_size=12)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(10**6), 10**6), st.floats(allow_nan=False, width=32), TEXTS)
SCALARS = SCALARS.filter(lambda value: value not in (float("inf"), float("-inf")))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
OTHERS = st.dictionaries(TEXTS, VALUES, max_size=4)
NAMES = {"anthropic": "system", "chat": "messages", "responses": "instructions", "gemini": "systemInstruction"}
PARTS = st.fixed_dictionaries({"parts": st.lists(VALUES, max_size=3)})
CONTENTS = st.builds(lambda others, parts: {**others, **parts}, OTHERS, st.one_of(st.just({}), PARTS))
"""That OTHERS have `parts` of another type is too rare to happen."""
SUITABLE: dict[str, st.SearchStrategy[Any]] = {
    "anthropic": st.one_of(st.none(), TEXTS, st.lists(VALUES, max_size=3)),
    "chat": st.lists(VALUES, max_size=3),
    "responses": st.one_of(st.none(), TEXTS),
    "gemini": st.one_of(st.none(), CONTENTS),
}  # fmt: skip


def changed(shape: str, value: Any, text: str) -> Any:
    """The value of the member after the change, as it is parsed."""
    if shape == "chat":
        return [{"role": "system", "content": text}, *value]
    if shape == "gemini":
        content = value or {}
        return {**content, "parts": [*content.get("parts", []), {"text": text}]}
    if value is None:
        return text
    return [*value, {"type": "text", "text": text}] if isinstance(value, list) else value + "\n\n" + text


def common(one: bytes, other: bytes) -> int:
    """How many first bytes they share."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return low


def check_generated(shape: str, others: dict[str, Any], value: Any, text: str, random: Random) -> None:
    """``value`` is None where the member is null."""
    speller, name = Speller(random), NAMES[shape]
    members = [(key, speller.value(item)) for key, item in others.items() if key not in NAMES.values()]
    members.insert(random.randint(0, len(members)), (name, b"\0"))
    head, _, tail = (speller.space() + speller.object(members) + speller.space()).partition(b"\0")
    written = speller.value(value)
    result = spliced(TARGETS[shape], head + written + tail, text)
    parsed = json.loads(head + written + tail)
    assert json.loads(result.body) == {**parsed, name: changed(shape, parsed[name], text)}
    new = result.body[len(head) : -len(tail)]
    assert result.body == head + new + tail
    assert value is None or common(written, new) + common(written[::-1], new[::-1]) >= len(written)
    if result.location == f"/{name}":
        assert (result.before_sha256, result.after_sha256) == (sha256(written), sha256(new))


def check_absent(shape: str, others: dict[str, Any], text: str, random: Random) -> None:
    speller, name = Speller(random), NAMES[shape]
    body = speller.space() + speller.value({key: item for key, item in others.items() if key != name}) + speller.space()
    result = spliced(TARGETS[shape], body, text)
    value = changed(shape, None, text)
    assert json.loads(result.body) == {name: value, **json.loads(body)}
    assert next(iter(json.loads(result.body))) == name
    assert common(body, result.body) + common(body[::-1], result.body[::-1]) >= len(body)
    written = json.dumps(value, separators=(",", ":")).encode()
    assert (result.location, result.before_sha256, result.after_sha256) == (f"/{name}", None, sha256(written))


GENERATED = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True
)


@pytest.mark.proof
@pytest.mark.parametrize("shape", TARGETS)
def test_generated_bodies(shape: str) -> None:
    """Parsed, the result has the one change; unparsed, nothing else differs."""

    @GENERATED
    @given(OTHERS, SUITABLE[shape], st.booleans(), TEXTS, st.integers(0, 2**32))
    def check(others: dict[str, Any], value: Any, absent: bool, text: str, seed: int) -> None:
        if absent and shape != "chat":
            check_absent(shape, others, text, Random(seed))
        else:
            check_generated(shape, others, value, text, Random(seed))

    check()
    figure(f"bodies with a notice spliced in, {shape}", f"{EXAMPLES} exact")


def strictly(body: bytes) -> Any:
    """What a parser that knows no more than JSON makes of it; ValueError."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(body.decode(), parse_constant=refuse)


PIECES = [bytes([byte]) for byte in b'{}[],:"\\ \n\t0179.-+eEu\0\xff'] + [
    b"true", b"null", b"NaN", b'"system"', b'"messages":[', b'"instructions":', b'"systemInstruction":{"parts":[',
    b"\\u00", b'\\"', "ü".encode(), b"\xed\xa0\x80", b"\xef\xbb\xbf", b"[[[[", b'{"a":',
]  # fmt: skip


def broken(body: bytes, random: Random) -> bytes:
    """The body after a few changes by somebody who knows what hurts."""
    for _ in range(random.randint(1, 4)):
        at, length = random.randint(0, len(body)), random.choice((0, 0, 1, 1, 2, 9))
        body = body[:at] + random.choice([b"", *PIECES]) + body[at + length :]
    return body


@pytest.mark.proof
def test_hostile_bodies() -> None:
    """Nothing raises; what is not JSON is not touched, and of what is JSON nothing is called broken."""
    outcomes: dict[str, int] = {}

    def judge(body: bytes, target: tuple[str, str]) -> None:
        result = insert_notice(*target, body, TEXT)
        try:
            value = strictly(body)
        except ValueError:
            assert result in ("the body is not JSON", "the body is not UTF-8")
        else:
            if isinstance(result, Spliced):
                assert len(result.body) > len(body)
                strictly(result.body)
            else:
                assert result not in ("the body is not JSON", "the body is not UTF-8")
                assert isinstance(value, dict) == (result != "the body is not a JSON object")
        kind = "changed" if isinstance(result, Spliced) else result
        outcomes[kind] = outcomes.get(kind, 0) + 1

    @GENERATED
    @given(OTHERS, st.sampled_from(list(TARGETS)), st.integers(0, 2**32), st.binary(max_size=20))
    def check(others: dict[str, Any], shape: str, seed: int, junk: bytes) -> None:
        random = Random(seed)
        speller = Speller(random)
        body = speller.value({**others, NAMES[shape]: random.choice(("a", ["b"], {"parts": []}, None, 1))})
        judge(body, TARGETS[shape])
        for _ in range(10):
            judge(broken(body, random), TARGETS[shape])
        judge(junk, TARGETS[shape])
        judge(b"".join(random.choices(PIECES, k=random.randint(1, 12))), TARGETS[shape])

    check()
    assert min(outcomes["changed"], outcomes["the body is not JSON"], outcomes["the body is not UTF-8"]) > EXAMPLES // 4
    figure(
        "hostile bodies judged as a strict parser does",
        f"{sum(outcomes.values())}, {outcomes['changed']} of them changed",
    )


def test_the_reason_does_not_depend_on_the_text() -> None:
    """Whoever asks first whether there is a place relies on it."""
    for text in ("", "?", '"', "\\", "\ud800", "\0", "x" * 100_000):
        assert json.loads(spliced(ANTHROPIC, b'{"system":"a"}', text).body) == {"system": "a\n\n" + text}


PROSE = 'Some prose with "quotes",\n{brackets} and [lists].\t— ' * 20
TOOLS = [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": {"b": [1, 2.5, {"c": None}]}}}]


@pytest.mark.alone
@pytest.mark.parametrize(
    ("content", "share"),
    [("word " * 200_000, 1), (PROSE * 800, 1), ([{"type": "text", "text": PROSE}, *TOOLS], 700), ("QUJD" * 250_000, 1)],
    ids=["prose", "escapes", "tools", "base64"],
)
def test_a_mebibyte_takes_milliseconds(content: Any, share: int) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": content}] * share, "system": "a"}).encode()
    assert 800_000 < len(body) < 1_400_000
    took = least(lambda: spliced(ANTHROPIC, body))
    figure(f"notice spliced into {len(body)} bytes", f"{took * 1000:.1f} ms")
    assert took < 0.02


@pytest.mark.alone
@pytest.mark.parametrize(
    "body",
    [
        b'{"a":[' + b"1," * 99_000 + b"1]}",
        b'{"a":[' + (b"[" * 150 + b"]" * 150 + b",") * 650 + b"1]}",
        b"{" + b'"a":1,' * 99_000 + b'"b":1}',
        b'{"a":[' + b'{"":""},' * 49_000 + b"1]}",
        b'{"a":"' + b"\\" * (4 << 20) + b'"}',
        b'{"a":"' + b"x" * (4 << 20),
        b'{"a":' + b" " * (4 << 20) + b"1}",
        b'{"a":' + b"1" * (4 << 20) + b"}",
    ],
    ids=["numbers", "nesting", "members", "objects", "backslashes", "open", "spaces", "digits"],
)
def test_a_hostile_body_takes_about_a_second_at_most(body: bytes) -> None:
    assert least(lambda: insert_notice(*ANTHROPIC, body, TEXT)) < 1.2


def least(act: Callable[[], object]) -> float:
    """The processor's seconds of the quickest of five times: what others do meanwhile does not count."""
    times = []
    for _ in range(5):
        started = time.process_time()
        act()
        times.append(time.process_time() - started)
    return min(times)
