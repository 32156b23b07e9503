"""The conformance kit of queue stores: what every adapter must do, one case for each rule of the port.

Each case needs a queue that nobody else uses, on the clock that it was opened with, and leaves it empty.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from worker_compat.ports import Clock, QueueStore

from .fakes import FakeClock
from .kit import Subjects
from .queue_calls import QueueCallRules
from .queue_leases import QueueLeaseRules
from .queue_messages import QueueMessageRules


class QueueStoreConformance(QueueMessageRules, QueueLeaseRules, QueueCallRules):
    """Every rule of :class:`worker_compat.ports.QueueStore`."""


def queue_subjects(open_store: Callable[[Clock], AbstractAsyncContextManager[QueueStore]]) -> Subjects:
    """Subjects for :func:`worker_compat.testing.kit.run`: a fake clock and, on it, what ``open_store`` opens.

    ``open_store`` must open a queue of its own each time, such as one with a random name.
    """

    @asynccontextmanager
    async def subjects() -> AsyncIterator[Mapping[str, Any]]:
        clock = FakeClock(float(int(time.time())))
        async with open_store(clock) as store:
            yield {"store": store, "clock": clock}

    return subjects
