"""``worker-compat check``: the conformance kits against a live store, and a report of every rule."""

from __future__ import annotations

import asyncio
import json
import secrets
import traceback as traces
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import click

from worker_compat import registry
from worker_compat.errors import AdapterNotFound
from worker_compat.ports import Clock, KVCompareAndPut, KVStore, QueueStore
from worker_compat.testing.kit import Outcome, run

_PAGE = 1000


def check(url: str, group: str | None, *, as_json: bool, traceback: bool) -> int:
    """Judge the store at ``url`` as what it is registered for; 1 when a rule is broken.

    ``StoreUnavailable`` when it cannot be reached at all.
    """
    reports = asyncio.run(_judge(url, [group] if group else _groups(url)))
    click.echo(_json(reports) if as_json else _text(reports, traceback=traceback))
    return 0 if all(outcome.passed for outcomes in reports.values() for outcome in outcomes) else 1


def _groups(url: str) -> Sequence[str]:
    """The groups in which the URL's scheme is registered."""
    found = []
    problem: AdapterNotFound | None = None
    for short, group in (("kv", registry.KV), ("queue", registry.QUEUE)):
        try:
            registry.check(group, url)
            found.append(short)
        except AdapterNotFound as error:
            problem = problem or error
    if not found and problem is not None:
        raise problem
    return found


async def _judge(url: str, groups: Sequence[str]) -> Mapping[str, Sequence[Outcome]]:
    reports: dict[str, Sequence[Outcome]] = {}
    for group in groups:
        reports |= await (_judge_kv(url) if group == "kv" else _judge_queue(url))
    return reports


async def _judge_kv(url: str) -> Mapping[str, Sequence[Outcome]]:
    from worker_compat.testing.kv import KVCompareAndPutConformance, KVStoreConformance, kv_subjects

    place = registry.with_option(url, "namespace", _random_name())

    @asynccontextmanager
    async def open_store(clock: Clock) -> AsyncIterator[KVStore]:
        async with registry.open_kv(place, clock=clock) as store:
            yield store
            await _empty(store)

    async with registry.open_kv(place) as store:
        await store.get("reachable")  # an outage is one sentence, not one failure for each rule
        compares = isinstance(store, KVCompareAndPut)
    reports = {"KVStore": await run(KVStoreConformance, kv_subjects(open_store))}
    if compares:
        reports["KVCompareAndPut"] = await run(KVCompareAndPutConformance, kv_subjects(open_store))
    return reports


async def _empty(store: KVStore) -> None:
    cursor = None
    while True:
        page = await store.list("", _PAGE, cursor)
        for key in page.keys:
            await store.delete(key.name)
        cursor = page.cursor
        if cursor is None:
            return


async def _judge_queue(url: str) -> Mapping[str, Sequence[Outcome]]:
    from worker_compat.testing.queue import QueueStoreConformance, queue_subjects

    @asynccontextmanager
    async def open_store(clock: Clock) -> AsyncIterator[QueueStore]:
        async with registry.open_queue(registry.with_option(url, "queue", _random_name()), clock=clock) as store:
            yield store

    async with registry.open_queue(registry.with_option(url, "queue", _random_name())) as store:
        await store.depth()
    return {"QueueStore": await run(QueueStoreConformance, queue_subjects(open_store))}


def _random_name() -> str:
    return f"worker-compat-check-{secrets.token_hex(8)}"


def _text(reports: Mapping[str, Sequence[Outcome]], *, traceback: bool) -> str:
    lines = []
    for port, outcomes in reports.items():
        for outcome in outcomes:
            lines.append(f"{'passed' if outcome.passed else 'FAILED'}  {port}  {outcome.case.name}")
            if outcome.error is not None:
                lines += [f"        rule: {outcome.case.rule}", f"        seen: {_seen(outcome.error)}"]
                lines += traces.format_exception(outcome.error) if traceback else []
        passed = sum(outcome.passed for outcome in outcomes)
        lines.append(f"{port}: {passed} of {len(outcomes)} rules hold")
    return "\n".join(lines)


def _json(reports: Mapping[str, Sequence[Outcome]]) -> str:
    document: dict[str, list[dict[str, Any]]] = {
        port: [
            {
                "name": outcome.case.name,
                "rule": outcome.case.rule,
                "passed": outcome.passed,
                "seen": None if outcome.error is None else _seen(outcome.error),
            }
            for outcome in outcomes
        ]
        for port, outcomes in reports.items()
    }
    return json.dumps(document, indent=2)


def _seen(error: BaseException) -> str:
    """The assertion's own words; another error is named."""
    text = " ".join(str(error).split())
    return text if isinstance(error, AssertionError) and text else f"{type(error).__name__}: {text}"
