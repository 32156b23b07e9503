"""Running a Node script that replays something on Cloudflare's runtime."""

from __future__ import annotations

import subprocess
from pathlib import Path

_LIMIT_S = 240
_CONNECTION_LOST = "TypeError: fetch failed"


def node(script: Path, *arguments: Path, given: str = "") -> str:
    """What the script prints for ``given`` on its input; ``RuntimeError`` with the end of its errors.

    On a busy machine Miniflare's own client loses its connection to the runtime now and then; a script that ended so
    has said nothing, and is run once more.
    """
    for is_last in (False, True):
        ran = subprocess.run(
            ["node", script, *arguments], input=given, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
        if ran.returncode == 0:
            return ran.stdout
        if is_last or _CONNECTION_LOST not in ran.stderr:
            break
    raise RuntimeError(f"{script.name} failed:\n{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}")
