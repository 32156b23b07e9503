"""Loading a handler's file: what its imports give, and the one sentence that each mistake ends in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import worker_compat
from tests.architecture.test_public_names import CLOUDFLARE
from worker_compat import workers
from worker_compat.context import ExecutionContext
from worker_compat.entrypoint import find_entrypoints
from worker_compat.errors import ConfigError
from worker_compat.loading import error_place, load_module

HANDLER = """
from workers import Response, WorkerEntrypoint
class Default(WorkerEntrypoint):
    async def fetch(self, request):
        return Response("hello")
"""


@pytest.fixture(autouse=True)
def imports() -> Iterator[None]:
    """Give the module table and the search path back as they were."""
    modules, path = dict(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.modules.update(modules)
    sys.path[:] = path


def write(folder: Path, text: str, name: str = "my_worker.py") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def problem(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_module(file)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{file.parent}/", "")


class TestWorkersModule:
    def test_an_unmodified_handler(self, tmp_path: Path) -> None:
        module = load_module(write(tmp_path, HANDLER))
        assert issubclass(find_entrypoints(module)["default"], worker_compat.WorkerEntrypoint)
        assert module.Response is worker_compat.Response
        assert sys.modules["workers"] is workers

    # The committed list; the conformance tests compare it with the SDK's own.
    @pytest.mark.parametrize("name", sorted(CLOUDFLARE))
    def test_every_name_of_the_sdk(self, tmp_path: Path, name: str) -> None:
        module = load_module(write(tmp_path, f"from workers import {name} as found"))
        assert module.found is getattr(workers, name)

    def test_a_module_of_that_name_beside_the_handler_wins(self, tmp_path: Path) -> None:
        write(tmp_path, "MINE = 1", "workers.py")
        assert load_module(write(tmp_path, "from workers import MINE")).MINE == 1

    def test_durable_objects_and_workflows_can_be_defined(self, tmp_path: Path) -> None:
        text = """
from workers import DurableObject, WorkflowEntrypoint
class Room(DurableObject):
    def __init__(self, ctx, env):
        super().__init__(ctx, env)
class Flow(WorkflowEntrypoint):
    async def run(self, event, step): ...
"""
        module: Any = load_module(write(tmp_path, text + HANDLER))
        assert module.Room("ctx", "env").env == "env"
        assert module.Flow("ctx", "env").ctx == "ctx"
        assert list(find_entrypoints(module)) == ["default"]

    def test_the_context_of_annotations(self) -> None:
        assert workers.Context is ExecutionContext

    def test_there_is_no_javascript(self) -> None:
        with pytest.raises(ConfigError, match="cloudflare:sockets is a JavaScript module and exists only inside"):
            workers.import_from_javascript("cloudflare:sockets")


class TestImports:
    def test_siblings_and_packages(self, tmp_path: Path) -> None:
        write(tmp_path, "X = 1", "helper_a.py")
        write(tmp_path, "Y = 2", "lib_a/__init__.py")
        module = load_module(write(tmp_path, "import helper_a, lib_a\nZ = helper_a.X + lib_a.Y"))
        assert module.Z == 3

    def test_two_handlers_have_their_own_siblings(self, tmp_path: Path) -> None:
        folders = [tmp_path / name for name in ("a", "b")]
        for folder in folders:
            write(folder, f"NAME = {folder.name!r}", "shared_name.py")
            write(folder, "import shared_name\nNAME = shared_name.NAME", "worker.py")
        first = load_module(folders[0] / "worker.py", apart_from=[folders[1]])
        second = load_module(folders[1] / "worker.py", apart_from=[folders[0]])
        assert (first.NAME, second.NAME) == ("a", "b")

    def test_a_file_may_be_called_like_another_module(self, tmp_path: Path) -> None:
        json = sys.modules["json"]
        assert load_module(write(tmp_path, "X = 1", "json.py")).X == 1
        assert sys.modules["json"] is json

    def test_annotations_can_be_resolved(self, tmp_path: Path) -> None:
        text = "from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int"
        assert load_module(write(tmp_path, text)).A(1).x == 1


MISTAKES = {
    "def f(:\n": "my_worker.py, line 1: invalid syntax; correct that line",
    "x = 1\nif x:\nprint(x)\n": (
        "my_worker.py, line 3: expected an indented block after 'if' statement on line 2; correct that line"
    ),
    "\n1 / 0\n": (
        "my_worker.py, line 2: importing the handler failed with ZeroDivisionError: division by zero; "
        "see the whole trace with --traceback"
    ),
    "def f():\n    raise ValueError\nf()\n": (
        "my_worker.py, line 2: importing the handler failed with ValueError; see the whole trace with --traceback"
    ),
    "import sys\nsys.exit(3)\n": (
        "my_worker.py, line 2: importing the handler failed with SystemExit: 3; see the whole trace with --traceback"
    ),
    "x = 1\0\n": "my_worker.py: source code string cannot contain null bytes; save it as text in UTF-8",
    "from workers import env\nenv.KEY\n": (
        "my_worker.py, line 2: no event here: `env` works while a handler runs; "
        "read it inside a function of the handler"
    ),
    "import a_library_nobody_has\n": (
        "my_worker.py, line 1: there is no module a_library_nobody_has; install it, or correct the import"
    ),
    "\nfrom js import Response\n": (
        "my_worker.py, line 2: js exists only inside Cloudflare; "
        "import what you need from workers (Response, fetch, env) instead"
    ),
    "import pyodide.ffi\n": (
        "my_worker.py, line 1: pyodide exists only inside Cloudflare; "
        "import what you need from workers (Response, fetch, env) instead"
    ),
    "from workers.asgi import entrypoint\n": (
        "my_worker.py, line 1: workers.asgi is not supported here; "
        "write a class Default(WorkerEntrypoint), or run an ASGI server beside it"
    ),
    "from workers import Nothing\n": "my_worker.py, line 1: cannot import name 'Nothing' from 'worker_compat.workers'",
    "class Default: ...\nx = 1\nclass Default: ...\n": (
        "my_worker.py: Cannot define multiple default entrypoints; keep one class Default of lines 1, 3"
    ),
}


class TestMistakes:
    @pytest.mark.parametrize("text", MISTAKES)
    def test_one_sentence(self, tmp_path: Path, text: str) -> None:
        found = problem(write(tmp_path, text))
        sentence = MISTAKES[text]
        assert found.startswith(sentence) if "Nothing" in text else found == sentence
        assert "my_worker" not in sys.modules

    def test_a_mistake_in_another_file_names_that_one(self, tmp_path: Path) -> None:
        write(tmp_path, "x = (\n", "broken_a.py")
        assert problem(write(tmp_path, "import broken_a")) == (
            "broken_a.py, line 1: '(' was never closed; correct that line"
        )
        write(tmp_path, "\n\nraise OSError('x')", "raising_a.py")
        assert problem(write(tmp_path, "import raising_a")).startswith("raising_a.py, line 3: importing the handler")

    def test_the_cause_is_kept_for_those_who_ask(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            load_module(write(tmp_path, "1 / 0"))
        assert isinstance(caught.value.__cause__, ZeroDivisionError)

    def test_files_that_are_not_there_or_of_another_kind(self, tmp_path: Path) -> None:
        missing = "my_worker.py does not exist; correct the path, or `main` in wrangler.toml"
        assert problem(tmp_path / "my_worker.py") == missing
        (tmp_path / "folder.py").mkdir()
        assert problem(tmp_path / "folder.py").startswith("folder.py cannot be read (Is a directory)")
        assert problem(tmp_path / "worker.js").startswith("worker.js is no Python file; name a handler that ends")
        (tmp_path / "latin.py").write_bytes(b"x = '\xff'")
        assert problem(tmp_path / "latin.py").startswith("latin.py")

    def test_the_place_of_an_error_is_the_last_line_of_the_handler(self, tmp_path: Path) -> None:
        module = load_module(write(tmp_path, "import json\ndef f():\n    json.loads('{')"))
        with pytest.raises(ValueError, match="Expecting") as caught:
            module.f()
        assert error_place(caught.value, tmp_path) == f"{tmp_path}/my_worker.py, line 3"
        assert error_place(caught.value, tmp_path / "elsewhere") is None
