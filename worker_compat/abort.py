"""AbortController and AbortSignal: giving up a fetch, its response's body included."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .errors import AbortError
from .streams import ByteSource, ReadableStream

if TYPE_CHECKING:
    from .response import Response

Listener = Callable[[], object]


class AbortSignal:
    """Whether, and why, something is to be given up.

    ``reason`` is what the waiting side raises: the exception that was given, or an
    :class:`worker_compat.errors.AbortError`. https://developer.mozilla.org/docs/Web/API/AbortSignal
    """

    __slots__ = ("__weakref__", "_followers", "_listeners", "_reason")

    def __init__(self) -> None:
        self._reason: BaseException | None = None
        self._listeners: dict[Listener, None] = {}
        self._followers: weakref.WeakSet[AbortSignal] = weakref.WeakSet()

    @classmethod
    def abort(cls, reason: Any = None) -> AbortSignal:
        """A signal that is aborted already."""
        signal = cls()
        signal._abort(reason)
        return signal

    @classmethod
    def timeout(cls, milliseconds: float) -> AbortSignal:
        """A signal that aborts after that time with a ``TimeoutError``; needs a running event loop."""
        signal = cls()
        late = AbortError("The operation was aborted due to timeout", "TimeoutError")
        asyncio.get_running_loop().call_later(milliseconds / 1000, signal._abort, late)
        return signal

    @classmethod
    def any(cls, signals: Iterable[AbortSignal]) -> AbortSignal:
        """A signal that aborts with the first of ``signals`` that does."""
        together = cls()
        for signal in signals:
            if signal.aborted:
                together._abort(signal._reason)
                break
            # Weakly: a signal that lives as long as the process must not keep one for each request.
            signal._followers.add(together)
        return together

    @property
    def aborted(self) -> bool:
        """Whether it was aborted."""
        return self._reason is not None

    @property
    def reason(self) -> BaseException | None:
        """What is raised; None while it is not aborted."""
        return self._reason

    def throw_if_aborted(self) -> None:
        """Raise the reason, if there is one."""
        if self._reason is not None:
            raise self._reason

    throwIfAborted = throw_if_aborted

    def add_event_listener(self, kind: str, listener: Listener) -> None:
        """Call ``listener`` without arguments, once, when the signal aborts; ``kind`` is ``"abort"``."""
        if kind == "abort" and self._reason is None:
            self._listeners[listener] = None

    addEventListener = add_event_listener

    def remove_event_listener(self, kind: str, listener: Listener) -> None:
        """Do not call ``listener`` any more."""
        if kind == "abort":
            self._listeners.pop(listener, None)

    removeEventListener = remove_event_listener

    def _abort(self, reason: Any = None) -> None:
        if self._reason is not None:
            return
        if reason is None:
            reason = AbortError("The operation was aborted")
        # Python raises exceptions only; anything else is told by its text.
        self._reason = reason if isinstance(reason, BaseException) else AbortError(str(reason))
        listeners, self._listeners = self._listeners, {}
        for listener in listeners:
            listener()
        for follower in list(self._followers):
            follower._abort(self._reason)


class AbortController:
    """Aborts its ``signal``. https://developer.mozilla.org/docs/Web/API/AbortController"""

    __slots__ = ("signal",)

    def __init__(self) -> None:
        self.signal = AbortSignal()

    def abort(self, reason: Any = None) -> None:
        """Abort the signal with ``reason``, or an AbortError; only the first call counts."""
        self.signal._abort(reason)


class Until:
    """``async with Until(signal)``: the block is cancelled, and the reason raised, as soon as the signal aborts."""

    def __init__(self, signal: AbortSignal) -> None:
        self._signal = signal
        self._fired = False

    async def __aenter__(self) -> None:
        self._signal.throw_if_aborted()
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        self._signal.add_event_listener("abort", self._fire)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._fired:
            self._signal.remove_event_listener("abort", self._fire)
            return
        if kind is None:
            # Aborted by the block itself: the cancellation is delivered here instead of somewhere later.
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                kind = asyncio.CancelledError
        others = self._task.uncancel() > self._cancelling
        # Somebody else's cancellation stays one.
        if not others and kind in (None, asyncio.CancelledError):
            self._signal.throw_if_aborted()

    def _fire(self) -> None:
        self._fired = True
        self._task.cancel()


class _Abortable(ByteSource):
    """A body that breaks off, and is closed, when a signal aborts; nobody needs to be reading."""

    __slots__ = ("_closed", "_signal", "_source", "length")

    def __init__(self, source: ByteSource, signal: AbortSignal) -> None:
        self._source = source
        self._signal = signal
        self._closed = False
        self.length = source.length
        signal.add_event_listener("abort", self._give_up)

    async def pull(self) -> bytes:
        self._signal.throw_if_aborted()
        async with Until(self._signal):
            data = await self._source.pull()
        if not data:
            self._signal.remove_event_listener("abort", self._give_up)
        return data

    def pull_now(self) -> bytes:
        return b"" if self._closed else self._source.pull_now()

    def take(self) -> bytes | None:
        if self._closed:
            return None
        data = self._source.take()
        if data is not None:
            self._signal.remove_event_listener("abort", self._give_up)
        return data

    def close(self, reason: BaseException | None = None) -> None:
        self._signal.remove_event_listener("abort", self._give_up)
        if not self._closed:
            self._closed = True
            self._source.close(reason)

    def _give_up(self) -> None:
        self.close(self._signal.reason)


def guard(response: Response, signal: AbortSignal) -> None:
    """Let the body of ``response`` break off with the signal's reason as soon as that aborts."""
    body = response.body
    if body is not None:
        response._content = ReadableStream(_Abortable(body.detach(), signal))
