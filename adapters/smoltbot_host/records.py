"""Which records adapter a DATABASE_URL means, and where the schema lies."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from worker_compat import registry
from worker_compat.errors import AdapterNotFound

_GROUP = "smoltbot.records"


def database_url(values: dict[str, Any]) -> str:
    """DATABASE_URL, or the embedded file in DATA_DIR."""
    return values["database_url"] or f"sqlite:///{values['data_dir']}/smoltbot.db"


def is_embedded(url: str) -> bool:
    """Whether this process alone owns the database and migrates it by itself."""
    return url.startswith("sqlite:")


def adapter(url: str) -> ModuleType:
    """The adapter package for a database URL: it has ``open_records`` and ``migrate``."""
    scheme = url.partition(":")[0]
    try:
        open_records = registry.find(_GROUP, scheme)
    except AdapterNotFound:
        raise AdapterNotFound(
            f"DATABASE_URL: no records adapter for {scheme}:// in this version; use sqlite:////absolute/path"
        ) from None
    return importlib.import_module(open_records.__module__.partition(".")[0])


def schema_dir(url: str) -> Path:
    """The folder of migrations for a database URL: inside the wheel, or the repository's ``schema/``."""
    here = Path(__file__).parent
    packaged = here / "schema"
    root = packaged if packaged.is_dir() else here.parents[1] / "schema"
    return root / url.partition(":")[0]
