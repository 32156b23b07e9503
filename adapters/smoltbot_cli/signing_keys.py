"""``smoltbot signing-keys``: the keys that sign records."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from .explained import explained


@click.group("signing-keys")
def signing_keys() -> None:
    """Make, list and rotate the keys that sign records."""


@signing_keys.command()
@click.option("--out", "file", metavar="FILE", type=click.Path(path_type=Path), help="Write the seed to a new file.")
def generate(file: Path | None) -> None:
    """Make a key. It counts once it is in the settings, and then by `rotate` where another key is active."""
    from smoltbot_host import signing_keys as keys

    if file is not None:
        click.echo(f"public key {explained(lambda: keys.generate_into(file)).public_key}")
        click.echo(f"its seed is in {file}: set ED25519_SIGNING_KEY_FILE={file} and ED25519_KEY_ID, and back it up")
        return
    key = keys.generate()
    click.echo(f"seed       {key.seed}\npublic key {key.public_key}\n")
    click.echo("Keep the seed secret, back it up, and set on every gateway and scheduler:\n")
    click.echo(f"ED25519_SIGNING_KEY={key.seed}\nED25519_KEY_ID=key-001")


@signing_keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as `smoltbot verify --keys` reads it.")
def list_keys(as_json: bool) -> None:
    """List the registered keys, and which one these settings use."""
    from smoltbot_host import signing_keys as keys

    rows = explained(lambda: keys.listed(os.environ))
    if as_json:
        click.echo(json.dumps({"keys": rows}, indent=2))
        return
    for row in rows:
        click.echo(_line(row))
    if not any(row["in_use"] for row in rows):
        click.echo("none of these is the key of these settings" if rows else "no key is registered yet")


@signing_keys.command()
def rotate() -> None:
    """Go over to another key: that of ED25519_SIGNING_KEY, or a new one in DATA_DIR. The others are retired."""
    from smoltbot_host import signing_keys as keys

    row = explained(lambda: keys.rotate(os.environ))
    click.echo(f"{row['key_id']} is the active key now: {row['public_key']}")
    click.echo("Restart every gateway and scheduler: until then it signs with the key it was started with.")


def _line(row: dict[str, Any]) -> str:
    state = "active" if row["is_active"] else f"retired {row['retired_at']}"
    mine = "  (these settings)" if row["in_use"] else ""
    return f"{row['key_id']}  {row['public_key']}  made {row['created_at']}  {state}{mine}"
