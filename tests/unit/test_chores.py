"""The chores of a process: begun when the records are ready, begun again after an error, ended in order."""

from __future__ import annotations

import asyncio

import pytest

from smoltbot_host import chores
from tests.virtual import run
from worker_compat.errors import StoreUnavailable


def test_a_chore_that_fails_begins_again(caplog: pytest.LogCaptureFixture) -> None:
    begun: list[float] = []

    async def chore() -> None:
        begun.append(asyncio.get_running_loop().time())
        if len(begun) < 3:
            raise StoreUnavailable("the store is away")

    run(chores._kept_going("the chore", chore))
    assert begun == pytest.approx([0, 5, 10])
    assert caplog.text.count("the chore failed and begins again in 5 s") == 2
    assert caplog.text.count("the store is away") >= 2


def test_a_chore_that_is_cancelled_ends_in_order() -> None:
    ended: list[str] = []

    async def chore() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(1)
            ended.append("in order")

    async def main() -> None:
        task = asyncio.create_task(chores._kept_going("the chore", chore))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    run(main())
    assert ended == ["in order"]
