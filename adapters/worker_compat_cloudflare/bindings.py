"""Cloudflare's own bindings with the surface that they have everywhere else: KV, queues, services, variables.

Limits, consistency and error texts are Cloudflare's. What is added: misspelt options are refused, errors are
``KVError`` and ``QueueError``, streams are those of this runtime.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NoReturn

from worker_compat import Env, jsjson
from worker_compat.errors import BindingError, KVError, QueueError
from worker_compat.jsjson import JsDict
from worker_compat.kv import _options as kv_options
from worker_compat.options import named_options, refuse_unsendable, text_of
from worker_compat.redirects import follow
from worker_compat.request import Request
from worker_compat.response import Response
from worker_compat.streams import ReadableStream

from .messages import NativeFetcher, native_object, plain
from .streams import from_native, to_native

_Options = Mapping[str, Any] | None


def environment(native: Any, wrapped: Any) -> Env:
    """The environment of an event: ``native`` is JavaScript's ``env``, ``wrapped`` the one of Cloudflare's SDK."""
    import js

    names = [str(name) for name in js.Object.keys(native)]
    return Env(**{name: _binding(getattr(native, name), wrapped, name) for name in names})


def _binding(native: Any, wrapped: Any, name: str) -> Any:
    kind = native.constructor.name if hasattr(native, "constructor") else ""
    if kind == "KvNamespace":
        return NativeKVNamespace(native)
    if kind == "WorkerQueue":
        return NativeQueue(native)
    if kind == "Fetcher":
        return NativeService(native, getattr(wrapped, name))
    return plain(native) if kind in ("", "Object", "Array") else getattr(wrapped, name)


@contextmanager
def _raising(error: type[BindingError]) -> Iterator[None]:
    from pyodide.ffi import JsException

    try:
        yield
    except JsException as thrown:
        raise error(str(thrown.name), str(thrown.message)) from None


class NativeKVNamespace:
    """``worker_compat.KVNamespace`` over a KV binding of Cloudflare's.

    https://developers.cloudflare.com/kv/api/
    """

    __slots__ = ("_native",)

    def __init__(self, native: Any) -> None:
        self._native = native

    async def get(self, key: str | list[str], options: Any = None, /, **named: Any) -> Any:
        """The value as ``type``, or None; for a list of keys a dict."""
        found = await self._call("get", [_key(key)], kv_options("get", options, named))
        return _bulk(found) if isinstance(key, list) else _value(found)

    async def getWithMetadata(  # noqa: N802 # Cloudflare's spelling, as below
        self, key: str | list[str], options: Any = None, /, **named: Any
    ) -> Any:
        """``value``, ``metadata`` and ``cacheStatus``; for a list of keys a dict."""
        found = await self._call("getWithMetadata", [_key(key)], kv_options("getWithMetadata", options, named))
        if isinstance(key, list):
            return _bulk(found)
        return JsDict(value=_value(found.value), metadata=plain(found.metadata), cacheStatus=plain(found.cacheStatus))

    async def put(self, key: str, value: Any, options: _Options = None, /, **named: Any) -> None:
        """Store ``value`` under ``key``; a stream is read to its end."""
        given = kv_options("put", options, named)
        await self._call("put", [_key(key), _kv_value(value)], given)

    async def delete(self, key: str, /) -> None:
        """Remove ``key``; a missing one is no error."""
        await self._call("delete", [_key(key)], {})

    async def list(self, options: _Options = None, /, **named: Any) -> Any:
        """One page of names: ``keys``, ``list_complete``, ``cacheStatus`` and, unless complete, ``cursor``."""
        return plain(await self._call("list", [], kv_options("list", options, named)))

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> NoReturn:
        raise TypeError("'KvNamespace' object is not iterable")

    def __len__(self) -> int:
        raise TypeError("'KvNamespace' object has no len()")

    async def _call(self, method: str, arguments: Sequence[Any], given: Mapping[str, Any]) -> Any:
        options = [native_object(given, KVError)] if given else []
        with _raising(KVError):
            return await getattr(self._native, method)(*arguments, *options)


def _key(key: Any) -> Any:
    from pyodide.ffi import to_js

    if isinstance(key, list):
        return to_js([text_of(name) for name in key])
    return text_of(key)


def _kv_value(value: Any) -> Any:
    import js
    from pyodide.ffi import to_js

    if isinstance(value, ReadableStream):
        if value.locked or value.disturbed:
            raise KVError("TypeError", "The ReadableStream has been locked to a reader.")
        return to_native(value, lambda: None, lambda _: None)
    text = jsjson.to_string(value)
    if text is not None:
        return text
    refuse_unsendable(value)
    try:
        return to_js(memoryview(value).tobytes())
    except TypeError:
        return js.Object.new()  # for Cloudflare to refuse


def _value(value: Any) -> Any:
    """A value of KV or a queue: text, JSON, bytes or a stream."""
    if hasattr(value, "getReader"):
        return from_native(value)
    if hasattr(value, "to_bytes") and not isinstance(value, int):
        return memoryview(value.to_bytes()).toreadonly()
    return plain(value)


def _bulk(found: Any) -> JsDict:
    return JsDict({str(name): plain(found.get(name)) for name in found.keys()})  # noqa: SIM118 # a Map of JavaScript


class NativeQueue:
    """``worker_compat.queues.Queue`` over a queue binding of Cloudflare's.

    https://developers.cloudflare.com/queues/configuration/javascript-apis/
    """

    __slots__ = ("_native",)

    def __init__(self, native: Any) -> None:
        self._native = native

    async def send(self, body: Any, options: _Options = None, /, **named: Any) -> None:
        """Send one message."""
        given = named_options("Queue send()", options, named, ("contentType", "delaySeconds"))
        with _raising(QueueError):
            await self._native.send(_body(body, given), native_object(given, QueueError))

    async def sendBatch(  # noqa: N802
        self, messages: list[Any], options: _Options = None, /, **named: Any
    ) -> None:
        """Send messages ``{body, contentType?, delaySeconds?}``."""
        import js

        given = named_options("Queue sendBatch()", options, named, ("delaySeconds",))
        requests = js.Array.new()
        for message in messages:
            known = named_options(
                "a message of Queue sendBatch()", message, {}, ("body", "contentType", "delaySeconds")
            )
            request = native_object({name: value for name, value in known.items() if name != "body"}, QueueError)
            if "body" in known:
                request.body = _body(known["body"], known)
            requests.push(request)
        with _raising(QueueError):
            await self._native.sendBatch(requests, native_object(given, QueueError))


def _body(body: Any, given: Mapping[str, Any]) -> Any:
    from pyodide.ffi import to_js

    refuse_unsendable(body)
    if isinstance(body, str):
        return body
    if given.get("contentType") == "bytes":
        return to_js(memoryview(body).tobytes())
    return native_object(body, QueueError)


class NativeService:
    """A service binding: ``fetch`` with the requests and responses of this runtime; other methods are the SDK's."""

    __slots__ = ("_fetcher", "_wrapped")

    def __init__(self, native: Any, wrapped: Any) -> None:
        self._fetcher = NativeFetcher(native.fetch)
        self._wrapped = wrapped

    async def fetch(self, resource: str | Request, **options: Any) -> Response:
        """The other worker's answer; options and redirects as for :func:`worker_compat.fetch`."""
        request = Request(resource, **options) if options or not isinstance(resource, Request) else resource
        return await (self._fetcher.fetch(request) if request.redirect == "manual" else follow(self._fetcher, request))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # Python's own protocols are no remote methods
        return getattr(self._wrapped, name)


class NativeMessage:
    """One message of a batch, as ``worker_compat.queues.Message``."""

    __slots__ = ("_native", "attempts", "body", "id", "timestamp")

    def __init__(self, native: Any) -> None:
        self._native = native
        self.id = str(native.id)
        self.timestamp = datetime.fromtimestamp(native.timestamp.getTime() / 1000, UTC)
        self.body = _value(native.body)
        self.attempts = int(native.attempts)

    def ack(self) -> None:
        """Done, whatever becomes of the rest of the batch."""
        self._native.ack()

    def retry(self, options: _Options = None, /, **named: Any) -> None:
        """Deliver it again, after ``delaySeconds`` or else the consumer's delay."""
        self._native.retry(_retry_options("retry", options, named))


class NativeBatch:
    """What ``async def queue(self, batch)`` gets, as ``worker_compat.queues.MessageBatch``."""

    __slots__ = ("_native", "messages", "queue")

    def __init__(self, native: Any) -> None:
        self._native = native
        self.queue = str(native.queue)
        self.messages = [NativeMessage(message) for message in native.messages]

    def ackAll(self) -> None:  # noqa: N802
        """Acknowledge every message that was not marked itself."""
        self._native.ackAll()

    def retryAll(self, options: _Options = None, /, **named: Any) -> None:  # noqa: N802
        """Retry every message that was not marked itself."""
        self._native.retryAll(_retry_options("retryAll", options, named))


def _retry_options(method: str, options: _Options, named: Mapping[str, Any]) -> Any:
    return native_object(named_options(f"Queue {method}()", options, named, ("delaySeconds",)), QueueError)
