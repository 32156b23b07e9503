"""Tasks of a handler's own code: those that were not given to ``wait_until`` end with their event, as on Workers.

Opt-in, for hosts that run other people's handlers (``worker-compat run``): it costs every new task of the loop a
look at who starts it. A handler that registers all its work needs none of this.
https://developers.cloudflare.com/workers/runtime-apis/context/#waituntil
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Generator
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

from .runtime import _context


def end_with_event(*folders: Path) -> None:
    """From now on, tasks that code below ``folders`` starts in the running loop end with the event that started them.

    They go on while a ``wait_until`` task of the event is pending. Whose task it is, is decided by who calls
    ``create_task``, ``gather`` and the like: tasks that a library starts for itself, for pools and connections say,
    are left alone, and so are installed packages that lie below a folder. Replaces the loop's task factory.
    """
    is_own = _own_code(folders)

    def factory(
        loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **options: Any
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=loop, **options)
        given = options.get("context")
        event = _context.get(None) if given is None else given.get(_context)
        if event is not None and is_own(sys._getframe(1)):
            event.adopt(task)
        return task

    asyncio.get_running_loop().set_task_factory(factory)


def _own_code(folders: tuple[Path, ...]) -> Callable[[FrameType | None], bool]:
    roots = [folder.resolve() for folder in folders]

    @lru_cache(maxsize=4096)
    def is_below(filename: str) -> bool:
        path = Path(filename).resolve()
        return "site-packages" not in path.parts and any(path.is_relative_to(root) for root in roots)

    def is_own(frame: FrameType | None) -> bool:
        """Whether the first frame outside asyncio is the handler's."""
        while frame is not None:
            package = frame.f_globals.get("__name__", "").partition(".")[0]
            if package != "asyncio":
                return not package.startswith("worker_compat") and is_below(frame.f_code.co_filename)
            frame = frame.f_back
        return False

    return is_own
