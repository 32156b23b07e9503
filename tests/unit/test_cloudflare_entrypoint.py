"""The entrypoint outside Cloudflare: it can be imported, and says where it belongs.

What it does inside is in tests/conformance/test_parity_pyodide.py.
"""

from __future__ import annotations

import pytest

from worker_compat import WorkerEntrypoint
from worker_compat.errors import ConfigError
from worker_compat_cloudflare.entrypoint import wrap


def test_it_says_where_it_belongs() -> None:
    with pytest.raises(ConfigError, match="worker-compat run"):
        wrap(WorkerEntrypoint)
