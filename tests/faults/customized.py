"""Gateway processes that run some code of a test before their own."""

from __future__ import annotations

from pathlib import Path


def site(folder: Path, code: str) -> dict[str, str]:
    """The variables that make a gateway process run ``code`` before anything else."""
    packages = folder / "site"
    packages.mkdir()
    (packages / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(packages)}


def ledger(folder: Path) -> tuple[Path, dict[str, str]]:
    """A file in which a gateway process writes every name that it resolves and every address it connects to."""
    file = folder / "outbound"
    code = f"""
import sys
ledger = open({str(file)!r}, "a", buffering=1)
def hook(event, args):
    if event in ("socket.connect", "socket.sendto"):
        print("connect", args[1], file=ledger)
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        print("resolve", args[0], file=ledger)
sys.addaudithook(hook)
"""
    return file, site(folder, code)
