"""Handlers inside Cloudflare, as far as that goes on this machine: Pyodide, Cloudflare's SDK and workerd's KV."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.services.node import node
from tests.services.sdk import sdk_source

ROOT = Path(__file__).parents[2]
_RUNNER = ROOT / "tests" / "workerd" / "pyodide_run.mjs"

Step = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One Worker with a KV namespace of its own, and the events that it gets in turn.

    ``overlapping``: what a request leaves behind is waited for at the end, not before the next event.
    """

    name: str
    main: str
    steps: Sequence[Step]
    kv: str = "KV"
    vars: Mapping[str, Any] = field(default_factory=dict)
    overlapping: bool = False


def ask(url: str, method: str = "GET", *, headers: Sequence[tuple[str, str]] = (), body: bytes | None = None) -> Step:
    """A request."""
    given: Step = {"url": url, "method": method, "headers": list(headers)}
    return {"fetch": given if body is None else {**given, "body": base64.b64encode(body).decode()}}


def tick(cron: str, scheduled_time: int) -> Step:
    """A cron event."""
    return {"scheduled": {"cron": cron, "scheduledTime": scheduled_time}}


def run(
    folder: Path, runs: Sequence[Run], modules: Mapping[str, str], checks: Mapping[str, str], paths: Sequence[Path] = ()
) -> dict[str, Any]:
    """What came out, by the names of runs and checks; all in one process. See ``tests/workerd/pyodide_run.mjs``."""
    mounted = [ROOT, ROOT / "adapters", _RUNNER.parent, sdk_source() / "src", *paths]
    plan = {
        "folders": [[str(path), f"/mounted{number}"] for number, path in enumerate(mounted)],
        "modules": modules,
        "checks": checks,
        "runs": [asdict(each) for each in runs],
    }
    asked, answered = folder / "plan.json", folder / "result.json"
    asked.write_text(json.dumps(plan))
    node(_RUNNER, asked, answered)
    result: dict[str, Any] = json.loads(answered.read_text())
    return result
