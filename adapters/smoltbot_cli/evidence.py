"""``smoltbot head`` and ``smoltbot export``: an agent's signed head and its whole log, from a gateway."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from .client import Gateway, cut_short, gateway_options, pieces

_AGENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_MEBIBYTE = 1 << 20


def _agent_id(context: click.Context, option: click.Parameter, value: str) -> str:
    if not _AGENT.fullmatch(value):
        raise click.BadParameter("it should be an agent's id, like smolt-0badcafe", context, option)
    return value


_agent_option = click.option(
    "--agent", required=True, metavar="ID", callback=_agent_id, help="The agent's id, like smolt-0badcafe."
)


@click.command()
@_agent_option
@gateway_options
def head(agent: str, gateway: str, token: str) -> None:
    """Print the newest signed head of an agent's log: how long it is, and the root over it.

    Keep it where the gateway's operator cannot change it. `smoltbot verify --head` finds a log that was cut since.
    """
    from smoltbot_worker.attestation.verify import Unreadable, read_document, read_head

    body = b"".join(pieces(Gateway(gateway, token), f"/v1/agents/{agent}/head"))
    try:
        newest = read_head(read_document(body.decode()))
    except UnicodeDecodeError:
        raise click.ClickException(f"what {gateway} answers is not UTF-8") from None
    except Unreadable as error:
        raise click.ClickException(f"what {gateway} answers is no signed head: {error}") from None
    if newest.agent_id != agent:
        raise click.ClickException(f"what {gateway} answers is the head of another agent, {newest.agent_id}")
    _to_stdout([body, b"\n"])


@click.command()
@_agent_option
@click.option("-o", "--output", metavar="FILE", help="Where to write it, whole or not at all; else stdout.")
@gateway_options
def export(agent: str, output: str | None, gateway: str, token: str) -> None:
    """Write an agent's whole log as one file that `smoltbot verify` checks without the gateway."""
    bundle = _whole(Gateway(gateway, token), f"/v1/agents/{agent}/export")
    if output is None or output == "-":
        _to_stdout(bundle)
        return
    try:
        with _written(Path(output)) as file:
            _write(bundle, file)
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written ({error.strerror})") from None


def _to_stdout(pieces: Iterable[bytes]) -> None:
    try:
        _write(pieces, sys.stdout.buffer)
    except BrokenPipeError:  # whoever read it has enough, which needs no words
        raise
    except OSError as error:
        # At the exit Python would write the rest of its buffer once more, and fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.ClickException(f"stdout cannot be written ({error.strerror})") from None


def _write(pieces: Iterable[bytes], file: BinaryIO) -> None:
    for piece in pieces:
        file.write(piece)
    file.flush()


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name once it is whole. A device or a pipe is written to as it is."""
    path = path.resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with draft.open("xb") as file:
            yield file
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _whole(gateway: Gateway, path: str) -> Iterator[bytes]:
    """The pieces of a bundle to its end; on a terminal stderr says how much there was."""
    shown = sys.stderr.isatty()
    total, end = 0, b""
    try:
        for piece in pieces(gateway, path):
            yield piece
            total, end = total + len(piece), (end + piece)[-2:]
            if shown:
                click.echo(f"\r{total / _MEBIBYTE:.1f} MiB", nl=False, err=True)
    finally:
        if shown:
            click.echo(err=True)
    # A proxy may have ended properly what broke behind it; how a bundle ends cannot be mistaken.
    if end != b"}\n":
        raise cut_short(gateway)
