"""The model list."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smoltbot_worker.variables import EnvValidationError

from .support import Gateway

MODELS = {
    "anthropic": [
        ("claude-sonnet-4-20250514", "Claude Sonnet 4", True),
        ("claude-3-5-sonnet-20241022", "Claude 3.5 Sonnet", True),
        ("claude-haiku-4-5-20251001", "Claude Haiku 4.5", True),
        ("claude-3-opus-20240229", "Claude 3 Opus", False),
    ],
    "openai": [
        ("gpt-5", "GPT-5", True),
        ("gpt-5-mini", "GPT-5 Mini", True),
        ("gpt-4o", "GPT-4o", False),
        ("o3", "o3", True),
        ("o3-mini", "o3 Mini", True),
    ],
    "gemini": [
        ("gemini-2.5-pro", "Gemini 2.5 Pro", True),
        ("gemini-2.5-flash", "Gemini 2.5 Flash", True),
        ("gemini-3-pro", "Gemini 3 Pro", True),
        ("gemini-3-flash", "Gemini 3 Flash", True),
    ],
}


async def test_the_built_in_list() -> None:
    got = await Gateway().ask("GET", "/models.json")
    assert got.status == 200
    assert got.get("cache-control") == "public, max-age=3600"
    expected = {
        provider: [{"id": model, "name": name, "thinking": thinking} for model, name, thinking in rows]
        for provider, rows in MODELS.items()
    }
    assert got.json() == expected
    assert list(got.json()) == list(expected)


async def test_it_needs_no_key_and_no_database() -> None:
    gateway = Gateway()
    gateway.records.error = RuntimeError("the database is gone")
    assert (await gateway.ask("GET", "/models.json")).status == 200
    assert gateway.records.calls == []


async def test_a_file_replaces_it(tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    models = {"anthropic": [{"id": "m\u00fc", "name": "M\u00fc", "thinking": False}], "mine": []}
    file.write_text(json.dumps(models, indent=4, ensure_ascii=False), encoding="utf-8")
    got = await Gateway(MODELS_FILE=str(file)).ask("GET", "/models.json")
    assert got.json() == models
    assert got.get("cache-control") == "public, max-age=3600"


@pytest.mark.parametrize(("content", "complaint"), [(None, "cannot be read"), ("{", "is not a JSON file")])
def test_a_bad_file_ends_the_start(tmp_path: Path, content: str | None, complaint: str) -> None:
    file = tmp_path / "models.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(EnvValidationError, match=f"MODELS_FILE: .*{complaint}"):
        Gateway(MODELS_FILE=str(file))
