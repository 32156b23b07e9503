"""The examples run, and the README shows them as they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway_process import GatewayProcess
from tests.provider.process import ProviderProcess

_ROOT = Path(__file__).parents[2]
_EXAMPLES = _ROOT / "examples"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with ProviderProcess() as provider:
        upstreams = {f"UPSTREAM_{name}_URL": provider.url for name in ("ANTHROPIC", "OPENAI", "GEMINI")}
        with GatewayProcess(tmp_path_factory.mktemp("examples"), upstreams) as gateway:
            yield gateway


def _run(gateway: GatewayProcess, *command: str) -> str:
    keys = {"ANTHROPIC_API_KEY": "sk-ant-test", "OPENAI_API_KEY": "sk-test", "GEMINI_API_KEY": "AIza-test"}
    environ = {"PATH": os.environ["PATH"], "SMOLTBOT_GATEWAY": gateway.url, "NO_PROXY": "*", **keys}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_request(gateway: GatewayProcess) -> None:
    answer = json.loads(_run(gateway, "sh", str(_EXAMPLES / "first_request.sh")))
    assert (answer["type"], answer["role"]) == ("message", "assistant")


def test_the_three_sdks(gateway: GatewayProcess) -> None:
    text = _run(gateway, sys.executable, str(_EXAMPLES / "sdks.py"))
    answers = dict(line.split(" -> ") for line in text.splitlines() if " -> " in line)
    assert list(answers) == ["ask_anthropic", "ask_openai", "ask_gemini"]
    assert all(answers.values())


def test_the_readme_shows_the_examples_as_they_are() -> None:
    readme = (_ROOT / "README.md").read_text()
    assert (_EXAMPLES / "hello.py").read_text() in readme
    script = (_EXAMPLES / "first_request.sh").read_text()
    assert script[script.index("curl ") :] in readme
    for base in ("/anthropic", "/openai/v1", "/gemini"):
        assert f'"http://127.0.0.1:8787{base}"' in readme


def test_every_example_has_a_test() -> None:
    names = {path.name for path in _EXAMPLES.iterdir() if not path.name.startswith((".", "_"))}
    assert names == {
        "hello.py", "first_request.sh", "sdks.py", "kv_cron_stream",
        "cloudflare_style", "cloudflare_gateway", "adapter",
    }  # fmt: skip
    styles = {path.name for path in (_EXAMPLES / "cloudflare_style").iterdir()}
    assert styles == {"hello", "counter", "cron_logger"}
