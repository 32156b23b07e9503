"""What an operator can mend ends a command with one message and exit code 1, without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import click

T = TypeVar("T")


def explained(run: Callable[[], T]) -> T:
    """The result of ``run``; exit code 1 for settings, files and databases that cannot be used."""
    from smoltbot_worker.variables import EnvValidationError
    from worker_compat.errors import ConfigError, StoreUnavailable

    try:
        return run()
    except (EnvValidationError, ConfigError, StoreUnavailable) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
