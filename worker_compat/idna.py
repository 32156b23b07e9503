"""Domain names beyond ASCII (UTS 46 as URLs use it), with the Unicode tables of the standard library."""

from __future__ import annotations

import re
from functools import cache
from unicodedata import bidirectional, category, combining, decomposition, normalize

_NON_JOINER, _JOINER = "\u200c", "\u200d"
_KEPT = f"\xdf\u03c2{_NON_JOINER}{_JOINER}"  # sharp s and final sigma would be folded, the joiners dropped
_IGNORED = re.compile(
    "[\xad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u2060-\u2064\u206a-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0100-\U000e01ef]"
)
_DISALLOWED = re.compile("[\u2ff0-\u2fff\u31ef\ufffc\ufffd]")
_DOTS = "\u3002\uff0e\uff61"
_RTL = frozenset({"R", "AL", "AN", "EN", "ES", "CS", "ET", "ON", "BN", "NSM"})
_LTR = frozenset({"L", "EN", "ES", "CS", "ET", "ON", "BN", "NSM"})
_LONGEST = 512
"""Characters of a name; DNS has 253. Punycode takes quadratic time."""


def to_ascii(name: str) -> str:
    """``name`` in lower case with ``xn--`` labels; ``ValueError`` where UTS 46 says that it is none."""
    if len(name) > _LONGEST:
        raise ValueError("no domain is that long")
    labels = [_unicode(label) for label in _mapped(name).split(".")]
    for label in labels:
        _check_direction([bidirectional(character) for character in label])
    return ".".join(label if label.isascii() else f"xn--{label.encode('punycode').decode()}" for label in labels)


def _mapped(name: str) -> str:
    text = "".join(character if character in _KEPT else _folded(character) for character in _IGNORED.sub("", name))
    return normalize("NFC", text)


def _folded(character: str) -> str:
    if character in _DOTS or character == ".":
        return "."
    if character == "\u1e9e":
        return "\xdf"
    folded = normalize("NFKC", normalize("NFKC", character.casefold()).casefold())
    # What only looks like a dot would part labels behind the reader's back.
    if "." in folded or "\u3002" in folded:
        raise ValueError("a character that hides a dot")
    return folded


def _unicode(label: str) -> str:
    """The label without its ASCII form, checked."""
    if label.startswith("xn--"):
        plain = label[4:].encode("ascii").decode("punycode")
        if plain.isascii() or _mapped(plain) != plain:
            raise ValueError("not what mapping gives")
        label = plain
    if label and category(label[0])[0] == "M":
        raise ValueError("a label does not begin with a mark")
    for place, character in enumerate(label):
        if character in (_JOINER, _NON_JOINER):
            _check_joiner(label, place)
        elif not character.isascii() and (category(character)[0] in "CZ" or _DISALLOWED.match(character)):
            raise ValueError("a character that no name may have")
    return label


def _check_joiner(label: str, place: int) -> None:
    """Joiners stand behind a virama; the non-joiner also between letters that would join (RFC 5892, appendix A)."""
    before, after = (part.translate(_TRANSPARENT) for part in (label[:place], label[place + 1 :]))
    if place and combining(label[place - 1]) == 9:
        return
    if label[place] == _JOINER or before[-1:] not in _joining() or not after or bidirectional(after[0]) != "AL":
        raise ValueError("a joiner that joins nothing")


class _Marks(dict[int, "int | None"]):
    """A translation that drops marks: letters join across them."""

    def __missing__(self, point: int) -> int | None:
        return None if category(chr(point)) in ("Mn", "Me", "Cf") else point


_TRANSPARENT = _Marks()


@cache
def _joining() -> frozenset[str]:
    """The Arabic letters that join the next one: those with an initial presentation form."""
    forms = (decomposition(chr(point)).split() for point in range(0xFB50, 0xFF00))
    return frozenset(chr(int(form[1], 16)) for form in forms if len(form) == 2 and form[0] == "<initial>")


def _check_direction(kinds: list[str]) -> None:
    """The Bidi rule of RFC 5893, for the classes of one label's characters.

    As in the parser of Workers it is about labels from right to left, not about others beside them.
    """
    if {"R", "AL", "AN"}.isdisjoint(kinds):
        return
    last = next((kind for kind in reversed(kinds) if kind != "NSM"), "")
    if kinds[0] in ("R", "AL"):
        good = _RTL.issuperset(kinds) and last in ("R", "AL", "EN", "AN") and not {"EN", "AN"}.issubset(kinds)
    else:
        good = kinds[0] == "L" and _LTR.issuperset(kinds) and last in ("L", "EN")
    if not good:
        raise ValueError("directions that do not go together")
