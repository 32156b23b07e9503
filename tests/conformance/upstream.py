"""A small origin for handlers that fetch: a stream, an echo, a redirect, a 404."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/redirect":
            self._answer(302, b"", ("Location", "/missing"))
        elif self.path == "/stream":
            self._stream(b"")
        else:
            self._answer(404, b"no such thing", ("X-Upstream", "yes"))

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/stream":
            self._stream(body)
        else:
            accepted = self.headers.get("Accept-Encoding") or "none"
            self._answer(200, body, ("Content-Type", "text/echo"), ("X-Accepted", accepted))

    def _stream(self, body: bytes) -> None:
        self.send_response(203)
        saw = f"{self.headers.get('X-From')} {body.decode()}"
        lines = [("Content-Type", "text/x"), ("X-Upstream", "yes"), ("X-Saw", saw), ("Transfer-Encoding", "chunked")]
        for name, value in lines:
            self.send_header(name, value)
        self.end_headers()
        for number in range(3):
            self.wfile.write(b"8\r\nchunk %d\n\r\n" % number)
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _answer(self, status: int, body: bytes, *lines: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (*lines, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def upstream() -> Iterator[str]:
    """Its address; served from a thread until the end."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
