"""What the tests of the operator's routes share: those routes of one process, on a real database."""

from __future__ import annotations

import json
from typing import Any

from smoltbot_worker.api import routes
from smoltbot_worker.env import Env, read_variables
from smoltbot_worker.health import State
from smoltbot_worker.ports import RecordStore
from tests.unit.agent_support import Process, key
from worker_compat.ports import Clock
from worker_compat.request import Request
from worker_compat.streams import ReadableStream
from worker_compat.testing import read_response

from .support import Got

ADMIN = "admin-token-of-a-test"
READER = "read-token-of-a-test"


class Operator:
    """Somebody who asks a process; ``variables`` are environment variables."""

    def __init__(self, store: RecordStore, clock: Clock, **variables: str) -> None:
        self.process = Process(store, clock)
        values, _ = read_variables(variables or {"ADMIN_TOKEN": ADMIN, "READ_TOKEN": READER})
        nothing: Any = None  # what these routes have no business with
        self.env = Env(
            **values, records=self.process.line, telemetry=self.process, agents=self.process.agents, state=State(),
            clock=clock, crypto=nothing, checkpoints=nothing, analyst=nothing, exchanges=nothing, license=nothing,
            egress=nothing,
        )  # fmt: skip

    async def ask(self, method: str, path: str, body: Any = None, *, token: str | None = ADMIN) -> Got:
        """The answer to a request with a JSON body, or with these bytes."""
        lines = [(b"Host", b"gateway.test")]
        if token is not None:
            lines.append((b"Authorization", f"Bearer {token}".encode()))
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        stream = None if data is None else ReadableStream.from_bytes(data)
        request = Request.incoming(method, path, lines, stream)
        response = await routes.answer(self.env, request, path)
        return Got(response.status, response.headers.raw, await read_response(response))

    async def agent(self) -> str:
        """The id of a new agent, which this process knows."""
        return (await self.process.admit(key())).id
