"""How long things are, and the few habits of the code that a linter does not know."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.architecture.tree import Module, functions, modules, none_of

MODULE_LINES, MODULE_LINES_EVER = 400, 500
FUNCTION_LINES, FUNCTION_LINES_P90 = 40, 25

EXCEPTIONS: dict[str, str] = {}
"""What may be longer: ``path`` or ``path::function``, and the reason. No module is ever over 500 lines."""

MODULES = list(modules())
RUNTIME = [module for module in MODULES if module.name.partition(".")[0] == "worker_compat"]


def lines(module: Module) -> int:
    return len(module.source.splitlines())


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From ``def`` to the last line, its documentation and its inner functions included."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def lengths() -> dict[str, int]:
    return {
        f"{module.shown}:{function.lineno} {function.name}": length(function)
        for module in MODULES
        for function in functions(module.syntax)
        if f"{module.shown}::{function.name}" not in EXCEPTIONS
    }


def test_modules_are_short() -> None:
    sizes = {module.shown: lines(module) for module in MODULES}
    none_of(f"{path} {size}" for path, size in sizes.items() if size > MODULE_LINES and path not in EXCEPTIONS)
    none_of(f"{path} {size}" for path, size in sizes.items() if size > MODULE_LINES_EVER)


def test_functions_are_short() -> None:
    none_of(f"{where} {size}" for where, size in lengths().items() if size > FUNCTION_LINES)


def test_most_functions_are_very_short() -> None:
    sizes = sorted(lengths().values())
    assert sizes[len(sizes) * 9 // 10] <= FUNCTION_LINES_P90


def test_every_exception_is_needed() -> None:
    long = {module.shown for module in MODULES if lines(module) > MODULE_LINES}
    long |= {
        f"{module.shown}::{function.name}"
        for module in MODULES
        for function in functions(module.syntax)
        if length(function) > FUNCTION_LINES
    }
    none_of(set(EXCEPTIONS) - long)
    none_of(name for name, reason in EXCEPTIONS.items() if len(reason) < 20)


def is_broad(kind: ast.expr | None) -> bool:
    """Whether this catches every error: ``except:``, Exception, BaseException, or a tuple with one of them."""
    if isinstance(kind, ast.Tuple):
        return any(is_broad(part) for part in kind.elts)
    return kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException"))


def is_nothing(body: list[ast.stmt]) -> bool:
    """Whether a handler only passes on: no log, no answer, no re-raise."""
    return all(
        isinstance(part, ast.Pass | ast.Continue)
        or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
        for part in body
    )


def swallowed(syntax: ast.Module) -> Iterator[int]:
    """Lines where any error at all disappears; ``suppress(Exception)`` is the same in other words."""
    for node in ast.walk(syntax):
        if isinstance(node, ast.ExceptHandler) and is_broad(node.type) and is_nothing(node.body):
            yield node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "suppress":
            yield from (node.lineno for kind in node.args if is_broad(kind))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("try: f()\nexcept Exception: pass", [2]),
        ("for x in y:\n try: f()\n except (ValueError, BaseException): continue", [3]),
        ("try: f()\nexcept:\n ...", [2]),
        ("with suppress(ValueError, Exception): f()", [1]),
        ("try: f()\nexcept ValueError: pass", []),
        ("try: f()\nexcept Exception: log.error('f')", []),
        ("try: f()\nexcept Exception: return None", []),
    ],
)
def test_a_swallowed_error_is_seen(text: str, found: list[int]) -> None:
    source = text if "return" not in text else "def g():\n " + text.replace("\n", "\n ")
    assert list(swallowed(ast.parse(source))) == found


def test_no_error_disappears() -> None:
    none_of(f"{module.shown}:{line}" for module in MODULES for line in swallowed(module.syntax))


def test_only_the_command_line_prints() -> None:
    none_of(
        f"{module.shown}:{node.lineno}"
        for module in MODULES
        if module.name.partition(".")[0] != "smoltbot_cli"
        for node in ast.walk(module.syntax)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    )


def test_nothing_is_left_for_later() -> None:
    mark = re.compile(r"\b(TODO|FIXME|XXX)\b")
    none_of(
        f"{module.shown}:{number}"
        for module in MODULES
        for number, line in enumerate(module.source.splitlines(), 1)
        if mark.search(line)
    )


def one_sentence(line: str) -> bool:
    """A full stop at the end, and none before that a new sentence follows."""
    return line.endswith(".") and not re.search(r"[.!?][`\"')]* +[A-Z`]", line)


def test_every_module_opens_with_one_sentence() -> None:
    firsts = {module.shown: (ast.get_docstring(module.syntax) or "").partition("\n")[0] for module in MODULES}
    none_of(f"{path}:1 {first!r}" for path, first in firsts.items() if not one_sentence(first))


def marks(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> set[str]:
    """The last parts of a definition's decorators."""
    return {ast.unparse(mark).rpartition(".")[2] for mark in function.decorator_list}


def undocumented(body: list[ast.stmt], inherited: frozenset[str] = frozenset()) -> Iterator[tuple[int, str]]:
    """Public functions, classes and methods that do not say what they are; an override may lean on its base."""
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        excused = node.name in inherited or marks(node) & {"overload", "setter"}
        if not excused and not ast.get_docstring(node):
            yield node.lineno, node.name
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
            yield from undocumented(node.body, documented_methods(bases))


def documented_methods(classes: set[str]) -> frozenset[str]:
    """What classes of these names in the runtime say about their methods."""
    return frozenset(
        method.name
        for module in RUNTIME
        for node in module.syntax.body
        if isinstance(node, ast.ClassDef) and node.name in classes
        for method in node.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(method)
    )


def test_what_the_runtime_offers_is_documented() -> None:
    none_of(f"{module.shown}:{line} {name}" for module in RUNTIME for line, name in undocumented(module.syntax.body))
