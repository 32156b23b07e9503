"""A private copy of Cloudflare's REST API for KV: Miniflare's local explorer, on a free port."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.services.process import running

_SCRIPT = Path(__file__).parents[1] / "workerd" / "explorer.mjs"


@dataclass(frozen=True)
class Explorer:
    """A running API; ``base`` is its address and ``token`` the one that it takes."""

    base: str
    token: str

    @property
    def url(self) -> str:
        """``kv+cloudflare://account/namespace?base=...``: its only namespace."""
        return f"kv+cloudflare://account/namespace?base={self.base}"


@contextmanager
def explorer(folder: Path) -> Iterator[Explorer]:
    """An API whose namespace is empty; its output is in ``folder``."""
    token, log = "explorer-token", folder / "explorer.log"
    with running(["node", str(_SCRIPT), token], ready=lambda: '"base"' in log.read_text(), log=log):
        yield Explorer(json.loads(log.read_text().splitlines()[-1])["base"], token)
