"""The public names of worker_compat, compared with themselves and with those of Cloudflare's SDK."""

from __future__ import annotations

import ast

import worker_compat
from tests.architecture.tree import ROOT, none_of

# `workers.__all__` of Cloudflare's Python SDK, August 2026.
CLOUDFLARE = frozenset({
    "Blob", "BlobEnding", "BlobValue", "Body", "Context", "DurableObject", "FetchKwargs", "FetchResponse",
    "File", "FormData", "FormDataValue", "Headers", "JSBody", "Request", "RequestInitCfProperties",
    "Response", "WorkerEntrypoint", "WorkflowEntrypoint", "env", "fetch", "handler", "import_from_javascript",
    "patch_env", "python_from_rpc", "python_to_rpc", "waitUntil", "wait_until",
})  # fmt: skip

_JAVASCRIPT = "there is no JavaScript on this side of the boundary"

NOT_YET = {
    "JSBody": _JAVASCRIPT,
    "import_from_javascript": _JAVASCRIPT,
}

BODY = ast.parse((ROOT / "worker_compat" / "__init__.py").read_text(encoding="utf-8")).body


def re_exported() -> list[str]:
    """Names imported the explicit way, ``from .x import y as y``, which type checkers take as public."""
    return [
        alias.name
        for node in BODY
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    ]


def aliases() -> dict[str, str]:
    """Second spellings of a name: ``waitUntil = wait_until``."""
    return {
        target.id: node.value.id
        for node in BODY
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def test_every_import_is_a_re_export() -> None:
    none_of(
        f"worker_compat/__init__.py:{node.lineno} {ast.unparse(node)}"
        for node in BODY
        if isinstance(node, ast.Import)
        or (isinstance(node, ast.ImportFrom) and any(alias.asname != alias.name for alias in node.names))
    )


def test_all_is_what_is_re_exported() -> None:
    assert sorted(worker_compat.__all__) == sorted([*re_exported(), *aliases()])
    assert set(aliases().values()) <= set(re_exported())


def test_all_is_a_sorted_tuple_of_names_that_exist() -> None:
    assert worker_compat.__all__ == tuple(sorted(set(worker_compat.__all__)))
    none_of(name for name in worker_compat.__all__ if not hasattr(worker_compat, name))


def test_both_spellings_are_one_thing() -> None:
    for alias, name in aliases().items():
        assert getattr(worker_compat, alias) is getattr(worker_compat, name)


def test_every_name_of_cloudflare_is_here_or_has_a_reason() -> None:
    exported = set(worker_compat.__all__) & CLOUDFLARE
    assert exported | set(NOT_YET) == CLOUDFLARE
    none_of(exported & set(NOT_YET))
    none_of(name for name, reason in NOT_YET.items() if len(reason) < 20)
