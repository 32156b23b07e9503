"""wrangler.toml and .dev.vars: what they declare, what environments inherit, and the sentence for each mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from worker_compat.config import (
    ConsumerConfig,
    KVNamespaceConfig,
    ProducerConfig,
    ServiceConfig,
    WorkerConfig,
    read_config,
)
from worker_compat.dotenv import parse_dotenv
from worker_compat.errors import ConfigError

HEAD = 'name = "w"\nmain = "src/worker.py"\n'

FULL = """
name = "shop"
main = "src/entry.py"
compatibility_date = "2026-04-01"
compatibility_flags = ["python_workers"]
workers_dev = true
routes = ["example.com/*"]
limits = { cpu_ms = 50 }
python_modules.exclude = ["**/*.pyc"]

[vars]
TEXT = "a"
COUNT = 3
RATE = 0.5
ON = true
TABLE = { a = { b = [1, "x", { c = 2 }] } }

[[kv_namespaces]]
binding = "CACHE"
id = "abc"
preview_id = "def"

[[kv_namespaces]]
binding = "NO_ID"

[[queues.producers]]
queue = "jobs"
binding = "JOBS"
delivery_delay = 60

[[queues.consumers]]
queue = "jobs"
max_batch_size = 100
max_batch_timeout = 60
max_retries = 0
retry_delay = 43200
max_concurrency = 5
dead_letter_queue = "dead"

[[queues.consumers]]
queue = "dead"

[[services]]
binding = "AUTH"
service = "auth"
entrypoint = "Admin"
props = { level = 1 }

[triggers]
crons = ["*/5 * * * *", "0 0 L * *"]
"""


def write(folder: Path, text: str, name: str = "wrangler.toml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def read(folder: Path, text: str, environment: str | None = None) -> WorkerConfig:
    return read_config(write(folder, text), environment)


def problem(folder: Path, text: str, environment: str | None = None, name: str = "wrangler.toml") -> str:
    """The sentence, without the folder in front."""
    with pytest.raises(ConfigError) as caught:
        read_config(write(folder, text, name), environment)
    sentence = str(caught.value)
    assert sentence.startswith(f"{folder}/")
    assert "\n" not in sentence
    return sentence.removeprefix(f"{folder}/")


class TestEverything:
    def test_each_section(self, tmp_path: Path) -> None:
        config = read(tmp_path, FULL)
        assert config == WorkerConfig(
            name="shop",
            main=tmp_path / "src" / "entry.py",
            file=tmp_path / "wrangler.toml",
            compatibility_date="2026-04-01",
            compatibility_flags=("python_workers",),
            vars={"TEXT": "a", "COUNT": 3, "RATE": 0.5, "ON": True, "TABLE": {"a": {"b": [1, "x", {"c": 2}]}}},
            kv_namespaces=(KVNamespaceConfig("CACHE", "abc"), KVNamespaceConfig("NO_ID", "NO_ID")),
            queue_producers=(ProducerConfig("JOBS", "jobs", 60),),
            queue_consumers=(ConsumerConfig("jobs", 100, 60, 0, 43200, 5, "dead"), ConsumerConfig("dead")),
            services=(ServiceConfig("AUTH", "auth", "Admin", {"level": 1}),),
            crons=("*/5 * * * *", "0 0 L * *"),
        )

    def test_the_defaults_of_a_consumer_are_those_of_cloudflare(self) -> None:
        assert ConsumerConfig("q") == ConsumerConfig("q", 10, 5, 3, 0, 1, None)

    def test_without_a_name_it_is_that_of_the_folder(self, tmp_path: Path) -> None:
        assert read(tmp_path, 'main = "a.py"').name == tmp_path.name

    def test_secrets_are_not_shown(self, tmp_path: Path) -> None:
        write(tmp_path, "KEY=hunter2", ".dev.vars")
        config = read(tmp_path, HEAD)
        assert config.secrets == {"KEY": "hunter2"}
        assert "hunter2" not in repr(config)

    @pytest.mark.parametrize("name", ["wrangler.json", "wrangler.jsonc"])
    def test_json_with_comments(self, tmp_path: Path, name: str) -> None:
        text = """{
          // "name": "commented out",
          "name": "w", /* two
          lines */ "main": "a.py",
          "vars": { "URL": "http://x/*,]", "QUOTE": "say \\"// hi\\"", },
          "kv_namespaces": [ { "binding": "KV", "id": "1" }, ],
        }"""
        config = read_config(write(tmp_path, text, name))
        assert config.vars == {"URL": "http://x/*,]", "QUOTE": 'say "// hi"'}
        assert config.kv_namespaces == (KVNamespaceConfig("KV", "1"),)


class TestEnvironments:
    TEXT = (
        HEAD
        + """
compatibility_flags = ["a"]
kv_namespaces = [{ binding = "KV", id = "1" }]
services = [{ binding = "S", service = "s" }]
queues.producers = [{ binding = "Q", queue = "q" }]
triggers.crons = ["* * * * *"]
vars.A = "top"
[env.bare]
[env.full]
name = "other"
main = "other.py"
triggers.crons = []
kv_namespaces = [{ binding = "KV2", id = "2" }]
vars = { B = "full" }
"""
    )

    def test_the_top_level_is_not_touched_by_them(self, tmp_path: Path) -> None:
        config = read(tmp_path, self.TEXT)
        assert (config.name, config.vars, config.crons, config.warnings) == ("w", {"A": "top"}, ("* * * * *",), ())

    def test_what_is_inherited(self, tmp_path: Path) -> None:
        config = read(tmp_path, self.TEXT, "bare")
        assert (config.name, config.main) == ("w-bare", tmp_path / "src" / "worker.py")
        assert (config.crons, config.compatibility_flags) == (("* * * * *",), ("a",))
        assert (config.vars, config.kv_namespaces, config.queue_producers, config.services) == ({}, (), (), ())
        assert list(config.warnings) == [
            f"{config.file}: {key} is not inherited by env.bare; repeat it there if you need it"
            for key in ("vars", "kv_namespaces", "queues", "services")
        ]

    def test_what_is_replaced(self, tmp_path: Path) -> None:
        config = read(tmp_path, self.TEXT, "full")
        assert (config.name, config.main, config.crons) == ("other", tmp_path / "other.py", ())
        assert (config.vars, config.kv_namespaces) == ({"B": "full"}, (KVNamespaceConfig("KV2", "2"),))

    def test_an_unknown_one(self, tmp_path: Path) -> None:
        text = problem(tmp_path, self.TEXT, "x")
        assert text == "wrangler.toml: there is no [env.x]; environments: bare, full"
        assert problem(tmp_path, HEAD, "x").endswith("environments: none")

    def test_a_mistake_in_one_is_told_with_its_name(self, tmp_path: Path) -> None:
        text = problem(tmp_path, HEAD + '[env.x]\nkv_namespaces = [{ id = "1" }]', "x")
        assert text == 'wrangler.toml: env.x.kv_namespaces[0].binding is missing; add binding = "NAME"'
        read(tmp_path, HEAD + '[env.x]\nkv_namespaces = [{ id = "1" }]')

    def test_secrets_of_an_environment_replace_the_others(self, tmp_path: Path) -> None:
        write(tmp_path, "A=1\nB=2", ".dev.vars")
        write(tmp_path, "A=3", ".dev.vars.full")
        assert read(tmp_path, self.TEXT, "full").secrets == {"A": "3"}
        assert read(tmp_path, self.TEXT, "bare").secrets == {"A": "1", "B": "2"}
        assert read(tmp_path, self.TEXT).secrets == {"A": "1", "B": "2"}

    def test_what_cannot_run_is_not_inherited_either(self, tmp_path: Path) -> None:
        assert read(tmp_path, HEAD + 'd1_databases = [{ binding = "DB" }]\n[env.x]', "x").name == "w-x"


MISTAKES = {
    "name = ": "wrangler.toml: not TOML (invalid value at end of document); correct that place",
    'name = "w"\nmain = x': "wrangler.toml: not TOML (invalid value at line 2, column 8); correct that place",
    'name = "a"\nname = "b"': "wrangler.toml: not TOML (cannot overwrite a value ",
    'name = "w"': 'wrangler.toml: main is missing; add main = "src/worker.py"',
    "main = 1": 'wrangler.toml: main must be a string; add main = "src/worker.py"',
    'main = ""': 'wrangler.toml: main is empty; add main = "src/worker.py"',
    'main = "src/index.ts"': (
        "wrangler.toml: main names src/index.ts, which is no Python file; only Python workers run here"
    ),
    HEAD + "compatibility_date = 2026-04-01": (
        "wrangler.toml: compatibility_date must be a string; put it in quotes"
    ),
    HEAD + 'compatibility_flags = "x"': "wrangler.toml: compatibility_flags must be a list; put it in [ ]",
    HEAD + "compatibility_flags = [1]": (
        "wrangler.toml: compatibility_flags must be a list of strings; put each of them in quotes"
    ),
    HEAD + "vars = 1": "wrangler.toml: vars must be a table; put its keys into { } or below a [heading]",
    HEAD + "vars.D = { x = [2026-01-01] }": "wrangler.toml: vars.D holds a date or time; put it in quotes",
    HEAD + "[kv_namespaces]": "wrangler.toml: kv_namespaces must be a list; write [[kv_namespaces]]",
    HEAD + 'kv_namespaces = ["KV"]': "wrangler.toml: kv_namespaces[0] must be a table; write [[kv_namespaces]]",
    HEAD + "[[kv_namespaces]]\nbinding = 'MY-KV'": (
        "wrangler.toml: kv_namespaces[0].binding must be a name of letters, digits and _, "
        "because the code says env.NAME"
    ),
    HEAD + "[[kv_namespaces]]\nbinding = 'A'\nid = 5": (
        "wrangler.toml: kv_namespaces[0].id must be a string; put it in quotes"
    ),
    HEAD + "[queues]\nproducers = [{ binding = 'A' }]": (
        'wrangler.toml: queues.producers[0].queue is missing; add queue = "my-queue"'
    ),
    HEAD + "[[queues.consumers]]\nqueue = 'q'\nmax_batch_size = 101": (
        "wrangler.toml: queues.consumers[0].max_batch_size must be a whole number from 1 to 100"
    ),
    HEAD + "[[queues.consumers]]\nqueue = 'q'\nmax_batch_size = '10'": (
        "wrangler.toml: queues.consumers[0].max_batch_size must be a whole number; write its digits without quotes"
    ),
    HEAD + "[[queues.consumers]]\nqueue = 'q'\nmax_batch_timeout = true": (
        "wrangler.toml: queues.consumers[0].max_batch_timeout must be a whole number from 0 to 60"
    ),
    HEAD + "[[queues.consumers]]\nqueue = 'q'\ntype = 'http_pull'": (
        'wrangler.toml: queues.consumers[0].type: only type = "worker" can run here; '
        "remove the key or this consumer"
    ),
    HEAD + "[[queues.consumers]]\nqueue = 'q'\n[[queues.consumers]]\nqueue = 'q'": (
        "wrangler.toml: queues.consumers names q twice; keep one of the two"
    ),
    HEAD + "[[services]]\nbinding = 'A'": (
        'wrangler.toml: services[0].service is missing; add service = "name-of-the-other-worker"'
    ),
    HEAD + "vars.A = 1\n[[services]]\nbinding = 'A'\nservice = 's'": (
        "wrangler.toml: A is bound twice, in services and vars; rename one of them"
    ),
    HEAD + "triggers.crons = ['0 0 * * 0']": "wrangler.toml: triggers.crons[0]: cron '0 0 * * 0': ",
    HEAD + "triggers.crons = '* * * * *'": "wrangler.toml: triggers.crons must be a list; put it in [ ]",
    HEAD + "[[d1_databases]]\nbinding = 'DB'": (
        "wrangler.toml: d1_databases: D1 cannot run here; remove the section, or run this worker with wrangler"
    ),
    HEAD + "durable_objects.bindings = [{ name = 'A', class_name = 'B' }]": (
        "wrangler.toml: durable_objects: Durable Objects cannot run here; remove the section, or run this worker "
        "with wrangler"
    ),
    HEAD + "[[r2_buckets]]\nbinding = 'B'": "wrangler.toml: r2_buckets: R2 cannot run here; ",
    HEAD + "[ai]\nbinding = 'AI'": "wrangler.toml: ai: Workers AI cannot run here; ",
    HEAD + "env = 1": "wrangler.toml: env must be a table; put its keys into { } or below a [heading]",
}  # fmt: skip


class TestMistakes:
    @pytest.mark.parametrize("text", MISTAKES)
    def test_one_sentence(self, tmp_path: Path, text: str) -> None:
        sentence = MISTAKES[text]
        found = problem(tmp_path, text)
        assert found.startswith(sentence) if sentence.endswith(" ") else found == sentence

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"/wrangler\.toml does not exist; name a wrangler\.toml with --config"):
            read_config(tmp_path / "wrangler.toml")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
            read_config(tmp_path)

    def test_not_utf_8(self, tmp_path: Path) -> None:
        (tmp_path / "wrangler.toml").write_bytes(b'name = "\xff"')
        with pytest.raises(ConfigError, match=r"is not text in UTF-8; save it as UTF-8"):
            read_config(tmp_path / "wrangler.toml")

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ('{\n"name": "w"\n"main": 1}', ", line 3: not JSON (Expecting ',' delimiter); correct that line"),
            ('{ // x\n/* y\n*/ "name" }', ", line 3: not JSON (Expecting ':' delimiter); correct that line"),
            ("[]", ': the top level must be an object; begin with { "name": ... }'),
        ],
    )
    def test_json(self, tmp_path: Path, text: str, sentence: str) -> None:
        assert problem(tmp_path, text, name="wrangler.jsonc") == f"wrangler.jsonc{sentence}"

    @pytest.mark.parametrize("text", ["d1_databases = []", "durable_objects = {}", "migrations = []"])
    def test_an_empty_section_is_none(self, tmp_path: Path, text: str) -> None:
        assert read(tmp_path, HEAD + text).warnings == ()


class TestWarnings:
    @pytest.mark.parametrize(
        ("text", "key"),
        [
            ("kv_namespace = []", "kv_namespace"),
            ("triggers.cron = []", "triggers.cron"),
            ("queues.consumer = []", "queues.consumer"),
            ("kv_namespaces = [{ binding = 'A', name = 'x' }]", "kv_namespaces[0].name"),
            ("queues.producers = [{ binding = 'A', queue = 'x', delay = 1 }]", "queues.producers[0].delay"),
            ("queues.consumers = [{ queue = 'x', retries = 1 }]", "queues.consumers[0].retries"),
            ("services = [{ binding = 'A', service = 'x', name = 'y' }]", "services[0].name"),
        ],
    )
    def test_an_unknown_key_is_no_error(self, tmp_path: Path, text: str, key: str) -> None:
        config = read(tmp_path, HEAD + text)
        assert config.warnings == (f"{config.file}: {key} is not known and has no effect",)

    def test_in_an_environment(self, tmp_path: Path) -> None:
        config = read(tmp_path, HEAD + "unknown = 1\n[env.x]\nother = 1", "x")
        assert config.warnings == (
            f"{config.file}: unknown is not known and has no effect",
            f"{config.file}: env.x.other is not known and has no effect",
        )


DOTENV: dict[str, dict[str, str]] = {
    "": {},
    "\n  \n# comment\n\t# another\n": {},
    "A=1": {"A": "1"},
    "A=1\r\nB=2\rC=3\n": {"A": "1", "B": "2", "C": "3"},
    "\ufeffA=1": {"A": "1"},
    "  A = spaces around  \n": {"A": "spaces around"},
    "export A=1\nexport  B = 2": {"A": "1", "B": "2"},
    "A=": {"A": ""},
    "A=\nB=2": {"A": "", "B": "2"},
    "A=1 # comment": {"A": "1"},
    "A=a#b": {"A": "a"},
    "A='a # b'": {"A": "a # b"},
    'A="a # b" # c': {"A": "a # b"},
    'A=`it\'s "x"`': {"A": 'it\'s "x"'},
    'A="two\\nlines\\r"': {"A": "two\nlines\r"},
    "A='no\\nescape'": {"A": "no\\nescape"},
    'A="real\nline"\nB=2': {"A": "real\nline", "B": "2"},
    'A="say \\"hi\\""': {"A": 'say \\"hi\\"'},
    "A=a=b=c": {"A": "a=b=c"},
    "A: yaml": {"A": "yaml"},
    "A=1\nA=2": {"A": "2"},
    "my.key-1=x": {"my.key-1": "x"},
    'A={"json": "value"}': {"A": '{"json": "value"}'},
    "A=''": {"A": ""},
    "A=$B ${C}": {"A": "$B ${C}"},
    "A=it's": {"A": "it's"},
}


class TestDotenv:
    @pytest.mark.parametrize("text", DOTENV)
    def test_values(self, text: str) -> None:
        assert parse_dotenv(text, "f") == DOTENV[text]

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("A=1\nhunter2\n", "f, line 2: expected NAME=value; correct that line or comment it out with #"),
            ("=hunter2", "f, line 1: expected NAME=value; correct that line or comment it out with #"),
            ("A:hunter2", "f, line 1: expected NAME=value; correct that line or comment it out with #"),
            ("\nA='hunter2\nB=2", "f, line 2: the closing ' is missing; add it at the end of the value"),
            (
                "A='x' hunter2",
                "f, line 1: text follows the closing quote of A; remove it or start it with #",
            ),
        ],
    )
    def test_a_mistake_names_the_line_and_never_shows_it(self, text: str, sentence: str) -> None:
        with pytest.raises(ConfigError) as caught:
            parse_dotenv(text, "f")
        assert str(caught.value) == sentence

    def test_the_file_is_named(self, tmp_path: Path) -> None:
        write(tmp_path, "hunter2", ".dev.vars")
        assert problem(tmp_path, HEAD).startswith(".dev.vars, line 1: expected NAME=value")

    def test_not_utf_8(self, tmp_path: Path) -> None:
        (tmp_path / ".dev.vars").write_bytes(b"A=\xff")
        assert problem(tmp_path, HEAD) == ".dev.vars cannot be read; make it a readable file in UTF-8"

    def test_a_secret_takes_the_place_of_a_variable_and_of_nothing_else(self, tmp_path: Path) -> None:
        write(tmp_path, "A=secret", ".dev.vars")
        config: Any = read(tmp_path, HEAD + "vars.A = 'x'")
        assert (config.vars, config.secrets) == ({"A": "x"}, {"A": "secret"})
        text = problem(tmp_path, HEAD + "kv_namespaces = [{ binding = 'A' }]")
        assert text == "wrangler.toml: A is bound twice, in kv_namespaces and .dev.vars; rename one of them"
