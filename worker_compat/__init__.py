"""A Cloudflare-Workers-compatible runtime for Python.

The names are those of Cloudflare's Python SDK: ``from worker_compat import WorkerEntrypoint, Response, fetch``.
Standard library only. Every deliberate difference from Workers is a row of ``docs/parity.md``.
"""

from .bindings import Env as Env
from .body import Body as Body
from .context import ExecutionContext as ExecutionContext
from .entrypoint import WorkerEntrypoint as WorkerEntrypoint
from .errors import BodyUsedError as BodyUsedError
from .errors import FetchError as FetchError
from .errors import KVError as KVError
from .errors import StoreUnavailable as StoreUnavailable
from .headers import Headers as Headers
from .kv import KVNamespace as KVNamespace
from .request import Request as Request
from .response import Response as Response
from .runtime import Runtime as Runtime
from .runtime import fetch as fetch
from .runtime import wait_until as wait_until
from .streams import ReadableStream as ReadableStream

waitUntil = wait_until

__version__ = "0.1.0"

__all__ = (
    "Body",
    "BodyUsedError",
    "Env",
    "ExecutionContext",
    "FetchError",
    "Headers",
    "KVError",
    "KVNamespace",
    "ReadableStream",
    "Request",
    "Response",
    "Runtime",
    "StoreUnavailable",
    "WorkerEntrypoint",
    "fetch",
    "waitUntil",
    "wait_until",
)
