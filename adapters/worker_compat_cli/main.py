"""The commands of ``worker-compat``: serve a handler, list the adapters, judge a store.

What a command needs is imported by the command, so that help is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

_USAGE = 2
"""The exit code for wrong options, files and settings; a failure at work is 1."""

F = TypeVar("F", bound=Callable[..., Any])

_HANDLER = click.Path(path_type=Path)


class _Pair(click.ParamType[tuple[str, str]]):
    """``NAME=VALUE``."""

    name = "pair"

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Split at the first equals sign; the value is never shown, because it may be a secret."""
        if isinstance(value, tuple):
            return value
        name, separator, text = value.partition("=")
        if not separator or not name:
            self.fail("expected NAME=VALUE", param, ctx)
        return name, text


def _by_name(ctx: click.Context, param: click.Parameter, pairs: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    """The pairs of a repeated option; a name that is given twice is refused, since one of the two would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise click.BadParameter(f"{twice} is given twice; keep one of the two", ctx, param)
    return found


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from worker_compat import __version__

        click.echo(f"worker-compat {__version__}")
        ctx.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def main() -> None:
    """Run Cloudflare-Workers-style Python handlers: docs/running-handlers.md."""


def _pairs(*names: str, metavar: str, help: str) -> Callable[[F], F]:
    """An option that is given once for each name."""
    return click.option(*names, multiple=True, type=_Pair(), callback=_by_name, metavar=metavar, help=help)


@main.command(short_help="Serve a handler with its bindings, crons and queues.")
@click.argument("handler", required=False, type=_HANDLER)
@click.option(
    "-c",
    "--config",
    "configs",
    multiple=True,
    type=_HANDLER,
    help="A wrangler.toml; the first is served, others are its services.",
)
@click.option("-e", "--env", "environment", metavar="NAME", help="Use [env.NAME] of the configuration.")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Bind address.")
@click.option(
    "--port",
    default=8787,
    show_default=True,
    type=click.IntRange(0, 65535),
    metavar="N",
    help="Listen port; 0 takes a free one.",
)
@_pairs("--kv", metavar="BINDING=URL", help="Keep a KV namespace at this URL.")
@_pairs("--queue", "queues", metavar="QUEUE=URL", help="Keep a queue, by its own name, at this URL.")
@_pairs("--var", "variables", metavar="NAME=VALUE", help="Set a variable of the served worker.")
@click.option(
    "--persist-to",
    type=_HANDLER,
    metavar="DIR",
    help="Keep data here  [default: .worker-compat beside the configuration]",
)
@click.option("--watch", is_flag=True, help="Start again whenever a file of the handler or its configuration changes.")
@click.option("--watched-by", hidden=True, type=int, help="End with this parent process: the child of --watch.")
@click.option("--traceback", is_flag=True, help="Show the whole trace of every error.")
def run(
    handler: Path | None,
    configs: tuple[Path, ...],
    environment: str | None,
    host: str,
    port: int,
    kv: Mapping[str, str],
    queues: Mapping[str, str],
    variables: Mapping[str, str],
    persist_to: Path | None,
    watch: bool,
    watched_by: int | None,
    traceback: bool,
) -> None:
    """Serve HANDLER, or the worker that wrangler.toml declares, until Ctrl-C."""
    from .plan import Options

    options = Options(handler, configs, environment, kv, queues, variables, persist_to)

    def start() -> int:
        if watch:
            from .reload import watch as run_again

            return run_again(options, host, port, sys.argv[1:])
        from .run import serve

        return serve(options, host, port, traceback=traceback, watched_by=watched_by)

    _finish(start, traceback=traceback)


@main.command(short_help="List the adapters that are installed.")
def adapters() -> None:
    """List the adapters that are installed, and what they lack."""
    from .adapters import table

    click.echo(table())


@main.command(short_help="Run the conformance kit against a live store.")
@click.argument("url")
@click.option("--kv", "group", flag_value="kv", help="Judge it as a KV store only.")
@click.option("--queue", "group", flag_value="queue", help="Judge it as a queue only.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--traceback", is_flag=True, help="Show the whole trace of every error.")
def check(url: str, group: str | None, as_json: bool, traceback: bool) -> None:
    """Run the conformance kit against the store at URL, in a namespace of its own that is emptied afterwards."""
    from .check import check as judge

    _finish(lambda: judge(url, group, as_json=as_json, traceback=traceback), traceback=traceback)


def _finish(start: Callable[[], int], *, traceback: bool) -> None:
    """Run a command and exit; an error that the user can mend is one sentence, or a trace when asked for."""
    from worker_compat.errors import ConfigError, WorkerCompatError

    try:
        code = start()
    except WorkerCompatError as error:
        if traceback:
            from traceback import print_exc

            print_exc()
        else:
            click.echo(f"Error: {error}", err=True)
        code = _USAGE if isinstance(error, ConfigError) else 1
    sys.exit(code)
