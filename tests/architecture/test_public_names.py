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

_FORMS = "forms and files come with multipart bodies; until then bodies are text, bytes, JSON or streams"
_JAVASCRIPT = "there is no JavaScript on this side of the boundary"
_TYPES = "a name for annotations only; ours are in the signatures"

NOT_YET = {
    "Blob": _FORMS,
    "BlobEnding": _FORMS,
    "BlobValue": _FORMS,
    "Context": "the context is ExecutionContext here; Cloudflare's Protocol of this name is for annotations only",
    "DurableObject": "needs placement and storage that no adapter offers",
    "FetchKwargs": _TYPES,
    "FetchResponse": "Pyodide's class below Response; fetch() returns Response",
    "File": _FORMS,
    "FormData": _FORMS,
    "FormDataValue": _FORMS,
    "JSBody": _JAVASCRIPT,
    "RequestInitCfProperties": _TYPES,
    "WorkflowEntrypoint": "needs durable steps that no adapter offers",
    "env": "the module-level environment comes with `worker-compat run`; handlers have self.env",
    "handler": "legacy on_fetch functions are found without a mark",
    "import_from_javascript": _JAVASCRIPT,
    "patch_env": "belongs to the module-level environment",
    "python_from_rpc": _JAVASCRIPT,
    "python_to_rpc": _JAVASCRIPT,
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
