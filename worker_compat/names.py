"""Names of KV entries as bytes and as cursors, alike in every store: UTF-8 that loses nothing of a ``str``."""

from __future__ import annotations

import base64


def to_bytes(text: str) -> bytes:
    """UTF-8; lone surrogates, which a Python ``str`` may hold, are kept."""
    return text.encode("utf-8", "surrogatepass")


def to_text(content: bytes) -> str:
    """The inverse of :func:`to_bytes`; ``ValueError`` for bytes that it never gives."""
    return content.decode("utf-8", "surrogatepass")


def cursor_after(name: bytes) -> str:
    """The cursor of a page that ends with ``name``."""
    return base64.urlsafe_b64encode(name).decode()


def name_before(cursor: str) -> bytes:
    """The name that :func:`cursor_after` was given; ``ValueError`` for a text that it never gives."""
    name = base64.b64decode(cursor, altchars=b"-_", validate=True)
    to_text(name)
    return name
