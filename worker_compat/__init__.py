"""A Cloudflare-Workers-compatible runtime for Python.

The names are those of Cloudflare's Python SDK: ``from worker_compat import WorkerEntrypoint, Response, fetch``.
Standard library only. Every deliberate difference from Workers is a row of ``docs/parity.md``.
"""

from .abort import AbortController as AbortController
from .abort import AbortSignal as AbortSignal
from .bindings import Env as Env
from .bindings import env as env
from .bindings import patch_env as patch_env
from .blob import Blob as Blob
from .blob import BlobEnding as BlobEnding
from .blob import BlobValue as BlobValue
from .blob import File as File
from .body import Body as Body
from .context import ExecutionContext as ExecutionContext
from .entrypoint import DurableObject as DurableObject
from .entrypoint import WorkerEntrypoint as WorkerEntrypoint
from .entrypoint import WorkflowEntrypoint as WorkflowEntrypoint
from .entrypoint import handler as handler
from .errors import AbortError as AbortError
from .errors import BodyUsedError as BodyUsedError
from .errors import FetchError as FetchError
from .errors import KVError as KVError
from .errors import QueueError as QueueError
from .errors import StoreUnavailable as StoreUnavailable
from .formdata import FormData as FormData
from .formdata import FormDataValue as FormDataValue
from .headers import Headers as Headers
from .kv import KVNamespace as KVNamespace
from .queues import Message as Message
from .queues import MessageBatch as MessageBatch
from .queues import Queue as Queue
from .request import FetchKwargs as FetchKwargs
from .request import Request as Request
from .request import RequestInitCfProperties as RequestInitCfProperties
from .response import Response as Response
from .rpc import python_from_rpc as python_from_rpc
from .rpc import python_to_rpc as python_to_rpc
from .runtime import Runtime as Runtime
from .runtime import fetch as fetch
from .runtime import wait_until as wait_until
from .streams import ReadableStream as ReadableStream
from .url import URL as URL

Context = ExecutionContext
FetchResponse = Response
waitUntil = wait_until

__version__ = "0.1.0"

__all__ = (
    "AbortController",
    "AbortError",
    "AbortSignal",
    "Blob",
    "BlobEnding",
    "BlobValue",
    "Body",
    "BodyUsedError",
    "Context",
    "DurableObject",
    "Env",
    "ExecutionContext",
    "FetchError",
    "FetchKwargs",
    "FetchResponse",
    "File",
    "FormData",
    "FormDataValue",
    "Headers",
    "KVError",
    "KVNamespace",
    "Message",
    "MessageBatch",
    "Queue",
    "QueueError",
    "ReadableStream",
    "Request",
    "RequestInitCfProperties",
    "Response",
    "Runtime",
    "StoreUnavailable",
    "URL",
    "WorkerEntrypoint",
    "WorkflowEntrypoint",
    "env",
    "fetch",
    "handler",
    "patch_env",
    "python_from_rpc",
    "python_to_rpc",
    "waitUntil",
    "wait_until",
)
