"""The repository as the architecture tests see it: its folders, its modules, and what each module imports."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOTS = ("worker_compat", "smoltbot_worker")

_PASSED_OVER = {"__pycache__", "node_modules", "data", "dist", "build"}
_SHOWN = {".ci", ".github"}


def adapters(root: Path = ROOT) -> list[str]:
    """The packages in ``adapters/``: folders that hold Python files (a deleted package may leave its caches)."""
    return sorted(folder.name for folder in (root / "adapters").iterdir() if any(folder.rglob("*.py")))


def packages(root: Path = ROOT) -> dict[str, Path]:
    """Folder by name of every package of the distribution."""
    return {name: root / name for name in ROOTS} | {name: root / "adapters" / name for name in adapters(root)}


def files(suffix: str, root: Path = ROOT) -> Iterator[Path]:
    """The repository's own files that end so: no caches, no virtual environments, no build results."""
    for folder, names, here in os.walk(root):
        names[:] = sorted(
            name for name in names if name not in _PASSED_OVER and (not name.startswith(".") or name in _SHOWN)
        )
        yield from (Path(folder, name) for name in sorted(here) if name.endswith(suffix))


@dataclass(frozen=True)
class Import:
    """One imported module, and the outermost function around the import; empty at module level."""

    line: int
    target: str
    function: str


@dataclass(frozen=True)
class Module:
    """A source file of a package."""

    path: Path
    name: str
    root: Path

    @property
    def shown(self) -> str:
        """The path as reports show it."""
        return self.path.relative_to(self.root).as_posix()

    @cached_property
    def source(self) -> str:
        """The text of the file."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def syntax(self) -> ast.Module:
        """The text, parsed."""
        return ast.parse(self.source, str(self.path))

    def imports(self) -> Iterator[Import]:
        """Every import: in functions, under TYPE_CHECKING, and by name through importlib."""
        yield from self._imports(self.syntax, "")

    def _imports(self, node: ast.AST, function: str) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            for target in self._targets(child):
                yield Import(getattr(child, "lineno", 0), target, function)
            inside = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else ""
            yield from self._imports(child, function or inside)

    def _targets(self, node: ast.AST) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            base = self._base(node)
            return [self._deepest(base, alias.name) for alias in node.names]
        if isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            first = node.args[0] if node.args else None
            return [first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else "?"]
        return []

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        here = parts if self.path.name == "__init__.py" else parts[:-1]
        above = here[: len(here) - node.level + 1]
        # Dots beyond the package's top lead nowhere that anyone has a right to.
        return ".".join([*above, *([node.module] if node.module else [])]) if above else "." * node.level

    def _deepest(self, base: str, name: str) -> str:
        """``from package import name`` imports ``package.name`` when that is a module, else ``package``."""
        top, *rest = base.split(".")
        inside = self.root.joinpath(*(() if top in ROOTS else ("adapters",)), top, *rest)
        return f"{base}.{name}" if (inside / f"{name}.py").is_file() or (inside / name).is_dir() else base


def _called(node: ast.Call) -> str:
    """The last part of the name of what is called."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def modules(root: Path = ROOT) -> Iterator[Module]:
    """Every module of the distribution."""
    for package, folder in packages(root).items():
        for path in sorted(folder.rglob("*.py")):
            inner = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *(inner[:-1] if inner[-1] == "__init__" else inner)))
            yield Module(path, name, root)


def functions(syntax: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a module, nested ones too."""
    for node in ast.walk(syntax):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def none_of(found: Iterable[str]) -> None:
    """Fail with one line for each finding."""
    lines = list(found)
    assert not lines, "\n".join(["", *lines])
