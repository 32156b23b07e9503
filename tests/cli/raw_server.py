"""A server that sends the same bytes to whoever connects, and closes: every way in which an answer can be wrong."""

from __future__ import annotations

import socketserver
import threading
from types import TracebackType
from typing import Self


class RawServer:
    """``with RawServer(answer(200, b"{}")) as server: ...``; ``asked`` is the last request's head."""

    def __init__(self, sent: bytes) -> None:
        self.asked = ""
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                head = b""
                while b"\r\n\r\n" not in head and (piece := self.request.recv(65536)):
                    head += piece
                outer.asked = head.decode()
                self.request.sendall(sent)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def answer(status: int, body: bytes, *, kind: str = "application/json", length: int | None = None) -> bytes:
    """An answer with a Content-Length, which may be wrong."""
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n".encode() + body


def chunked(*pieces: bytes, ended: bool = True) -> bytes:
    """An answer in chunks, with or without the last one."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    sent = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
    return head + b"".join(sent) + (b"0\r\n\r\n" if ended else b"")
