"""``smoltbot doctor``: says what a start would meet, with a remedy, and changes nothing."""

from __future__ import annotations

import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from smoltbot_host.doctor import Finding, examine
from smoltbot_host.migrate import migrate
from tests.gateway_process import free_port

SUBJECTS = ["environment", "DATA_DIR", "PORT", "DATABASE_URL", "KV_URL"]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"DATA_DIR": str(tmp_path / "data"), "HOST": "127.0.0.1", "PORT": str(free_port())}


def only(findings: list[Finding], subject: str) -> Finding:
    [finding] = [finding for finding in findings if finding.subject == subject]
    return finding


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() if file.is_file() else b"" for file in folder.rglob("*")}


def test_before_the_first_start(environ: dict[str, str], tmp_path: Path) -> None:
    findings = examine(environ, network=False)
    assert [finding.subject for finding in findings] == SUBJECTS
    assert [finding.level for finding in findings] == ["ok", "ok", "ok", "warning", "ok"]
    assert only(findings, "environment").text == "role all"
    assert only(findings, "DATA_DIR").text == f"{tmp_path / 'data'} (will be made)"
    assert "1 migrations to apply; serve will apply them" in only(findings, "DATABASE_URL").text
    assert everything(tmp_path) == {}


def test_after_it(environ: dict[str, str], tmp_path: Path) -> None:
    migrate(environ, dry_run=False)
    before = everything(tmp_path)
    findings = examine(environ, network=False)
    assert {finding.level for finding in findings} == {"ok"}
    assert only(findings, "DATABASE_URL").text.endswith("schema is up to date")
    assert everything(tmp_path).keys() == before.keys()


def test_wrong_settings_end_it(environ: dict[str, str], tmp_path: Path) -> None:
    [finding] = examine({**environ, "PORT": "x", "HOST_FILE": str(tmp_path / "none")}, network=True)
    assert finding.level == "error"
    assert "HOST_FILE" not in finding.text  # HOST itself is set
    assert "PORT: 'x'" in finding.text
    [finding] = examine({"PORT": "x", "HOST_FILE": str(tmp_path / "none")}, network=True)
    assert "PORT: 'x'" in finding.text
    assert "HOST_FILE" in finding.text


def test_warnings_of_settings_are_told(environ: dict[str, str]) -> None:
    findings = examine({**environ, "OPENAI_API_KEY": "the-secret", "LOG_LEVEL": "loud"}, network=False)
    texts = [finding.text for finding in findings if finding.level == "warning" and finding.subject == "environment"]
    assert len(texts) == 2
    assert "the-secret" not in str(findings)


def test_a_port_in_use(environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = only(examine({**environ, "PORT": str(port)}, network=False), "PORT")
    assert finding.level == "warning"
    assert f"127.0.0.1:{port} cannot be used now (Address already in use" in finding.text


@pytest.mark.parametrize("host", ["::1", "::"])
def test_an_address_of_ip_6(environ: dict[str, str], host: str) -> None:
    try:
        socket.create_server((host, 0), family=socket.AF_INET6).close()
        expected = "ok"
    except OSError:  # a machine without IPv6
        expected = "warning"
    assert only(examine({**environ, "HOST": host}, network=False), "PORT").level == expected


def test_a_host_that_is_not_here(environ: dict[str, str]) -> None:
    assert only(examine({**environ, "HOST": "192.0.2.1"}, network=False), "PORT").level == "warning"


@pytest.mark.parametrize("below", ["", "data"])
def test_a_data_dir_that_cannot_be(environ: dict[str, str], tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    finding = only(examine({**environ, "DATA_DIR": str(tmp_path / "file" / below)}, network=False), "DATA_DIR")
    assert finding.level == "error"
    assert "point DATA_DIR at a folder of this user" in finding.text


class TestDatabase:
    @pytest.fixture
    def database(self, environ: dict[str, str], tmp_path: Path) -> Path:
        migrate(environ, dry_run=False)
        return tmp_path / "data" / "smoltbot.db"

    def test_locked(self, environ: dict[str, str], database: Path) -> None:
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            finding = only(examine(environ, network=False), "DATABASE_URL")
            connection.execute("ROLLBACK")
        assert finding.level == "error"

    def test_garbage(self, environ: dict[str, str], database: Path) -> None:
        database.write_bytes(b"no database" * 1000)
        finding = only(examine(environ, network=False), "DATABASE_URL")
        assert finding.level == "error"
        assert "damaged or not a SQLite database" in finding.text

    def test_newer(self, environ: dict[str, str], database: Path) -> None:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("INSERT INTO _schema_migrations VALUES ('9999_later.sql', '', '')")
        finding = only(examine(environ, network=False), "DATABASE_URL")
        assert finding.level == "error"
        assert "newer than this version" in finding.text

    @pytest.mark.parametrize("url", ["postgres://user:the-secret@h/db", "sqlite://h/x", "the-secret", "sqlite:///"])
    def test_a_url_that_means_nothing(self, environ: dict[str, str], url: str) -> None:
        finding = only(examine({**environ, "DATABASE_URL": url}, network=False), "DATABASE_URL")
        assert finding.level == "error"
        assert "the-secret@" not in finding.text


@pytest.mark.parametrize("url", ["redis://user:the-secret@h", "nothing", "://"])
def test_a_kv_that_is_not_there(environ: dict[str, str], url: str) -> None:
    finding = only(examine({**environ, "KV_URL": url}, network=False), "KV_URL")
    assert finding.level == "error"
    assert "the-secret" not in finding.text


def test_the_providers(environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        port = there.getsockname()[1]
        urls = {
            "UPSTREAM_ANTHROPIC_URL": f"http://127.0.0.1:{port}/base",
            "UPSTREAM_OPENAI_URL": f"http://127.0.0.1:{free_port()}",
            "UPSTREAM_GEMINI_URL": "https://nowhere.invalid",
        }
        findings = examine({**environ, **urls}, network=True)
    assert [finding.subject for finding in findings] == [*SUBJECTS, "anthropic", "openai", "gemini"]
    assert [finding.level for finding in findings[-3:]] == ["ok", "error", "error"]
    assert findings[-3].text == f"127.0.0.1:{port} answers"
    assert "nowhere.invalid:443 cannot be reached" in findings[-1].text
    assert "allow it outbound" in findings[-1].text
