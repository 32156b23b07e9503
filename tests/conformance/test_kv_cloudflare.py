"""Cloudflare's own KV tests for Python Workers, unchanged, on every backend."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from tests.architecture.tree import ROOT
from tests.services.sdk import sdk_source

SUITE = "tests/bindings-test/src/test_kv.py"
SHA256 = "35d6ccf45366df2a904c9460d6b11626764d2d69b1604a1403667821c590cf5d"
CASES = 27

ENV = """\
import os
from types import SimpleNamespace

import pytest_asyncio

from worker_compat import KVNamespace
from worker_compat.registry import open_kv


@pytest_asyncio.fixture
async def env():
    async with open_kv(os.environ["SUITE_KV_URL"]) as store:
        yield SimpleNamespace(KV=KVNamespace(store))
"""


def test_cloudflares_own_cases_pass(kv_url: str, tmp_path: Path) -> None:
    suite = (sdk_source() / SUITE).read_bytes()
    assert hashlib.sha256(suite).hexdigest() == SHA256
    (tmp_path / "test_kv.py").write_bytes(suite)
    (tmp_path / "conftest.py").write_text(ENV, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", "--junit-xml", "report.xml"]
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "adapters")))
    ran = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "SUITE_KV_URL": kv_url, "PYTHONPATH": paths},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    results = list(ElementTree.parse(tmp_path / "report.xml").iter("testcase"))
    assert len(results) == CASES
    # A case that passed has nothing to tell: no failure, no error, no skip.
    assert [result.get("name") for result in results if len(result)] == []
