"""PostgreSQL that is gone, silent, full or refuses: StoreUnavailable in time, no password, and back afterwards."""

from __future__ import annotations

import asyncio
import random
import socket
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from tests.services.delay_proxy import delay_proxy
from tests.services.postgres import GUARDED, PostgresServer, postgres_server
from tests.services.process import free_port
from worker_compat.errors import StoreUnavailable
from worker_compat.ports import KVEntry, KVStore
from worker_compat_postgres import open_kv, open_queue
from worker_compat_postgres.connection import MOST_CONNECTIONS

SECRET = "s3cret-word"
MARGIN_S = 1.0
LIMITS = "connect_timeout=0.4&command_timeout=0.8"
LIMIT_S = 0.8


@pytest.fixture(scope="module")
def own_folder() -> Iterator[Path]:
    """A folder for a server that these tests stop and start."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def black_hole() -> Iterator[int]:
    """The port of a listener that never accepts: connections are made, and nothing answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@asynccontextmanager
async def sql(server: PostgresServer) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(server.url)
    try:
        yield connection
    finally:
        await connection.close()


async def fails(call: Callable[[], Awaitable[object]], says: str, limit_s: float = LIMIT_S) -> None:
    """The call raises StoreUnavailable in time, and nothing that could be logged shows the password."""
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable, match=says) as caught:
        await call()
    assert time.monotonic() - begun < limit_s + MARGIN_S
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown


async def every_call_fails(base: str, says: str) -> None:
    """Each method of a store and of a queue at ``base``, all at once."""
    async with open_kv(f"{base}?{LIMITS}") as kv, open_queue(f"{base}?{LIMITS}") as queue:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: kv.get("k"),
            lambda: kv.put("k", KVEntry(b"v")),
            lambda: kv.delete("k"),
            lambda: kv.list("", 10, None),
            lambda: queue.push([b"m"], 0),
            lambda: queue.claim(1, 30),
            lambda: queue.ack(["1"]),
            lambda: queue.release(["1"], 0),
            lambda: queue.depth(),
        ]
        await asyncio.gather(*(fails(call, says) for call in calls))


async def test_refused() -> None:
    await every_call_fails(f"postgresql://u:{SECRET}@127.0.0.1:{free_port()}/d", "cannot be reached")


async def test_a_black_hole() -> None:
    with black_hole() as port:
        await every_call_fails(f"postgresql://u:{SECRET}@127.0.0.1:{port}/d", "did not answer in time")


async def test_a_host_that_has_no_address() -> None:
    await every_call_fails(f"postgresql://u:{SECRET}@nowhere.invalid/d", "cannot be reached|did not answer in time")


async def test_a_wrong_password(postgres_service: PostgresServer) -> None:
    async with sql(postgres_service) as connection:
        await connection.execute(f"DROP ROLE IF EXISTS {GUARDED}; CREATE ROLE {GUARDED} LOGIN PASSWORD 'right'")
    base = f"postgresql://{GUARDED}:{{}}@127.0.0.1:{postgres_service.port}/postgres"
    # Without a colon: a log takes what stands behind that word and a colon for a secret.
    await every_call_fails(base.format(SECRET), "28P01.*refuses this user or its secret: check both in the URL")
    async with sql(postgres_service) as connection:
        await connection.execute(f"GRANT ALL ON SCHEMA public TO {GUARDED}")
        await connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {GUARDED}")
        async with open_kv(base.format("right")) as kv:
            assert await kv.get("missing") is None
        await connection.execute(f"DROP OWNED BY {GUARDED}; DROP ROLE {GUARDED}")


async def test_an_unknown_database(postgres_service: PostgresServer) -> None:
    base = f"postgresql://postgres:{SECRET}@127.0.0.1:{postgres_service.port}/nothing_here"
    await every_call_fails(base, "3D000.*no such database")


async def test_a_server_that_is_read_only_refuses_writes_and_answers_reads(postgres_service: PostgresServer) -> None:
    role = f"reader_{uuid4().hex}"
    namespace = uuid4().hex
    async with sql(postgres_service) as connection, open_kv(f"{postgres_service.url}?namespace={namespace}") as writer:
        await writer.put("k", KVEntry(b"v"))
        await connection.execute(f"CREATE ROLE {role} SUPERUSER LOGIN")
        await connection.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
        base = f"postgresql://{role}:{SECRET}@127.0.0.1:{postgres_service.port}/postgres"
        async with open_kv(f"{base}?namespace={namespace}") as reader, open_queue(base) as queue:
            assert await reader.get("k") == KVEntry(b"v")
            assert len((await reader.list("", 10, None)).keys) == 1
            await fails(lambda: reader.put("k", KVEntry(b"w")), "25006.*read-only")
            await fails(lambda: reader.delete("k"), "25006.*read-only")
            await fails(lambda: queue.push([b"m"], 0), "25006.*read-only")
            assert await reader.get("k") == KVEntry(b"v")
        await connection.execute(f"DROP ROLE {role}")


async def test_a_lock_that_is_held_elsewhere_is_waited_for_no_longer_than_the_limit(
    postgres_service: PostgresServer,
) -> None:
    async with open_kv(f"{postgres_service.url}?namespace={uuid4().hex}&{LIMITS}") as kv:
        await kv.put("k", KVEntry(b"v"))
        async with sql(postgres_service) as connection:
            async with connection.transaction():
                await connection.execute("LOCK TABLE worker_compat_kv IN ACCESS EXCLUSIVE MODE")
                await fails(lambda: kv.get("k"), "did not answer in time")
            assert await kv.get("k") == KVEntry(b"v")


async def test_a_server_that_is_stopped_and_goes_on(own_folder: Path) -> None:
    with postgres_server(own_folder) as server:
        base = f"postgresql://postgres:{SECRET}@127.0.0.1:{server.port}/postgres"
        async with open_kv(f"{base}?{LIMITS}") as kv:
            await kv.put("k", KVEntry(b"v"))
            # More calls than connections: the wait for one counts too.
            await asyncio.gather(*(kv.get("k") for _ in range(3 * MOST_CONNECTIONS)))
            server.pause()
            await asyncio.gather(*(fails(lambda: kv.get("k"), "in time") for _ in range(3 * MOST_CONNECTIONS)))
            await every_call_fails(base, "did not answer in time")
            server.resume()
            await comes_back(kv)


async def test_closing_does_not_wait_for_a_server_that_is_stopped(own_folder: Path) -> None:
    with postgres_server(own_folder) as server:
        async with open_kv(f"{server.url}?{LIMITS}") as kv:
            await kv.get("k")
            server.pause()
            begun = time.monotonic()
        assert time.monotonic() - begun < LIMIT_S + MARGIN_S


async def test_a_server_that_is_started_again(own_folder: Path) -> None:
    port = free_port()
    async with open_kv(f"postgresql://postgres:{SECRET}@127.0.0.1:{port}/postgres") as kv:
        with postgres_server(own_folder, port=port):
            await kv.put("k", KVEntry(b"v"))
            await asyncio.gather(*(kv.get("k") for _ in range(MOST_CONNECTIONS)))
        await fails(lambda: kv.get("k"), "cannot be reached|broke|57P", 2.0)
        with postgres_server(own_folder, port=port):
            await comes_back(kv)
            await asyncio.gather(*(kv.get("k") for _ in range(3 * MOST_CONNECTIONS)))


async def comes_back(kv: KVStore) -> None:
    """The next call works, or one soon after."""
    begun = time.monotonic()
    while True:
        try:
            assert await kv.get("k") == KVEntry(b"v")
            break
        except StoreUnavailable:
            assert time.monotonic() - begun < 5


async def test_no_answer_reaches_another_call_when_half_are_cancelled(postgres_service: PostgresServer) -> None:
    chance = random.Random(7)
    answered = cancelled = 0
    async with (
        delay_proxy(postgres_service.port, 0.003) as port,
        open_kv(f"postgresql://postgres@127.0.0.1:{port}/postgres?namespace={uuid4().hex}") as kv,
    ):
        names = [f"k{number}" for number in range(50)]
        await asyncio.gather(*(kv.put(name, KVEntry(name.encode())) for name in names))

        async def call() -> None:
            nonlocal answered, cancelled
            name = chance.choice(names)
            task = asyncio.ensure_future(kv.get(name))
            if chance.random() < 0.6:
                await asyncio.wait({task}, timeout=chance.uniform(0, 0.012))
                task.cancel()
            try:
                assert await task == KVEntry(name.encode())
                answered += 1
            except asyncio.CancelledError:
                cancelled += 1

        async def caller() -> None:
            for _ in range(30):
                await call()

        await asyncio.gather(*(caller() for _ in range(8)))
        # Every connection is there again, and asks for nothing twice.
        assert await asyncio.gather(*(kv.get(name) for name in names)) == [KVEntry(name.encode()) for name in names]
    assert answered > 50
    assert cancelled > 50
