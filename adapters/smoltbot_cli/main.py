"""The commands of ``smoltbot``.

The host is imported only by the commands that need it, so that help is quick.
"""

from __future__ import annotations

import os
import signal
import sys

import click

from worker_compat import __version__

from .evidence import export, head
from .explained import explained
from .signing_keys import signing_keys
from .verify import verify

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="smoltbot")
def main() -> None:
    """A self-hosted gateway for AI agents. Settings come from the environment: docs/configuration.md."""


@main.command()
@click.option("--host", metavar="ADDRESS", help="Bind address; wins over HOST.")
@click.option("--port", type=click.IntRange(0, 65535), help="Listen port; wins over PORT. 0 takes a free one.")
@click.option(
    "--role",
    type=click.Choice(["gateway", "scheduler", "all"]),
    help="What this process does; wins over SMOLTBOT_ROLE.",
)
def serve(host: str | None, port: int | None, role: str | None) -> None:
    """Run the gateway until SIGTERM. With no settings at all it uses ./data and port 8787."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # Until the gateway takes over: nothing is in flight yet, and PID 1 has no default of its own.
        signal.signal(number, lambda received, _: os._exit(128 + received))
    from smoltbot_host.serve import serve as run

    given = {"HOST": host, "PORT": None if port is None else str(port), "SMOLTBOT_ROLE": role}
    sys.exit(run({**os.environ, **{name: value for name, value in given.items() if value is not None}}))


@main.command()
@click.option("--dry-run", is_flag=True, help="Only list what would be applied.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0, 86_400),
    default=35.0,
    show_default=True,
    help="Seconds to wait for the database; one that comes up 30 s late is still met.",
)
def migrate(dry_run: bool, wait_s: float) -> None:
    """Bring the database's schema up to date. Safe to run twice, and twice at once."""
    from smoltbot_host.migrate import migrate as run

    names = explained(lambda: run(os.environ, dry_run=dry_run, wait_s=wait_s))
    for name in names:
        click.echo(f"{'would apply' if dry_run else 'applied'} {name}")
    if not names:
        click.echo("nothing to apply")


main.add_command(signing_keys)
main.add_command(export)
main.add_command(head)
main.add_command(verify)


@main.command()
@click.option("--network", is_flag=True, help="Also connect to the providers.")
def doctor(network: bool) -> None:
    """Look at everything that a start needs; changes nothing. Exit code 1 when something is wrong."""
    from smoltbot_host.doctor import examine

    findings = examine(os.environ, network=network)
    for finding in findings:
        click.echo(
            f"{click.style(finding.level.ljust(8), fg=_COLOURS[finding.level])}{finding.subject}: {finding.text}"
        )
    sys.exit(1 if any(finding.level == "error" for finding in findings) else 0)
