"""What a user does wrong ends in one sentence with the file, the line or key, and the fix; never in a traceback."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.cli.support import Served, ran, write

HANDLER = """
from workers import Response, WorkerEntrypoint

class Default(WorkerEntrypoint):
    async def fetch(self, request):
        return Response("hello")
"""
CONFIG = 'name = "w"\nmain = "worker.py"\n'


def sentence(folder: Path, *arguments: str, code: int = 2) -> str:
    """The one line that the command says."""
    done = ran(folder, *arguments)
    assert (done.returncode, done.stdout) == (code, ""), done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


class TestHandler:
    def test_missing(self, tmp_path: Path) -> None:
        text = sentence(tmp_path, "run", "worker.py")
        assert text == "worker.py does not exist; correct the path, or `main` in wrangler.toml"

    def test_without_default(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py="from workers import WorkerEntrypoint\nclass Handler(WorkerEntrypoint): ...\n")
        text = sentence(tmp_path, "run", "worker.py")
        assert text == (
            f"{tmp_path}/worker.py: no handler found; "
            "define `class Default(WorkerEntrypoint)` with `async def fetch(self, request)`"
        )

    def test_two_defaults(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py=HANDLER + "async def on_fetch(request, env): ...\n")
        text = sentence(tmp_path, "run", "worker.py")
        assert text == (
            f"{tmp_path}/worker.py: Cannot define multiple default entrypoints; remove on_fetch or class Default"
        )
        write(tmp_path, worker__py=HANDLER + HANDLER)
        text = sentence(tmp_path, "run", "worker.py")
        assert text == "worker.py: Cannot define multiple default entrypoints; keep one class Default of lines 4, 10"

    def test_a_syntax_error(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py="\nclass Default(\n")
        assert sentence(tmp_path, "run", "worker.py") == "worker.py, line 2: '(' was never closed; correct that line"

    def test_an_exception_at_import(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py="import os\nKEY = os.environ['NOT_SET']\n")
        assert sentence(tmp_path, "run", "worker.py") == (
            "worker.py, line 2: importing the handler failed with KeyError: 'NOT_SET'; "
            "see the whole trace with --traceback"
        )
        done = ran(tmp_path, "run", "worker.py", "--traceback")
        assert done.returncode == 2
        assert "Traceback (most recent call last)" in done.stderr

    def test_a_handler_called_like_a_library(self, tmp_path: Path) -> None:
        config = 'main = "sqlite3.py"\nkv_namespaces = [{ binding = "CACHE" }]'
        text = HANDLER.replace("return", 'await self.env.CACHE.put("a", "b")\n        return')
        write(tmp_path, sqlite3__py=text, wrangler__toml=config)
        with Served(tmp_path) as worker:
            assert worker.ask("/") == (200, "hello")

    def test_javascript(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py="from js import Response\n")
        assert sentence(tmp_path, "run", "worker.py").startswith(
            "worker.py, line 1: js exists only inside Cloudflare; import what you need from workers"
        )

    def test_a_cron_or_a_consumer_without_its_handler(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py=HANDLER, wrangler__toml=CONFIG + 'triggers.crons = ["* * * * *"]')
        assert sentence(tmp_path, "run") == (
            "wrangler.toml: triggers.crons is set, but worker.py has no handler for it; "
            "add `async def scheduled(self, controller, env, ctx)` to class Default"
        )
        write(tmp_path, wrangler__toml=CONFIG + '[[queues.consumers]]\nqueue = "q"')
        assert sentence(tmp_path, "run") == (
            "wrangler.toml: queues.consumers is set, but worker.py has no handler for it; "
            "add `async def queue(self, batch)` to class Default"
        )


class TestConfiguration:
    def test_none_at_all(self, tmp_path: Path) -> None:
        assert sentence(tmp_path, "run") == (
            "there is no wrangler.toml in this folder; name a handler file, or a configuration with --config"
        )

    def test_malformed(self, tmp_path: Path) -> None:
        write(tmp_path, wrangler__toml=CONFIG + "[[kv_namespaces]\n")
        text = sentence(tmp_path, "run")
        assert text.startswith("wrangler.toml: not TOML (")
        assert " at line 3, column " in text

    def test_a_wrong_key(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py=HANDLER, wrangler__toml=CONFIG + '[[kv_namespaces]]\nid = "1"\n')
        text = sentence(tmp_path, "run", "--config", "wrangler.toml")
        assert text == 'wrangler.toml: kv_namespaces[0].binding is missing; add binding = "NAME"'

    def test_what_cannot_run(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py=HANDLER, wrangler__toml=CONFIG + '[[r2_buckets]]\nbinding = "B"\n')
        text = sentence(tmp_path, "run")
        assert text.startswith("wrangler.toml: r2_buckets: R2 cannot run here; remove the section")

    def test_a_secret_is_not_shown(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py=HANDLER, wrangler__toml=CONFIG, __dev__vars="hunter2")
        assert sentence(tmp_path, "run").startswith(".dev.vars, line 1: expected NAME=value")

    def test_an_unknown_environment(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py=HANDLER, wrangler__toml=CONFIG + "[env.staging]")
        text = sentence(tmp_path, "run", "--env", "prod")
        assert text == "wrangler.toml: there is no [env.prod]; environments: staging"

    def test_a_service_that_does_not_run(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py=HANDLER)
        write(tmp_path, wrangler__toml=CONFIG + 'services = [{ binding = "A", service = "auth" }]')
        assert sentence(tmp_path, "run") == (
            "wrangler.toml: services names auth, which does not run here; add -c path/to/its/wrangler.toml (running: w)"
        )

    def test_two_workers_of_one_name(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py=HANDLER, wrangler__toml=CONFIG, b___wrangler__toml=CONFIG, b___worker__py=HANDLER)
        text = sentence(tmp_path, "run", "-c", "wrangler.toml", "-c", "b/wrangler.toml")
        assert text == "two workers are named w; change `name` in b/wrangler.toml"


class TestOptions:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (("--kv", "OTHER=memory://"), "--kv OTHER: the configuration does not declare OTHER; declared: CACHE"),
            (("--queue", "q=memory://"), "--queue q: the configuration does not declare q; declared: none"),
            (("--kv", "CACHE=hunter2"), "--kv CACHE: malformed URL: expected scheme://"),
            (
                ("--kv", "CACHE=nowhere://hunter2"),
                "--kv CACHE: no worker_compat.kv adapter for nowhere://; installed: ",
            ),
            (("worker.py", "-c", "wrangler.toml"), "a handler file goes without --config and --env; "),
        ],
    )
    def test_what_does_not_fit(self, tmp_path: Path, arguments: tuple[str, ...], text: str) -> None:
        write(tmp_path, worker__py=HANDLER, wrangler__toml=CONFIG + 'kv_namespaces = [{ binding = "CACHE" }]')
        found = sentence(tmp_path, "run", *arguments)
        assert found.startswith(text)
        assert "hunter2" not in found

    def test_a_name_that_is_given_twice(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py=HANDLER)
        done = ran(tmp_path, "run", "worker.py", "--kv", "A=memory://hunter2", "--kv", "A=memory://")
        assert done.returncode == 2
        assert "Invalid value for '--kv': A is given twice; keep one of the two" in done.stderr
        assert "hunter2" not in done.stderr
        text = sentence(tmp_path, "run", "worker.py", "--kv", "A=memory://", "--var", "A=hunter2")
        assert text == "A is bound twice, by --var and --kv; rename one of them"

    def test_a_pair_without_a_value(self, tmp_path: Path) -> None:
        done = ran(tmp_path, "run", "--var", "hunter2")
        assert done.returncode == 2
        assert "Invalid value for '--var': expected NAME=VALUE" in done.stderr
        assert "hunter2" not in done.stderr

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py=HANDLER, wrangler__toml=CONFIG + 'kv_namespaces = [{ binding = "CACHE" }]')
        text = sentence(tmp_path, "run", "--persist-to", "worker.py")
        assert text == f"{tmp_path}/worker.py cannot be made (File exists); name another with --persist-to"

    def test_a_port_that_is_taken(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py=HANDLER)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            text = sentence(tmp_path, "run", "worker.py", "--port", str(port), code=1)
        assert text.startswith(f"cannot listen on 127.0.0.1:{port} (")
        assert text.endswith("; choose another with --host and --port")

    @pytest.mark.parametrize("more", [(), ("--watch",)])
    def test_an_address_of_somebody_else(self, tmp_path: Path, more: tuple[str, ...]) -> None:
        write(tmp_path, worker__py=HANDLER)
        text = sentence(tmp_path, "run", "worker.py", "--host", "192.0.2.1", "--port", "0", *more, code=1)
        assert text.startswith("cannot listen on 192.0.2.1:0 (")


class TestAtWork:
    def test_a_dict_instead_of_a_response(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py=HANDLER.replace('Response("hello")', '{"a": 1}'))
        with Served(tmp_path, "worker.py") as worker:
            assert worker.ask("/") == (500, "Internal Server Error")
            _, *said = worker.output().splitlines()
        assert said == [
            f"error: {tmp_path}/worker.py, class Default: Incorrect type for Promise: the Promise did not resolve to "
            "'Response' but to 'dict'; return a Response from fetch(), for example Response.json(data)"
        ]

    def test_an_exception_in_the_handler(self, tmp_path: Path) -> None:
        text = HANDLER.replace('return Response("hello")', "return await self.env.MISSING.get('k')")
        write(tmp_path, worker__py=text)
        with Served(tmp_path, "worker.py", "--var", "A=hunter2") as worker:
            assert worker.ask("/") == (500, "Internal Server Error")
            _, *said = worker.output().splitlines()
        assert said == [
            "error: the handler raised: AttributeError: env has no binding 'MISSING'; bindings: A (worker.py, line 6)"
        ]

    def test_a_store_that_cannot_be_used(self, tmp_path: Path) -> None:
        text = HANDLER.replace('return Response("hello")', "return await self.env.CACHE.get('k')")
        write(tmp_path, worker__py=text, wrangler__toml=CONFIG + 'kv_namespaces = [{ binding = "CACHE" }]')
        folder = tmp_path / "state"
        folder.mkdir()
        (folder / "kv.sqlite").write_bytes(b"this is no database, and long enough to be looked at" * 100)
        with Served(tmp_path, "--persist-to", "state") as worker:
            assert worker.ask("/") == (500, "Internal Server Error")
            _, said = worker.output().splitlines()
        assert said.startswith("error: the handler raised: StoreUnavailable: ")
        assert said.endswith("(worker.py, line 6)")

    def test_the_whole_trace_when_asked_for(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py=HANDLER.replace('Response("hello")', "1 / 0"))
        with Served(tmp_path, "worker.py", "--traceback") as worker:
            assert worker.ask("/")[0] == 500
            assert "Traceback (most recent call last)" in worker.output()
