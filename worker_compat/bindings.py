"""Env: what a handler finds as ``self.env``: variables, secrets and bindings by name."""

from __future__ import annotations

from typing import Any


class Env:
    """Bindings as attributes; a missing one is an ``AttributeError`` that names those that exist."""

    def __init__(self, **bindings: Any) -> None:
        self.__dict__.update(bindings)

    def __getattr__(self, name: str) -> Any:
        known = ", ".join(sorted(self.__dict__)) or "none"
        raise AttributeError(f"env has no binding {name!r}; bindings: {known}")

    def __repr__(self) -> str:
        # Names only: values are secrets.
        return f"<Env {sorted(self.__dict__)}>"
