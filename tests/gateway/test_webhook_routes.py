"""The routes of webhooks: who may register what, what is answered, and what is kept."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from smoltbot_worker.api import routes
from smoltbot_worker.api.bodies import LIMIT
from smoltbot_worker.api.webhooks import EVENTS
from smoltbot_worker.env import Env
from smoltbot_worker.ports import RecordsUnavailable
from tests.unit.test_egress import OTHER_SPELLINGS, PRIVATE, PUBLIC, PUBLIC_6, bracketed
from tests.unit.webhook_support import CRYPTO, DIGEST, SECRET, Failing, Outbox, env_of, opened
from worker_compat.request import Request
from worker_compat.streams import ReadableStream
from worker_compat.testing import FakeClock, ScriptedFetcher, read_response

ADMIN, READER = "admin-token-of-a-test", "read-token-of-a-test"
PATH = "/v1/aip/webhooks"
URL = "https://hook.example/path?token=t"
REMEDY = "WEBHOOK_ALLOW_PRIVATE"


@dataclass(slots=True)
class Got:
    status: int
    body: bytes
    headers: dict[str, str]

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Api:
    """The routes over a database with one agent."""

    env: Env
    outbox: Outbox

    @property
    def agent(self) -> str:
        return self.outbox.agent

    async def ask(self, method: str, target: str, body: Any = None, token: str | None = ADMIN) -> Got:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [(b"Host", b"gateway.test")]
        if token is not None:
            lines.append((b"Authorization", f"Bearer {token}".encode()))
        stream = None if body is None else ReadableStream.from_bytes(data)
        request = Request.incoming(method, target, lines, stream)
        response = await routes.answer(self.env, request, target.partition("?")[0])
        return Got(response.status, await read_response(response), dict(response.headers.items()))

    async def register(self, path: str = PATH, token: str | None = ADMIN, **changes: Any) -> Got:
        given = {"agent_id": self.agent, "callback_url": URL, "secret": SECRET, "events": ["verdict.*"], **changes}
        return await self.ask("POST", path, {name: value for name, value in given.items() if value != ...}, token)

    async def listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.ask("GET", f"{PATH}?agent_id={self.agent}")).json()["webhooks"]
        return found


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    clock = FakeClock(1_778_400_000.0)
    async with opened(tmp_path / "records.db", clock) as store:
        outbox = await Outbox(store).begin()
        env = env_of(Failing(store), ScriptedFetcher({}), clock, ADMIN_TOKEN=ADMIN, READ_TOKEN=READER)
        yield Api(env, outbox)


@pytest.mark.parametrize("path", [PATH, "/v1/aip/register"])
async def test_a_registration(api: Api, path: str) -> None:
    got = await api.register(path, events=["verdict.*", "drift_alert", "verdict.*"])
    row = got.json()
    assert (got.status, got.headers["cache-control"]) == (201, "no-store")
    assert re.fullmatch(r"awh-[0-9a-f]{32}", row.pop("registration_id"))
    assert row == {
        "agent_id": api.agent, "callback_url": URL, "events": ["verdict.*", "drift_alert"],
        "created_at": "2026-05-10T08:00:00.000Z",
    }  # fmt: skip


async def test_registrations_are_listed_without_secrets(api: Api) -> None:
    assert await api.listed() == []
    ids = []
    for _ in range(2):
        ids.append((await api.register()).json()["registration_id"])
        assert isinstance(api.env.clock, FakeClock)
        api.env.clock.advance(1)
    for token in (ADMIN, READER):
        got = await api.ask("GET", f"{PATH}?agent_id={api.agent}", token=token)
        assert got.status == 200
        assert [row["registration_id"] for row in got.json()["webhooks"]] == ids[::-1]
        assert got.json()["webhooks"][1] == {
            "registration_id": ids[0], "agent_id": api.agent, "callback_url": URL, "events": ["verdict.*"],
            "failure_count": 0, "disabled_at": None, "created_at": "2026-05-10T08:00:00.000Z",
        }  # fmt: skip
        assert b"secret" not in got.body
        assert SECRET.encode() not in got.body


async def test_a_registration_is_deleted(api: Api) -> None:
    kept = (await api.register()).json()["registration_id"]
    gone = (await api.register()).json()["registration_id"]
    await api.outbox.tell(1, event="verdict.clear")
    assert len(await api.outbox.deliveries()) == 2
    got = await api.ask("DELETE", f"{PATH}/{gone}")
    assert (got.status, got.body) == (204, b"")
    assert [row["registration_id"] for row in await api.listed()] == [kept]
    assert [row["registration_id"] for row in await api.outbox.deliveries()] == [kept]
    for unknown in (gone, "awh-none"):
        got = await api.ask("DELETE", f"{PATH}/{unknown}")
        assert (got.status, got.json()["error"]) == (404, "Registration not found")


async def test_the_secret_is_sealed(api: Api, tmp_path: Path) -> None:
    await api.register()
    await api.register()
    await api.outbox.tell(1)
    await api.outbox.tell(1, event="verdict.clear")
    rows = await api.outbox.call("claim_webhooks", claimed_by="test", limit=10, lease_s=30)
    sealed = {row["sealed_secret"] for row in rows}
    assert len(sealed) == len(rows) == 2
    assert {await CRYPTO.open(b64decode(text)) for text in sealed} == {SECRET.encode()}
    assert SECRET.encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


async def test_who_may_do_what(api: Api) -> None:
    registered = (await api.register()).json()["registration_id"]
    for token, status in ((None, 401), ("wrong", 401), (READER, 403)):
        assert (await api.register(token=token)).status == status
        assert (await api.register("/v1/aip/register", token=token)).status == status
        assert (await api.ask("DELETE", f"{PATH}/{registered}", token=token)).status == status
    for token in (None, "wrong"):
        assert (await api.ask("GET", f"{PATH}?agent_id={api.agent}", token=token)).status == 401
    assert [row["registration_id"] for row in await api.listed()] == [registered]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"agent_id": ...}, "agent_id is missing"),
        ({"callback_url": None, "secret": ...}, "callback_url is missing; secret is missing"),
        ({"agent_id": 5}, "agent_id"),
        ({"agent_id": "a b"}, "agent_id"),
        ({"agent_id": ["a"]}, "agent_id"),
        ({"secret": "x" * 31}, "secret is not a text of 32 to 1024 characters"),
        ({"secret": "x" * 1025}, "secret"),
        ({"secret": ["x"] * 32}, "secret"),
        ({"secret": "\ud800" * 32}, "secret"),
        ({"events": []}, "events"),
        ({"events": "*"}, "events"),
        ({"events": {"*": 1}}, "events"),
        ({"events": ["verdict.fine"]}, "events"),
        ({"events": ["verdict.clear", 5]}, "events"),
        ({"events": [["*"]]}, "events"),
        ({"events": ["*"] * 101}, "events"),
        ({"callback_url": 5}, "callback_url"),
        ({"callback_url": "https://hook.example/" + "x" * 2048}, "callback_url"),
        ({"callback_url": "hook.example"}, "callback_url is not a URL"),
        ({"callback_url": "https://"}, "callback_url is not a URL"),
        ({"callback_url": "https://hook.example:70000/"}, "callback_url is not a URL"),
        ({"callback_url": "https://hook example/"}, "callback_url"),
        ({"callback_url": "https://hook.example/\n"}, "callback_url"),
        ({"callback_url": "https://h\u00f6ok.example/"}, "callback_url"),
        ({"callback_url": "ftp://hook.example/"}, "callback_url does not begin with https://"),
        ({"callback_url": "http://hook.example/"}, REMEDY),
        ({"callback_url": "file:///etc/passwd"}, "callback_url does not begin"),
        ({"callback_url": "https://user@hook.example/"}, "a user"),
        ({"callback_url": "https://:pass@hook.example/"}, "a password"),
        ({"callback_url": "https://hook.example/#part"}, "a fragment"),
        ({"callback_url": "https://hook.example/#"}, "a fragment"),
        ({"callback_url": "https://localhost/"}, REMEDY),
        ({"callback_url": "https://LOCALHOST./"}, REMEDY),
    ],
)
async def test_what_is_refused(api: Api, changes: dict[str, Any], said: str) -> None:
    got = await api.register(**changes)
    assert (got.status, got.json()["error"]) == (400, "Invalid request body")
    assert said in got.json()["message"]
    for value in (SECRET, "pass@"):
        assert value.encode() not in got.body
    assert await api.listed() == []


async def test_everything_that_is_wrong_is_said_at_once(api: Api) -> None:
    got = await api.register(callback_url="x", secret="y", events=["z"], agent_id=" ")
    assert [problem.split()[0] for problem in got.json()["message"].split("; ")] == [
        "agent_id", "callback_url", "secret", "events",
    ]  # fmt: skip


async def test_private_addresses(api: Api) -> None:
    for host in (*map(bracketed, PRIVATE), *OTHER_SPELLINGS):
        got = await api.register(callback_url=f"https://{host}:8443/")
        assert (got.status, REMEDY in got.json()["message"]) == (400, True), host
    for host in (PUBLIC, bracketed(PUBLIC_6), "hook.example", "1.example", "127.0.0.1.example"):
        assert (await api.register(callback_url=f"https://{host}/")).status == 201, host


async def test_private_addresses_where_they_are_allowed(api: Api) -> None:
    api.env.webhook_allow_private = True
    for url in ("http://127.0.0.1:8080/", "https://[::1]/", "http://localhost/", "https://10.0.0.1/"):
        assert (await api.register(callback_url=url)).status == 201
    assert (await api.register(callback_url="http://user@127.0.0.1/")).status == 400


async def test_every_known_event(api: Api) -> None:
    got = await api.register(events=list(EVENTS))
    assert (got.status, got.json()["events"]) == (201, list(EVENTS))


async def test_an_unknown_agent(api: Api) -> None:
    got = await api.register(agent_id="smolt-none")
    assert (got.status, got.json()["error"]) == (404, "Agent not found")
    got = await api.ask("GET", f"{PATH}?agent_id=smolt-none")
    assert (got.status, got.json()) == (200, {"webhooks": []})


@pytest.mark.parametrize("query", ["", "?agent_id=", "?agent_id=a&agent_id=b", "?agent=a", "?agent_id=a%20b"])
async def test_a_listing_names_one_agent(api: Api, query: str) -> None:
    got = await api.ask("GET", PATH + query)
    assert (got.status, got.json()["error"]) == (400, "Invalid query")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"5", b"null", b"\xff", b"{} {}", b'{"agent_id":1,"agent_id":2}', b'{"x":NaN}', b"[" * 9999,
        b'{"x":' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
async def test_a_body_that_is_no_registration(api: Api, body: bytes) -> None:
    got = await api.ask("POST", PATH, body)
    assert (got.status, got.json()["error"]) == (400, "Invalid request body")


async def test_a_body_of_another_size(api: Api) -> None:
    assert (await api.register(secret="x" * 1024)).status == 201
    fitting = json.dumps({"agent_id": api.agent, "callback_url": URL, "secret": SECRET, "events": ["*"]}).encode()
    assert (await api.ask("POST", PATH, fitting.ljust(LIMIT))).status == 201
    got = await api.ask("POST", PATH, fitting.ljust(LIMIT + 1))
    assert (got.status, got.json()["error"]) == (413, "Request body too large")


async def test_a_database_that_is_away(api: Api) -> None:
    registered = (await api.register()).json()["registration_id"]
    assert isinstance(api.env.records, Failing)
    api.env.records.away = {"register_webhook", "webhooks", "webhook_registration"}
    for got in (
        await api.register(),
        await api.ask("GET", f"{PATH}?agent_id={api.agent}"),
        await api.ask("DELETE", f"{PATH}/{registered}"),
    ):
        assert (got.status, got.headers["retry-after"]) == (503, "2")
    with pytest.raises(RecordsUnavailable):
        await api.env.records.call("webhooks", {})


async def test_only_the_agent_s_own(api: Api) -> None:
    other = await Outbox(api.outbox.store).begin(DIGEST[::-1])
    registered = (await api.register(agent_id=other.agent)).json()["registration_id"]
    assert await api.listed() == []
    assert [row["registration_id"] for row in await other.call("webhooks", agent_id=other.agent)] == [registered]
