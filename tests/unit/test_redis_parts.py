"""The parts of the Redis adapter that need no server: breaker, time limit, words of errors, finding the server."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from redis import exceptions as redis

from worker_compat.errors import ConfigError, StoreUnavailable
from worker_compat.registry import open_kv
from worker_compat.testing import FakeClock
from worker_compat_redis.breaker import Breaker
from worker_compat_redis.limits import TimeLimit
from worker_compat_redis.problems import problem_of
from worker_compat_redis.servers import ClusterNode, FixedServer, SentinelMaster
from worker_compat_redis.settings import Address, settings_of


def broken(clock: FakeClock) -> Breaker:
    """A breaker after five failures."""
    breaker = Breaker(clock)
    for number in range(5):
        assert breaker.refusal is None
        breaker.begin()
        breaker.failed(f"failure {number}")
    return breaker


def test_five_failures_in_a_row_open_it_and_it_says_why() -> None:
    assert broken(FakeClock()).refusal == "failure 4"


def test_a_success_between_failures_keeps_it_closed() -> None:
    breaker = Breaker(FakeClock())
    for _ in range(10):
        breaker.failed("down")
        breaker.succeeded()
    assert breaker.refusal is None


@pytest.mark.parametrize("ending", ["failed", "succeeded", "abandoned"])
def test_after_a_tenth_of_a_second_one_call_is_let_through(ending: str) -> None:
    clock = FakeClock()
    breaker = broken(clock)
    refusals = []
    for wait in (0.09, 0.01):
        clock.advance(wait)
        refusals.append(breaker.refusal)
    breaker.begin()
    refusals.append(breaker.refusal)
    assert refusals == ["failure 4", None, "failure 4"]
    if ending == "failed":
        breaker.failed("still down")
        refusals.append(breaker.refusal)
        assert refusals[-1] == "still down"
        clock.advance(0.1)
    elif ending == "succeeded":
        breaker.succeeded()
    else:
        breaker.abandoned()
    refusals.append(breaker.refusal)
    assert refusals[-1] is None


async def test_a_limit_ends_what_takes_longer() -> None:
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        async with TimeLimit(0.02):
            await asyncio.sleep(60)
    assert time.monotonic() - begun < 1


async def test_a_limit_that_is_not_reached_does_nothing() -> None:
    async with TimeLimit(0.02):
        await asyncio.sleep(0)
    with pytest.raises(ValueError, match="mine"):
        async with TimeLimit(0.02):
            raise ValueError("mine")
    await asyncio.sleep(0.03)


async def test_the_outer_of_two_limits_counts() -> None:
    async def call() -> None:
        async with TimeLimit(0.02):
            async with TimeLimit(60):
                await asyncio.sleep(60)
            pytest.fail("the outer limit was reached")

    with pytest.raises(TimeoutError):
        await call()


async def test_a_cancelled_caller_is_cancelled_and_not_late() -> None:
    async def call() -> None:
        async with TimeLimit(60):
            await asyncio.sleep(60)

    task = asyncio.ensure_future(call())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_loop_that_comes_late_reads_what_is_there() -> None:
    async with TimeLimit(0.01):
        answer = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(time.sleep, 0.05)
        asyncio.get_running_loop().call_later(0.02, answer.set_result, "there")
        assert await answer == "there"


def caused(error: BaseException, cause: BaseException) -> BaseException:
    """``error`` as it is raised for ``cause``."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "words", "outage"),
    [
        (redis.AuthenticationError("x"), "refuses the user or the password; check those in the URL", True),
        (redis.ResponseError("Protocol error: unauthenticated bulk length"), "refuses the user or the password", True),
        (redis.BusyLoadingError("x"), "still loading", True),
        (redis.ReadOnlyError("x"), "read-only replica", True),
        (redis.OutOfMemoryError("x"), "maxmemory", False),
        (
            redis.ResponseError("Error running script (call to f_x): @user_script: 2: -OOM command not"),
            "maxmemory",
            False,
        ),
        (redis.NoPermissionError("x"), "ACL SETUSER", False),
        (redis.ResponseError("MISCONF Redis is configured to save"), "look into its log and at its disk", False),
        (redis.ResponseError("NOREPLICAS Not enough good replicas"), "too few replicas", False),
        (redis.ResponseError("WRONGTYPE Operation against a key"), "another namespace or database", False),
        (redis.ResponseError("unknown command 'ZRANGE', with args SECRET"), "must be Redis 6.2 or later", False),
        (redis.ClusterDownError("x"), "CLUSTER INFO", True),
        (redis.TryAgainError("x"), "slot is being moved", False),
        (redis.MovedError("1 h:1"), r"redis\+cluster://", True),
        (redis.ConnectionError("x"), "cannot be reached or has closed the connection", True),
        (caused(redis.ConnectionError("x"), ConnectionRefusedError()), "nothing listens", True),
        (caused(redis.ConnectionError("x"), socket.gaierror()), "host name is not known", True),
        (caused(redis.ConnectionError("x"), ssl.SSLCertVerificationError()), "certificate is not trusted", True),
        (caused(redis.ConnectionError("x"), ssl.SSLError()), "TLS could not be agreed", True),
        (TimeoutError(), "did not answer in time", True),
        (redis.InvalidResponse("SECRET"), "cannot be reached or has closed", True),
    ],
)
def test_an_error_is_said_in_words_with_a_remedy(error: BaseException, words: str, outage: bool) -> None:
    problem = problem_of(error)
    assert words.replace("\\", "") in problem.words
    assert problem.outage == outage
    assert "SECRET" not in problem.words


def test_what_the_caller_was_handling_is_not_what_went_wrong() -> None:
    handled = caused(StoreUnavailable("before"), redis.AuthenticationError("x"))
    assert "closed the connection" in problem_of(caused(redis.ConnectionError("x"), handled)).words


class Network:
    """Servers that answer commands as scripted, or not at all."""

    def __init__(self, answers: dict[Address, Callable[[], object]]) -> None:
        self._answers = answers

    async def ask(self, address: Address, *_words: object) -> object:
        """The scripted answer; silence from any other address."""
        if address not in self._answers:
            await asyncio.sleep(60)
        answer = self._answers[address]()
        if isinstance(answer, BaseException):
            raise answer
        return answer


A, B, C, MASTER = ("a", 1), ("b", 2), ("c", 3), ("m", 9)


async def test_a_single_server_never_moves() -> None:
    assert await FixedServer(A).find() == A


def sentinels(**answers: object) -> SentinelMaster:
    """Three sentinels, of which those not given are silent."""
    network = Network({(name, "abc".index(name) + 1): partial(answers.get, name) for name in answers})
    masters = Network({MASTER: lambda: [b"master"], ("r", 8): lambda: [b"slave"]})
    return SentinelMaster([A, B, C], "main", network.ask, masters.ask)


@pytest.mark.parametrize("others", [{}, {"a": redis.ConnectionError("x")}, {"a": None}, {"a": [b"r", b"8"]}])
async def test_one_sentinel_that_knows_is_enough(others: dict[str, object]) -> None:
    assert await sentinels(c=[b"m", b"9"], **others).find() == MASTER


async def test_when_no_sentinel_knows_the_last_error_counts() -> None:
    finder = sentinels(a=redis.ConnectionError("x"), b=redis.ConnectionError("y"), c=redis.ConnectionError("z"))
    with pytest.raises(redis.ConnectionError):
        await finder.find()
    with pytest.raises(redis.ReadOnlyError):
        await sentinels(a=[b"r", b"8"], b=[b"r", b"8"], c=[b"r", b"8"]).find()


def slots(*ranges: tuple[int, int, str, int]) -> Callable[[], object]:
    """An answer to CLUSTER SLOTS."""
    return lambda: [[first, last, [host.encode(), port, b"id"]] for first, last, host, port in ranges]


async def test_the_node_of_the_slot_is_found_through_any_node() -> None:
    # CLUSTER KEYSLOT foo is 12182.
    network = Network({B: slots((0, 8000, "a", 1), (8001, 16383, "m", 9))})
    assert await ClusterNode([A, B], b"{foo}", network.ask).find() == MASTER


async def test_a_node_that_does_not_know_its_host_means_itself() -> None:
    network = Network({A: slots((0, 16383, "", 7))})
    assert await ClusterNode([A], b"{foo}", network.ask).find() == ("a", 7)


async def test_nodes_that_were_seen_are_asked_when_those_of_the_url_are_gone() -> None:
    answers = {A: slots((0, 8000, "b", 2), (8001, 16383, "m", 9))}
    finder = ClusterNode([A], b"{foo}", Network(answers).ask)
    assert await finder.find() == MASTER
    del answers[A]
    answers[B] = slots((0, 16383, "b", 2))
    assert await finder.find() == B


async def test_a_slot_that_nobody_serves_is_an_error() -> None:
    with pytest.raises(redis.ClusterDownError):
        await ClusterNode([A], b"{foo}", Network({A: slots((0, 10, "m", 9))}).ask).find()


async def test_a_file_that_is_no_certificate_is_a_wrong_url(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(ConfigError, match="no readable PEM file"):
            async with open_kv(f"rediss://h?ca={tmp_path / name}"):
                pass


def test_time_limits_are_short_unless_the_url_says_otherwise() -> None:
    settings = settings_of("redis://h", "namespace")
    assert (settings.connect_timeout_s, settings.timeout_s) == (0.1, 0.15)
