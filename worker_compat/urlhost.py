"""The host of a URL by the WHATWG standard: names with IDNA, IPv4 in all its spellings, IPv6."""

from __future__ import annotations

import re

_FORBIDDEN_HOST = re.compile(r"[\0\t\n\r #/:<>?@\[\\\]^|]")
_FORBIDDEN_DOMAIN = re.compile(r"[\x00- #%/:<>?@\[\\\]^|\x7f]")
_CONTROL = re.compile(r"[^ -~]")
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
_NUMBER = re.compile(r"(?:0[xX][0-9A-Fa-f]*|[0-9]+)\Z")
_GROUPS = re.compile(r"(?:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4})*)?\Z")
_DOTTED = re.compile(r"(?:0|[1-9][0-9]{0,2})(?:\.(?:0|[1-9][0-9]{0,2})){3}\Z")
_ZEROS = re.compile(r"\b0(?::0\b)+")


def parse_host(text: str, special: bool) -> str:
    """The host as it stands in a normalised URL; ``ValueError`` when it is none."""
    if text.startswith("["):
        if not text.endswith("]"):
            raise ValueError("an IPv6 address without its end")
        return f"[{_ipv6(text[1:-1])}]"
    if not special:
        if _FORBIDDEN_HOST.search(text):
            raise ValueError("a character that no host may have")
        return _CONTROL.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), text)
    name = _ascii(_ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), text.encode()).decode("utf-8", "replace"))
    if not name or _FORBIDDEN_DOMAIN.search(name):
        raise ValueError("a character that no domain may have")
    labels = name.removesuffix(".").split(".")
    return _ipv4(labels) if _NUMBER.match(labels[-1]) else name


def _ascii(name: str) -> str:
    if name.isascii():
        return name.lower()
    from .idna import to_ascii

    return to_ascii(name)


def _ipv4(labels: list[str]) -> str:
    if len(labels) > 4:
        raise ValueError("more than four numbers")
    *first, last = [_number(label) for label in labels]
    if any(number > 255 for number in first) or last >= 256 ** (4 - len(first)):
        raise ValueError("a number that is too large")
    address = sum(number << 8 * (3 - place) for place, number in enumerate(first)) + last
    return ".".join(str(address >> shift & 255) for shift in (24, 16, 8, 0))


def _number(label: str) -> int:
    """Decimal, octal with a leading 0, or hexadecimal with 0x."""
    if not _NUMBER.match(label):
        raise ValueError("no number")
    if label[:2] in ("0x", "0X"):
        return int(label[2:] or "0", 16)
    # Twenty digits are too large already, and int() has a limit of its own.
    return int(label.lstrip("0")[:20] or "0", 8 if label.startswith("0") else 10)


def _ipv6(text: str) -> str:
    """In lower case, the first longest run of zeros left out, an IPv4 tail in hexadecimal."""
    head, _, tail = text.rpartition(":")
    if "." in tail:
        parts = [int(part) for part in tail.split(".")] if _DOTTED.match(tail) else [256]
        if max(parts) > 255:
            raise ValueError("no IPv4 address at the end")
        text = f"{head}:{parts[0] << 8 | parts[1]:x}:{parts[2] << 8 | parts[3]:x}"
    left, gap, right = text.partition("::")
    if not (_GROUPS.match(left) and _GROUPS.match(right)):
        raise ValueError("a group that is no number")
    before, after = left.split(":") if left else [], right.split(":") if right else []
    missing = 8 - len(before) - len(after)
    if missing < 1 if gap else missing:
        raise ValueError("an IPv6 address has eight groups")
    groups = ":".join(f"{int(group, 16):x}" for group in [*before, *["0"] * missing, *after])
    longest = max(_ZEROS.finditer(groups), key=lambda run: len(run[0]), default=None)
    if longest is None:
        return groups
    return f"{groups[: longest.start()].removesuffix(':')}::{groups[longest.end() :].removeprefix(':')}"
