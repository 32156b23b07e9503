"""The chores: what a process does beside answering requests, from its start to its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from smoltbot_worker.admission import heartbeat
from smoltbot_worker.control import webhooks

from . import consumer, schedule
from .wiring import Wiring

log = logging.getLogger("smoltbot")

Chore = Callable[[], Awaitable[None]]

_AGAIN_S = 5.0


async def run(wiring: Wiring, prepared: asyncio.Task[None]) -> None:
    """Do all of them until cancelled; then each ends in order.

    What needs the records begins once they are ``prepared``: nothing is written with a key that was not checked.
    """
    with wiring.runtime.use():
        async with asyncio.TaskGroup() as tasks:
            for name, chore in _at_once(wiring).items():
                tasks.create_task(_kept_going(name, chore))
            await asyncio.wait({prepared})
            if prepared.cancelled() or prepared.exception() is not None:
                return
            for name, chore in _with_records(wiring).items():
                tasks.create_task(_kept_going(name, chore))


def _at_once(wiring: Wiring) -> Mapping[str, Chore]:
    env = wiring.env
    return {
        "the license check": env.license.run,
        "the heartbeat": partial(heartbeat.run, env),
    }


def _with_records(wiring: Wiring) -> Mapping[str, Chore]:
    env = wiring.env
    chores: dict[str, Chore] = {
        "the feed of changes": env.agents.follow,
        "the import of the protocol's SDK": env.analyst.warm,
    }
    if env.schedules:
        chores["the schedule"] = partial(schedule.run, wiring.runtime, env)
        chores["the queue of exchanges"] = partial(consumer.consume, wiring.runtime, env, wiring.stores)
        chores["the webhooks"] = partial(webhooks.run, env)
    return chores


async def _kept_going(name: str, chore: Chore) -> None:
    """Run a chore, and again after an error: none of them is worth the traffic."""
    while True:
        try:
            return await chore()
        except Exception:
            log.exception("%s failed and begins again in %g s", name, _AGAIN_S)
        await asyncio.sleep(_AGAIN_S)
