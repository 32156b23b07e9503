"""A server that answers with the bytes it was told, pauses and resets included: analyser, provider or receiver."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal, Self

Step = bytes | float | Literal["reset"]
"""Bytes to send, seconds to wait (ends early when the peer leaves), or a reset of the connection."""

_LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came."""

    line: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


Plan = Sequence[Step]


class Planted:
    """``with Planted(plan) as server: server.url``; ``plan`` may be changed at any time, a function is asked anew."""

    def __init__(self, plan: Plan | Callable[[Asked], Plan] = ()) -> None:
        self.plan = plan
        self.asked: list[Asked] = []
        self._listener = _listening(0)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._serve()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Whoever connects is refused."""
        self._close()
        try:
            yield
        finally:
            self._listener = _listening(self.port)
            self._serve()

    def _serve(self) -> None:
        self._thread = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._thread.start()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._thread.join(_LIMIT_S)
        self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(_LIMIT_S)
        with connection, contextlib.suppress(OSError):
            asked = _read(connection)
            if asked is None:
                return
            self.asked.append(asked)
            for step in self.plan(asked) if callable(self.plan) else self.plan:
                if isinstance(step, bytes):
                    connection.sendall(step)
                elif step == "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                elif _leaves(connection, float(step)):
                    return
            connection.shutdown(socket.SHUT_WR)


def http(body: bytes, status: int = 200, *lines: str, length: int | None = None) -> bytes:
    """An answer of JSON after which the connection ends; ``length`` may promise more than there is."""
    head = [
        f"HTTP/1.1 {status} {_phrase(status)}", f"Content-Length: {len(body) if length is None else length}",
        "Connection: close", *lines,
    ]  # fmt: skip
    if not any(line.lower().startswith("content-type:") for line in lines):
        head.append("Content-Type: application/json")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _listening(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=64)


def _read(connection: socket.socket) -> Asked | None:
    """One request with a Content-Length; None when the peer leaves before it is whole."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(1 << 16)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    line, *rest = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in rest)}
    pieces, missing = [body], int(headers.get("content-length", "0")) - len(body)
    while missing > 0:
        piece = connection.recv(1 << 16)
        if not piece:
            return None
        pieces.append(piece)
        missing -= len(piece)
    return Asked(line, headers, b"".join(pieces))


def _leaves(connection: socket.socket, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    connection.settimeout(within_s)
    try:
        while connection.recv(1 << 16):
            connection.settimeout(max(0.001, deadline - time.monotonic()))
    except TimeoutError:
        return False
    finally:
        connection.settimeout(_LIMIT_S)
    return True
