"""The observer's entrypoint: checks exchanges that wait in the queue, and keeps house on a schedule."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from worker_compat.entrypoint import WorkerEntrypoint
from worker_compat.errors import ConfigError, StoreUnavailable

from . import records
from .env import Env
from .events import CronRan
from .integrity import drift, metering
from .integrity.check import Checked, check, failed
from .integrity.failures import UNAVAILABLE
from .integrity.record import follow_up, record
from .ports import RecordsUnavailable
from .records import evidence

if TYPE_CHECKING:
    from worker_compat.queues import Message, MessageBatch

    from .admission.agents import Agent
    from .relay.message import ExchangeMessage

log = logging.getLogger("smoltbot")

CRON = "* * * * *"
"""Every minute."""
AT_ONCE = 16
"""Exchanges of a batch that are checked side by side."""

_AGAIN_S = 10
_PAUSES_S = (0.5, 1.0, 2.0, 4.0)
_UNJUDGED = ("error", "skipped")


class Default(WorkerEntrypoint):
    """Runs beside the gateway or in a process of its own (``SMOLTBOT_ROLE=scheduler``)."""

    env: Env

    async def queue(self, batch: MessageBatch) -> None:
        """Give every exchange its checkpoint; one that could not get it comes again."""
        places = asyncio.Semaphore(AT_ONCE)

        async def one(message: Message) -> None:
            async with places:
                await self._deliver(message)

        await asyncio.gather(*(one(message) for message in batch.messages))

    async def scheduled(self, controller: Any, env: None = None, ctx: None = None) -> None:
        """Let the database tidy up, let old nudges expire, and count for the accounts; each whatever the others do."""
        store = self.env.records
        jobs = (records.housekeeping(store), records.expire_nudges(store), records.rollup_metering(store))
        results = await asyncio.gather(*jobs, return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        self.env.telemetry.emit(CronRan("observer", "error" if failures else "success"))
        if failures:
            raise failures[0]

    async def _deliver(self, message: Message) -> None:
        """One delivery, to its acknowledgement or the decision to try again."""
        try:
            exchange = await self.env.exchanges.open(message.body)
        except ValueError as error:
            log.error("message %s of the queue holds no exchange: %s", message.id, error)
            message.retry()
            return
        try:
            if await self._settle(exchange, message.attempts):
                message.ack()
            else:
                message.retry(delaySeconds=_AGAIN_S)
        except RecordsUnavailable:
            await self._later(message)
        except Exception as error:
            log.error("exchange %s cannot be recorded: %s", exchange.id, _told(error))
            message.retry()

    async def _later(self, message: Message) -> None:
        """Deliver it again when the database may be back: as a new message, which has all its attempts."""
        try:
            await self.env.exchanges.again(message.body, _AGAIN_S)
        except (StoreUnavailable, ConfigError):
            message.retry(delaySeconds=_AGAIN_S)
        else:
            message.ack()

    async def _settle(self, exchange: ExchangeMessage, attempts: int) -> bool:
        """See to it that the exchange has its checkpoint, once; False when only what follows that is still to do."""
        env = self.env
        agent = await env.agents.by_id(exchange.agent_id)
        if agent is None:
            log.warning("exchange %s has no checkpoint: its agent was erased", exchange.id)
            return True
        row = await evidence.checkpoint(env.records, exchange.checkpoint_id) if attempts > 1 else None
        if row is not None:
            return await _done(self._follow_stored(row, exchange, agent))
        checked = await self._checked(exchange, agent, attempts)
        await self._record(checked, exchange, agent)
        return await _done(follow_up(checked, exchange, agent, env))

    async def _checked(self, exchange: ExchangeMessage, agent: Agent, attempts: int) -> Checked:
        """The check; in the last attempt of several nobody judges, for something in it may be what breaks them."""
        env = self.env
        if attempts == 1 or attempts < env.observer_max_attempts:
            return await check(exchange, agent, env)
        log.error("exchange %s is not judged: every attempt failed or was cut off", exchange.id)
        return failed(exchange, agent, UNAVAILABLE, env, env.clock())

    async def _record(self, checked: Checked, exchange: ExchangeMessage, agent: Agent) -> None:
        """Store the checkpoint; its analysis is paid for, so a short outage is waited out."""
        for pause_s in _PAUSES_S:
            try:
                await record(checked, exchange, agent, self.env)
                return
            except RecordsUnavailable:
                await asyncio.sleep(pause_s)
        await record(checked, exchange, agent, self.env)

    async def _follow_stored(self, row: dict[str, Any], exchange: ExchangeMessage, agent: Agent) -> None:
        """What follows a checkpoint that an earlier delivery stored; that may have been all it did."""
        if row["verdict"] not in _UNJUDGED:
            await metering.meter(agent, exchange.checkpoint_id, row["source"], self.env)
            await drift.follow(agent.id, row["card_id"], exchange.session_id, self.env)


async def _done(following: Awaitable[None]) -> bool:
    try:
        await following
    except RecordsUnavailable:
        return False
    return True


def _told(error: Exception) -> str:
    """What went wrong and where, without the error's own text: it may quote what was said."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"
