"""A consumer as a process of its own, to be killed: it records what it processes and ends its batch only then.

``python -m tests.conformance.consumer_process QUEUE_URL DEAD_LETTER_URL FILE``
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from tests.scale import scaled
from worker_compat import MessageBatch
from worker_compat.consumer import Consumer, ConsumerSettings
from worker_compat.registry import open_queue

RAISES, KILLS = "raises", "kills"
MAX_RETRIES = scaled(2, 3)
SETTINGS = ConsumerSettings("q", max_batch_size=5, max_batch_timeout_s=0, max_retries=MAX_RETRIES, lease_s=1)
_WORK_S = 0.02


async def main(url: str, dead_url: str, path: str) -> None:
    """Consume until SIGTERM."""
    record = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def deliver(batch: MessageBatch) -> None:
        await asyncio.sleep(_WORK_S)
        bodies = [message.body for message in batch.messages]
        # One write, which the death of the process cannot take back.
        os.write(record, "".join(f"{body}\n" for body in bodies if body not in (RAISES, KILLS)).encode())
        await asyncio.sleep(_WORK_S)
        if KILLS in bodies:
            os.kill(os.getpid(), signal.SIGKILL)
        for message in batch.messages:
            if message.body != RAISES:
                message.ack()
        if RAISES in bodies:
            raise RuntimeError("poison")

    async with open_queue(url) as store, open_queue(dead_url) as dead:
        consumer = Consumer(store, deliver, SETTINGS, dead_letters=dead)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, consumer.stop, 1.0)
        await consumer.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
