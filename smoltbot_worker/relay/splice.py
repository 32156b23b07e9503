"""A notice in the system text of a request: bytes put in at one place of its JSON, every other byte as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from .json_text import Edit, JsonText, Unsuitable, Value, json_string
from .providers import PROVIDERS, is_generation


@dataclass(frozen=True, slots=True)
class Spliced:
    """A changed body, and what the ledger says of the change.

    ``location`` is the JSON pointer of the member that changed. ``before_sha256`` and ``after_sha256`` are lower-case
    hex over the exact bytes of its value in either body; None: it was not there.
    """

    body: bytes
    location: str
    before_sha256: str | None
    after_sha256: str


@dataclass(frozen=True, slots=True)
class _Change:
    location: str
    before: Value | None
    edit: Edit
    inserted: bytes = b""
    """The new value, where there was none."""


def insert_notice(provider: str, path: str, body: bytes, text: str) -> Spliced | str:
    """The body of a generation request with ``text`` at the end of what its system says; else why that cannot be.

    A reason quotes nothing of the body, and whether there is one does not depend on ``text``. Never raises.
    """
    place = _place(provider, path)
    if place is None:
        return "the request is none that has a system text"
    try:
        document = JsonText(body)
        change = place(document, text)
    except Unsuitable as reason:
        return str(reason)
    return _spliced(document, change)


def _place(provider: str, path: str) -> Callable[[JsonText, str], _Change] | None:
    known = PROVIDERS.get(provider)
    if known is None or not is_generation(known, "POST", path):
        return None
    if provider == "openai":
        return _in_responses if unquote(path).rstrip("/").endswith("/responses") else _in_chat
    return _in_anthropic if provider == "anthropic" else _in_gemini


def _in_anthropic(document: JsonText, text: str) -> _Change:
    found = document.member(document.root, "system")
    if found is not None and document.kind(found[1]) == "array":
        block = b'{"type":"text","text":%b}' % json_string(text)
        return _Change("/system", found[1], document.append_element(found[1], block))
    return _in_text(document, "system", text)


def _in_responses(document: JsonText, text: str) -> _Change:
    return _in_text(document, "instructions", text)


def _in_chat(document: JsonText, text: str) -> _Change:
    found = document.member(document.root, "messages")
    if found is None or document.kind(found[1]) != "array":
        raise Unsuitable("the body has no list `messages`")
    message = b'{"role":"system","content":%b}' % json_string(text)
    return _Change("/messages", found[1], document.insert_element(found[1], message))


def _in_gemini(document: JsonText, text: str) -> _Change:
    part = b'{"text":%b}' % json_string(text)
    found = document.member(document.root, "systemInstruction", "system_instruction")
    if found is None or document.kind(found[1]) == "null":
        name, value = found or ("systemInstruction", None)
        return _new(document, document.root, "/" + name, value, b'{"parts":[%b]}' % part)
    name, content = found
    if document.kind(content) != "object":
        raise Unsuitable(f"`{name}` is not an object")
    parts = document.member(content, "parts")
    if parts is None or document.kind(parts[1]) == "null":
        return _new(document, content, f"/{name}/parts", parts and parts[1], b"[%b]" % part)
    if document.kind(parts[1]) != "array":
        raise Unsuitable(f"`parts` of `{name}` is not a list")
    return _Change(f"/{name}/parts", parts[1], document.append_element(parts[1], part))


def _in_text(document: JsonText, name: str, text: str) -> _Change:
    """At the end of a text, or as that text."""
    found = document.member(document.root, name)
    if found is None or document.kind(found[1]) == "null":
        return _new(document, document.root, "/" + name, found and found[1], json_string(text))
    if document.kind(found[1]) != "string":
        raise Unsuitable(f"`{name}` is of another type")
    return _Change("/" + name, found[1], document.append_text(found[1], "\n\n" + text))


def _new(document: JsonText, within: Value, location: str, null: Value | None, value: bytes) -> _Change:
    """A value for a member that is null or not there."""
    if null is not None:
        return _Change(location, null, document.replace(null, value))
    name = location.rpartition("/")[2]
    return _Change(location, None, document.insert_member(within, name, value), value)


def _spliced(document: JsonText, change: _Change) -> Spliced:
    before, edit = change.before, change.edit
    if before is None:
        return Spliced(document.edited(edit), change.location, None, _sha256(change.inserted))
    old = document.body
    new = old[before.start : edit.start] + edit.new + old[edit.end : before.end]
    return Spliced(document.edited(edit), change.location, _sha256(old[before.start : before.end]), _sha256(new))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
