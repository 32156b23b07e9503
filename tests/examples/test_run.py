"""The examples of handlers under ``worker-compat run``: as they are, with nothing but options."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.support import Served, until

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_hello(tmp_path: Path) -> None:
    with Served(tmp_path, EXAMPLES / "hello.py") as worker:
        assert worker.ask("/x?y=1") == (200, f"hello from http://127.0.0.1:{worker.port}/x?y=1\n")


def test_kv_cron_and_streaming(tmp_path: Path) -> None:
    arguments = ("-c", EXAMPLES / "kv_cron_stream" / "wrangler.toml", "--persist-to", tmp_path / "state")
    text = "a long note, " * 20_000
    with Served(tmp_path, *arguments) as worker:
        assert worker.ask("/notes/a%20b", "PUT", text.encode(), {"content-type": "text/x"}) == (201, "stored\n")
        assert worker.ask("/notes/empty", "PUT") == (201, "stored\n")
        status, headers, body = worker.answer("/notes/a%20b")
        assert (status, headers["content-type"], body) == (200, "text/x", text)
        assert worker.ask("/notes/empty") == (200, "")
        assert worker.ask("/notes/missing") == (404, "no such note\n")
        assert json.loads(worker.ask("/notes")[1]) == {"title": "Notes", "names": ["a b", "empty"]}
        assert json.loads(worker.ask("/report")[1]) == {"notes": None}
        assert worker.ask("/cdn-cgi/handler/scheduled?cron=*/5+*+*+*+*") == (200, "ok")
        assert json.loads(worker.ask("/report")[1]) == {"notes": 2, "cron": "*/5 * * * *"}
        assert worker.ask("/") == (404, "try /notes\n")
    with Served(tmp_path, *arguments, "--env", "staging") as worker:
        assert json.loads(worker.ask("/notes")[1]) == {"title": "Notes (staging)", "names": []}
    with Served(tmp_path, *arguments) as worker:
        assert worker.ask("/notes/a%20b") == (200, text)


def test_hello_in_the_style_of_cloudflare(tmp_path: Path) -> None:
    with Served(tmp_path, "-c", EXAMPLES / "cloudflare_style" / "hello" / "wrangler.jsonc") as worker:
        status, headers, body = worker.answer("/")
        assert (status, headers["x-greeting"], body) == (200, "hello", "Hello, World!")


def test_a_counter_in_the_style_of_cloudflare(tmp_path: Path) -> None:
    config = EXAMPLES / "cloudflare_style" / "counter" / "wrangler.toml"
    with Served(tmp_path, "-c", config, "--kv", "COUNTS=memory://") as worker:
        assert [worker.ask("/") for _ in range(2)] == [(200, '{"visits": 1}'), (200, '{"visits": 2}')]
        status, headers, body = worker.answer("/", "POST", b"x")
        assert (status, headers["allow"], json.loads(body)) == (405, "GET", {"error": "use GET"})


def test_a_cron_logger_in_the_style_of_cloudflare(tmp_path: Path) -> None:
    config = EXAMPLES / "cloudflare_style" / "cron_logger" / "wrangler.toml"
    with Served(tmp_path, "-c", config, "--persist-to", tmp_path / "state") as worker:
        assert "; crons: */3 * * * *, 0 15 1 * *" in worker.output()
        assert worker.ask("/cdn-cgi/handler/scheduled?cron=*/3+*+*+*+*&time=1767225600000") == (200, "ok")
        worker.wait_for(r"\*/3 \* \* \* \* ran for 2026-01-01T00:00:00\+00:00")
        until((tmp_path / "state" / "kv.sqlite").is_file, worker.output)
