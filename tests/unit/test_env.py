"""Env: every variable's default, what it accepts and refuses, and that all problems are told at once."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

import pytest

from smoltbot_worker.env import DEFAULT_CARD, LATER, Env, read_variables, variables
from smoltbot_worker.variables import EnvValidationError
from worker_compat import __version__

ANY: list[str] = []
WHOLE = ["0", "-1", "1.5", "1e3", "x", "0x10", "\u0661", "1_000", "+ 1", "99999999999999"]
SECONDS = ["0", "-1", "x", "nan", "inf", "86401", "1s"]
URLS = [
    "api.example.com", "ftp://h", "http://", "https:///x", "http://h:0", "http://h:99999", "http://h:x", "http://h/?a=1",
    "http://h/#a", "http://u@h", "http://h/a b", "//h", "http://[::1",
]  # fmt: skip

SEED = "9d61B19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
POSTGRES = "postgresql://user:the-secret@h:5432/d"
PROJECT = "https://x.supabase.co"

TABLE: dict[str, tuple[Any, dict[str, Any], list[str]]] = {
    "HOST": ("0.0.0.0", {"::": "::", " 127.0.0.1 ": "127.0.0.1"}, ANY),
    "PORT": (8787, {"0": 0, "80": 80, " 65535 ": 65535}, ["65536", "-1", "http", "80.0", "8 0", "9" * 5000]),
    "SMOLTBOT_ROLE": ("all", {"gateway": "gateway", "SCHEDULER": "scheduler", "All": "all"}, ["observer", "all,all"]),
    "LOG_LEVEL": ("info", {"debug": "debug", "WARN": "warn", "error": "error", "loud": "info"}, ANY),
    "DATA_DIR": ("./data", {"/data": "/data"}, ANY),
    "DATABASE_URL": (
        "", {"sqlite:////a/b.db": "sqlite:////a/b.db", POSTGRES: POSTGRES, "POSTGRES://h/d": "POSTGRES://h/d"},
        ["the-secret", "mysql://u:the-secret@h/d", "http://h:5432", "https://the-secret.supabase.co", "postgresqlx://h"],
    ),
    "SUPABASE_URL": (
        "", {PROJECT: PROJECT, f"{PROJECT}/": PROJECT, "http://127.0.0.1:54321": "http://127.0.0.1:54321"},
        ["the-secret", "ftp://h", "http://h:5432", "https://h:6543", "https://u:the-secret@h", "https://h/rest/v1",
         "https://h?the-secret", "https://h:the-secret", "http://[::1", "https://"],
    ),
    "SUPABASE_KEY": ("", {"eyJ.a-b_c": "eyJ.a-b_c"}, ["the secret", "the-secr\u00e9t"]),
    "DB_POOL_MIN": (1, {"0": 0, "10": 10}, ["-1", "1001", "x", "11"]),
    "DB_POOL_MAX": (10, {"1": 1, "1000": 1000}, ["0", "1001", "x"]),
    "ED25519_SIGNING_KEY": (
        "", {SEED: SEED.lower()}, [SEED[1:], f"{SEED}0", f"0x{SEED[2:]}", "\u0660" * 64, f"{SEED[:32]} {SEED[33:]}"],
    ),
    "ED25519_KEY_ID": ("", {"key-002": "key-002", "a": "a"}, ["two words", 'a"b', "a\\b", "x" * 201, "\u00e9"]),
    "PUBLIC_BASE_URL": ("http://localhost:8787", {"https://gw.example.com/x/": "https://gw.example.com/x"}, URLS),
    "ADMIN_TOKEN": (
        (), {"one": ("one",), " one , two ": ("one", "two")},
        ["the-secret,b,c", "the-secret,", ",the-secret", ",", "the secret", "the-secr\u00e9t"],
    ),
    "READ_TOKEN": ("", {"one": "one"}, ["the secret", "the-secr\u00e9t"]),
    "KV_URL": ("memory://", {"redis://h": "redis://h"}, ANY),
    "REDIS_REQUIRED": (False, {"true": True, "FALSE": False}, ["1", "yes"]),
    "DB_FAILURE_MODE": ("open", {"closed": "closed", "OPEN": "open"}, ["ajar", "true"]),
    "AIP_ENABLED": (True, {"false": False, "true": True, "False": True, "0": True, "no": True}, ANY),
    "GATEWAY_VERSION": (__version__, {"1.2.3-x": "1.2.3-x"}, ANY),
    "AIP_FAILURE_POLICY": ("fail_open", {"FAIL_CLOSED": "fail_closed", "fail_open": "fail_open"}, ["closed", "true"]),
    "AIP_STORE_EVIDENCE": (False, {"True": True, "false": False}, ["1", "on"]),
    "ANALYSIS_MODE": (
        "auto", {"local": "local", "Hybrid": "hybrid", "OFF": "off", "auto": "auto"}, ["on", "local,hybrid"],
    ),
    "ANTHROPIC_API_KEY": ("", {"sk-ant-1": "sk-ant-1"}, ["the secret", "the-secr\u00e9t"]),
    "ANALYSIS_MODEL": ("claude-haiku-4-5-20251001", {"a/b:c-1.5": "a/b:c-1.5"}, ["two words", 'a"b', "x" * 201]),
    "ANALYSIS_BASE_URL": ("https://api.anthropic.com", {"http://h:1/x/": "http://h:1/x"}, URLS),
    "ANALYSIS_TIMEOUT_MS": (10_000, {"1": 1, "600000": 600_000}, [*WHOLE, "600001"]),
    "MNEMOM_ANALYZE_URL": ("", {"https://h/v1/analyze": "https://h/v1/analyze"}, URLS),
    "MNEMOM_API_KEY": ("", {"mnm_1": "mnm_1"}, ["the secret", "the-secr\u00e9t"]),
    "QUEUE_URL": ("", {"redis://:the-secret@h": "redis://:the-secret@h"}, ANY),
    "QUEUE_ENCRYPTION_KEY": ("", {SEED: SEED.lower()}, [SEED[1:], f"{SEED}0", f"0x{SEED[2:]}", "the-secret"]),
    "EXCHANGE_DURABILITY": ("durable", {"ASYNC": "async", "durable": "durable"}, ["sync", "true"]),
    "OBSERVER_BATCH": (50, {"1": 1, "100": 100}, [*WHOLE, "101"]),
    "OBSERVER_MAX_ATTEMPTS": (5, {"1": 1, "100": 100}, [*WHOLE, "101"]),
    "WEBHOOK_ALLOW_PRIVATE": (False, {"TRUE": True, "false": False}, ["1", "yes"]),
    "LICENSE_MODE": ("optional", {"required": "required", "Optional": "optional"}, ["strict", "true"]),
    "MNEMOM_LICENSE_JWT": ("", {"eyJ.a-b_c.x": "eyJ.a-b_c.x"}, ["the secret", "the-secr\u00e9t"]),
    "LICENSE_PUBLIC_KEY": ("", {f"k1={SEED}": f"k1={SEED}", "/etc/jwks.json": "/etc/jwks.json"}, ANY),
    "HEARTBEAT_URL": (
        "https://api.mnemom.ai/v1/deployments/heartbeat", {"OFF": "off", "http://h/x/": "http://h/x"}, [*URLS, "on"],
    ),
    "DEPLOYMENT_ID": ("", {"eu-1": "eu-1"}, ["two words", "x" * 201]),
    "BILLING_ENFORCEMENT_ENABLED": (False, {"True": True, "false": False}, ["maybe", "1"]),
    "CLIENT_FIN": ("wait", {"abort": "abort", "Wait": "wait"}, ["close"]),
    "MAX_CONNECTIONS": (10_000, {"1": 1, "1000000": 1_000_000}, [*WHOLE, "1000001"]),
    "MAX_HELD_BYTES": (268_435_456, {"1048576": 1 << 20}, ["1048575", "x"]),
    "MAX_BODY_BYTES": (33_554_432, {"1": 1, "1099511627776": 1 << 40}, WHOLE),
    "MAX_CAPTURE_BYTES": (1_048_576, {"1024": 1024, "1073741824": 1 << 30}, [*WHOLE, "1023", "1073741825"]),
    "UPSTREAM_ANTHROPIC_URL": ("https://api.anthropic.com", {"http://h:1/x/": "http://h:1/x"}, URLS),
    "UPSTREAM_OPENAI_URL": ("https://api.openai.com", {"HTTPS://h": "HTTPS://h"}, URLS),
    "UPSTREAM_GEMINI_URL": (
        "https://generativelanguage.googleapis.com", {"http://[::1]:8080": "http://[::1]:8080"}, URLS,
    ),
    "UPSTREAM_CONNECT_TIMEOUT_S": (10.0, {"0.5": 0.5, "86400": 86400.0}, SECONDS),
    "UPSTREAM_READ_TIMEOUT_S": (300.0, {"1": 1.0}, SECONDS),
    "CORS_ALLOW_ORIGINS": (
        ("*",),
        {"*": ("*",), "https://a": ("https://a",), " https://a , ,https://b,": ("https://a", "https://b"), ",": ()},
        ["*,https://a", "https://a, *"],
    ),
    "DEFAULT_CARD": (DEFAULT_CARD, {'{"a": [1]}': {"a": [1]}, "{}": {}}, ["{", "[]", "1", "null", "card.json"]),
    "MODELS_FILE": ("", {}, ["/nowhere/models.json", "/"]),
    "SHUTDOWN_GRACE_S": (45.0, {"1": 1.0}, SECONDS),
    "DRAIN_TIMEOUT_S": (10.0, {"1.5": 1.5}, SECONDS),
}  # fmt: skip

SHARED = {"ED25519_SIGNING_KEY": SEED, "QUEUE_ENCRYPTION_KEY": SEED}
HYBRID = {"MNEMOM_ANALYZE_URL": "https://x", "MNEMOM_API_KEY": "k"}
NEEDS = {
    "DATABASE_URL": SHARED,
    "SUPABASE_URL": {**SHARED, "SUPABASE_KEY": "k", "QUEUE_URL": "redis://h"},
    "ANALYSIS_MODE": {**HYBRID, "ANTHROPIC_API_KEY": "k"},
    "MNEMOM_ANALYZE_URL": HYBRID,
    "LICENSE_MODE": {"MNEMOM_LICENSE_JWT": "k"},
}
"""What else must be set where these are."""

REFUSED = {"THINKING_INJECTION": "auto"}
HARMLESS = {"THINKING_INJECTION": ["off"]}


def problems(**given: str) -> tuple[list[str], list[str]]:
    """What is missing and what is invalid."""
    with pytest.raises(EnvValidationError) as caught:
        read_variables(given)
    for line in (*caught.value.missing, *caught.value.invalid):
        assert f"  {line}" in str(caught.value).splitlines()
    return caught.value.missing, caught.value.invalid


def without(given: dict[str, str], name: str) -> dict[str, str]:
    return {each: text for each, text in given.items() if each != name}


def names_of(lines: list[str]) -> list[str]:
    return [line.replace(":", " ").split()[0] for line in lines]


class TestEachVariable:
    def test_the_table_has_every_one(self) -> None:
        assert [entry.name.upper() for entry in variables()] == list(TABLE)

    def test_defaults(self) -> None:
        values, warnings = read_variables({})
        assert {name.upper(): value for name, value in values.items()} == {name: row[0] for name, row in TABLE.items()}
        assert warnings == []

    @pytest.mark.parametrize("name", TABLE)
    @pytest.mark.parametrize("text", ["", " ", "\t\n"])
    def test_empty_is_unset(self, name: str, text: str) -> None:
        values, warnings = read_variables({name: text})
        assert (values[name.lower()], warnings) == (TABLE[name][0], [])

    @pytest.mark.parametrize(
        ("name", "text", "value"),
        [(name, text, value) for name, row in TABLE.items() for text, value in row[1].items()],
    )
    def test_valid(self, name: str, text: str, value: Any) -> None:
        got = read_variables({**NEEDS.get(name, {}), name: text})[0][name.lower()]
        assert (got, type(got)) == (value, type(value))

    @pytest.mark.parametrize(("name", "text"), [(name, text) for name, row in TABLE.items() for text in row[2]])
    def test_invalid(self, name: str, text: str) -> None:
        missing, invalid = problems(**{**NEEDS.get(name, {}), name: text})
        assert missing == []
        assert names_of(invalid) == [name]
        assert len(invalid[0]) < 250
        assert "the-secr" not in invalid[0]
        assert SEED[2:30] not in invalid[0]

    def test_names_are_in_upper_case(self) -> None:
        assert read_variables({"port": "1", "Port": "2", "UNKNOWN": "3"}) == read_variables({})


class TestProblems:
    def test_all_at_once(self) -> None:
        missing, invalid = problems(
            PORT="x", SMOLTBOT_ROLE="x", MAX_BODY_BYTES="x", UPSTREAM_OPENAI_URL="x", DEFAULT_CARD="x",
            MODELS_FILE="/x/y", LICENSE_MODE="required", THINKING_INJECTION="maybe", SUPABASE_URL="https://x:5432",
            DATABASE_URL="sqlite:////a/b", DB_POOL_MIN="9", DB_POOL_MAX="8",
            MNEMOM_ANALYZE_URL="https://x", ANALYSIS_MODE="local",
        )  # fmt: skip
        assert sorted(names_of(missing)) == [
            "ANTHROPIC_API_KEY",
            "ED25519_SIGNING_KEY",
            "MNEMOM_API_KEY",
            "MNEMOM_LICENSE_JWT",
            "QUEUE_ENCRYPTION_KEY",
            "QUEUE_URL",
            "SUPABASE_KEY",
        ]
        assert sorted(names_of(invalid)) == [
            "DATABASE_URL", "DB_POOL_MIN", "DEFAULT_CARD", "MAX_BODY_BYTES", "MODELS_FILE", "PORT", "SMOLTBOT_ROLE",
            "SUPABASE_URL", "THINKING_INJECTION", "UPSTREAM_OPENAI_URL",
        ]  # fmt: skip

    def test_the_text(self) -> None:
        with pytest.raises(EnvValidationError) as caught:
            read_variables({"PORT": "http", "SUPABASE_URL": "https://x"})
        assert str(caught.value).splitlines() == [
            "Missing required environment variables:",
            "  SUPABASE_KEY (because SUPABASE_URL is set)",
            "  ED25519_SIGNING_KEY (because SUPABASE_URL is set: its processes share one key;"
            " `smoltbot signing-keys generate` makes one)",
            "  QUEUE_ENCRYPTION_KEY (because SUPABASE_URL is set: its processes share one key;"
            " `openssl rand -hex 32` makes one)",
            "  QUEUE_URL (because SUPABASE_URL is set, which has no queue: name a redis:// server)",
            "Invalid environment variables:",
            "  PORT: 'http' is not a whole number from 0 to 65535",
            "Set them in .env or in the deployment's configuration; docs/configuration.md explains each.",
        ]

    @pytest.mark.parametrize(
        ("given", "needed"),
        [
            ({"MNEMOM_ANALYZE_URL": "https://x"}, "MNEMOM_API_KEY"),
            *(
                ({"SUPABASE_URL": PROJECT, **without(NEEDS["SUPABASE_URL"], name)}, name)
                for name in NEEDS["SUPABASE_URL"]
            ),
            *(({"DATABASE_URL": POSTGRES, **without(SHARED, name)}, name) for name in SHARED),
            *(({"SUPABASE_URL": POSTGRES, **without(SHARED, name)}, name) for name in SHARED),
            ({"ANALYSIS_MODE": "LOCAL"}, "ANTHROPIC_API_KEY"),
            ({"ANALYSIS_MODE": "Hybrid", "MNEMOM_API_KEY": "k"}, "MNEMOM_ANALYZE_URL"),
            ({"LICENSE_MODE": "Required"}, "MNEMOM_LICENSE_JWT"),
        ],
    )
    def test_what_one_needs_of_another(self, given: dict[str, str], needed: str) -> None:
        assert names_of(problems(**given)[0]) == [needed]
        assert names_of(problems(**given, **{needed: " "})[0]) == [needed]
        assert problems(**given, **{needed: SEED}, PORT="x")[0] == []

    @pytest.mark.parametrize(
        "text",
        ["https://user:the-secret@h", "https://h/?key=the-secret", "https://h:the-secret/", "http://the-secret:x"],
    )
    def test_a_secret_in_a_url_is_not_shown(self, text: str) -> None:
        _, invalid = problems(UPSTREAM_GEMINI_URL=text)
        assert names_of(invalid) == ["UPSTREAM_GEMINI_URL"]
        assert "the-secret" not in invalid[0]

    def test_values_of_secrets_are_never_shown(self) -> None:
        secrets = {name: f"the-secret-{name}" for name in LATER if name.endswith(("KEY", "TOKEN", "JWT", "AUTH"))}
        assert len(secrets) >= 4
        known = {entry.name.upper(): "the-secret \u00e9" for entry in variables() if entry.metadata.get("secret")}
        assert len(problems(PORT="x", **secrets, **known)[1]) > len(known) / 2
        with pytest.raises(EnvValidationError) as caught:
            read_variables({"PORT": "x", **secrets, **known, "SUPABASE_URL": "https://u:the-secret@h"})
        assert "the-secret" not in str(caught.value)
        _, warnings = read_variables(secrets)
        assert len(warnings) == len(secrets)
        assert "the-secret" not in "".join(warnings)

    def test_a_long_value_is_cut(self) -> None:
        _, invalid = problems(DEFAULT_CARD="x" * 100_000)
        assert len(invalid[0]) < 120


ROLES = ["gateway", "scheduler", "all"]


@pytest.mark.parametrize("role", ROLES)
class TestDatabase:
    """SUPABASE_URL, SUPABASE_KEY, DATABASE_URL and the key that signs: the same in each role."""

    def test_nothing_is_the_embedded_database(self, role: str) -> None:
        empty = {"SUPABASE_URL": "", "SUPABASE_KEY": " ", "DATABASE_URL": "", **dict.fromkeys(SHARED, "")}
        values, warnings = read_variables({"SMOLTBOT_ROLE": role, **empty})
        assert (values["supabase_url"], values["database_url"], warnings) == ("", "", [])

    @pytest.mark.parametrize("key", [{}, {"SUPABASE_KEY": ""}, {"SUPABASE_KEY": "  "}])
    def test_a_project_needs_its_key(self, role: str, key: dict[str, str]) -> None:
        given = {"SMOLTBOT_ROLE": role, "SUPABASE_URL": PROJECT, "QUEUE_URL": "redis://h", **SHARED, **key}
        assert problems(**given) == (["SUPABASE_KEY (because SUPABASE_URL is set)"], [])

    def test_a_key_alone_is_told(self, role: str) -> None:
        values, warnings = read_variables({"SMOLTBOT_ROLE": role, "SUPABASE_KEY": "k", "SUPABASE_URL": ""})
        assert (values["supabase_key"], values["supabase_url"]) == ("k", "")
        assert warnings == ["SUPABASE_KEY is set, but has no effect without SUPABASE_URL"]

    @pytest.mark.parametrize("url", [POSTGRES, POSTGRES.replace("ql", ""), POSTGRES.upper()])
    def test_a_project_that_is_a_server_counts_as_database_url(self, role: str, url: str) -> None:
        given = {"SMOLTBOT_ROLE": role, "SUPABASE_URL": url, "SUPABASE_KEY": "", **SHARED}
        for key in ("", "k"):
            values, warnings = read_variables({**given, "SUPABASE_KEY": key})
            assert (values["database_url"], values["supabase_url"], values["supabase_key"]) == (url, "", "")
            assert warnings == []

    @pytest.mark.parametrize("project", [PROJECT, POSTGRES])
    @pytest.mark.parametrize("database", [POSTGRES, "sqlite:////a/b.db"])
    def test_two_databases_are_one_too_many(self, role: str, project: str, database: str) -> None:
        given = {"SUPABASE_URL": project, "DATABASE_URL": database, **NEEDS["SUPABASE_URL"]}
        missing, invalid = problems(SMOLTBOT_ROLE=role, **given)
        assert missing == []
        assert "DATABASE_URL: SUPABASE_URL is set too; keep one of them, the one where the records are" in invalid
        assert "the-secret" not in str(invalid)

    @pytest.mark.parametrize("url", ["http://postgres:5432", "https://db.x.supabase.co:6543", "http://h:5432/"])
    def test_a_wire_port_is_refused_with_what_to_set(self, role: str, url: str) -> None:
        given = {"SUPABASE_URL": url, **NEEDS["SUPABASE_URL"]}
        assert problems(SMOLTBOT_ROLE=role, **given) == (
            [],
            [
                "SUPABASE_URL: names a PostgreSQL server and not Supabase's REST API: set"
                " DATABASE_URL=postgresql://user:password@host:port/database instead, and unset SUPABASE_URL"
            ],
        )

    def test_who_signs_nothing_needs_no_key(self, role: str) -> None:
        given = {"SMOLTBOT_ROLE": role, "DATABASE_URL": POSTGRES}
        assert read_variables(given, signs=False)[0]["database_url"] == POSTGRES
        assert names_of(problems(**given)[0]) == list(SHARED)


def test_secrets_are_not_in_the_repr() -> None:
    secrets = {"SUPABASE_KEY": "the-secret-1", "ED25519_SIGNING_KEY": SEED, "READ_TOKEN": "the-secret-2",
               "ADMIN_TOKEN": "the-secret-3,the-secret-4", "DATABASE_URL": POSTGRES,
               "KV_URL": "redis://:the-secret-5@h", "QUEUE_URL": "redis://:the-secret-6@h",
               "QUEUE_ENCRYPTION_KEY": SEED, "ANTHROPIC_API_KEY": "the-secret-7", "MNEMOM_API_KEY": "the-secret-8",
               "MNEMOM_LICENSE_JWT": "the-secret-9"}  # fmt: skip
    values, _ = read_variables(secrets)
    assert (values["admin_token"], values["read_token"]) == (("the-secret-3", "the-secret-4"), "the-secret-2")
    bindings = [entry.name for entry in fields(Env) if "parse" not in entry.metadata and entry.default is MISSING]
    env = Env(**values, **dict.fromkeys(bindings))  # type: ignore[arg-type]
    assert "the-secret" not in repr(env)
    assert SEED.lower() not in repr(env)
    assert "port=8787" in repr(env)
    assert {entry.name.upper() for entry in variables() if entry.metadata.get("secret")} == {*secrets, "SUPABASE_URL"}


class TestRefused:
    @pytest.mark.parametrize("name", REFUSED)
    def test_what_this_version_cannot_do(self, name: str) -> None:
        value = REFUSED[name]
        for text in (value, value.upper(), value.title(), f"  {value} "):
            _, invalid = problems(**{name: text})
            assert names_of(invalid) == [name]
            assert "must not pretend" in invalid[0]

    def test_what_this_version_does_not_know(self) -> None:
        _, invalid = problems(CF_AI_GATEWAY_URL="https://x")
        assert invalid == ["CF_AI_GATEWAY_URL: not supported by this version; unset it"]

    @pytest.mark.parametrize("name", REFUSED)
    def test_a_word_that_nobody_knows(self, name: str) -> None:
        _, invalid = problems(**{name: "maybe"})
        assert names_of(invalid) == [name]
        assert "is not one of" in invalid[0]

    @pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in HARMLESS.items() for text in texts])
    def test_what_asks_for_nothing_is_accepted(self, name: str, text: str) -> None:
        for form in (text, text.upper()):
            assert read_variables({name: form})[0] == read_variables({})[0]


class TestWarnings:
    def test_a_log_level_that_nobody_knows(self) -> None:
        values, [warning] = read_variables({"LOG_LEVEL": "Loud"})
        assert values["log_level"] == "info"
        assert warning == "LOG_LEVEL 'loud' is not debug, info, warn or error; using info"

    @pytest.mark.parametrize("name", sorted(LATER - set(REFUSED)))
    def test_variables_of_later_versions(self, name: str) -> None:
        values, warnings = read_variables({name: "x"})
        assert values == read_variables({})[0]
        assert warnings == [f"{name} is set, but has no effect in this version"]
        assert read_variables({name: " "})[1] == []
