"""Headers: an ordered list of name and value that keeps case, order and repeats exactly as they came."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from . import jsjson

RawHeaders = Sequence[tuple[bytes, bytes]]
"""Header lines as on the wire: (name, value) in order, values without surrounding white space."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_TRIM = " \t\r\n"

_OWN, _SHARED, _IMMUTABLE = range(3)

HeadersInit: TypeAlias = "Headers | Mapping[str, str] | Iterable[tuple[str, str]]"


class Headers:
    """The Fetch standard's header list, with the wire form kept underneath.

    Reading follows the standard: names compare without case, repeats are joined with ``", "``, iteration is
    by sorted lower-case name, and each ``Set-Cookie`` stays separate. As in Cloudflare's Python SDK a missing
    name reads as None, also by ``headers[name]``. :attr:`raw` is what a host or fetcher writes.
    Non-ASCII bytes are UTF-8; bytes that are not UTF-8 survive as lone surrogates.
    https://developers.cloudflare.com/workers/runtime-apis/headers/
    """

    __slots__ = ("_guard", "_index", "_raw")

    def __init__(self, init: HeadersInit | None = None) -> None:
        self._raw: RawHeaders = []
        self._index: dict[bytes, list[bytes]] | None = None
        self._guard = _OWN
        if init is None:
            return
        if isinstance(init, Headers):
            self._raw = list(init._raw)
            return
        if isinstance(init, str | bytes):  # type: ignore[unreachable] # iterable, but not of pairs
            raise TypeError("Received unexpected type for headers argument")
        pairs = init.items() if isinstance(init, Mapping) else init
        for name, value in pairs:
            self.append(name, value)

    @classmethod
    def from_raw(cls, raw: RawHeaders, *, immutable: bool = False) -> Headers:
        """Wrap header lines that were already checked; nothing is copied or parsed, and ``raw`` is never changed."""
        self = cls.__new__(cls)
        self._raw = raw
        self._index = None
        self._guard = _IMMUTABLE if immutable else _SHARED
        return self

    @property
    def raw(self) -> RawHeaders:
        """The header lines in wire order and case. Not to be changed by the caller."""
        return self._raw

    @property
    def immutable(self) -> bool:
        """Whether changing them is a ``TypeError``: those of incoming requests and fetched responses."""
        return self._guard == _IMMUTABLE

    def clone(self) -> Headers:
        """A copy that is immutable if this is, unlike ``Headers(headers)``."""
        return Headers.from_raw(list(self._raw), immutable=self.immutable)

    def get(self, name: str, default: str | None = None) -> str | None:
        """The value, repeats joined with ``", "``; ``default`` when the name is missing."""
        values = self._lookup(name)
        if not values:
            return default
        return _decode(values[0]) if len(values) == 1 else ", ".join(map(_decode, values))

    def get_all(self, name: str) -> list[str]:
        """Every value of ``name`` in order."""
        return [_decode(value) for value in self._lookup(name)]

    def get_set_cookie(self) -> list[str]:
        """Every ``Set-Cookie`` value; they are never joined."""
        return self.get_all("set-cookie")

    getSetCookie = get_set_cookie

    def getAll(self, name: str) -> list[str]:
        """Legacy form of :meth:`get_set_cookie`; any other name is a ``TypeError``, as on Workers."""
        if name.lower() != "set-cookie":
            raise TypeError('getAll() can only be used with the header name "Set-Cookie".')
        return self.get_all(name)

    def has(self, name: str) -> bool:
        """Whether ``name`` is present."""
        return bool(self._lookup(name))

    def set(self, name: str, value: str) -> None:
        """Replace every line of ``name`` by one, at the place of the first."""
        line = _checked(name, value)
        lines = self._writable()
        key = line[0].lower()
        at = next((i for i, (n, _) in enumerate(lines) if n.lower() == key), len(lines))
        # The case first used on the wire is kept, as Workers does.
        if at < len(lines):
            line = (lines[at][0], line[1])
        lines[:] = [*lines[:at], line, *(pair for pair in lines[at:] if pair[0].lower() != key)]

    def append(self, name: str, value: str) -> None:
        """Add a line."""
        line = _checked(name, value)
        self._writable().append(line)

    def delete(self, name: str) -> None:
        """Remove every line of ``name``."""
        key = _checked(name, "")[0].lower()
        lines = self._writable()
        lines[:] = [pair for pair in lines if pair[0].lower() != key]

    def items(self) -> list[tuple[str, str]]:
        """Pairs by sorted lower-case name; one pair per ``Set-Cookie``."""
        pairs: list[tuple[str, str]] = []
        index = self._indexed()
        for key in sorted(index):
            name = _decode(key)
            if key == b"set-cookie":
                pairs.extend((name, _decode(value)) for value in index[key])
            else:
                pairs.append((name, ", ".join(map(_decode, index[key]))))
        return pairs

    entries = items

    def keys(self) -> list[str]:
        """Sorted lower-case names, ``set-cookie`` once per line."""
        return [name for name, _ in self.items()]

    def values(self) -> list[str]:
        """Values in the order of :meth:`keys`."""
        return [value for _, value in self.items()]

    def __getitem__(self, name: str) -> str | None:
        return self.get(name)

    def __setitem__(self, name: str, value: str) -> None:
        self.set(name, value)

    def __delitem__(self, name: str) -> None:
        self.delete(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.has(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.items())

    def __repr__(self) -> str:
        # Names only: values carry keys and cookies, and a repr ends up in logs.
        return f"<Headers {[_decode(name) for name, _ in self._raw]}>"

    def _lookup(self, name: str) -> list[bytes]:
        # "surrogatepass" never fails, and a name that it changes is no header's.
        return self._indexed().get(name.encode("utf-8", "surrogatepass").lower(), [])

    def _indexed(self) -> dict[bytes, list[bytes]]:
        index = self._index
        if index is None:
            index = self._index = {}
            for name, value in self._raw:
                key = name.lower()
                if key in index:
                    index[key].append(value)
                else:
                    index[key] = [value]
        return index

    def _writable(self) -> list[tuple[bytes, bytes]]:
        if self._guard == _IMMUTABLE:
            raise TypeError("Can't modify immutable headers.")
        self._index = None
        if self._guard == _SHARED or not isinstance(self._raw, list):
            # Lines that came from elsewhere may belong to an immutable request.
            self._raw, self._guard = list(self._raw), _OWN
        return self._raw


def _decode(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _encode(value: str) -> bytes:
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return jsjson.to_utf8(value)


def _checked(name: str, value: str) -> tuple[bytes, bytes]:
    """One header line, encoded; ``TypeError`` with Cloudflare's text for what must not go on the wire."""
    if not _TOKEN.match(name):
        raise TypeError("Invalid header name.")
    text = jsjson.to_string(value)
    if text is None:
        raise TypeError(f"a header value is a str, not {type(value).__name__}")
    text = text.strip(_TRIM)
    if "\r" in text or "\n" in text or "\0" in text:
        raise TypeError("Invalid header value.")
    return name.encode("ascii"), _encode(text)
