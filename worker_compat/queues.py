"""Workers Queues: every rule of Cloudflare's producer and consumer, over any :class:`worker_compat.ports.QueueStore`.

Options are spelt as on Cloudflare (``delaySeconds``), as one object or as keywords. What Cloudflare rejects is
a :class:`worker_compat.errors.QueueError` with Cloudflare's text. What its Python SDK rejects earlier (tuple,
bytearray, a coroutine), and a misspelt option, which Cloudflare would ignore silently, is a ``TypeError``.

https://developers.cloudflare.com/queues/
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from . import jsjson
from .errors import QueueError
from .options import int32, json_text, named_options, refuse_unsendable, text_of
from .ports import Claimed, QueueStore

log = logging.getLogger("worker_compat")

MAX_MESSAGE_BYTES = 128_000
MAX_DELAY_S = 43_200
_MAX_BATCH_MESSAGES = 100
_BATCH_TIMES_MESSAGE = 2  # a batch may hold 256,000 bytes

# How a body is stored: one byte that tells its type, then the bytes.
_JSON, _TEXT, _BYTES = b"j", b"t", b"b"
_MARKS = {"json": _JSON, "text": _TEXT, "bytes": _BYTES, "v8": _JSON}

_Options = Mapping[str, Any] | None


class Queue:
    """A producer binding over ``store``; https://developers.cloudflare.com/queues/configuration/javascript-apis/

    ``delivery_delay_s`` is the delay of messages that name none. A message has at most ``max_message_bytes``, a
    batch at most 100 messages and twice those bytes. A send returns once the store holds the messages as durably
    as its adapter declares; ``worker_compat.errors.StoreUnavailable`` of the store passes through.
    """

    __slots__ = ("_delivery_delay_s", "_max_message_bytes", "_store")

    def __init__(
        self, store: QueueStore, *, delivery_delay_s: int = 0, max_message_bytes: int = MAX_MESSAGE_BYTES
    ) -> None:
        self._store = store
        self._delivery_delay_s = delivery_delay_s
        self._max_message_bytes = max_message_bytes

    async def send(self, body: Any, options: _Options = None, /, **named: Any) -> None:
        """Send one message.

        ``contentType``: ``json`` (default), any JSON value; ``text``, a str; ``bytes``, bytes or a buffer; ``v8``
        is carried as JSON. ``delaySeconds``: 0 to 43200.
        """
        given = _options("send", "'WorkerQueue': parameter 2", "SendOptions", options, named)
        data = _encoded(body, given)
        if (size := len(data) - 1) > self._max_message_bytes:
            limit = f"exceeds limit of {self._max_message_bytes}"
            raise _failed("send", f"message length of {size} bytes {limit}")
        await self._store.push([data], _delay("send", given, self._delivery_delay_s))

    async def sendBatch(self, messages: list[Any], options: _Options = None, /, **named: Any) -> None:
        """Send up to 100 messages ``{body, contentType?, delaySeconds?}``; ``delaySeconds`` is for those without.

        All of them or none, as long as their delays are equal; messages of different delays are stored one delay
        after the other.
        """
        refuse_unsendable(messages)
        if not isinstance(messages, list):
            raise _wrong_type("sendBatch", "'WorkerQueue': parameter 1", "Sequence")
        given = _options("sendBatch", "'WorkerQueue': parameter 2", "SendBatchOptions", options, named)
        if not messages:
            raise QueueError("TypeError", "sendBatch() requires at least one message")
        requests = [_request(message) for message in messages]
        encoded = [_encoded(request["body"], request) for request in requests]
        self._check_batch([len(data) - 1 for data in encoded])
        usual = _delay("sendBatch", given, self._delivery_delay_s)
        by_delay: dict[int, list[bytes]] = {}
        for request, data in zip(requests, encoded, strict=True):
            by_delay.setdefault(_delay("sendBatch", request, usual), []).append(data)
        for delay_s, bodies in by_delay.items():
            await self._store.push(bodies, delay_s)

    def _check_batch(self, sizes: Sequence[int]) -> None:
        limit, total = self._max_message_bytes, _BATCH_TIMES_MESSAGE * self._max_message_bytes
        if len(sizes) > _MAX_BATCH_MESSAGES:
            text = f"batch message count of {len(sizes)} exceeds limit of {_MAX_BATCH_MESSAGES}"
        elif max(sizes) > limit:
            text = f"message in batch has length {max(sizes)} bytes which exceeds single message size limit of {limit}"
        elif sum(sizes) > total:
            text = f"batch size of {sum(sizes)} bytes exceeds limit of {total}"
        else:
            return
        raise _failed("sendBatch", text)


class Message:
    """One message of a batch. ``id`` is the same at every delivery; ``attempts`` is 1 at the first one.

    ``timestamp`` is when it was sent, in UTC. ``body`` is what was sent: a JSON object comes as a dict whose keys
    are attributes too, bytes as a read-only memoryview.
    """

    __slots__ = ("_acked", "_batch", "_delay_s", "_retried", "attempts", "body", "id", "timestamp")

    def __init__(self, id: str, timestamp: datetime, body: Any, attempts: int) -> None:
        self.id = id
        self.timestamp = timestamp
        self.body = body
        self.attempts = attempts
        self._batch: MessageBatch | None = None
        self._acked = False
        self._retried = False
        self._delay_s: int | None = None

    @classmethod
    def read(cls, claimed: Claimed) -> Message:
        """The message that a :class:`Queue` sent; ``ValueError`` when the body was not made by one."""
        sent = datetime.fromtimestamp(claimed.timestamp, UTC)
        return cls(claimed.id, sent, _decoded(claimed.body), claimed.attempts)

    def ack(self) -> None:
        """Done, whatever becomes of the rest of the batch; no effect after a retry."""
        if self._retried:
            _without_effect(f"ack() of message {self.id}", "retry()")
        elif self._batch is not None and self._batch._retry_all:
            _without_effect(f"ack() of message {self.id}", "retryAll()")
        else:
            self._acked = True

    def retry(self, options: _Options = None, /, **named: Any) -> None:
        """Deliver it again, after ``delaySeconds`` or else the consumer's delay; no effect after an ack."""
        given = _options("retry", "'QueueMessage': parameter 1", "QueueRetryOptions", options, named)
        delay_s = _delay("retry", given, None)
        if self._acked:
            _without_effect(f"retry() of message {self.id}", "ack()")
        elif self._batch is not None and self._batch._ack_all:
            _without_effect(f"retry() of message {self.id}", "ackAll()")
        else:
            self._retried = True
            self._delay_s = delay_s


class MessageBatch:
    """What ``async def queue(self, batch)`` gets: ``messages`` of the queue named ``queue``.

    A handler that returns acknowledges every message that it did not mark; one that raises retries them. A call
    on a message counts more than one on the batch, and the first call on either counts.

    https://developers.cloudflare.com/queues/configuration/batching-retries/
    """

    __slots__ = ("_ack_all", "_delay_s", "_retry_all", "messages", "queue")

    def __init__(self, queue: str, messages: Sequence[Message]) -> None:
        self.queue = queue
        self.messages = list(messages)
        self._ack_all = False
        self._retry_all = False
        self._delay_s: int | None = None
        for message in self.messages:
            message._batch = self

    def ackAll(self) -> None:
        """Acknowledge every message that was not marked itself, even when the handler raises."""
        if self._retry_all:
            _without_effect("ackAll()", "retryAll()")
        else:
            self._ack_all = True

    def retryAll(self, options: _Options = None, /, **named: Any) -> None:
        """Retry every message that was not marked itself, after ``delaySeconds`` or else the consumer's delay."""
        given = _options("retryAll", "'QueueController': parameter 1", "QueueRetryOptions", options, named)
        delay_s = _delay("retryAll", given, self._delay_s)
        if self._ack_all:
            _without_effect("retryAll()", "ackAll()")
        else:
            self._retry_all = True
            self._delay_s = delay_s

    def _verdict(self, failed: bool, retry_delay_s: int) -> tuple[list[str], dict[str, int]]:
        """The ids to acknowledge, and those to retry with their delays."""
        acked: list[str] = []
        retried: dict[str, int] = {}
        usual = retry_delay_s if self._delay_s is None else self._delay_s
        for message in self.messages:
            if message._retried:
                retried[message.id] = usual if message._delay_s is None else message._delay_s
            elif message._acked or self._ack_all or not (failed or self._retry_all):
                acked.append(message.id)
            else:
                retried[message.id] = usual
        return acked, retried


def _encoded(body: object, given: Mapping[str, Any]) -> bytes:
    kind = text_of(given.get("contentType", "json"))
    mark = _MARKS.get(kind.lower())
    if mark is None:
        raise QueueError("TypeError", f"Unsupported queue message content type: {kind}")
    refuse_unsendable(body)
    if mark == _JSON:
        return mark + jsjson.to_utf8(json_text(body, QueueError))
    if mark == _TEXT:
        if not isinstance(body, str):
            raise _wrong_body("text", "string", body)
        return mark + jsjson.to_utf8(body)
    try:
        return mark + memoryview(body).tobytes()  # type: ignore[arg-type] # not a buffer is a TypeError
    except TypeError:
        raise _wrong_body("bytes", "ArrayBufferView", body) from None


def _decoded(data: bytes) -> Any:
    mark = data[:1]
    if mark == _BYTES:
        return memoryview(data)[1:]
    if mark not in (_TEXT, _JSON):
        raise ValueError("the message was not sent by worker_compat")
    text = data[1:].decode("utf-8", "replace")
    return text if mark == _TEXT else jsjson.parse(text, object_hook=jsjson.JsDict)


def _request(message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise QueueError("TypeError", "Incorrect type: the provided value is not of type 'MessageSendRequest'.")
    known = ("body", "contentType", "delaySeconds")
    request = named_options("a message of Queue sendBatch()", message, {}, known)
    if "body" not in request:
        raise QueueError("TypeError", "Message body cannot be undefined")
    return request


def _options(method: str, place: str, type_name: str, options: object, named: dict[str, Any]) -> dict[str, Any]:
    if options is not None and not isinstance(options, Mapping):
        refuse_unsendable(options)
        raise _wrong_type(method, place, type_name)
    known = ("contentType", "delaySeconds") if type_name == "SendOptions" else ("delaySeconds",)
    return named_options(f"Queue {method}()", options, named, known)


def _delay(method: str, given: Mapping[str, Any], otherwise: Any) -> Any:
    """``delaySeconds`` in whole seconds, or ``otherwise`` when there is none."""
    if "delaySeconds" not in given:
        return otherwise
    delay_s = int32(given["delaySeconds"], QueueError)
    if not 0 <= delay_s <= MAX_DELAY_S:
        raise _failed(method, f"message delay {delay_s} is invalid: it must be 0 to {MAX_DELAY_S} seconds")
    return delay_s


def _without_effect(call: str, earlier: str) -> None:
    log.warning("%s has no effect: %s was called before", call, earlier)


def _failed(method: str, text: str) -> QueueError:
    return QueueError("Error", f"Queue {method} failed: {text}")


def _wrong_type(method: str, place: str, type_name: str) -> QueueError:
    return QueueError("TypeError", f"Failed to execute '{method}' on {place} is not of type '{type_name}'.")


def _wrong_body(kind: str, wanted: str, body: object) -> QueueError:
    text = f'Content Type "{kind}" requires a value of type {wanted}, but received: {_typeof(body)}'
    return QueueError("TypeError", text)


def _typeof(value: object) -> str:
    """JavaScript's ``typeof``."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "function" if callable(value) else "object"
