"""``worker-compat run --watch``: a change is served at once, on the same port; a mistake while editing is survived."""

from __future__ import annotations

import http.client
import signal
from pathlib import Path

from tests.cli.support import LIMIT_S, Served, until, write

HANDLER = """
from text import TEXT
from workers import Response, WorkerEntrypoint
class Default(WorkerEntrypoint):
    async def fetch(self, request):
        return Response(f"{TEXT} {self.env.NAME}")
"""


def served(worker: Served) -> str | None:
    """What is served now, None between two children."""
    try:
        return worker.ask("/")[1]
    except (OSError, http.client.HTTPException):
        return None


def children(worker: Served) -> list[int]:
    """The processes below the watcher."""
    return [
        int(text) for text in Path(f"/proc/{worker.child.pid}/task/{worker.child.pid}/children").read_text().split()
    ]


def test_editing(tmp_path: Path) -> None:
    config = 'name = "w"\nmain = "src/worker.py"\nvars.NAME = "one"\n'
    write(tmp_path, src___worker__py=HANDLER, src___text__py='TEXT = "a"', wrangler__toml=config)
    with Served(tmp_path, "--watch") as worker:
        assert served(worker) == "a one"
        write(tmp_path, src___text__py='TEXT = "changed"')
        until(lambda: served(worker) == "changed one", worker.output)
        assert "changed: src/text.py; starting again\n" in worker.output()
        write(tmp_path, wrangler__toml=config.replace("one", "two!"))
        until(lambda: served(worker) == "changed two!", worker.output)
        write(tmp_path, __dev__vars="NAME=secret")
        until(lambda: served(worker) == "changed secret", worker.output)

        write(tmp_path, src___worker__py=HANDLER + "x = (\n")
        worker.wait_for(r"Error: src/worker\.py, line 7: '\(' was never closed; correct that line\n")
        assert served(worker) is None
        write(tmp_path, wrangler__toml=config + "[[")
        worker.wait_for(r"Error: wrangler\.toml: not TOML \(")
        write(tmp_path, wrangler__toml=config, src___worker__py=HANDLER)
        until(lambda: served(worker) == "changed secret", worker.output)
        assert "Traceback" not in worker.output()
        (child,) = children(worker)
    assert not Path(f"/proc/{child}").exists()


def test_it_ends_with_its_child(tmp_path: Path) -> None:
    text = HANDLER.replace(
        "return",
        "import asyncio\n        print('waiting', flush=True)\n        await asyncio.sleep(60)\n        return",
    )
    write(tmp_path, worker__py=text, text__py='TEXT = "a"')
    worker = Served(tmp_path, "worker.py", "--var", "NAME=x", "--watch").__enter__()
    (child,) = children(worker)
    connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=LIMIT_S)
    connection.request("GET", "/")
    worker.wait_for("waiting")
    worker.child.send_signal(signal.SIGINT)
    worker.wait_for("ending; another Ctrl-C ends at once")
    worker.child.send_signal(signal.SIGINT)
    assert worker.child.wait(LIMIT_S) == 128 + signal.SIGINT
    until(lambda: not alive(child), worker.output)
    connection.close()


def test_a_killed_watcher_leaves_no_child(tmp_path: Path) -> None:
    write(tmp_path, worker__py=HANDLER, text__py='TEXT = "a"')
    worker = Served(tmp_path, "worker.py", "--var", "NAME=x", "--watch").__enter__()
    (child,) = children(worker)
    worker.child.kill()
    worker.child.wait(LIMIT_S)
    until(lambda: not alive(child), worker.output)
    assert "ending" in worker.output()


def alive(pid: int) -> bool:
    """Whether a process still runs; one that nobody has waited for yet does not."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
