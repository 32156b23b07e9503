"""The events of a Server-Sent Events stream, from its bytes in whatever pieces they come.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

_BOM = b"\xef\xbb\xbf"


class Event:
    """One event: ``name`` (``b""`` when it has none) and ``data``, its lines joined by LF, as they were sent.

    ``cut``: the stream ended before the blank line that ends an event; a browser does not deliver such an event.
    """

    __slots__ = ("cut", "data", "name")

    def __init__(self, name: bytes, data: bytes, cut: bool = False) -> None:
        self.name = name
        self.data = data
        self.cut = cut

    @property
    def text(self) -> str:
        """The data as text; bytes that are no UTF-8 are replacement characters."""
        return self.data.decode("utf-8", "replace")


class EventParser:
    """Takes the bytes of one stream, gives its events; it never raises, and it holds two times ``limit`` bytes at most.

    Lines end with LF, CRLF or CR. An event with a line longer than ``limit`` bytes, or with more data, is left out and
    counted in ``oversized``. ``id``, ``retry`` and unknown fields mean nothing here.
    """

    __slots__ = ("_after_cr", "_data", "_limit", "_name", "_rest", "_size", "_starts", "oversized")

    def __init__(self, limit: int = 1 << 20) -> None:
        self.oversized = 0
        self._limit = limit
        self._rest = bytearray()  # of a line that has not ended
        self._name = b""
        self._data: list[bytes] = []
        self._size = 0  # of the data; beyond the limit the event is left out
        self._starts = True
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that end in ``chunk``."""
        if not chunk:
            return []
        if self._after_cr or b"\r" in chunk:
            chunk = self._with_lf(chunk)
        lines = chunk.split(b"\n")
        rest, last = self._rest, lines.pop()
        events: list[Event] = []
        if lines:
            if rest:
                lines[0] = bytes(rest) + lines[0]
                rest.clear()
            events = self._read(lines)
        if last:
            rest += last
            if len(rest) > self._limit:
                self._size = self._limit + 1
                del rest[1:]  # one byte tells that the line is not blank
        return events

    def end(self) -> Event | None:
        """The stream has ended: the event that it broke off in, if there is one with data."""
        if self._rest:
            self._read([bytes(self._rest)])
            self._rest.clear()
        cut = self._read([b""])
        if not cut:
            return None
        cut[0].cut = True
        return cut[0]

    def _with_lf(self, chunk: bytes) -> bytes:
        """The same lines, each ended by LF. A CR ends its line at once; an LF that follows it belongs to it."""
        if self._after_cr and chunk[0] == 0x0A:
            chunk = chunk[1:]
        self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _read(self, lines: list[bytes]) -> list[Event]:
        """Takes whole lines. Written out and on local names, because every line of every stream passes here."""
        if self._starts:
            self._starts = False
            lines[0] = lines[0].removeprefix(_BOM)
        events = []
        data, name, size, limit = self._data, self._name, self._size, self._limit
        for line in lines:
            if not line:
                if size > limit:
                    self.oversized += 1
                elif data:
                    events.append(Event(name, b"\n".join(data)))
                data, name, size = [], b"", 0
            elif line[:5] == b"data:" or line == b"data":
                size += len(line)
                if size <= limit:
                    data.append(line[5:].removeprefix(b" "))
            elif len(line) > limit:
                size = limit + 1
            elif line[:6] == b"event:" or line == b"event":
                name = line[6:].removeprefix(b" ")
        self._data, self._name, self._size = data, name, size
        return events
