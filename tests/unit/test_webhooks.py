"""The webhook worker over a real outbox and the real egress: what is sent, when, in which order, and what is said."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from smoltbot_host.crypto import HostCrypto
from smoltbot_worker.control.webhooks import DELAYS_S, PARALLEL, deliver_due, run, signature
from smoltbot_worker.env import Env
from smoltbot_worker.ports import RecordsUnavailable
from tests.wire.raw import Message, answer
from worker_compat.request import Request
from worker_compat.response import Response

from .webhook_support import SECRET, failing_of, header, numbers_of, settled_of, sink, working

NOON_BODY = b'{"event":"verdict.boundary_violation","timestamp":"2026-05-10T08:05:31.000Z"}'
NOON_SIGNATURE = "sha256=5cc4bfb2a45c153b0a399bb88a3649538cfe9e4c080b1cce4e59fbb7cb427dc7"
SERVER_ERROR = answer(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.db"


@asynccontextmanager
async def running(env: Env) -> AsyncIterator[asyncio.Task[None]]:
    """The worker in the background, ended as the host does it."""
    task = asyncio.create_task(run(env))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=5)
        assert task.done(), "its end takes too long"


async def until(happened: Callable[[], bool | Awaitable[bool]], limit_s: float = 10) -> None:
    async with asyncio.timeout(limit_s):
        while True:
            found = happened()
            if await found if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(0.01)


async def _silence(message: Message, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


def test_the_signature_of_the_specification() -> None:
    assert signature(SECRET.encode(), NOON_BODY) == NOON_SIGNATURE


async def test_a_delivery_as_it_is_received(path: Path) -> None:
    async with sink() as receiver, working(path) as (env, outbox, _):
        await outbox.register(f"{receiver.url}/hook?key=k", ["verdict.*"])
        told = {
            "delivery_key": "k", "event": "verdict.clear", "checkpoint_id": "ic-1",
            "data": {"checkpoint": {"verdict": "clear", "reasoning_summary": "größer \u2028 </script> 😀", "n": 1.5}},
        }  # fmt: skip
        await outbox.call("enqueue_webhooks", agent_id=outbox.agent, events=[told])  # type: ignore[list-item]
        assert await deliver_due(env) == 1
        (request,) = receiver.requests
        (row,) = await outbox.deliveries()
        assert request.start == b"POST /hook?key=k HTTP/1.1"
        body = json.loads(request.body)
        assert body == {
            "event": "verdict.clear", "timestamp": row["created_at"],
            "checkpoint": {"verdict": "clear", "reasoning_summary": "größer \u2028 </script> 😀", "n": 1.5},
        }  # fmt: skip
        mac = hmac.new(SECRET.encode(), request.body, hashlib.sha256).hexdigest()
        assert header(request, "X-AIP-Signature") == f"sha256={mac}"
        assert header(request, "Content-Type") == "application/json"
        assert header(request, "X-AIP-Version") == "1.0.0"
        assert header(request, "User-Agent") == "smoltbot-webhooks/1.0"
        assert header(request, "X-Webhook-Id") == row["delivery_id"]
        assert header(request, "Host") == f"127.0.0.1:{receiver.port}"
        assert (row["status"], row["attempts"], row["last_error"]) == ("delivered", 1, None)
        (event,) = settled_of(env).events
        assert (event.registration_id, event.delivery_id) == (row["registration_id"], row["delivery_id"])
        assert (event.outcome, event.detail) == ("delivered", "")
        assert await deliver_due(env) == 0


async def test_retries_come_after_1_4_and_16_seconds_and_then_no_more(path: Path) -> None:
    assert DELAYS_S == (1, 4, 16)
    async with sink(SERVER_ERROR) as receiver, working(path) as (env, outbox, clock):
        await outbox.register(receiver.url)
        await outbox.tell(1)
        assert await deliver_due(env) == 1
        for attempts, delay in enumerate(DELAYS_S, 1):
            (row,) = await outbox.deliveries()
            assert (row["status"], row["attempts"], row["last_error"]) == ("pending", attempts, "answered 500")
            clock.advance(delay - 0.001)
            assert await deliver_due(env) == 0, "not before its time"
            clock.advance(0.001)
            assert await deliver_due(env) == 1
        (row,) = await outbox.deliveries()
        assert (row["status"], row["attempts"], row["last_error"]) == ("failed", 4, "answered 500")
        clock.advance(3600)
        assert await deliver_due(env) == 0
        assert settled_of(env).outcomes == ["retry", "retry", "retry", "failed"]
        assert len({(request.body, header(request, "X-Webhook-Id")) for request in receiver.requests}) == 1
        assert len(receiver.requests) == 4
        (registration,) = await outbox.call("webhooks", agent_id=outbox.agent)
        assert registration["failure_count"] == 1


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_what_counts_as_received(path: Path, status: int) -> None:
    line = "" if status == 204 else "Content-Length: 0\r\n"
    async with sink(answer(f"HTTP/1.1 {status} X\r\n{line}\r\n".encode())) as receiver, working(path) as (env, out, _):
        await out.register(receiver.url)
        await out.tell(1)
        await deliver_due(env)
        assert settled_of(env).outcomes == ["delivered"]


@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308, 400, 401, 404, 410, 429, 500, 503])
async def test_what_does_not(path: Path, status: int) -> None:
    line = "" if status == 304 else "Content-Length: 0\r\n"
    async with sink() as other, sink() as receiver, working(path) as (env, outbox, _):
        receiver.respond = answer(f"HTTP/1.1 {status} X\r\nLocation: {other.url}\r\n{line}\r\n".encode())
        await outbox.register(receiver.url)
        await outbox.tell(1)
        await deliver_due(env)
        (event,) = settled_of(env).events
        assert event.outcome == "retry"
        assert event.detail.startswith(f"answered {status}")
        assert ("not followed" in event.detail) is (status < 400)
        assert other.requests == []


async def test_nobody_answers(path: Path) -> None:
    async with sink(_silence) as silent, sink() as gone, working(path, timeout_s=0.2) as (env, outbox, _):
        for url in (silent.url, f"{gone.url}/s3cret?key=s3cret"):
            await outbox.register(url)
        await gone.stop()
        await outbox.tell(1)
        assert await deliver_due(env) == 2
        errors = sorted(row["last_error"] for row in await outbox.deliveries())
        assert errors == ["could not connect: ClientConnectorError", "first-byte time limit of 0.2 s exceeded"]


async def test_a_private_address_is_refused_with_the_remedy(path: Path) -> None:
    async with sink() as receiver, working(path, allow_private=False) as (env, outbox, _):
        await outbox.register(f"https://127.0.0.1:{receiver.port}/s3cret?key=s3cret")
        await outbox.tell(1)
        await deliver_due(env)
        (row,) = await outbox.deliveries()
        assert "WEBHOOK_ALLOW_PRIVATE" in row["last_error"]
        assert "s3cret" not in row["last_error"]
        assert receiver.requests == []


async def test_events_arrive_in_order_through_failures(path: Path) -> None:
    turns = iter("500 200 500 500 200 500 500 500 500 200 200".split())

    async def moody(message: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {next(turns)} X\r\nContent-Length: 0\r\n\r\n".encode())

    async with sink(moody) as receiver, working(path) as (env, outbox, clock):
        await outbox.register(receiver.url)
        await outbox.tell(*range(5))
        while any(row["status"] == "pending" for row in await outbox.deliveries()):
            assert await deliver_due(env) <= 1
            clock.advance(1)
        assert numbers_of(receiver) == [0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 4]
        statuses = [row["status"] for row in await outbox.deliveries()]
        assert statuses == ["delivered", "delivered", "failed", "delivered", "delivered"]


async def test_a_slow_receiver_holds_up_nobody_else(path: Path) -> None:
    async with sink(_silence) as slow, sink() as quick, working(path) as (env, outbox, _):
        await outbox.register(slow.url)
        await outbox.register(quick.url)
        await outbox.tell(*range(20))
        async with running(env):
            await until(lambda: len(quick.requests) == 20, limit_s=4)
        assert numbers_of(quick) == list(range(20))
        assert numbers_of(slow) == [0]


async def test_as_many_as_are_allowed_are_on_their_way(path: Path) -> None:
    async with sink(_silence) as receiver, working(path, timeout_s=4) as (env, outbox, _):
        for _ in range(PARALLEL + 20):
            await outbox.register(receiver.url)
        await outbox.tell(1)
        async with running(env):
            await until(lambda: len(receiver.requests) >= PARALLEL)
            await asyncio.sleep(1.1)  # two looks at the outbox
            assert len(receiver.requests) == receiver.open == PARALLEL
            # Their places are taken by those that waited.
            await until(lambda: len(receiver.requests) == PARALLEL + 20)


async def test_an_event_is_sent_within_a_second_or_so(path: Path) -> None:
    async with sink() as receiver, working(path) as (env, outbox, _):
        await outbox.register(receiver.url)
        async with running(env):
            await until(lambda: failing_of(env).calls.count("claim_webhooks") > 0)
            await outbox.tell(1)
            await until(lambda: len(receiver.requests) == 1, limit_s=2)


async def test_an_idle_worker_asks_seldom(path: Path) -> None:
    async with working(path) as (env, _, _), running(env):
        await asyncio.sleep(1.5)
        assert 1 <= failing_of(env).calls.count("claim_webhooks") <= 3


async def test_a_database_that_is_away_is_waited_for(path: Path) -> None:
    async with sink() as receiver, working(path) as (env, outbox, _):
        await outbox.register(receiver.url)
        await outbox.tell(1, 2)
        store = failing_of(env)
        store.away = {"claim_webhooks"}
        with pytest.raises(RecordsUnavailable):
            await deliver_due(env)
        async with running(env) as task:
            await until(lambda: len(store.calls) >= 2)
            # It goes away again while the first delivery is on its way.
            store.away = {"settle_webhooks"}
            await until(lambda: store.calls.count("settle_webhooks") >= 2)
            assert numbers_of(receiver) == [1]
            assert settled_of(env).outcomes == []
            store.away = set()
            await until(lambda: settled_of(env).outcomes == ["delivered"] * 2)
            assert numbers_of(receiver) == [1, 2]
            assert not task.done()


async def test_what_is_on_its_way_at_the_end_is_given_back(path: Path) -> None:
    async with sink(_silence) as receiver, working(path) as (env, outbox, _):
        await outbox.register(receiver.url)
        await outbox.tell(1)
        async with running(env):
            await receiver.arrived.wait()
        (row,) = await outbox.deliveries()
        assert (row["status"], row["attempts"], row["last_error"]) == ("pending", 1, "interrupted")
        receiver.respond = answer(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert await deliver_due(env) == 1, "at once, not after the lease"
        (row,) = await outbox.deliveries()
        assert (row["status"], row["attempts"]) == ("delivered", 2)
        ids = {header(request, "X-Webhook-Id") for request in receiver.requests}
        assert ids == {row["delivery_id"]}


@pytest.mark.parametrize("state", ["away", "silent"])
async def test_the_end_does_not_wait_for_a_database_that_is_away(path: Path, state: str) -> None:
    async with sink(_silence) as receiver, working(path) as (env, outbox, _):
        await outbox.register(receiver.url)
        await outbox.tell(1)
        async with running(env):
            await receiver.arrived.wait()
            setattr(failing_of(env), state, {"settle_webhooks"})


async def test_a_lapsed_lease_makes_it_due_again(path: Path) -> None:
    """As after a kill: nobody settled it."""
    async with sink() as receiver, working(path) as (env, outbox, clock):
        await outbox.register(receiver.url)
        await outbox.tell(1)
        await outbox.call("claim_webhooks", claimed_by="killed", limit=10, lease_s=30)
        assert await deliver_due(env) == 0
        clock.advance(30)
        assert await deliver_due(env) == 1
        assert settled_of(env).outcomes == ["delivered"]


async def test_what_is_settled_late_says_nothing_of_a_later_attempt(path: Path) -> None:
    async with sink(SERVER_ERROR) as receiver, working(path) as (env, outbox, clock):
        await outbox.register(receiver.url)
        await outbox.tell(1)
        store = failing_of(env)
        store.away = {"settle_webhooks"}
        late = asyncio.create_task(deliver_due(env))
        await until(lambda: store.calls.count("settle_webhooks") == 1)
        clock.advance(30)
        receiver.respond = _silence
        claimed = await outbox.call("claim_webhooks", claimed_by="other", limit=10, lease_s=30)
        assert len(claimed) == 1
        store.away = set()
        await late
        (row,) = await outbox.deliveries()
        assert row["status"] == "delivering", "the other one has it"


class Broken:
    """A fetcher with a defect, which a receiver has found."""

    async def fetch(self, request: Request) -> Response:
        raise IndexError("s3cret")


async def test_a_defect_stops_one_attempt_and_not_the_worker(path: Path) -> None:
    async with sink() as receiver, working(path) as (env, outbox, _):
        await outbox.register(receiver.url)
        await outbox.tell(1)
        egress, env.egress = env.egress, Broken()
        async with running(env) as task:
            await until(lambda: settled_of(env).outcomes == ["retry"])
            assert settled_of(env).events[0].detail == "internal error: IndexError"
            env.egress = egress
            await outbox.register(receiver.url)
            await outbox.tell(2)
            await until(lambda: len(receiver.requests) == 1)
            assert not task.done()


@pytest.mark.parametrize("crypto", [HostCrypto(bytes(32), sealing_key=bytes(32)), HostCrypto(bytes(32))])
async def test_a_secret_that_cannot_be_opened_sends_nothing(path: Path, crypto: HostCrypto) -> None:
    async with sink() as receiver, working(path) as (env, outbox, _):
        await outbox.register(receiver.url)
        await outbox.tell(1)
        env.crypto = crypto
        assert await deliver_due(env) == 1
        (event,) = settled_of(env).events
        assert event.outcome == "retry"
        assert "QUEUE_ENCRYPTION_KEY" in event.detail
        assert receiver.requests == []


async def test_the_secret_stays_where_it_is(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    secret, token = "canary-of-a-secret-0123456789abcd", "canary-of-a-query"
    async with sink(SERVER_ERROR) as receiver, working(path) as (env, outbox, clock):
        await outbox.register(f"{receiver.url}/?key={token}", secret=secret)
        await outbox.tell(1)
        for _ in range(4):
            await deliver_due(env)
            clock.advance(16)
        mac = hmac.new(secret.encode(), receiver.requests[0].body, hashlib.sha256).hexdigest()
        assert header(receiver.requests[0], "X-AIP-Signature") == f"sha256={mac}"
        said = f"{caplog.text}{settled_of(env).events}{await outbox.deliveries()}{env!r}"
        assert "answered 500" in said
        assert secret not in said
        assert token not in said
        assert secret.encode() not in b"".join(file.read_bytes() for file in path.parent.iterdir())
        assert all(secret.encode() not in request.body for request in receiver.requests)
