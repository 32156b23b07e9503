"""The consumer of the queue of exchanges: hands them to the observer, and sees each one to its end."""

from __future__ import annotations

import asyncio
import math

from smoltbot_worker import observer
from smoltbot_worker.env import Env
from smoltbot_worker.relay.exchanges import NAME
from worker_compat.consumer import Consumer, ConsumerSettings
from worker_compat.runtime import Runtime

from .queue import DEAD, Stores

_BATCH_TIMEOUT_S = 0.05
_RETRY_DELAY_S = 2
_BATCHES_AT_ONCE = 2
_BESIDE_ANALYSIS_S = 20.0
"""What an exchange may take beside its analysis: reading what was before it, and its place in the log."""


async def consume(runtime: Runtime, env: Env, stores: Stores) -> None:
    """Consume until cancelled; then take nothing more, and let what was begun end within ``DRAIN_TIMEOUT_S``."""
    consumer = Consumer(
        stores.exchanges,
        lambda batch: runtime.queue(observer.Default, env, batch),
        _settings(env),
        dead_letters=stores.dead_letters,
    )
    # An exchange that this process pushes need not wait to be looked for.
    stores.exchanges.on_push[:] = [consumer.wake]
    running = asyncio.create_task(consumer.run())
    try:
        await asyncio.shield(running)
    finally:
        consumer.stop(env.drain_timeout_s)
        await asyncio.wait({running})


def _settings(env: Env) -> ConsumerSettings:
    return ConsumerSettings(
        queue=NAME,
        max_batch_size=env.observer_batch,
        max_batch_timeout_s=_BATCH_TIMEOUT_S,
        max_retries=env.observer_max_attempts - 1,
        retry_delay_s=_RETRY_DELAY_S,
        max_concurrency=_BATCHES_AT_ONCE,
        dead_letter_queue=NAME + DEAD,
        lease_s=_lease_s(env),
    )


def _lease_s(env: Env) -> int:
    """As long as a batch may take, and so long the exchanges of a killed process stay away: 120 s by default."""
    rounds = math.ceil(env.observer_batch / observer.AT_ONCE)
    return math.ceil(rounds * (_BESIDE_ANALYSIS_S + env.analysis_timeout_ms / 1000))
