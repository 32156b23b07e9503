"""Private Redis servers for tests, on free ports: single, with TLS, watched by Sentinel, or as a Cluster."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import redis
import trustme

from tests.services.process import accepts, free_port, running, wait_for

READY_LIMIT_S = 20.0


@dataclass(frozen=True)
class Certificates:
    """Files of a private authority and of a certificate for 127.0.0.1 that it gave."""

    ca: Path
    cert: Path
    key: Path


@dataclass
class RedisServer:
    """A running server; ``url`` leads to its database 0."""

    port: int
    process: subprocess.Popen[bytes]
    password: str = ""
    certificates: Certificates | None = None

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:<port>/0``, or ``rediss``, and with the password if there is one."""
        scheme = "rediss" if self.certificates else "redis"
        credentials = f":{self.password}@" if self.password else ""
        return f"{scheme}://{credentials}127.0.0.1:{self.port}/0"

    def command(self, *words: str | int) -> Any:
        """The answer to one command, over a connection of its own."""
        options: dict[str, Any] = {"port": self.port, "password": self.password or None, "decode_responses": True}
        if self.certificates:
            options |= {"ssl": True, "ssl_ca_certs": str(self.certificates.ca)}
        with redis.Redis(host="127.0.0.1", **options) as client:
            return client.execute_command(*words)

    def pause(self) -> None:
        """Stop the process: connections stay open and nothing answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the process as a crash does."""
        self.process.kill()
        self.process.wait()


@dataclass
class SentinelService:
    """A master and a replica that three sentinels watch as ``main``; which is which changes by fail-over."""

    servers: Sequence[RedisServer]
    sentinels: Sequence[RedisServer]

    @property
    def url(self) -> str:
        """``redis+sentinel://`` with all three sentinels."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/main/0"

    @property
    def master(self) -> RedisServer:
        """The server that the first sentinel takes for the master."""
        _, port = self.sentinels[0].command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")
        return next(server for server in self.servers if server.port == int(port))


@dataclass
class ClusterService:
    """Three masters that share the slots."""

    nodes: Sequence[RedisServer]

    @property
    def url(self) -> str:
        """``redis+cluster://`` with two of the nodes: the third is found."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])
        return f"redis+cluster://{hosts}"


def certificates(folder: Path) -> Certificates:
    """A new authority and a certificate for 127.0.0.1."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    made = Certificates(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(made.ca)
    issued.cert_chain_pems[0].write_to_path(made.cert)
    issued.private_key_pem.write_to_path(made.key)
    return made


@contextmanager
def redis_server(
    folder: Path,
    *options: str,
    port: int | None = None,
    password: str = "",
    tls: Certificates | None = None,
) -> Iterator[RedisServer]:
    """A server with its files in ``folder``; ``options`` are those of its command line (``--maxmemory 10mb``)."""
    port = port or free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", *options]
    command += ["--requirepass", password] if password else []
    if tls is None:
        command += ["--port", str(port)]
    else:
        files = ["--tls-ca-cert-file", tls.ca, "--tls-cert-file", tls.cert, "--tls-key-file", tls.key]
        command += ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no", *map(str, files)]
    with running(command, ready=lambda: accepts(port), log=folder / "redis.log") as process:
        yield RedisServer(port, process, password, tls)


@contextmanager
def sentinel_service(folder: Path) -> Iterator[SentinelService]:
    """A master, a replica and three sentinels that know each other; a dead master is noticed within half a second."""
    with ExitStack() as stack:
        master = stack.enter_context(redis_server(_made(folder / "master"), "--repl-diskless-sync-delay", "0"))
        replica = stack.enter_context(
            redis_server(
                _made(folder / "replica"),
                "--repl-diskless-sync-delay",
                "0",
                "--replicaof",
                "127.0.0.1",
                str(master.port),
            )
        )
        # Its link is up before it gets writes: the master holds them back until the first acknowledgement.
        with redis.Redis(port=master.port) as client:
            client.flushall()
            _require(lambda: client.wait(1, 1000) == 1, "the replica follows its master")
        known = {free_port(): uuid4().hex + "00000000" for _ in range(3)}
        sentinels = [
            stack.enter_context(sentinel(_made(folder / f"s{port}"), master.port, port, replica.port, known))
            for port in known
        ]
        for watcher in sentinels:
            _require(lambda: "slaves=1,sentinels=3" in _info(watcher, "sentinel"), "the sentinels know each other")  # noqa: B023
        yield SentinelService((master, replica), sentinels)


@contextmanager
def sentinel(
    folder: Path,
    watched: int,
    port: int | None = None,
    replica: int | None = None,
    known: Mapping[int, str] = MappingProxyType({}),
) -> Iterator[RedisServer]:
    """A sentinel that watches the server at a port as ``main``.

    ``replica`` and ``known``, all sentinels by their port with the id that each shall have, are what it would find
    out by itself in some seconds.
    """
    port = port or free_port()
    config = folder / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor main 127.0.0.1 {watched} 2\n"
        "sentinel down-after-milliseconds main 400\nsentinel failover-timeout main 3000\n"
        + (f"sentinel known-replica main 127.0.0.1 {replica}\n" if replica else "")
        + "".join(
            f"sentinel myid {name}\n" if other == port else f"sentinel known-sentinel main 127.0.0.1 {other} {name}\n"
            for other, name in known.items()
        )
    )
    command = ["redis-server", str(config), "--sentinel"]
    with running(command, ready=lambda: accepts(port), log=folder / "redis.log") as process:
        yield RedisServer(port, process)


@contextmanager
def cluster_service(folder: Path) -> Iterator[ClusterService]:
    """Three masters that agree on who serves which slot."""
    with ExitStack() as stack:
        nodes, buses = [], []
        for number in range(3):
            bus = free_port()
            options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", str(bus))
            nodes.append(stack.enter_context(redis_server(_made(folder / str(number)), *options)))
            buses.append(bus)
        for number, node in enumerate(nodes):
            first, last = (16384 * part // 3 for part in (number, number + 1))
            node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.command("CLUSTER", "ADDSLOTSRANGE", first, last - 1)
            node.command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, buses[0])
        for node in nodes:
            _require(lambda: _agrees(node), "the nodes of the cluster agree")  # noqa: B023
        yield ClusterService(nodes)


def _agrees(node: RedisServer) -> bool:
    return "cluster_state:ok" in _raw(node, "CLUSTER", "INFO") and "cluster_known_nodes:3" in _raw(
        node, "CLUSTER", "INFO"
    )


def _info(server: RedisServer, section: str) -> str:
    return _raw(server, "INFO", section)


def _raw(server: RedisServer, *words: str) -> str:
    """An answer as text, not as redis-py reads it."""
    command = ["redis-cli", "-p", str(server.port), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _require(happened: Any, what: str) -> None:
    if not wait_for(happened, READY_LIMIT_S):
        raise RuntimeError(f"{READY_LIMIT_S:g} s were not enough until {what}")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
