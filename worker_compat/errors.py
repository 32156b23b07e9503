"""The exception tree of the runtime.

::

    WorkerCompatError
    ├── ConfigError                  a setting, a URL or a handler module is wrong; the text names the remedy
    │   └── AdapterNotFound          no adapter is registered for a scheme or name
    ├── StoreUnavailable             a KV or queue service cannot be reached or does not answer in time
    └── FetchError (also OSError)    no usable response came back
        ├── ConnectFailed            refused, unresolvable, TLS failure: nothing was sent
        ├── FetchTimeout             ``phase`` says what took too long: connect, first-byte or idle
        ├── ProtocolError            what came back is not a valid HTTP response
        └── ConnectionLost           the connection broke, before or in the middle of the response

    AbortError (OSError)             a fetch was aborted; ``name`` and ``message`` as in JavaScript
    BodyUsedError (OSError)          a body was read a second time
    BindingError                     what a binding of Workers raises: ``name`` and ``message`` as in JavaScript
    ├── KVError                      Workers KV
    └── QueueError                   Workers Queues

Other errors of the Workers API itself (an immutable header, a bad status) are the built-in ``TypeError`` and
``ValueError`` with Cloudflare's texts.
"""

from __future__ import annotations


class WorkerCompatError(Exception):
    """Base of the runtime's own errors."""


class ConfigError(WorkerCompatError):
    """A setting, a URL or a handler module is wrong; the text says what to do."""


class AdapterNotFound(ConfigError):
    """No adapter is registered for this scheme or name."""


class StoreUnavailable(WorkerCompatError):
    """A KV or queue service cannot be reached or does not answer in time."""


class FetchError(WorkerCompatError, OSError):
    """No usable response came back."""


class ConnectFailed(FetchError):
    """The connection could not be made; nothing was sent."""


class FetchTimeout(FetchError):
    """A time limit ran out; ``phase`` is ``connect``, ``first-byte`` or ``idle``."""

    def __init__(self, phase: str, limit_s: float) -> None:
        super().__init__(f"{phase} time limit of {limit_s:g} s exceeded")
        self.phase = phase


class ProtocolError(FetchError):
    """What came back is not a valid HTTP response."""


class ConnectionLost(FetchError):
    """The connection broke before or in the middle of the response."""


class AbortError(OSError):
    """An abort signal ended a fetch or the reading of its body; ``name`` is ``AbortError`` or ``TimeoutError``."""

    def __init__(self, message: str, name: str = "AbortError") -> None:
        super().__init__(message)
        self.name = name
        self.message = message


class BodyUsedError(OSError):
    """A body was read a second time."""


class BindingError(Exception):
    """An error of a binding; ``str()`` is ``"<name>: <message>"`` as Python Workers show it."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message


class KVError(BindingError):
    """An error of Workers KV."""


class QueueError(BindingError):
    """An error of Workers Queues."""
