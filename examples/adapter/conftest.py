"""So that a failing assertion of the kit explains itself."""

import pytest

pytest.register_assert_rewrite("worker_compat.testing.kv")
