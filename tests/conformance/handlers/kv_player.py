"""A handler that plays the KV cases on the binding that it is given, and answers where it does otherwise."""

from __future__ import annotations

import re
import time

from tests.conformance.cases import Case, Player, cases, differences
from worker_compat import Request, Response, WorkerEntrypoint
from worker_compat.testing import FakeClock

# What a binding makes of calls, values and results; limits, names and order are the storage's.
_PLAYED = re.compile(r"1\.1 |1\.3 (?!keys)")
# Big values and many keys take Pyodide too long; a stream that breaks ends Miniflare's proxy in Node.
_LEFT_OUT = re.compile(r"'fill'|\$keys|\$streamOf|\$repeatBytes|\$brokenStream|2621440")


class Default(WorkerEntrypoint):
    """Plays the cases of a binding that need neither another clock nor another process, and that Miniflare meets."""

    async def fetch(self, request: Request) -> Response:
        """``{case: differences}``."""
        kv, found = self.env.KV, {}
        for case in cases():
            if not _is_played(case):
                continue
            player = Player("", FakeClock(time.time()), now=int(time.time()))
            given = [await player._perform(kv, step) for step in case.steps if "again" not in step]
            found[case.id] = differences(case, player.now, given)
            await self.clear()
        return Response.from_json(found)

    async def clear(self) -> None:
        """Delete every key."""
        complete = False
        while not complete:
            page = await self.env.KV.list()
            for key in page["keys"]:
                await self.env.KV.delete(key["name"])
            complete = page["list_complete"]


def _is_played(case: Case) -> bool:
    if case.time or case.lasting or case.oracle or _LEFT_OUT.search(str(case.steps)):
        return False
    return any(_PLAYED.match(row) for row in case.covers)
