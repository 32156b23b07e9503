"""Settings: the process environment, ``*_FILE`` secrets and an optional TOML file, as one mapping of texts."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from smoltbot_worker.env import LATER, read_variables, variables
from smoltbot_worker.variables import EnvValidationError

_ALIASES = {"REDIS_URL": "KV_URL"}
_FURTHER = frozenset(("REDIS_URL", "CF_AI_GATEWAY_URL", "THINKING_INJECTION"))


def known_names() -> frozenset[str]:
    """Every variable that means something, now or in a later version."""
    return frozenset(entry.name.upper() for entry in variables()) | LATER | _FURTHER


def load(environ: Mapping[str, str], *, signs: bool = True) -> dict[str, str]:
    """The texts of all settings: the environment over ``*_FILE`` over the file of ``SMOLTBOT_CONFIG``.

    ``signs`` is as for :func:`smoltbot_worker.env.read_variables`. Raises :class:`EnvValidationError` for a file that
    cannot be read and for a name in it that nobody knows.
    """
    known = known_names()
    problems: list[str] = []
    texts = _from_toml(environ.get("SMOLTBOT_CONFIG", "").strip(), known, problems)
    for name in known:
        if text := environ.get(name, "").strip():
            texts[name] = text
        elif path := environ.get(f"{name}_FILE", "").strip():
            try:
                text = Path(path).read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                problems.append(f"{name}_FILE: {path!r} cannot be read ({_reason(error)})")
                continue
            if text:  # an empty file is as good as none
                texts[name] = text
    for old, new in _ALIASES.items():
        if old in texts and new not in texts:
            texts[new] = texts[old]
    if problems:
        _raise_all(texts, problems, signs)
    return texts


def _raise_all(texts: dict[str, str], problems: list[str], signs: bool) -> NoReturn:
    """Raise what could not be read together with what is wrong with the rest: all problems at once."""
    unread = {problem.partition("_FILE:")[0] for problem in problems}
    missing: list[str] = []
    try:
        read_variables(texts, signs=signs)
    except EnvValidationError as error:
        missing = [line for line in error.missing if line.partition(" ")[0] not in unread]
        problems = problems + error.invalid
    raise EnvValidationError(missing, problems)


def _from_toml(path: str, known: frozenset[str], problems: list[str]) -> dict[str, str]:
    if not path:
        return {}
    try:
        document = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"SMOLTBOT_CONFIG: {path!r} cannot be read ({_reason(error)})")
        return {}
    texts = {}
    for name, value in document.items():
        if name not in known:
            near = difflib.get_close_matches(name.upper(), known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            problems.append(f"SMOLTBOT_CONFIG: {path!r} has the unknown name {name!r}{hint}")
        else:
            texts[name] = _text(value)
    return texts


def _text(value: Any) -> str:
    """A TOML value as the text that the environment would have."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _reason(error: Exception) -> str:
    return error.strerror or "unreadable" if isinstance(error, OSError) else str(error)
