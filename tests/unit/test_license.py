"""The license gate: its rules one by one, its memory, and that nobody ever waits for it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smoltbot_worker.admission.license import GRACE_S, LicenseGate, judged, said, validate_url
from smoltbot_worker.ports import Json, LicenseClaims, RecordStore, RecordsUnavailable
from smoltbot_worker.records.license import Standing, license_state, put_license_state
from worker_compat.errors import ConfigError, ConnectFailed
from worker_compat.registry import open_fetcher
from worker_compat.response import Response
from worker_compat.runtime import Runtime
from worker_compat.testing import FakeClock, ScriptedFetcher
from worker_compat.testing.fakes import Answer

from .license_support import DAY, NOW, VALIDATE, Issuer, Noted, database, gate_for, hs256

ISSUER = Issuer()
HOUR, MINUTE = 3600.0, 60.0
EXPIRED_GRACE = "license_expired_grace_period"
FAILED_GRACE = "license_validation_failed_grace"
UNREACHABLE_GRACE = "license_validation_unreachable_grace"
UNREACHABLE, REVOKED = "license_unreachable", "license_revoked"
LIMIT, FORGED = "license_activation_limit", "license_signature_invalid"
DOWN = ConnectFailed("refused")

CLAIMS = LicenseClaims("lic-1", NOW + 365 * DAY, is_offline=False, verified=True)
OFFLINE = replace(CLAIMS, is_offline=True)
EXPIRED = replace(CLAIMS, expires_at=NOW - 1)


def good() -> Response:
    return Response.from_json({"valid": True, "license_id": "lic-1"})


class World:
    """An issuer that gives these answers in turn, and then the last one for ever."""

    def __init__(self, *answers: Answer, url: str = VALIDATE) -> None:
        self.answers = list(answers)
        self.fetcher = ScriptedFetcher({f"POST {url}": self._next})

    def _next(self, request: object) -> Response:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, Response)
        return answer.clone()

    @property
    def asked(self) -> int:
        return len(self.fetcher.requests)

    @contextmanager
    def use(self) -> Iterator[None]:
        with Runtime(self.fetcher).use():
            yield


class Outage:
    """A database that is away while ``down``, and remembers what it was asked."""

    def __init__(self, store: RecordStore) -> None:
        self.store, self.down = store, False
        self.calls: list[str] = []

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        self.calls.append(function)
        if self.down:
            raise RecordsUnavailable("away")
        return await self.store.call(function, arguments)


def standing(status: str, error: str = "", ago: float = 0.0, valid_ago: float | None = None) -> Standing:
    return Standing(status, error, NOW - ago, None if valid_ago is None else NOW - valid_ago)


@pytest.mark.parametrize(
    ("claims", "known", "expected"),
    [
        (EXPIRED, standing(""), ("invalid", "license_expired")),
        (EXPIRED, standing("valid", valid_ago=GRACE_S - 1), ("grace", EXPIRED_GRACE)),
        (EXPIRED, standing("valid", valid_ago=GRACE_S), ("invalid", "license_expired")),
        (EXPIRED, standing("unreachable", valid_ago=1), ("grace", EXPIRED_GRACE)),
        (EXPIRED, standing("invalid", "license_expired", valid_ago=1), ("grace", EXPIRED_GRACE)),
        (EXPIRED, standing("invalid", REVOKED, valid_ago=1), ("invalid", "license_expired")),
        (replace(OFFLINE, expires_at=NOW - 1), standing("unreachable"), ("invalid", "license_expired")),
        (replace(CLAIMS, expires_at=NOW), standing("valid"), ("valid", "license_expires_soon")),
        (CLAIMS, standing(""), ("pending", "")),
        (CLAIMS, standing("", valid_ago=1), ("pending", "")),
        (CLAIMS, standing("valid", ago=DAY - 1), ("valid", "")),
        (CLAIMS, standing("valid", ago=DAY), ("pending", "")),
        (replace(CLAIMS, expires_at=NOW + 14 * DAY), standing("valid"), ("valid", "")),
        (replace(CLAIMS, expires_at=NOW + 14 * DAY - 1), standing("valid"), ("valid", "license_expires_soon")),
        (CLAIMS, standing("invalid", LIMIT), ("invalid", LIMIT)),
        (CLAIMS, standing("invalid", LIMIT, valid_ago=1), ("grace", FAILED_GRACE)),
        (CLAIMS, standing("invalid", LIMIT, valid_ago=GRACE_S), ("invalid", LIMIT)),
        (CLAIMS, standing("invalid", "license_expired", valid_ago=GRACE_S - 1), ("grace", FAILED_GRACE)),
        (CLAIMS, standing("invalid", REVOKED, valid_ago=1), ("invalid", REVOKED)),
        (CLAIMS, standing("invalid", FORGED, valid_ago=1), ("invalid", FORGED)),
        (OFFLINE, standing("invalid", REVOKED), ("invalid", REVOKED)),
        (CLAIMS, standing("unreachable"), ("invalid", UNREACHABLE)),
        (CLAIMS, standing("unreachable", valid_ago=GRACE_S - 1), ("grace", UNREACHABLE_GRACE)),
        (CLAIMS, standing("unreachable", valid_ago=GRACE_S), ("invalid", UNREACHABLE)),
        (OFFLINE, standing("unreachable"), ("valid", "")),
        (OFFLINE, standing("unreachable", valid_ago=1), ("grace", UNREACHABLE_GRACE)),
        (replace(OFFLINE, verified=False), standing("unreachable"), ("invalid", UNREACHABLE)),
        (replace(OFFLINE, verified=False), standing(""), ("pending", "")),
        (replace(CLAIMS, verified=False), standing("valid"), ("valid", "")),
        (replace(CLAIMS, verified=False), standing("unreachable", valid_ago=1), ("grace", UNREACHABLE_GRACE)),
    ],
)  # fmt: skip
def test_the_rules(claims: LicenseClaims, known: Standing, expected: tuple[str, str]) -> None:
    assert judged(claims, known, NOW) == expected


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (200, {"valid": True}, ("valid", "")),
        (200, {}, ("valid", "")),
        (204, {}, ("valid", "")),
        (200, {"valid": False}, ("invalid", "license_validation_failed")),
        (200, {"valid": "yes"}, ("invalid", "license_validation_failed")),
        (200, None, ("unreachable", "license_unreachable")),
        (200, [], ("unreachable", "license_unreachable")),
        (401, None, ("invalid", "license_signature_invalid")),
        (403, None, ("invalid", "license_revoked")),
        (409, None, ("invalid", "license_activation_limit")),
        (410, None, ("invalid", "license_expired")),
        *[(status, None, ("unreachable", UNREACHABLE)) for status in (301, 307, 400, 402, 404, 408, 418, 429)],
        *[(status, {"valid": True}, ("unreachable", UNREACHABLE)) for status in (302, 429, 500, 502, 503, 599)],
    ],
)  # fmt: skip
def test_what_an_answer_means(status: int, answer: Json, expected: tuple[str, str]) -> None:
    found = said(status, answer, NOW)
    assert (found.status, found.error, found.checked_at) == (*expected, NOW)
    assert found.last_valid_at == (NOW if expected[0] == "valid" else None)


def test_where_licenses_are_validated() -> None:
    assert validate_url("") == VALIDATE
    assert validate_url("https://hub.example/base/v1/analyze") == "https://hub.example/base/v1/license/validate"
    assert validate_url("https://hub.example/judge") == VALIDATE


class TestOneGate:
    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock(NOW)

    async def test_no_license_is_no_licensed_deployment(self, tmp_path: Path, clock: FakeClock) -> None:
        async with database(tmp_path, clock) as store:
            noted, world = Noted(), World(good())
            gate = gate_for("", store, clock, noted, LICENSE_MODE="optional")
            assert (gate.state, gate.allows, gate.code, gate.warning) == ("none", True, "", "")
            with world.use():
                running = asyncio.create_task(gate.run(0.001))
                await asyncio.sleep(0.02)
                running.cancel()
            assert (noted.told, world.asked) == ([("none", "")], 0)

    async def test_what_is_asked(self, tmp_path: Path, clock: FakeClock) -> None:
        world = World(good(), url="http://hub.example/v1/license/validate")
        token = ISSUER.license()
        async with database(tmp_path, clock) as store:
            gate = gate_for(
                token, store, clock, key=ISSUER.hex, MNEMOM_ANALYZE_URL="http://hub.example/v1/analyze",
                GATEWAY_VERSION="9.9", DEPLOYMENT_ID="plant-7",
            )  # fmt: skip
            with world.use():
                await gate.check()
        [request] = world.fetcher.requests
        assert json.loads(request.body) == {
            "license": token, "instance_id": "plant-7", "instance_metadata": {"gateway_version": "9.9"},
        }  # fmt: skip
        assert request.headers.get("content-type") == "application/json"

    async def test_the_first_answer_decides(self, tmp_path: Path, clock: FakeClock) -> None:
        async with database(tmp_path, clock) as store:
            noted = Noted()
            gate = gate_for(ISSUER.license(), store, clock, noted, key=ISSUER.hex)
            assert (gate.state, gate.allows) == ("pending", False)  # nobody has said yes yet
            with World(good()).use():
                await gate.check()
            assert (gate.state, gate.allows, gate.code, gate.warning) == ("valid", True, "", "")
            assert noted.told == [("pending", ""), ("valid", "")]
            row = await license_state(store, "lic-1")
            assert row == Standing("valid", "", NOW, NOW)

    async def test_an_optional_license_never_stops_traffic(self, tmp_path: Path, clock: FakeClock) -> None:
        async with database(tmp_path, clock) as store:
            for token, key in (
                (ISSUER.license(), ISSUER.hex),
                ("forged", ISSUER.hex),
                (ISSUER.license(exp=1), ISSUER.hex),
            ):
                gate = gate_for(token, store, clock, key=key, LICENSE_MODE="optional")
                assert gate.allows
                with World(Response(b"", 403)).use():
                    await gate.check()
                assert (gate.state, gate.allows) == ("invalid", True)
                assert gate.code in ("license_revoked", "license_parse_error", "license_expired")

    @pytest.mark.parametrize(
        ("answer", "code"),
        [
            (Response(b"", 401), "license_signature_invalid"),
            (Response(b"", 403), "license_revoked"),
            (Response(b"{}", 409), "license_activation_limit"),
            (Response(b"", 410), "license_expired"),
            (Response.from_json({"valid": False}), "license_validation_failed"),
            (Response(b"", 500), "license_unreachable"),
            (Response(b"", 429), "license_unreachable"),
            (Response(b"<html>please log in</html>"), "license_unreachable"),
            (Response(b"[" * 60_000), "license_unreachable"),
            (Response(b'{"valid":true,"x":"' + b"x" * 70_000 + b'"}'), "license_unreachable"),
            (DOWN, "license_unreachable"),
            (TimeoutError(), "license_unreachable"),
        ],
    )
    async def test_each_error_has_its_code(self, tmp_path: Path, clock: FakeClock, answer: Answer, code: str) -> None:
        async with database(tmp_path, clock) as store:
            gate = gate_for(ISSUER.license(), store, clock, key=ISSUER.hex)
            with World(answer).use():
                await gate.check()
            assert (gate.state, gate.allows, gate.code, gate.warning) == ("invalid", False, code, "")

    async def test_a_redirect_is_not_followed(self, tmp_path: Path, clock: FakeClock) -> None:
        # The license would go to whoever answers there.
        async with database(tmp_path, clock) as store:
            gate = gate_for(ISSUER.license(), store, clock, key=ISSUER.hex)
            world = World(Response(b"", 307, headers={"location": "https://elsewhere.example/"}))
            with world.use():
                await gate.check()
            assert (gate.code, world.asked) == ("license_unreachable", 1)

    @pytest.mark.parametrize(
        ("token", "code"),
        [
            ("x", "license_parse_error"),
            (Issuer(9).license(is_offline=True), "license_signature_invalid"),
            (hs256(ISSUER.public, is_offline=True), "license_signature_invalid"),
        ],
    )
    async def test_what_cannot_be_believed_is_shown_to_nobody(
        self, tmp_path: Path, clock: FakeClock, token: str, code: str
    ) -> None:
        async with database(tmp_path, clock) as store:
            world, noted = World(good()), Noted()
            gate = gate_for(token, store, clock, noted, key=ISSUER.hex)
            assert (gate.state, gate.allows, gate.code) == ("invalid", False, code)
            with world.use():
                for _ in range(3):
                    await gate.check()
                    clock.advance(DAY)
            assert (world.asked, noted.told, gate.claims) == (0, [("invalid", code)], None)

    async def test_a_license_whose_time_comes(self, tmp_path: Path, clock: FakeClock) -> None:
        async with database(tmp_path, clock) as store:
            gate = gate_for(ISSUER.license(nbf=NOW + HOUR), store, clock, key=ISSUER.hex)
            with World(good()).use():
                await gate.check()
                assert gate.code == "license_parse_error"
                clock.advance(HOUR)
                await gate.check()
                assert gate.allows
                # Once believed it stays so: an issuer's clock that is ahead is no reason to lose it.
                clock.advance(-2 * HOUR)
                await gate.check()
                assert gate.allows

    async def test_a_managed_license_counts_by_its_issuer_alone(self, tmp_path: Path, clock: FakeClock) -> None:
        async with database(tmp_path, clock) as store:
            gate = gate_for(hs256(b"s" * 32, is_offline=True), store, clock)
            with World(DOWN, DOWN, good()).use():
                await gate.check()
                assert (gate.state, gate.code) == ("invalid", "license_unreachable")
                clock.advance(MINUTE)
                await gate.check()
                assert not gate.allows
                clock.advance(MINUTE)
                await gate.check()
                assert gate.state == "valid"

    async def test_how_long_an_answer_holds(self, tmp_path: Path, clock: FakeClock) -> None:
        async with database(tmp_path, clock) as store:
            world = World(good(), DOWN, Response(b"", 409), good())
            gate = gate_for(ISSUER.license(), store, clock, key=ISSUER.hex)
            seen = []
            with world.use():
                for wait in (0, DAY - 1, 1, MINUTE - 1, 1, HOUR - 1, 1, DAY - 1):
                    clock.advance(wait)
                    await gate.check()
                    seen.append((gate.state, gate.warning, world.asked))
            assert seen == [
                ("valid", "", 1),
                ("valid", "", 1),
                ("grace", UNREACHABLE_GRACE, 2),
                ("grace", UNREACHABLE_GRACE, 2),
                ("grace", FAILED_GRACE, 3),
                ("grace", FAILED_GRACE, 3),
                ("valid", "", 4),
                ("valid", "", 4),
            ]

    async def test_the_end_of_the_grace(self, tmp_path: Path, clock: FakeClock) -> None:
        async with database(tmp_path, clock) as store:
            noted = Noted()
            gate = gate_for(ISSUER.license(), store, clock, noted, key=ISSUER.hex)
            with World(good(), DOWN).use():
                await gate.check()
                clock.advance(GRACE_S - 1)
                await gate.check()
                assert (gate.state, gate.allows, gate.warning) == ("grace", True, UNREACHABLE_GRACE)
                clock.advance(2)
                await gate.check()
                assert (gate.state, gate.allows, gate.code) == ("invalid", False, "license_unreachable")
            assert noted.told == [
                ("pending", ""), ("valid", ""), ("grace", UNREACHABLE_GRACE), ("invalid", "license_unreachable"),
            ]  # fmt: skip

    async def test_expiry(self, tmp_path: Path, clock: FakeClock) -> None:
        async with database(tmp_path, clock) as store:
            world = World(good())
            gate = gate_for(ISSUER.license(exp=NOW + HOUR), store, clock, key=ISSUER.hex)
            seen = []
            with world.use():
                for wait in (0, HOUR, 1, GRACE_S - HOUR - 2, 1, DAY):
                    clock.advance(wait)
                    await gate.check()
                    seen.append((gate.state, gate.code or gate.warning, gate.allows))
            assert seen == [
                ("valid", "license_expires_soon", True),
                ("valid", "license_expires_soon", True),
                ("grace", EXPIRED_GRACE, True),
                ("grace", EXPIRED_GRACE, True),
                ("invalid", "license_expired", False),
                ("invalid", "license_expired", False),
            ]
            assert world.asked == 1

    async def test_an_offline_license_needs_nobody(self, tmp_path: Path, clock: FakeClock) -> None:
        async with database(tmp_path, clock) as store:
            gate = gate_for(ISSUER.license(is_offline=True, exp=NOW + 30 * DAY), store, clock, key=ISSUER.hex)
            with World(DOWN).use():
                for _ in range(16):
                    await gate.check()
                    assert (gate.state, gate.allows, gate.warning) == ("valid", True, "")
                    clock.advance(DAY)
                clock.advance(1)
                await gate.check()
                assert (gate.state, gate.warning) == ("valid", "license_expires_soon")
                clock.advance(14 * DAY)
                await gate.check()
                assert (gate.state, gate.code) == ("invalid", "license_expired")

    @pytest.mark.parametrize("status", [401, 403])
    async def test_silence_takes_no_refusal_back(self, tmp_path: Path, clock: FakeClock, status: int) -> None:
        # Who is refused and then blocks the way to the issuer must not be better off.
        async with database(tmp_path, clock) as store:
            token = ISSUER.license(is_offline=True)
            gate = gate_for(token, store, clock, key=ISSUER.hex)
            with World(good(), Response(b"", status), DOWN).use():
                await gate.check()
                clock.advance(DAY)
                for _ in range(5):
                    await gate.check()
                    assert (gate.state, gate.allows) == ("invalid", False)
                    clock.advance(HOUR)
                again = gate_for(token, store, clock, key=ISSUER.hex)
                for _ in range(3):
                    await again.check()
                    assert (again.state, again.allows) == ("invalid", False)
                    clock.advance(HOUR)


class TestMemory:
    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock(NOW)

    async def test_a_restart_remembers_the_answer(self, tmp_path: Path, clock: FakeClock) -> None:
        world = World(good())
        for _ in range(3):
            async with database(tmp_path, clock) as store:
                gate = gate_for(ISSUER.license(), store, clock, key=ISSUER.hex)
                with world.use():
                    await gate.check()
                assert gate.state == "valid"
            clock.advance(7 * HOUR)
        assert world.asked == 1

    async def test_a_restart_remembers_the_grace(self, tmp_path: Path, clock: FakeClock) -> None:
        token = ISSUER.license()
        async with database(tmp_path, clock) as store:
            with World(good()).use():
                await gate_for(token, store, clock, key=ISSUER.hex).check()
        for wait, allows in ((GRACE_S - 1, True), (1, False)):
            clock.advance(wait)
            async with database(tmp_path, clock) as store:
                gate = gate_for(token, store, clock, key=ISSUER.hex)
                with World(DOWN).use():
                    await gate.check()
                assert gate.allows is allows

    async def test_what_an_earlier_run_knew_counts_until_the_answer(self, tmp_path: Path, clock: FakeClock) -> None:
        token = ISSUER.license()
        async with database(tmp_path, clock) as store:
            with World(good()).use():
                await gate_for(token, store, clock, key=ISSUER.hex).check()
            clock.advance(2 * DAY)
            gate, answer = gate_for(token, store, clock, key=ISSUER.hex), asyncio.Event()

            async def slow(request: object) -> Response:
                await answer.wait()
                return good()

            with Runtime(ScriptedFetcher({f"POST {VALIDATE}": slow})).use():
                checking = asyncio.create_task(gate.check())
                async with asyncio.timeout(5):
                    while not gate.allows:
                        await asyncio.sleep(0.005)
                assert (gate.state, gate.code, gate.warning) == ("pending", "", "")
                answer.set()
                await checking
            assert gate.state == "valid"

    @pytest.mark.parametrize(
        ("token", "key", "allows"),
        [
            (ISSUER.license(), ISSUER.hex, False),
            (ISSUER.license(is_offline=True), ISSUER.hex, True),
            (hs256(b"s" * 32, is_offline=True), "", False),
        ],
        ids=["online", "offline", "managed"],
    )
    async def test_what_may_pass_until_the_first_answer(
        self, tmp_path: Path, clock: FakeClock, token: str, key: str, allows: bool
    ) -> None:
        async with database(tmp_path, clock) as store:
            gate = gate_for(token, store, clock, key=key)
            asked, answer = asyncio.Event(), asyncio.Event()

            async def slow(request: object) -> Response:
                asked.set()
                await answer.wait()
                return good()

            with Runtime(ScriptedFetcher({f"POST {VALIDATE}": slow})).use():
                checking = asyncio.create_task(gate.check())
                await asyncio.wait_for(asked.wait(), 5)
                assert (gate.state, gate.allows) == ("pending", allows)
                answer.set()
                await checking
            assert (gate.state, gate.allows) == ("valid", True)

    async def test_processes_share_what_they_hear(self, tmp_path: Path, clock: FakeClock) -> None:
        async with database(tmp_path, clock) as store:
            world = World(good(), good(), Response(b"", 403))
            one, two = (gate_for(ISSUER.license(), store, clock, key=ISSUER.hex) for _ in range(2))
            with world.use():
                for asked, state in ((1, "valid"), (2, "valid"), (3, "invalid")):
                    for gate in (one, two):
                        await gate.check()
                        assert (gate.state, world.asked) == (state, asked)
                    clock.advance(DAY)

    async def test_another_process_without_a_way_to_the_issuer_says_nothing(
        self, tmp_path: Path, clock: FakeClock
    ) -> None:
        async with database(tmp_path, clock) as store:
            one, two = (gate_for(ISSUER.license(), store, clock, key=ISSUER.hex) for _ in range(2))
            with World(DOWN).use():
                await one.check()
            with World(good()).use():
                await two.check()
            assert (one.state, two.state) == ("invalid", "valid")
            with World(DOWN).use():
                clock.advance(MINUTE)
                await one.check()
            assert one.state == "valid"

    async def test_while_the_database_is_away(self, tmp_path: Path, clock: FakeClock) -> None:
        token = ISSUER.license()
        async with database(tmp_path, clock) as store:
            with World(good()).use():
                await gate_for(token, store, clock, key=ISSUER.hex).check()
            clock.advance(2 * DAY)
            outage = Outage(store)
            outage.down = True
            gate = gate_for(token, outage, clock, key=ISSUER.hex)
            with World(DOWN, good(), DOWN).use():
                await gate.check()
                assert (gate.state, gate.code) == ("invalid", "license_unreachable")
                outage.down = False
                await gate.check()  # nobody is asked again yet, but now the grace is known
                assert (gate.state, gate.warning) == ("grace", UNREACHABLE_GRACE)
                outage.down = True
                clock.advance(MINUTE)
                await gate.check()
                assert gate.state == "valid"
                outage.down = False
                clock.advance(5)
                await gate.check()  # what could not be stored is stored now
                row = await license_state(store, "lic-1")
                assert row is not None
                assert (row.status, row.last_valid_at) == ("valid", NOW + 2 * DAY + MINUTE)

    @pytest.mark.parametrize("exp", [NOW + 365 * DAY, NOW - 1], ids=["in force", "expired"])
    async def test_between_the_answers_nobody_is_asked(self, tmp_path: Path, clock: FakeClock, exp: float) -> None:
        async with database(tmp_path, clock) as store:
            await store.call("use_signing_key", {"key_id": "key-001", "public_key": "ab" * 32})
            outage, world = Outage(store), World(good())
            gate = gate_for(ISSUER.license(exp=exp), outage, clock, key=ISSUER.hex)
            with world.use():
                await gate.check()
                first = list(outage.calls)
                for _ in range(100):
                    clock.advance(5)
                    await gate.check()
            assert outage.calls == first
            once = ["license_state", "signing_keys", "put_license_state"]
            assert (first, world.asked) == ((once, 1) if exp > NOW else (["license_state"], 0))

    async def test_licenses_are_kept_apart(self, tmp_path: Path, clock: FakeClock) -> None:
        async with database(tmp_path, clock) as store:
            with World(good()).use():
                await gate_for(ISSUER.license(license_id="one"), store, clock, key=ISSUER.hex).check()
            gate = gate_for(ISSUER.license(license_id="two"), store, clock, key=ISSUER.hex)
            with World(DOWN).use():
                await gate.check()
            assert gate.state == "invalid"


class TestClock:
    """A clock that is set back neither lengthens anything nor takes anything away."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock(NOW)

    @pytest.mark.parametrize("back", [HOUR, 30 * DAY, 365 * DAY])
    async def test_an_expired_license_stays_expired(self, tmp_path: Path, clock: FakeClock, back: float) -> None:
        async with database(tmp_path, clock) as store:
            token = ISSUER.license(exp=NOW + HOUR, is_offline=True)
            gate = gate_for(token, store, clock, key=ISSUER.hex)
            with World(DOWN).use():
                await gate.check()
                assert gate.state == "valid"
                clock.advance(HOUR + 1)
                await gate.check()
                assert gate.code == "license_expired"
                clock.advance(-back)
                await gate.check()
                assert gate.code == "license_expired"

    async def test_a_restart_does_not_forget_how_late_it_was(self, tmp_path: Path, clock: FakeClock) -> None:
        async with database(tmp_path, clock) as store:
            token = ISSUER.license(exp=NOW + HOUR, is_offline=True)
            with World(DOWN).use():
                gate = gate_for(token, store, clock, key=ISSUER.hex)
                for _ in range(60):
                    await gate.check()
                    clock.advance(MINUTE)
                clock.advance(-30 * DAY)
                gate = gate_for(token, store, clock, key=ISSUER.hex)
                await gate.check()
                assert gate.state == "valid"  # the minute that was left
                clock.advance(MINUTE + 1)
                await gate.check()
                assert gate.code == "license_expired"

    @pytest.mark.parametrize("restart", [False, True])
    async def test_the_grace_is_neither_longer_nor_lost(self, tmp_path: Path, clock: FakeClock, restart: bool) -> None:
        async with database(tmp_path, clock) as store:
            gate = gate_for(ISSUER.license(), store, clock, key=ISSUER.hex)
            with World(good(), DOWN).use():
                await gate.check()
                clock.advance(DAY)
                await gate.check()
                clock.advance(-30 * DAY)
                if restart:
                    gate = gate_for(ISSUER.license(), store, clock, key=ISSUER.hex)
                await gate.check()
                assert (gate.state, gate.allows) == ("grace", True)
                clock.advance(GRACE_S - DAY - 1)
                await gate.check()
                assert gate.allows
                clock.advance(2)
                await gate.check()
                assert (gate.state, gate.code) == ("invalid", "license_unreachable")

    async def test_the_issuer_is_still_asked(self, tmp_path: Path, clock: FakeClock) -> None:
        async with database(tmp_path, clock) as store:
            world = World(good())
            gate = gate_for(ISSUER.license(), store, clock, key=ISSUER.hex)
            with world.use():
                await gate.check()
                clock.advance(-30 * DAY)
                await gate.check()
                clock.advance(DAY)
                await gate.check()
            assert world.asked == 2


class TestInstance:
    async def test_its_name_outlives_a_rotation_and_a_restart(self, tmp_path: Path) -> None:
        clock = FakeClock(NOW)
        async with database(tmp_path, clock) as store:
            first = gate_for(ISSUER.license(), store, clock)
            before = await first.instance_id()
            await store.call("use_signing_key", {"key_id": "key-001", "public_key": "ab" * 32})
            assert await first.instance_id() == before
            await store.call("rotate_signing_key", {"key_id": "key-002", "public_key": "cd" * 32})
            assert await gate_for(ISSUER.license(), store, clock).instance_id() == before
            assert len(before) == 32
        async with database(tmp_path, clock) as store:
            outage = Outage(store)
            gate = gate_for(ISSUER.license(), outage, clock)
            assert await gate.instance_id() == before
            outage.down = True
            assert await gate.instance_id() == before

    async def test_two_deployments_have_two(self, tmp_path: Path) -> None:
        clock, names = FakeClock(NOW), set()
        for key in ("ab", "cd"):
            (tmp_path / key).mkdir()
            async with database(tmp_path / key, clock) as store:
                await store.call("use_signing_key", {"key_id": "key-001", "public_key": key * 32})
                names.add(await gate_for(ISSUER.license(), store, clock).instance_id())
        assert len(names) == 2

    async def test_a_name_that_was_given(self, tmp_path: Path) -> None:
        clock = FakeClock(NOW)
        async with database(tmp_path, clock) as store:
            assert await gate_for("", store, clock, LICENSE_MODE="optional", DEPLOYMENT_ID="x-1").instance_id() == "x-1"


class TestRun:
    async def test_an_issuer_that_never_answers_holds_nobody_up(self, tmp_path: Path) -> None:
        clock, heard = FakeClock(NOW), 0
        leave = asyncio.Event()

        async def black_hole(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal heard
            heard += 1
            await leave.wait()
            writer.close()

        server = await asyncio.start_server(black_hole, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, database(tmp_path, clock) as store, open_fetcher() as fetcher:
            with World(good()).use():
                earlier = gate_for(ISSUER.license(), store, clock, key=ISSUER.hex)
                await earlier.check()
            clock.advance(2 * DAY)
            gate = gate_for(
                ISSUER.license(), store, clock, key=ISSUER.hex,
                MNEMOM_ANALYZE_URL=f"http://127.0.0.1:{port}/v1/analyze",
            )  # fmt: skip
            with Runtime(fetcher).use():
                running = asyncio.create_task(gate.run(0.01))
            await _until(lambda: heard == 1)

            async def pass_by() -> tuple[bool, float]:
                started = time.perf_counter()
                return gate.allows, time.perf_counter() - started

            found = await asyncio.gather(*(pass_by() for _ in range(50)))
            assert all(allows for allows, _ in found)
            assert sum(took for _, took in found) < 0.05
            assert heard == 1  # one flight, whoever looks
            await _until(lambda: gate.state == "grace", 15)  # 5 s: the limit of one call
            assert (gate.allows, gate.warning) == (True, UNREACHABLE_GRACE)
            clock.advance(MINUTE)
            await _until(lambda: heard == 2)  # and it is tried again
            running.cancel()
            leave.set()

    async def test_it_survives_whatever_happens(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        clock = FakeClock(NOW)
        async with database(tmp_path, clock) as store:
            gate = gate_for(ISSUER.license(), store, clock, key=ISSUER.hex)
            with World(ZeroDivisionError("a defect")).use():
                running = asyncio.create_task(gate.run(0.001))
                await _until(lambda: "the license could not be checked" in caplog.text)
                assert not running.done()
                running.cancel()
            assert (gate.state, gate.allows) == ("pending", False)

    async def test_it_needs_a_runtime(self, tmp_path: Path) -> None:
        clock = FakeClock(NOW)
        async with database(tmp_path, clock) as store:
            with pytest.raises(ConfigError, match="no runtime here"):
                await gate_for(ISSUER.license(), store, clock, key=ISSUER.hex).run()

    async def test_the_reason_is_logged_once_and_the_token_never(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        clock, token = FakeClock(NOW), ISSUER.license()
        async with database(tmp_path, clock) as store:
            gate = gate_for(token, store, clock, key=ISSUER.hex)
            with World(DOWN, DOWN, good(), TimeoutError(), DOWN).use():
                for wait in (0, MINUTE, MINUTE, DAY, MINUTE, MINUTE):
                    clock.advance(wait)
                    await gate.check()
        told = f"the license cannot be validated: no answer from {VALIDATE}"
        assert caplog.messages == [f"{told} (refused)", f"{told} (TimeoutError)"]
        assert token not in repr(gate._settings)


async def test_a_required_license_that_is_not_there(tmp_path: Path) -> None:
    clock = FakeClock(NOW)
    async with database(tmp_path, clock) as store:
        values: dict[str, Any] = {
            "mnemom_license_jwt": "", "license_mode": "required", "mnemom_analyze_url": "", "gateway_version": "1",
            "deployment_id": "",
        }  # fmt: skip
        gate = LicenseGate.from_values(values, None, store, Noted(), clock=clock)
        assert (gate.state, gate.allows, gate.code) == ("invalid", False, "license_missing")


async def test_the_row_is_read_as_it_was_written(tmp_path: Path) -> None:
    clock = FakeClock(NOW)
    async with database(tmp_path, clock) as store:
        assert await license_state(store, "lic-1") is None
        for known in (Standing("valid", "", NOW + 0.5, NOW), Standing("invalid", "license_revoked", NOW + 1, NOW)):
            await put_license_state(store, "lic-1", known)
            assert await license_state(store, "lic-1") == known
        await put_license_state(store, "other", Standing("unreachable", "license_unreachable", NOW))
        assert await license_state(store, "other") == Standing("unreachable", "license_unreachable", NOW)


async def _until(condition: Any, limit_s: float = 5.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.005)
