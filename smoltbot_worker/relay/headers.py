"""Which header lines pass between client and provider, found in one pass over each message."""

from __future__ import annotations

from worker_compat.headers import RawHeaders

Lines = list[tuple[bytes, bytes]]

_PASS, _DROP, _CONNECTION, _NOTE = range(4)

_HOP_BY_HOP = frozenset((b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"host"))
_OURS = (b"x-smoltbot-", b"x-mnemom-", b"x-aip-")
_REQUEST_NOTES = frozenset(
    (
        b"x-api-key", b"authorization", b"x-goog-api-key", b"origin", b"x-smoltbot-agent", b"x-mnemom-agent",
        b"upgrade", b"content-encoding",
    )
)  # fmt: skip
_RESPONSE_NOTES = frozenset((b"content-type", b"content-encoding", b"request-id", b"x-request-id"))
_FORWARDED_NOTES = frozenset((b"x-api-key", b"authorization", b"x-goog-api-key", b"origin"))
_MAX_MEMO = 4096
REPEATED = b":repeated"
"""Among the notes: the noted names that came more than once with different values."""


class Filter:
    """Decides per header name, once for each spelling.

    Dropped: hop-by-hop lines and what ``Connection`` names, ``proxy-*``, and everything under the gateway's own
    prefixes, which only the gateway may write. ``notes`` are names whose value the gateway wants to see; those that
    would be dropped are noted and dropped.
    """

    def __init__(self, notes: frozenset[bytes], dropped_prefixes: tuple[bytes, ...]) -> None:
        self._notes = notes
        self._prefixes = dropped_prefixes
        self._memo: dict[bytes, tuple[int, bool, bytes]] = {}

    def split(self, raw: RawHeaders) -> tuple[Lines, dict[bytes, bytes]]:
        """The lines that pass, in order and unchanged, and the first value of each noted name."""
        memo = self._memo
        kept: Lines = []
        notes: dict[bytes, bytes] = {}
        connection = b""
        for line in raw:
            name, value = line
            kind, noted, key = memo.get(name) or self._classify(name)
            if kind == _PASS:
                kept.append(line)
            elif kind == _CONNECTION:
                connection = connection + b"," + value if connection else value
            if noted:
                if key not in notes:
                    notes[key] = value
                elif notes[key] != value:
                    notes[REPEATED] = notes.get(REPEATED, b"") + key + b" "
        if connection and connection.lower() not in (b"close", b"keep-alive"):
            kept = _without_named(kept, connection)
        return kept, notes

    def _classify(self, name: bytes) -> tuple[int, bool, bytes]:
        key = name.lower()
        if key == b"connection":
            kind = _CONNECTION
        elif key in _HOP_BY_HOP or key.startswith(self._prefixes):
            kind = _DROP
        else:
            kind = _PASS
        found = (kind, key in self._notes, key)
        if len(self._memo) >= _MAX_MEMO:
            self._memo.clear()
        self._memo[name] = found
        return found


def _without_named(lines: Lines, connection: bytes) -> Lines:
    """Without the hop-by-hop lines that ``Connection`` names; it cannot name identity or content away."""
    named = {token.strip() for token in connection.lower().split(b",")} - _FORWARDED_NOTES
    return [line for line in lines if line[0].lower() not in named or line[0][:8].lower() == b"content-"]


REQUEST = Filter(_REQUEST_NOTES, (*_OURS, b"proxy-", b"cf-aig-"))
RESPONSE = Filter(_RESPONSE_NOTES, (*_OURS, b"x-policy-verdict", b"proxy-"))
