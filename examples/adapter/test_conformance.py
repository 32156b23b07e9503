"""The folder adapter keeps the contract of a KV store."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from worker_compat import registry
from worker_compat.ports import KVStore
from worker_compat.testing import FakeClock
from worker_compat.testing.kv import KVStoreConformance


class TestFolderKV(KVStoreConformance):
    """Every rule of the kit, over a fresh folder."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        """Time passes when told."""
        return FakeClock(float(int(time.time())))

    @pytest.fixture
    async def store(self, tmp_path: Path, clock: FakeClock) -> AsyncIterator[KVStore]:
        """Opened by its URL, as users do."""
        async with registry.open_kv(f"folder://{tmp_path}", clock=clock) as store:
            yield store
