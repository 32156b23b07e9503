"""``worker-compat run``: bindings, services, crons, queues, where data is kept, and how it ends."""

from __future__ import annotations

import http.client
import json
import signal
import threading
from pathlib import Path

import pytest

from tests.cli.support import LIMIT_S, Served, until, write

COUNTER = """
from workers import Response, WorkerEntrypoint, env, wait_until

async def note(key):
    await env.CACHE.put(key, "noted")

class Default(WorkerEntrypoint):
    async def fetch(self, request):
        path = request.url.partition("://")[2].partition("/")[2]
        if path == "env":
            return Response.json({name: getattr(self.env, name, None) for name in ("A", "B", "N", "T")})
        if path == "noted":
            return Response(await self.env.CACHE.get("noted"))
        wait_until(note("noted"))
        seen = int(await self.env.CACHE.get("n") or 0) + 1
        await self.env.CACHE.put("n", str(seen))
        return Response(f"{seen}")
"""
CONFIG = """
name = "counter"
main = "worker.py"
vars = { A = "a", N = 1, T = { x = [1] } }
kv_namespaces = [{ binding = "CACHE", id = "1" }]
"""
QUEUE = """
import asyncio
from workers import Response, WorkerEntrypoint

class Default(WorkerEntrypoint):
    async def fetch(self, request):
        if request.method == "POST":
            await self.env.JOBS.send(await request.json())
            return Response("sent", 202)
        return Response(await self.env.SEEN.get("seen") or "")

    async def queue(self, batch):
        for message in batch.messages:
            if message.body == "poison":
                message.retry()
                continue
            seen = await self.env.SEEN.get("seen") or ""
            await self.env.SEEN.put("seen", f"{seen}{batch.queue}:{message.body} ")
            message.ack()
"""


class TestHandlerAlone:
    def test_options_declare_the_bindings(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py=COUNTER)
        with Served(tmp_path, "worker.py", "--kv", "CACHE=memory://", "--var", "A=1=2", "--var", "B=") as worker:
            assert worker.output() == (
                f"worker on http://127.0.0.1:{worker.port}; env: A (var), B (var), CACHE (KV, memory)\n"
            )
            assert [worker.ask("/")[1] for _ in range(2)] == ["1", "2"]
            assert json.loads(worker.ask("/env")[1]) == {"A": "1=2", "B": "", "N": None, "T": None}
            until(lambda: worker.ask("/noted")[1] == "noted", worker.output)
        assert not (tmp_path / ".worker-compat").exists()

    def test_it_consumes_the_queues_that_it_is_given(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py=QUEUE)
        arguments = ("--queue", "JOBS=memory://", "--kv", "SEEN=memory://")
        with Served(tmp_path, "worker.py", *arguments) as worker:
            assert worker.output().endswith("; consumes: JOBS\n")
            assert worker.ask("/", "POST", b'"x"') == (202, "sent")
            until(lambda: worker.ask("/")[1] == "JOBS:x ", worker.output)

    def test_without_fetch(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py="async def on_scheduled(controller, env, ctx):\n    print('ran', controller.cron)\n")
        with Served(tmp_path, "worker.py") as worker:
            assert worker.ask("/")[0] == 500
            worker.wait_for(r"error: Handler does not export a fetch\(\) function; add")
            assert worker.ask("/cdn-cgi/handler/scheduled?cron=*+*+*+*+*") == (200, "ok")
            worker.wait_for(r"ran \* \* \* \* \*")


class TestConfiguration:
    def test_data_outlives_the_process(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py=COUNTER, wrangler__toml=CONFIG, __dev__vars="B=hunter2")
        for expected in ("1", "2"):
            with Served(tmp_path) as worker:
                assert worker.output() == (
                    f"counter on http://127.0.0.1:{worker.port}; "
                    "env: A (var), N (var), T (var), B (secret), CACHE (KV, sqlite)\n"
                )
                assert worker.ask("/")[1] == expected
                assert json.loads(worker.ask("/env")[1]) == {"A": "a", "B": "hunter2", "N": 1, "T": {"x": [1]}}
        state = tmp_path / ".worker-compat"
        assert (state / ".gitignore").read_text() == "*\n"
        assert (state / "kv.sqlite").is_file()

    def test_options_over_the_configuration(self, tmp_path: Path) -> None:
        write(tmp_path, app___worker__py=COUNTER, app___wrangler__toml=CONFIG)
        arguments = ("-c", "app/wrangler.toml", "--var", "A=z", "--kv", "CACHE=memory://", "--persist-to", "elsewhere")
        with Served(tmp_path, *arguments) as worker:
            assert json.loads(worker.ask("/env")[1])["A"] == "z"
            assert worker.ask("/")[1] == "1"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["app", "output.log"]

    def test_an_environment_and_a_warning(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py=COUNTER, wrangler__toml=CONFIG + "[env.x.vars]\nA = 'of x'\n")
        with Served(tmp_path, "--env", "x") as worker:
            assert worker.output().splitlines() == [
                "warning: wrangler.toml: kv_namespaces is not inherited by env.x; repeat it there if you need it",
                f"counter-x on http://127.0.0.1:{worker.port}; env: A (var)",
            ]
            assert json.loads(worker.ask("/env")[1])["A"] == "of x"

    def test_a_configuration_in_json(self, tmp_path: Path) -> None:
        text = '{ "name": "j", "main": "worker.py", "vars": { "A": "json" }, /* x */ }'
        write(tmp_path, worker__py=COUNTER, wrangler__jsonc=text)
        with Served(tmp_path) as worker:
            assert json.loads(worker.ask("/env")[1])["A"] == "json"


class TestServices:
    def test_several_workers_in_one_process(self, tmp_path: Path) -> None:
        front = """
from helper import WHO
from workers import Response, WorkerEntrypoint
class Default(WorkerEntrypoint):
    async def fetch(self, request):
        answer = await self.env.AUTH.fetch("http://auth/who")
        total = await self.env.MATH.add(1, 2)
        return Response(f"{WHO} {await answer.text()} {total}")
"""
        auth = """
from helper import WHO
from workers import Response, WorkerEntrypoint
class Default(WorkerEntrypoint):
    async def fetch(self, request):
        return Response(f"{WHO} {self.env.NAME}")
class Math(WorkerEntrypoint):
    async def add(self, a, b):
        return {"sum": a + b, "by": self.ctx.props["by"]}
"""
        services = """
[[services]]
binding = "AUTH"
service = "auth"
[[services]]
binding = "MATH"
service = "auth"
entrypoint = "Math"
props = { by = "front" }
"""
        write(tmp_path, a___w__py=front, a___helper__py='WHO = "a"', a___wrangler__toml='main = "w.py"\n' + services)
        write(tmp_path, b___w__py=auth, b___helper__py='WHO = "b"')
        write(tmp_path, b___wrangler__toml='name = "auth"\nmain = "w.py"\nvars.NAME = "auth\'s"')
        with Served(tmp_path, "-c", "a/wrangler.toml", "-c", "b/wrangler.toml") as worker:
            assert worker.ask("/") == (200, "a b auth's {'sum': 3, 'by': 'front'}")
            assert "AUTH (service auth), MATH (service auth)" in worker.output()


class TestEvents:
    def test_a_queue_from_the_configuration(self, tmp_path: Path) -> None:
        config = """
name = "q"
main = "worker.py"
kv_namespaces = [{ binding = "SEEN", id = "seen" }]
queues.producers = [{ binding = "JOBS", queue = "jobs" }]
[[queues.consumers]]
queue = "jobs"
max_batch_timeout = 0
max_retries = 0
dead_letter_queue = "dead"
[[queues.consumers]]
queue = "dead"
max_batch_timeout = 0
max_retries = 0
"""
        write(tmp_path, worker__py=QUEUE, wrangler__toml=config)
        with Served(tmp_path) as worker:
            assert worker.ask("/", "POST", b'"x"')[0] == 202
            until(lambda: worker.ask("/")[1] == "jobs:x ", worker.output)
            assert worker.ask("/", "POST", b'"poison"')[0] == 202
            worker.wait_for("queue jobs: 1 messages dead after their last retry")
            worker.wait_for("queue dead: 1 messages dropped after their last retry")
        assert (tmp_path / ".worker-compat" / "queues.sqlite").is_file()

    @pytest.mark.parametrize("path", ["/cdn-cgi/handler/scheduled", "/cdn-cgi/local/scheduled"])
    def test_the_manual_trigger(self, tmp_path: Path, path: str) -> None:
        text = """
import asyncio
from workers import Response, WorkerEntrypoint
class Default(WorkerEntrypoint):
    async def fetch(self, request):
        return Response("fetched")
    async def scheduled(self, controller, env, ctx):
        print("ran", controller.cron, controller.scheduledTime, env, ctx, flush=True)
        if controller.cron == "fail":
            raise ValueError("planned")
        if controller.cron == "late":
            async def late():
                raise ValueError("later")
            self.ctx.waitUntil(late())
        controller.noRetry()
"""
        write(tmp_path, worker__py=text)
        with Served(tmp_path, "worker.py") as worker:
            assert worker.ask(f"{path}?cron=*/5+*+*+*+*&time=1767225600000") == (200, "ok")
            worker.wait_for(r"ran \*/5 \* \* \* \* 1767225600000 None None")
            status, headers, body = worker.answer(f"{path}?cron=x&format=json")
            assert (status, headers["content-type"]) == (200, "application/json")
            assert json.loads(body) == {"outcome": "ok", "noRetry": True}
            assert worker.ask(f"{path}?cron=fail") == (500, "exception")
            assert worker.ask(f"{path}?cron=late") == (500, "exception")
            assert json.loads(worker.ask(f"{path}?cron=fail&format=json")[1]) == {
                "outcome": "exception",
                "noRetry": False,
            }
            assert worker.ask(f"{path}?time=soon")[0] == 400
            assert worker.ask("/cdn-cgi/handler/other") == (200, "fetched")
            worker.wait_for(r"error: the scheduled run of fail failed: ValueError: planned \(worker\.py, line 10\)")

    def test_the_manual_trigger_without_a_handler(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py=COUNTER)
        with Served(tmp_path, "worker.py") as worker:
            assert worker.ask("/cdn-cgi/handler/scheduled") == (500, "exception")
            worker.wait_for(r"error: Handler does not export a scheduled\(\) function")

    def test_crons_are_announced(self, tmp_path: Path) -> None:
        text = COUNTER + "    async def scheduled(self, controller): ...\n"
        write(tmp_path, worker__py=text, wrangler__toml=CONFIG + 'triggers.crons = ["0 0 1 1 *", "0 0 LW * *"]')
        with Served(tmp_path) as worker:
            assert worker.output().endswith("; crons: 0 0 1 1 *, 0 0 LW * *\n")


class TestEnd:
    SLOW = """
import asyncio
from workers import Response, WorkerEntrypoint
class Default(WorkerEntrypoint):
    async def fetch(self, request):
        print("waiting", flush=True)
        await asyncio.sleep(float(request.url.rpartition("/")[2]))
        return Response("finished")
"""

    def ask(self, worker: Served, path: str) -> tuple[threading.Thread, list[object]]:
        answers: list[object] = []

        def run() -> None:
            try:
                answers.append(worker.ask(path))
            except (OSError, http.client.HTTPException) as error:
                answers.append(type(error))

        thread = threading.Thread(target=run)
        thread.start()
        worker.wait_for("waiting")
        return thread, answers

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_the_first_signal_lets_requests_finish(self, tmp_path: Path, number: signal.Signals) -> None:
        write(tmp_path, worker__py=self.SLOW)
        with Served(tmp_path, "worker.py") as worker:
            thread, answers = self.ask(worker, "/0.3")
            worker.child.send_signal(number)
            thread.join(LIMIT_S)
            assert answers == [(200, "finished")]
            assert worker.child.wait(LIMIT_S) == 0

    def test_the_second_signal_ends_it_at_once(self, tmp_path: Path) -> None:
        write(tmp_path, worker__py=self.SLOW)
        worker = Served(tmp_path, "worker.py").__enter__()
        thread, answers = self.ask(worker, "/60")
        worker.child.send_signal(signal.SIGTERM)
        worker.child.send_signal(signal.SIGINT)
        assert worker.child.wait(LIMIT_S) in (128 + signal.SIGINT, 128 + signal.SIGTERM)
        thread.join(LIMIT_S)
        assert answers[0] != (200, "finished")

    def test_work_that_was_not_registered_ends_with_its_event(self, tmp_path: Path) -> None:
        text = self.SLOW.replace('await asyncio.sleep(float(request.url.rpartition("/")[2]))', "self.start()")
        text += "    def start(self):\n        self.task = asyncio.create_task(asyncio.sleep(60))\n"
        write(tmp_path, worker__py=text)
        with Served(tmp_path, "worker.py") as worker:
            assert worker.ask("/")[0] == 200
            worker.wait_for("warning: .*tasks that were not given to wait_until")

    def test_background_work_finishes_first(self, tmp_path: Path) -> None:
        text = self.SLOW.replace(
            'await asyncio.sleep(float(request.url.rpartition("/")[2]))', "self.ctx.waitUntil(self.work())"
        )
        text += "    async def work(self):\n        await asyncio.sleep(0.2)\n        print('worked', flush=True)\n"
        write(tmp_path, worker__py=text)
        with Served(tmp_path, "worker.py") as worker:
            assert worker.ask("/")[0] == 200
            worker.child.send_signal(signal.SIGTERM)
            assert worker.child.wait(LIMIT_S) == 0
            assert worker.output().endswith("worked\n")
