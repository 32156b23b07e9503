"""Loading a handler's module from its file, so that every mistake in it ends as one sentence."""

from __future__ import annotations

import ast
import importlib.util
import sys
import traceback
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

from .errors import ConfigError

_ONLY_INSIDE = frozenset({"js", "pyodide", "pyodide_js", "_pyodide", "_pyodide_entrypoint_helper", "_cloudflare"})


def load_module(file: Path, *, apart_from: Collection[Path] = ()) -> ModuleType:
    """Run the module in ``file``; its folder is searched first when it imports.

    ``apart_from``: folders of other handlers of this process; their modules are not taken for this one's.
    ``import workers`` gives :mod:`worker_compat.workers` when there is no module of that name. ``ConfigError`` names
    the file, the line where there is one, and what to do; what the module raised is its ``__cause__``.
    """
    _check_syntax(_source(file), file)
    folder = file.absolute().parent
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    _forget(folder, apart_from)
    install_workers()
    # A file may be called like a module that is there already.
    name = file.stem if file.stem not in sys.modules else str(file.absolute())
    spec = importlib.util.spec_from_file_location(name, file.absolute())
    assert spec is not None  # the name ends with .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigError(_import_problem(error, file)) from error
    return module


def _forget(folder: Path, others: Collection[Path]) -> None:
    """Let this folder's modules be imported although another handler has loaded modules of the same names."""
    own = {path.stem for path in folder.iterdir()}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and name.partition(".")[0] in own and any(Path(file).is_relative_to(other) for other in others):
            del sys.modules[name]


def install_workers() -> None:
    """Make ``import workers`` give :mod:`worker_compat.workers`, unless another module has that name."""
    if "workers" not in sys.modules and importlib.util.find_spec("workers") is None:
        from . import workers

        sys.modules["workers"] = workers


def _source(file: Path) -> bytes:
    if file.suffix != ".py":
        raise ConfigError(
            f"{file} is no Python file; name a handler that ends with .py, or a wrangler.toml with --config"
        )
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist; correct the path, or `main` in wrangler.toml") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}); name a readable file") from error


def _check_syntax(source: bytes, file: Path) -> None:
    """Refuse what Python cannot compile, and two classes ``Default``, of which it would silently keep the last."""
    try:
        tree = ast.parse(source, str(file))
    except (SyntaxError, ValueError) as error:
        raise ConfigError(_syntax_problem(error, file)) from error
    found = [node.lineno for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Default"]
    if len(found) > 1:
        lines = ", ".join(map(str, found))
        raise ConfigError(
            f"{file}: Cannot define multiple default entrypoints; keep one class Default of lines {lines}"
        )


def _syntax_problem(error: SyntaxError | ValueError, file: Path) -> str:
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{_shown(Path(error.filename or file))}, line {error.lineno}: {error.msg}; correct that line"
    return f"{file}: {error}; save it as text in UTF-8"


def _import_problem(error: BaseException, file: Path) -> str:
    if isinstance(error, SyntaxError):
        return _syntax_problem(error, file)
    where = error_place(error, file.absolute().parent) or str(file)
    if isinstance(error, ConfigError):
        return f"{where}: {error}"
    if isinstance(error, ModuleNotFoundError):
        return f"{where}: {_missing_module(error.name or str(error))}"
    if isinstance(error, ImportError):
        return f"{where}: {error}; correct the import"
    text = f": {error}" if str(error) else ""
    return (
        f"{where}: importing the handler failed with {type(error).__name__}{text}; see the whole trace with --traceback"
    )


def _missing_module(name: str) -> str:
    if name.partition(".")[0] in _ONLY_INSIDE:
        return f"{name} exists only inside Cloudflare; import what you need from workers (Response, fetch, env) instead"
    if name.startswith("workers."):
        return f"{name} is not supported here; write a class Default(WorkerEntrypoint), or run an ASGI server beside it"
    return f"there is no module {name}; install it, or correct the import"


def error_place(error: BaseException, folder: Path) -> str | None:
    """``file, line N`` of the last line below ``folder`` that an exception passed; None when it passed none."""
    place = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(folder) and "site-packages" not in path.parts:
            place = f"{_shown(path)}, line {line}"
    return place


def _shown(path: Path) -> str:
    """Relative to where the user stands, when it is below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
