"""``smoltbot doctor`` about the license: read with the keys that are set, without asking anybody."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from smoltbot_host.doctor import Finding, examine
from tests.gateway_process import free_port

from .license_support import Issuer, hs256

ISSUER = Issuer()
SOON = time.time() + 86_400


def found(folder: Path, **variables: str) -> list[Finding]:
    environ = {"DATA_DIR": str(folder), "HOST": "127.0.0.1", "PORT": str(free_port()), **variables}
    return [finding for finding in examine(environ, network=False) if finding.subject == "license"]


def test_without_a_license_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert found(tmp_path) == found(tmp_path, LICENSE_PUBLIC_KEY=ISSUER.hex) == []


@pytest.mark.parametrize(("mode", "level"), [("required", "error"), ("optional", "warning")])
def test_a_license(tmp_path: Path, mode: str, level: str) -> None:
    def only(token: str, key: str = ISSUER.hex) -> tuple[str, str]:
        [finding] = found(tmp_path, LICENSE_MODE=mode, MNEMOM_LICENSE_JWT=token, LICENSE_PUBLIC_KEY=key)
        assert token not in finding.text
        return finding.level, finding.text

    until = time.strftime("%Y-%m-%d", time.gmtime(SOON))
    remedy = "ask its issuer for another one"
    assert only(ISSUER.license(exp=SOON)) == ("ok", f"lic-1, until {until}")
    managed = ("ok", f"lic-1, until {until}; its issuer alone can tell whether it counts")
    assert only(hs256(b"s" * 32, exp=SOON), "") == managed
    assert only(ISSUER.license(exp=5)) == (level, f"lic-1 expired on 1970-01-01; {remedy}")
    assert only(Issuer(2).license()) == (level, f"license_signature_invalid; {remedy}")
    assert only("rubbish") == (level, f"license_parse_error; {remedy}")


def test_a_key_that_is_none(tmp_path: Path) -> None:
    [finding] = found(tmp_path, LICENSE_PUBLIC_KEY="12ab")
    assert finding.level == "error"
    assert finding.text.startswith("LICENSE_PUBLIC_KEY ")
