"""The webhook worker: it takes due deliveries from the outbox, sends them signed, and settles each.

Any number of processes may run it: the database gives a delivery to one of them, and of a registration only the
oldest, so that each receives its events in order. A delivery is made at least once; ``X-Webhook-Id`` tells a second
time from a second event.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from uuid import uuid4

from smoltbot_worker.answers import iso
from smoltbot_worker.env import Env
from smoltbot_worker.events import WebhookSettled
from smoltbot_worker.ports import Crypto, RecordsUnavailable
from smoltbot_worker.records import webhooks as records
from worker_compat.errors import ConfigError, FetchError
from worker_compat.request import Request

DELAYS_S = (1, 4, 16)
"""How long each attempt that failed is waited after; the one behind the last delay is the last."""

PARALLEL = 100
"""Deliveries on their way at once, each of another registration."""

LEASE_S = 30
"""How long a delivery is held: longer than EGRESS lets a call take. After a kill it is due again by then."""

PAUSE_S = 1.0
"""The longest that something due waits to be looked for."""

AIP_VERSION = "1.0.0"
USER_AGENT = "smoltbot-webhooks/1.0"

_GIVE_BACK_S = 2.0
_LONGEST_ERROR = 200

Delivery = Mapping[str, Any]
"""A row of ``claim_webhooks``."""


async def run(env: Env) -> None:
    """Deliver for ever; cancelled at the end, it gives back what is on its way. A database that is away is waited for.

    A slow receiver takes one of ``PARALLEL`` places and holds up nobody else.
    """
    sending: set[asyncio.Task[None]] = set()
    try:
        while True:
            with suppress(RecordsUnavailable):
                sending |= await _begin(env, PARALLEL - len(sending))
            sending = await _after_a_change(sending)
    finally:
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)


async def deliver_due(env: Env) -> int:
    """Send what is due now, up to ``PARALLEL`` deliveries, and wait for their end; how many there were.

    Raises ``RecordsUnavailable`` when none can be claimed.
    """
    sending = await _begin(env, PARALLEL)
    await asyncio.gather(*sending)
    return len(sending)


def signature(secret: bytes, body: bytes) -> str:
    """The value of ``X-AIP-Signature`` for exactly these bytes."""
    return f"sha256={hmac.new(secret, body, hashlib.sha256).hexdigest()}"


async def seal_secret(crypto: Crypto, secret: str) -> str:
    """A registration's secret as the database keeps it."""
    return b64encode(await crypto.seal(secret.encode())).decode()


async def _begin(env: Env, limit: int) -> set[asyncio.Task[None]]:
    """A task for each delivery that is due."""
    if not limit:
        return set()
    # A name of its own for each claim: what is settled late cannot be taken for a later attempt.
    claimed_by = f"webhooks-{uuid4().hex}"
    claimed = await records.claim(env.records, claimed_by, limit, LEASE_S)
    return {asyncio.create_task(_deliver(env, claimed_by, delivery)) for delivery in claimed}


async def _after_a_change(sending: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Wait for a delivery to end, or for the pause; what is still on its way."""
    if not sending:
        await asyncio.sleep(PAUSE_S)
        return sending
    done, left = await asyncio.wait(sending, timeout=PAUSE_S, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    return left


async def _deliver(env: Env, claimed_by: str, delivery: Delivery) -> None:
    """One attempt, from the request to the record of what became of it."""
    try:
        error = await _attempt(env, delivery)
    except asyncio.CancelledError:
        # Another process goes on at once instead of after the lease. It may have arrived: then it does so again.
        with suppress(RecordsUnavailable, TimeoutError):
            async with asyncio.timeout(_GIVE_BACK_S):
                await records.settle(env.records, claimed_by, delivery["delivery_id"], "retry", "interrupted", None)
        raise
    failures = delivery["attempts"]
    if error is None:
        await _settle(env, claimed_by, delivery, "delivered", None, None)
    elif failures > len(DELAYS_S):
        await _settle(env, claimed_by, delivery, "failed", error, None)
    else:
        again = iso(env.clock() + DELAYS_S[failures - 1])
        await _settle(env, claimed_by, delivery, "retry", error, again)


async def _attempt(env: Env, delivery: Delivery) -> str | None:
    """Send a delivery; None when it was received, else why not, without what the URL's query and the secret say."""
    try:
        secret = await env.crypto.open(b64decode(delivery["sealed_secret"]))
    except (ValueError, ConfigError):
        return "the secret cannot be opened: QUEUE_ENCRYPTION_KEY is not the one it was sealed with; register again"
    try:
        response = await env.egress.fetch(_request(delivery, secret))
    except FetchError as error:
        return str(error)[:_LONGEST_ERROR]
    except Exception as error:  # whatever a receiver sends must not end the worker; it goes on record
        return f"internal error: {type(error).__name__}"
    if 200 <= response.status < 300:
        return None
    return f"answered {response.status}{'; redirects are not followed' if 300 <= response.status < 400 else ''}"


def _request(delivery: Delivery, secret: bytes) -> Request:
    """The request: what is signed is what is sent, because it is serialised once."""
    body = json.dumps(delivery["payload"], ensure_ascii=False, separators=(",", ":")).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": USER_AGENT,
        "X-AIP-Signature": signature(secret, body),
        "X-AIP-Version": AIP_VERSION,
        "X-Webhook-Id": delivery["delivery_id"],
    }
    return Request(delivery["callback_url"], method="POST", headers=headers, body=body, redirect="manual")


async def _settle(
    env: Env, claimed_by: str, delivery: Delivery, outcome: str, error: str | None, retry_at: str | None
) -> None:
    """Put it on record, as soon as the database lets one."""
    delivery_id = delivery["delivery_id"]
    while True:
        try:
            await records.settle(env.records, claimed_by, delivery_id, outcome, error, retry_at)
            break
        except RecordsUnavailable:
            await asyncio.sleep(PAUSE_S)
    env.telemetry.emit(WebhookSettled(delivery["registration_id"], delivery_id, outcome, error or ""))
