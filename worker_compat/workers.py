"""What ``from workers import ...`` gives where Cloudflare's SDK is absent: every name of its ``__all__``.

https://developers.cloudflare.com/workers/languages/python/
"""

from __future__ import annotations

from typing import Any, NoReturn

from .bindings import env as env
from .bindings import patch_env as patch_env
from .blob import Blob as Blob
from .blob import BlobEnding as BlobEnding
from .blob import BlobValue as BlobValue
from .blob import File as File
from .body import BodyInit
from .context import ExecutionContext
from .entrypoint import DurableObject as DurableObject
from .entrypoint import WorkerEntrypoint as WorkerEntrypoint
from .entrypoint import WorkflowEntrypoint as WorkflowEntrypoint
from .entrypoint import handler as handler
from .errors import ConfigError
from .formdata import FormData as FormData
from .formdata import FormDataValue as FormDataValue
from .headers import Headers as Headers
from .request import FetchKwargs as FetchKwargs
from .request import Request as Request
from .request import RequestInitCfProperties as RequestInitCfProperties
from .response import Response as Response
from .rpc import python_from_rpc as python_from_rpc
from .rpc import python_to_rpc as python_to_rpc
from .runtime import fetch as fetch
from .runtime import wait_until as wait_until

waitUntil = wait_until

# Cloudflare has these for annotations only.
Body = BodyInit
Context = ExecutionContext
FetchResponse = Response
JSBody = Any


def import_from_javascript(module: str) -> NoReturn:
    """``ConfigError``: there is no JavaScript outside Cloudflare."""
    raise ConfigError(
        f"{module} is a JavaScript module and exists only inside Cloudflare; `env` and `wait_until` are in workers"
    )
