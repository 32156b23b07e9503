"""Settings: files for secrets, the TOML file, and which of several sources wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoltbot_host import settings
from smoltbot_worker.env import LATER, read_variables
from smoltbot_worker.variables import EnvValidationError


def toml(folder: Path, text: str) -> dict[str, str]:
    """The environment that names a TOML file with this text."""
    file = folder / "smoltbot.toml"
    file.write_text(text, encoding="utf-8")
    return {"SMOLTBOT_CONFIG": str(file)}


def complaints(environ: dict[str, str]) -> list[str]:
    with pytest.raises(EnvValidationError) as caught:
        settings.load(environ)
    return [*caught.value.missing, *caught.value.invalid]


class TestEnvironment:
    def test_known_names_only(self) -> None:
        assert settings.load({"PORT": " 1 ", "PATH": "/bin", "HOST": "", "KV_URL": " "}) == {"PORT": "1"}

    def test_an_alias(self) -> None:
        assert settings.load({"REDIS_URL": "redis://h"})["KV_URL"] == "redis://h"
        assert settings.load({"REDIS_URL": "redis://h", "KV_URL": "memory://"})["KV_URL"] == "memory://"
        assert settings.load({"REDIS_URL": ""}) == {}


class TestFiles:
    @pytest.mark.parametrize(
        "name",
        [
            "DATABASE_URL",
            "DEFAULT_CARD",
            "MNEMOM_LICENSE_JWT",
            "ANTHROPIC_API_KEY",
            "REDIS_URL",
            "SUPABASE_KEY",
            "SUPABASE_URL",
            "ED25519_SIGNING_KEY",
            "ED25519_KEY_ID",
            "QUEUE_URL",
            "QUEUE_ENCRYPTION_KEY",
            "ADMIN_TOKEN",
            "READ_TOKEN",
        ],
    )
    def test_the_content_is_the_value(self, tmp_path: Path, name: str) -> None:
        file = tmp_path / "secret"
        file.write_text("\n the value \n\n")
        assert settings.load({f"{name}_FILE": str(file)})[name] == "the value"

    def test_the_variable_itself_wins(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("from the file")
        both = {"HOST": "from the variable", "HOST_FILE": str(tmp_path / "secret")}
        assert settings.load(both)["HOST"] == "from the variable"
        assert settings.load({**both, "HOST": " "})["HOST"] == "from the file"

    def test_an_empty_file_is_no_value(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text(" \n")
        environ = {**toml(tmp_path, "HOST = 'from toml'"), "HOST_FILE": str(tmp_path / "secret")}
        assert settings.load(environ)["HOST"] == "from toml"

    def test_text_is_utf_8(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes("k\u00e9y".encode())
        assert settings.load({"ADMIN_TOKEN_FILE": str(tmp_path / "secret")})["ADMIN_TOKEN"] == "k\u00e9y"

    def test_what_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "binary").write_bytes(b"\xff\xfe")
        found = complaints(
            {
                "HOST_FILE": str(tmp_path / "none"),
                "ADMIN_TOKEN_FILE": str(tmp_path),
                "READ_TOKEN_FILE": str(tmp_path / "binary"),
            }
        )
        assert sorted(line.partition(":")[0] for line in found) == ["ADMIN_TOKEN_FILE", "HOST_FILE", "READ_TOKEN_FILE"]
        assert all(str(tmp_path) in line for line in found)

    def test_every_problem_at_once(self, tmp_path: Path) -> None:
        environ = {
            **toml(tmp_path, "PORTT = 1"),
            "HOST_FILE": str(tmp_path / "none"),
            "PORT": "x",
            "SUPABASE_URL": "https://x",
            "ED25519_SIGNING_KEY_FILE": str(tmp_path),
            "QUEUE_ENCRYPTION_KEY_FILE": str(tmp_path),
            "MNEMOM_ANALYZE_URL": "https://x",
            "MNEMOM_API_KEY_FILE": str(tmp_path / "none"),
        }
        # No such key is called missing: its file was named, and could not be read.
        names = sorted(line.replace(":", " ").split()[0] for line in complaints(environ))
        assert names == [
            "ED25519_SIGNING_KEY_FILE", "HOST_FILE", "MNEMOM_API_KEY_FILE", "PORT", "QUEUE_ENCRYPTION_KEY_FILE",
            "QUEUE_URL", "SMOLTBOT_CONFIG", "SUPABASE_KEY",
        ]  # fmt: skip

    def test_who_signs_nothing_misses_no_key(self, tmp_path: Path) -> None:
        environ = {"DATABASE_URL": "postgresql://h/d", "HOST_FILE": str(tmp_path)}
        names = [line.split()[0] for line in complaints(environ)]
        assert names == ["ED25519_SIGNING_KEY", "QUEUE_ENCRYPTION_KEY", "HOST_FILE:"]
        with pytest.raises(EnvValidationError) as caught:
            settings.load(environ, signs=False)
        assert caught.value.missing == []


class TestToml:
    def test_values(self, tmp_path: Path) -> None:
        text = """
            PORT = 8080
            SHUTDOWN_GRACE_S = 1.5
            AIP_ENABLED = false
            HOST = " ::1 "
            GATEWAY_VERSION = ""
            CORS_ALLOW_ORIGINS = ["https://a", "https://b"]
            [DEFAULT_CARD.values]
            declared = ["caf\u00e9", true]
        """
        values, warnings = read_variables(settings.load(toml(tmp_path, text)))
        assert (values["port"], values["shutdown_grace_s"], values["aip_enabled"], values["host"]) == (
            8080,
            1.5,
            False,
            "::1",
        )
        assert values["gateway_version"] == read_variables({})[0]["gateway_version"]
        assert values["cors_allow_origins"] == ("https://a", "https://b")
        assert values["default_card"] == {"values": {"declared": ["caf\u00e9", True]}}
        assert warnings == []

    def test_who_wins(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("file")
        below = toml(tmp_path, "HOST = 'toml'\nDATA_DIR = 'toml'\nGATEWAY_VERSION = 'toml'")
        environ = {
            **below, "HOST": "variable", "HOST_FILE": str(tmp_path / "secret"),
            "DATA_DIR_FILE": str(tmp_path / "secret"),
        }  # fmt: skip
        assert settings.load(environ) == {"HOST": "variable", "DATA_DIR": "file", "GATEWAY_VERSION": "toml"}

    def test_an_alias_in_the_file(self, tmp_path: Path) -> None:
        environ = toml(tmp_path, "REDIS_URL = 'redis://h'")
        assert settings.load(environ)["KV_URL"] == "redis://h"
        assert settings.load({**environ, "KV_URL": "memory://"})["KV_URL"] == "memory://"

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("PROT", "PORT"),
            ("port", "PORT"),
            ("UPSTREAM_OPENAI_URI", "UPSTREAM_OPENAI_URL"),
            ("SMOLTBOT_ROLL", "SMOLTBOT_ROLE"),
            ("ZZZZZZ", None),
        ],
    )
    def test_a_name_that_nobody_knows(self, tmp_path: Path, name: str, hint: str | None) -> None:
        [line] = complaints(toml(tmp_path, f"{name} = 'the-secret'"))
        assert line.startswith("SMOLTBOT_CONFIG: ")
        assert repr(name) in line
        assert (f"did you mean {hint}?" in line) if hint else ("did you mean" not in line)
        assert "the-secret" not in line

    @pytest.mark.parametrize("name", sorted(LATER))
    def test_names_of_later_versions_are_known(self, tmp_path: Path, name: str) -> None:
        assert settings.load(toml(tmp_path, f"{name} = 'x'")) == {name: "x"}

    @pytest.mark.parametrize("content", [b"PORT = ", b"\xff", b"[", b"PORT = 1\nPORT = 2"])
    def test_a_file_that_is_no_toml(self, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "smoltbot.toml"
        file.write_bytes(content)
        [line] = complaints({"SMOLTBOT_CONFIG": str(file)})
        assert line.startswith(f"SMOLTBOT_CONFIG: {str(file)!r} cannot be read")

    def test_no_file(self, tmp_path: Path) -> None:
        [line] = complaints({"SMOLTBOT_CONFIG": str(tmp_path / "none.toml")})
        assert "No such file" in line
        assert settings.load({"SMOLTBOT_CONFIG": " "}) == {}
