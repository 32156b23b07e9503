"""What the errors of redis-py mean, in words that name the remedy and hold no password and no data."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Iterator
from typing import NamedTuple

from redis import exceptions as redis

from worker_compat.errors import StoreUnavailable


class MasterUnknown(redis.RedisError):
    """A sentinel watches no service of this name."""


class Problem(NamedTuple):
    """What is wrong; ``outage`` when the server does not serve at all, so that nothing else can work either."""

    words: str
    outage: bool


_TLS_REFUSED = Problem(
    "its TLS certificate is not trusted or names another host: give the file of its authority as the option ca, "
    "and the host as the certificate has it",
    True,
)
_NO_TLS = Problem("TLS could not be agreed: rediss:// is for a TLS port, redis:// for a plain one", True)

_LOCKED_OUT = Problem("it refuses the user or the password; check those in the URL", True)
_UNKNOWN_CLIENT = "Protocol error: unauthenticated"  # what a command that is not short gets instead of NOAUTH
_FORBIDDEN = Problem("its user may not do this: allow the commands and keys by ACL SETUSER", False)
_IN_SCRIPT = "The user executing the script can't"

_REPLICA = Problem("it is a read-only replica: name its master, or use redis+sentinel://", True)
_FULL = Problem("it has used up its maxmemory: raise that, or delete something", False)

# The first that fits counts: redis-py's more special errors are subclasses of the general ones.
_KINDS: tuple[tuple[type[BaseException], Problem], ...] = (
    (ssl.SSLCertVerificationError, _TLS_REFUSED),
    (ssl.SSLError, _NO_TLS),
    (socket.gaierror, Problem("its host name is not known: check the URL", True)),
    (redis.AuthenticationError, _LOCKED_OUT),
    (redis.AuthenticationWrongNumberOfArgsError, Problem("it knows no users: leave the user out of the URL", True)),
    (redis.BusyLoadingError, Problem("it is still loading its data: wait until it is done", True)),
    (ConnectionRefusedError, Problem("nothing listens at its address: start it, or correct the URL", True)),
    (
        TimeoutError,
        Problem("it did not answer in time: check that it runs, can be reached and is not overloaded", True),
    ),
    (redis.ReadOnlyError, _REPLICA),
    (redis.OutOfMemoryError, _FULL),
    (redis.NoPermissionError, _FORBIDDEN),
    (redis.MovedError, Problem("it is a node of a Redis Cluster: use redis+cluster://", True)),
    (redis.TryAgainError, Problem("the slot is being moved to another node: wait until that is done", False)),
    (MasterUnknown, Problem("the sentinel knows no master of this name: correct the service in the URL", True)),
    (redis.ClusterDownError, Problem("the cluster does not serve this slot: see CLUSTER INFO on a node", True)),
)
_CODES = {
    "OOM": _FULL,
    "READONLY": _REPLICA,
    "MISCONF": Problem("it refuses writes since its last snapshot failed: look into its log and at its disk", False),
    "NOREPLICAS": Problem("it refuses writes since too few replicas are connected: start them", False),
    "WRONGTYPE": Problem("a key of this name is of another application: use another namespace or database", False),
}
_UNKNOWN = Problem("it does not know a command: it must be Redis 6.2 or later, or Valkey", False)
_LOST = Problem("it cannot be reached or has closed the connection: check that it runs and that the URL is right", True)


def problem_of(error: BaseException) -> Problem:
    """What ``error``, or what caused it, means."""
    chain = list(_chain(error))
    for kind, problem in _KINDS:
        if any(isinstance(part, kind) for part in chain):
            return problem
    return _refused(str(error)) if isinstance(error, redis.ResponseError) else _LOST


def _refused(text: str) -> Problem:
    if _UNKNOWN_CLIENT in text:
        return _LOCKED_OUT
    if _IN_SCRIPT in text:
        return _FORBIDDEN
    # Only the code, which Redis 6 puts behind the name of the script: the rest may quote what was sent.
    codes = re.findall(r"(?:^|-)([A-Z]+) ", text)
    return next((_CODES[code] for code in codes if code in _CODES), _UNKNOWN)


def unavailable(words: str) -> StoreUnavailable:
    """The error for a problem in these words."""
    return StoreUnavailable(f"the Redis cannot be used: {words}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    # redis-py wraps what the socket raised without naming it as the cause. Anything else is what our caller was
    # handling when it called us.
    while isinstance(current, redis.RedisError | OSError | asyncio.CancelledError):
        yield current
        current = current.__cause__ or current.__context__
