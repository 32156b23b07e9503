"""The license gate: decides in the background whether the license counts, so that no request ever waits for it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from smoltbot_worker.events import LicenseChanged
from smoltbot_worker.ports import (
    Json,
    LicenseClaims,
    LicenseInvalid,
    LicenseReader,
    RecordStore,
    RecordsUnavailable,
    Telemetry,
)
from smoltbot_worker.records import evidence
from smoltbot_worker.records.license import Standing, license_state, put_license_state
from worker_compat.response import Response
from worker_compat.runtime import current, fetch

log = logging.getLogger("smoltbot")

TICK_S = 5.0
"""How often the time is looked at: a limit acts at most this much late."""
VALIDATE_LIMIT_S = 5.0
GRACE_S = 7 * 86_400
EXPIRES_SOON_S = 14 * 86_400
ASK_AGAIN_S = {"valid": 86_400.0, "invalid": 3_600.0, "unreachable": 60.0}
"""For how long an answer of the issuer holds, silence included."""

REFUSALS = {
    401: "license_signature_invalid",
    403: "license_revoked",
    409: "license_activation_limit",
    410: "license_expired",
}
"""The statuses by which an issuer says no. Any other one but 2xx is no answer, as if it could not be reached."""
FINAL = frozenset(("license_signature_invalid", "license_revoked"))
"""Refusals that have no grace."""

_DEFAULT_URL = "https://api.mnemom.ai/v1/license/validate"
_ANSWER_LIMIT_BYTES = 65_536
_AFTER_AN_ERROR_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LicenseSettings:
    """What the gate is told. ``instance`` names the deployment to the issuer; empty: derived from its first key."""

    token: str = field(repr=False)
    required: bool
    url: str
    version: str
    instance: str = ""
    public_key: str = ""


class LicenseGate:
    """Whether traffic may pass, as far as the license goes.

    ``allows`` is all that a request looks at. ``state`` is ``none``, ``pending`` (the issuer has not answered yet),
    ``valid``, ``grace`` or ``invalid``; ``code`` is the error and ``warning`` the warning of ``/health/ready``, empty
    when there is none. ``claims`` are those of a license that can be believed.
    """

    def __init__(
        self,
        settings: LicenseSettings,
        reader: LicenseReader | None,
        store: RecordStore,
        telemetry: Telemetry,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.claims: LicenseClaims | None = None
        self._settings = settings
        self._reader = reader
        self._store = store
        self._telemetry = telemetry
        self._time = _Forward(clock)
        self._standing = Standing()
        self._known = False
        """Whether the database has said what it knows of this license."""
        self._unsaved = False
        self._instance = settings.instance
        self._told: tuple[str, str] | None = None
        self.state, self.code, self.warning, self.allows = "none", "", "", True
        self._read()

    @classmethod
    def from_values(
        cls,
        values: Mapping[str, Any],
        reader: LicenseReader | None,
        store: RecordStore,
        telemetry: Telemetry,
        *,
        public_key: str = "",
        clock: Callable[[], float] = time.time,
    ) -> LicenseGate:
        """The gate for these variables; ``reader`` may be None without a license.

        ``public_key`` is the one that this process signs with: it names the instance until the first key of the
        deployment is in the database.
        """
        settings = LicenseSettings(
            token=values["mnemom_license_jwt"],
            required=values["license_mode"] == "required",
            url=validate_url(values["mnemom_analyze_url"]),
            version=values["gateway_version"],
            instance=values["deployment_id"],
            public_key=public_key,
        )
        return cls(settings, reader, store, telemetry, clock=clock)

    async def run(self, tick_s: float = TICK_S) -> None:
        """Keep the state up to date, until cancelled; needs a :class:`worker_compat.runtime.Runtime` in use."""
        self._tell()
        if not self._settings.token:
            await asyncio.Event().wait()
        current()
        while True:
            pause = tick_s
            try:
                await self.check()
            except Exception:
                # Whatever it was, the state that is known goes on to count.
                log.exception("the license could not be checked")
                pause = max(tick_s, _AFTER_AN_ERROR_S)
            await asyncio.sleep(pause)

    async def check(self) -> None:
        """One step: ask the issuer if that is due, and conclude from what is known; at most some seconds."""
        if self.claims is None:
            self._read()
        if self.claims is None:
            self._tell()
            return
        if not self._known or self._must_ask(self.claims):
            await self._recall(self.claims)
        if self._must_ask(self.claims):
            if self.state == "pending":
                self._conclude(self.claims)  # what an earlier run knew counts until the issuer has answered
            self._learn(await self._ask())
            self._unsaved = True
        if self._unsaved:
            await self._save(self.claims)
        self._conclude(self.claims)

    async def instance_id(self) -> str:
        """The name of this deployment, the same in each of its processes and after a restart.

        That is ``DEPLOYMENT_ID``, or a hash of the first signing key that was registered, which outlives rotations.
        """
        if self._instance:
            return self._instance
        try:
            keys = await evidence.signing_keys(self._store)
        except RecordsUnavailable:
            keys = []
        if not keys:
            return _hashed(self._settings.public_key)
        self._instance = _hashed(str(keys[0]["public_key"]))
        return self._instance

    def _read(self) -> None:
        """Take up the claims of the token; it stays invalid until they can be believed."""
        if not self._settings.token:
            if self._settings.required:
                self._set("invalid", "license_missing")
            return
        assert self._reader is not None, "a license needs a reader"
        try:
            self.claims = self._reader.read(self._settings.token)
        except LicenseInvalid as error:
            self._set("invalid", error.code)
        else:
            self._set("pending", "")

    def _must_ask(self, claims: LicenseClaims) -> bool:
        now = self._time()
        return claims.expires_at >= now and is_due(self._standing, now)

    async def _recall(self, claims: LicenseClaims) -> None:
        """Learn what the database knows: of an earlier run, or from another process that has asked meanwhile."""
        try:
            stored = await license_state(self._store, claims.license_id)
        except RecordsUnavailable:
            return
        self._known = True
        if stored is not None:
            self._time.reach(max(stored.checked_at, stored.last_valid_at or 0.0))
            if stored.status == "unreachable":
                # Another process may have no way to the issuer where this one has.
                stored = replace(stored, status="", error="", checked_at=0.0)
            self._learn(stored)

    def _learn(self, other: Standing) -> None:
        older, newer = sorted((self._standing, other), key=lambda standing: standing.checked_at)
        self._standing = after(older, newer)

    async def _save(self, claims: LicenseClaims) -> None:
        try:
            await put_license_state(self._store, claims.license_id, self._standing)
        except RecordsUnavailable:
            return
        self._unsaved = False

    async def _ask(self) -> Standing:
        """What the issuer says now."""
        body = {
            "license": self._settings.token,
            "instance_id": await self.instance_id(),
            "instance_metadata": {"gateway_version": self._settings.version},
        }
        try:
            async with asyncio.timeout(VALIDATE_LIMIT_S):
                status, answer = await _post(self._settings.url, body)
        except (OSError, ValueError) as error:
            if self._standing.status != "unreachable":
                reason = str(error) or type(error).__name__
                log.warning("the license cannot be validated: no answer from %s (%s)", self._settings.url, reason)
            return Standing("unreachable", "license_unreachable", self._time())
        return said(status, answer, self._time())

    def _conclude(self, claims: LicenseClaims) -> None:
        now = self._time()
        self._set(*judged(claims, self._standing, now))
        if self.state == "pending" and (is_recent(self._standing, now) or (claims.verified and claims.is_offline)):
            self.allows = True  # as it would be if the issuer did not answer
        self._tell()

    def _set(self, state: str, word: str) -> None:
        """``word`` is the error when ``state`` is invalid, else the warning."""
        self.state = state
        self.code, self.warning = (word, "") if state == "invalid" else ("", word)
        self.allows = not self._settings.required or state not in ("invalid", "pending")

    def _tell(self) -> None:
        now = (self.state, self.code or self.warning)
        if now != self._told:
            self._told = now
            self._telemetry.emit(LicenseChanged(*now))


def judged(claims: LicenseClaims, standing: Standing, now: float) -> tuple[str, str]:
    """State and code of a license that can be believed; the first rule that fits counts."""
    recent = is_recent(standing, now)
    soon = "license_expires_soon" if claims.expires_at - now < EXPIRES_SOON_S else ""
    if claims.expires_at < now:
        return ("grace", "license_expired_grace_period") if recent else ("invalid", "license_expired")
    if standing.status == "invalid":
        return ("grace", "license_validation_failed_grace") if recent else ("invalid", standing.error)
    if standing.status == "unreachable":
        if recent:
            return "grace", "license_validation_unreachable_grace"
        return ("valid", soon) if claims.verified and claims.is_offline else ("invalid", "license_unreachable")
    if standing.status == "valid" and not is_due(standing, now):
        return "valid", soon
    return "pending", ""


def is_due(standing: Standing, now: float) -> bool:
    """Whether the issuer is to be asked again."""
    return now - standing.checked_at >= ASK_AGAIN_S.get(standing.status, 0.0)


def is_recent(standing: Standing, now: float) -> bool:
    """Whether the license was valid less than seven days ago, and nothing has ended its grace since."""
    if standing.last_valid_at is None or (standing.status == "invalid" and standing.error in FINAL):
        return False
    return now - standing.last_valid_at < GRACE_S


def after(older: Standing, newer: Standing) -> Standing:
    """What is known once ``newer`` was learnt: the last valid time stays, and silence takes no refusal back."""
    times = [at for at in (older.last_valid_at, newer.last_valid_at) if at is not None]
    status, error = newer.status, newer.error
    if status == "unreachable" and older.status == "invalid":
        status, error = older.status, older.error
    return Standing(status, error, newer.checked_at, max(times, default=None))


def said(status: int, answer: Json, now: float) -> Standing:
    """What an issuer's status and JSON mean; ``answer`` counts only with a 2xx."""
    if status in REFUSALS:
        return Standing("invalid", REFUSALS[status], now)
    if not 200 <= status < 300 or not isinstance(answer, dict):
        return Standing("unreachable", "license_unreachable", now)
    if answer.get("valid", True) is not True:
        return Standing("invalid", "license_validation_failed", now)
    return Standing("valid", "", now, now)


def validate_url(analyze_url: str) -> str:
    """Where licenses are validated: beside ``/v1/analyze``, or at the issuer's own address."""
    base = analyze_url.removesuffix("/v1/analyze")
    return _DEFAULT_URL if base == analyze_url else f"{base}/v1/license/validate"


async def _post(url: str, body: dict[str, Any]) -> tuple[int, Json]:
    """Status and, with a 2xx, JSON of the answer; ``ValueError`` when that is none. A redirect is not followed."""
    text = json.dumps(body, separators=(",", ":"))
    response = await fetch(
        url, method="POST", headers={"content-type": "application/json"}, body=text, redirect="manual"
    )
    content = await _content(response)
    try:
        return response.status, json.loads(content) if response.ok else None
    except RecursionError:
        raise ValueError("the answer is nested too deeply") from None


async def _content(response: Response) -> bytes:
    """The body of a 2xx; any other one is given up unread."""
    data = b""
    if response.body is None:
        return data
    reader = response.body.get_reader()
    try:
        while response.ok and (chunk := await reader.read()):
            data += chunk
            if len(data) > _ANSWER_LIMIT_BYTES:
                raise ValueError("the answer is too long")
    finally:
        await reader.cancel()
    return data


def _hashed(public_key: str) -> str:
    return sha256(f"smoltbot-instance:{public_key}".encode()).hexdigest()[:32]


class _Forward:
    """A clock that never goes back: when the one below does, time stands still for that moment, and then goes on.

    So a clock that is set back neither makes an expired license valid nor its grace longer.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen = self._now = clock()

    def __call__(self) -> float:
        seen = self._clock()
        self._now = max(seen, self._now + max(0.0, seen - self._seen))
        self._seen = seen
        return self._now

    def reach(self, moment: float) -> None:
        """Be at ``moment`` at least: a time that this deployment has seen already."""
        self._now = max(self._now, moment)
