"""Redis refused, silent, stopped, read-only, full, loading: a quick error that names the remedy, a quick recovery."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from tests.scale import figure, scaled
from tests.services.delay_proxy import delay_proxy
from tests.services.process import free_port
from tests.services.redis import RedisServer, certificates, redis_server
from worker_compat.errors import StoreUnavailable
from worker_compat.ports import KVEntry, KVStore
from worker_compat.registry import open_kv, open_queue
from worker_compat.testing import FakeClock

ERROR_LIMIT_S = 0.3
RECOVERY_LIMIT_S = 5.0
PASSWORD = "s3cret-Passw0rd"


async def refused(call: Awaitable[object], words: str) -> float:
    """``call`` ends in an error with these words, within the limit; how long it took."""
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable, match=words) as raised:
        await call
    took = time.monotonic() - begun
    assert took < ERROR_LIMIT_S, f"the error came after {took:.3f} s"
    assert PASSWORD not in "".join(map(str, chain(raised.value)))
    return took


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and everything that a traceback shows with it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


async def recovered(store: KVStore) -> float:
    """How long it takes until a put succeeds."""
    begun = time.monotonic()
    while True:
        try:
            await store.put("recovered", KVEntry(b"1"))
        except StoreUnavailable:
            assert time.monotonic() - begun < RECOVERY_LIMIT_S, "it did not recover"
            await asyncio.sleep(0.02)
        else:
            return time.monotonic() - begun


CALLS: Sequence[Callable[[KVStore], Awaitable[object]]] = (
    lambda store: store.get("k"),
    lambda store: store.put("k", KVEntry(b"v")),
    lambda store: store.delete("k"),
    lambda store: store.list("", 10, None),
)


async def every_call_is_refused(url: str, words: str) -> float:
    """Each method ends in the same error, first each by itself, then a hundred at once; the longest time."""
    took = [0.0]
    for call in CALLS:
        async with open_kv(url) as store:
            took.append(await refused(call(store), words))
    async with open_kv(f"{url}?max_connections=4") as store:
        calls = [refused(CALLS[number % 4](store), f"{words}|connections stayed in use") for number in range(100)]
        took += await asyncio.gather(*calls)
    return max(took)


@contextmanager
def silent_listener() -> Iterator[int]:
    """A port where the system accepts connections and nobody ever answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        yield listener.getsockname()[1]


@contextmanager
def full_listener() -> Iterator[int]:
    """A port whose queue is full: packets that ask for a connection are dropped."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port: int = listener.getsockname()[1]
        waiting = []
        for _ in range(8):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
            waiting.append(one)
        yield port
        for one in waiting:
            one.close()


@pytest.mark.alone
async def test_a_refused_connection() -> None:
    took = await every_call_is_refused(f"redis://127.0.0.1:{free_port()}/0", "nothing listens")
    figure("Redis refused: longest error", f"{took * 1000:.0f} ms")


@pytest.mark.alone
@pytest.mark.parametrize("black_hole", [silent_listener, full_listener])
async def test_a_black_hole(black_hole: Callable[[], AbstractContextManager[int]]) -> None:
    with black_hole() as port:
        took = await every_call_is_refused(f"redis://127.0.0.1:{port}/0", "in time")
    figure(f"Redis black-holed ({black_hole.__name__}): longest error", f"{took * 1000:.0f} ms")


async def test_an_unknown_host() -> None:
    async with open_kv("redis://no-such-host.invalid:6379/0") as store:
        with pytest.raises(StoreUnavailable, match=r"host name is not known|did not answer in time"):
            await store.get("k")


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may break."""
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
async def store(own_server: RedisServer) -> AsyncIterator[KVStore]:
    """A store on it that has been used."""
    async with open_kv(own_server.url) as opened:
        await opened.put("k", KVEntry(b"v"))
        yield opened


@pytest.mark.alone
async def test_a_stopped_server(own_server: RedisServer, store: KVStore) -> None:
    own_server.pause()
    try:
        took = [await refused(call(store), "in time") for call in CALLS]
        took += await asyncio.gather(*(refused(CALLS[0](store), "in time|in use") for _ in range(200)))
        at_once = [await refused(CALLS[0](store), "in time") for _ in range(50)]
    finally:
        own_server.resume()
    back = await recovered(store)
    assert sorted(at_once)[len(at_once) // 2] < 0.01, "the breaker did not open"
    assert await store.get("k") in (None, KVEntry(b"v"))
    figure("Redis stopped: longest error, recovery", f"{max(took) * 1000:.0f} ms, {back * 1000:.0f} ms")


@pytest.mark.alone
async def test_a_restarted_server(tmp_path: Path) -> None:
    port = free_port()
    async with open_kv(f"redis://127.0.0.1:{port}/0") as store:
        with redis_server(tmp_path, port=port) as server:
            await store.put("k", KVEntry(b"v"))
            server.kill()
            for _ in range(20):
                await refused(store.get("k"), "nothing listens|closed the connection")
        with redis_server(tmp_path, port=port):
            back = await recovered(store)
    figure("Redis restarted: recovery", f"{back * 1000:.0f} ms")


@asynccontextmanager
async def in_thread(server: AbstractContextManager[RedisServer]) -> AsyncIterator[RedisServer]:
    """The server, started and ended while the loop goes on."""
    yield await asyncio.to_thread(server.__enter__)
    await asyncio.to_thread(server.__exit__, None, None, None)


async def test_a_restart_between_calls_is_not_noticed(tmp_path: Path) -> None:
    port = free_port()
    async with open_kv(f"redis://127.0.0.1:{port}/0") as store:
        for _ in range(2):
            async with in_thread(redis_server(tmp_path, port=port)):
                await asyncio.gather(*(store.put(f"k{number}", KVEntry(b"v")) for number in range(20)))


@pytest.mark.alone
async def test_a_replica(own_server: RedisServer, store: KVStore) -> None:
    own_server.command("REPLICAOF", "127.0.0.1", str(free_port()))
    for call in (CALLS[1], CALLS[2]):
        await refused(call(store), "read-only replica: name its master")
    own_server.command("REPLICAOF", "NO", "ONE")
    assert await recovered(store) < RECOVERY_LIMIT_S


@pytest.mark.alone
async def test_a_wrong_password(tmp_path: Path) -> None:
    with redis_server(tmp_path, password="right") as server:
        for credentials in (f":{PASSWORD}@", f"somebody:{PASSWORD}@", ""):
            url = f"redis://{credentials}127.0.0.1:{server.port}/0"
            await every_call_is_refused(url, "refuses the user or the password")
        async with open_kv(server.url) as store:
            await store.put("k", KVEntry(b"v"))
    with redis_server(tmp_path) as server:
        await every_call_is_refused(
            f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0", "refuses the user or the password"
        )


async def test_a_user_who_may_not_write(own_server: RedisServer) -> None:
    own_server.command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read", "+@connection", "+@scripting")
    async with open_kv(f"redis://reader:pw@127.0.0.1:{own_server.port}/0") as store:
        assert await store.get("k") is None
        await refused(store.put("k", KVEntry(b"v")), "its user may not do this")


@pytest.mark.alone
async def test_memory_that_is_used_up(own_server: RedisServer, store: KVStore) -> None:
    own_server.command("CONFIG", "SET", "maxmemory", "1mb")
    for _ in range(10):
        await refused(store.put("k", KVEntry(b"new")), "used up its maxmemory: raise that")
    assert await store.get("k") == KVEntry(b"v"), "a refused put must change nothing, and reads go on"
    assert [key.name for key in (await store.list("", 10, None)).keys] == ["k"]
    await store.delete("k")
    own_server.command("CONFIG", "SET", "maxmemory", "0")
    await store.put("k", KVEntry(b"new"))


@pytest.mark.alone
async def test_a_queue_whose_memory_is_used_up(own_server: RedisServer) -> None:
    async with open_queue(own_server.url) as queue:
        await queue.push([b"1", b"2"], 0)
        own_server.command("CONFIG", "SET", "maxmemory", "1mb")
        for delay in (0, 60):
            await refused(queue.push([b"3", b"4"], delay), "used up its maxmemory")
        assert (await queue.depth()).waiting == 2


@pytest.mark.alone
async def test_a_server_that_is_loading(tmp_path: Path) -> None:
    port = free_port()
    with redis_server(tmp_path, "--rdbcompression", "no", port=port) as server:
        server.command("EVAL", "for i = 1, 1000 do redis.call('SET', 'k' .. i, string.rep('v', 100)) end", 0)
        server.command("SAVE")
    slowly = ("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
    with redis_server(tmp_path, *slowly, port=port) as server:
        async with open_kv(server.url) as store:
            await refused(store.get("k"), "still loading")
            await recovered(store)


async def test_a_node_of_a_cluster_that_is_taken_for_a_single_server(tmp_path: Path) -> None:
    bus = str(free_port())
    with redis_server(tmp_path, "--cluster-enabled", "yes", "--cluster-port", bus) as server:
        async with open_kv(server.url) as store:
            await refused(store.get("k"), "does not serve this slot|redis\\+cluster")


async def test_tls_that_does_not_fit(tmp_path: Path) -> None:
    tls = certificates(tmp_path)
    with redis_server(tmp_path, tls=tls) as server:
        for url, words in (
            (server.url, "certificate is not trusted"),
            (f"rediss://localhost:{server.port}/0?ca={tls.ca}", "names another host"),
            (f"redis://127.0.0.1:{server.port}/0", "closed the connection"),
        ):
            async with open_kv(url) as store:
                with pytest.raises(StoreUnavailable, match=words):
                    await store.get("k")
    (tmp_path / "plain").mkdir()
    with redis_server(tmp_path / "plain") as server:
        async with open_kv(f"rediss://127.0.0.1:{server.port}/0?ca={tls.ca}") as store:
            with pytest.raises(StoreUnavailable, match=r"TLS could not be agreed|in time"):
                await store.get("k")


@pytest.mark.alone
async def test_a_loop_that_was_busy_is_no_outage(own_server: RedisServer) -> None:
    async with open_kv(f"{own_server.url}?timeout_ms=40&connect_timeout_ms=40&max_connections=2") as store:
        for turns in range(12):
            calls = [asyncio.ensure_future(store.get("k")) for _ in range(4)]
            for _ in range(turns):
                await asyncio.sleep(0)
            time.sleep(0.12)
            assert await asyncio.gather(*calls) == [None] * 4


async def test_scripts_that_the_server_forgot(own_server: RedisServer, store: KVStore) -> None:
    own_server.command("SCRIPT", "FLUSH")
    assert await store.get("k") == KVEntry(b"v")
    await store.put("k", KVEntry(b"w"))
    assert await store.get("k") == KVEntry(b"w")


async def test_a_store_that_was_closed_opens_no_connection(redis_service: RedisServer) -> None:
    before = redis_service.command("CLIENT", "LIST").count("\n")
    async with open_kv(f"{redis_service.url}?namespace=closed") as store:
        late = [asyncio.ensure_future(store.get("k")) for _ in range(3)]
        await asyncio.sleep(0)
    await asyncio.gather(*late, return_exceptions=True)
    with pytest.raises(StoreUnavailable, match="this process has closed it"):
        await store.get("k")
    async with asyncio.timeout(RECOVERY_LIMIT_S):
        while redis_service.command("CLIENT", "LIST").count("\n") > before:
            await asyncio.sleep(0.01)


async def test_a_queue_that_the_server_forgot(own_server: RedisServer) -> None:
    async with open_queue(own_server.url) as queue:
        await queue.push([b"1"], 0)
        claimed = await queue.claim(10, 30)
        own_server.command("FLUSHALL")
        assert not await queue.claim(10, 30)
        await queue.release([message.id for message in claimed], 0)
        await queue.ack([message.id for message in claimed])
        await queue.push([b"2"], 0)
        assert [message.body for message in await queue.claim(10, 30)] == [b"2"]


class Crossings:
    """Callers that get keys of their own, whose values name them, and cancel most calls once the proxy has them."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self._chance = random.Random(11)
        self._sent: dict[bytes, asyncio.Future[None]] = {}

    def heard(self, data: bytes) -> None:
        """A request has arrived at the proxy."""
        found = re.search(rb"key-[0-9]+-[0-9]+", data)
        sent = found and self._sent.get(found[0])
        if sent and not sent.done():
            sent.set_result(None)

    async def calls(self, store: KVStore, caller: int, count: int) -> None:
        """So many, one after the other."""
        names = [f"key-{caller}-{number}" for number in range(3)]
        for name in names:
            await store.put(name, KVEntry(name.encode()))
        for _ in range(count):
            await self._call(store, self._chance.choice(names))

    async def _call(self, store: KVStore, name: str) -> None:
        sent = self._sent[name.encode()] = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(store.get(name))
        await asyncio.wait([task, sent], return_when=asyncio.FIRST_COMPLETED)
        if self._chance.random() < 0.75:
            await asyncio.sleep(self._chance.uniform(0, 0.009))
            task.cancel()
        try:
            entry = await task
        except asyncio.CancelledError:
            self.seen["cancelled"] += 1
        else:
            self.seen["answered" if entry == KVEntry(name.encode()) else "crossed"] += 1


@pytest.mark.proof
@pytest.mark.alone
async def test_no_answer_is_crossed_when_calls_are_cancelled(redis_service: RedisServer) -> None:
    """At least half of the calls are cancelled while they are in flight, the others get their own answer."""
    total, callers = scaled(2000, 10_000), 20
    crossings = Crossings()
    async with (
        delay_proxy(redis_service.port, 0.004, crossings.heard) as port,
        open_kv(f"redis://127.0.0.1:{port}/0?namespace=crossing&timeout_ms=9000") as store,
    ):
        await asyncio.gather(*(crossings.calls(store, caller, total // callers) for caller in range(callers)))
    seen = crossings.seen
    assert seen["crossed"] == 0
    assert seen["cancelled"] >= total // 2
    assert seen["cancelled"] + seen["answered"] == total
    figure(
        f"{total} calls to Redis through a delay proxy",
        f"{seen['cancelled']} cancelled in flight, {seen['answered']} answered, {seen['crossed']} crossed",
    )


async def test_cancelled_claims_lose_no_message(redis_service: RedisServer) -> None:
    clock = FakeClock()
    url = f"?queue=cancelled-{time.monotonic_ns()}"
    found: set[bytes] = set()
    async with (
        delay_proxy(redis_service.port, 0.004) as port,
        open_queue(f"redis://127.0.0.1:{port}/0{url}&timeout_ms=9000", clock=clock) as queue,
    ):
        await queue.push([b"%d" % number for number in range(200)], 0)
        for turn in range(40):
            task = asyncio.ensure_future(queue.claim(10, 30))
            await asyncio.sleep(0.0005 * (turn % 20))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        clock.advance(31)
        while messages := await queue.claim(100, 30):
            found |= {message.body for message in messages}
    assert len(found) == 200
