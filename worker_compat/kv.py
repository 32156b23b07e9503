"""Workers KV: every rule of Cloudflare's binding, over any :class:`worker_compat.ports.KVStore`.

Options are spelt as on Cloudflare (``expirationTtl``), as one object or as keywords. What Cloudflare rejects
is a :class:`worker_compat.errors.KVError` with Cloudflare's text. What its Python SDK rejects earlier (tuple,
bytearray, a coroutine), and a misspelt option, which Cloudflare would ignore silently, is a ``TypeError``.

https://developers.cloudflare.com/kv/api/
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from . import jsjson
from .errors import KVError
from .jsjson import JsDict as JsDict
from .options import int32, json_text, named_options, refuse_unsendable, text_of
from .ports import Clock, KVEntry, KVKey, KVStore

if TYPE_CHECKING:
    from .streams import ReadableStream

_MAX_KEY_BYTES = 512
_MAX_VALUE_BYTES = 25 * 1024 * 1024
_MAX_METADATA_BYTES = 1024
_MAX_BULK_KEYS = 100
_MAX_LIST_KEYS = 1000
_MIN_TTL_S = 60
_MIN_CACHE_TTL_S = 30
_CONNECTIONS = 6  # as many as one Workers invocation has open at a time

_OPTIONS = {
    "get": (2, "GetOptions", ("type", "cacheTtl")),
    "getWithMetadata": (2, "GetOptions", ("type", "cacheTtl")),
    "put": (3, "PutOptions", ("expiration", "expirationTtl", "metadata")),
    "list": (1, "ListOptions", ("limit", "prefix", "cursor")),
}
_Read = str | Mapping[str, Any] | None
_Keys = list[str]  # inside the class, list is the method


class KVNamespace:
    """A KV binding over ``store``.

    Not enforced, as they are Cloudflare's capacity and not its contract: one write per second and key, 1000
    operations per invocation. ``worker_compat.errors.StoreUnavailable`` of the store passes through.
    """

    __slots__ = ("_clock", "_store")

    def __init__(self, store: KVStore, *, clock: Clock = time.time) -> None:
        self._store = store
        self._clock = clock

    async def get(self, key: str | _Keys, options: _Read = None, /, **named: Any) -> Any:
        """The value as ``type``, or None when missing or expired; for a list of at most 100 keys a dict.

        ``type``: ``text`` (default) str; ``json`` the parsed value; ``arrayBuffer`` a read-only memoryview;
        ``stream`` a ReadableStream. ``cacheTtl`` in seconds, at least 30, has no effect beyond its check.

        https://developers.cloudflare.com/kv/api/read-key-value-pairs/
        """
        given = _options("get", options, named)
        if isinstance(key, list):
            return await self._get_bulk(key, given, with_metadata=False)
        entry = await self._find(key, given)
        return None if entry is None else _shaped(entry.value, given.get("type", "text"))

    async def getWithMetadata(  # Cloudflare's spelling
        self, key: str | _Keys, options: _Read = None, /, **named: Any
    ) -> Any:
        """``value``, ``metadata`` and ``cacheStatus``, which is always None; all None when missing.

        Options as for ``get``. For a list of keys a dict of ``{value, metadata}``, or None for a missing key.
        """
        given = _options("getWithMetadata", options, named)
        if isinstance(key, list):
            return await self._get_bulk(key, given, with_metadata=True)
        entry = await self._find(key, given)
        if entry is None:
            return JsDict(value=None, metadata=None, cacheStatus=None)
        value = _shaped(entry.value, given.get("type", "text"))
        return JsDict(value=value, metadata=_metadata_value(entry.metadata), cacheStatus=None)

    async def put(self, key: str, value: Any, options: Mapping[str, Any] | None = None, /, **named: Any) -> None:
        """Store ``value`` (str, bytes, a buffer or a ReadableStream; at most 25 MiB) under ``key``.

        ``expirationTtl`` in seconds from now, or else ``expiration`` in seconds since the epoch, both at
        least 60 s ahead; ``metadata`` any JSON value of at most 1024 bytes. What the key had before is gone.

        https://developers.cloudflare.com/kv/api/write-key-value-pairs/
        """
        given = _options("put", options, named)
        name = _key_name("PUT", key)
        metadata = _metadata_text(given.get("metadata"))
        body = _body(value)
        expiration = _expiration(given, math.floor(self._clock()))
        if metadata is not None and (length := len(metadata.encode())) > _MAX_METADATA_BYTES:
            raise _failed("PUT", 413, f"Metadata length of {length} exceeds limit of {_MAX_METADATA_BYTES}.")
        data = body if isinstance(body, bytes) else await _drained(body)
        if len(data) > _MAX_VALUE_BYTES:
            raise _failed("PUT", 413, f"Value length of {len(data)} exceeds limit of {_MAX_VALUE_BYTES}.")
        await self._store.put(name, KVEntry(data, metadata, expiration))

    async def delete(self, key: str, /) -> None:
        """Remove ``key``; a missing one is no error.

        https://developers.cloudflare.com/kv/api/delete-key-value-pairs/
        """
        await self._store.delete(_key_name("DELETE", key))

    async def list(self, options: Mapping[str, Any] | None = None, /, **named: Any) -> JsDict:
        """One page of names: ``keys``, ``list_complete``, ``cacheStatus`` and, unless complete, ``cursor``.

        ``limit`` at most 1000 (default); ``prefix`` must be repeated with ``cursor``. Entries are
        ``{name, expiration?, metadata?}``, ascending by UTF-8 bytes. An empty page need not be the last one.
        A cursor that the store does not know is a ``KV GET failed: 400`` error: that choice is ours.

        https://developers.cloudflare.com/kv/api/list-keys/
        """
        given = _options("list", options, named)
        limit: int = given.get("limit", 0)
        if limit > _MAX_LIST_KEYS:
            remedy = f"Please specify an integer less than {_MAX_LIST_KEYS}."
            raise _failed("GET", 400, f"Invalid key_count_limit of {limit}. {remedy}")
        prefix = _optional_text(given.get("prefix"))
        _check_length("GET", prefix)
        cursor = _optional_text(given.get("cursor")) or None
        try:
            page = await self._store.list(prefix, limit if limit > 0 else _MAX_LIST_KEYS, cursor)
        except ValueError:
            if cursor is None:
                raise
            raise _failed("GET", 400, "Invalid cursor.") from None
        now = self._clock()
        keys = [_list_entry(row) for row in page.keys if not _gone(row.expiration, now)]
        result = JsDict(keys=keys, list_complete=page.cursor is None)
        if page.cursor is not None:
            result["cursor"] = page.cursor
        result["cacheStatus"] = None
        return result

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> NoReturn:
        raise TypeError("'KvNamespace' object is not iterable")

    def __len__(self) -> int:
        raise TypeError("'KvNamespace' object has no len()")

    async def _find(self, key: object, given: Mapping[str, Any]) -> KVEntry | None:
        name = _key_name("GET", key)
        _check_cache_ttl("GET", given)
        return await self._live(name)

    async def _live(self, name: str) -> KVEntry | None:
        entry = await self._store.get(name)
        # Checked here as well, so that a store may be late without anyone seeing it.
        return None if entry is None or _gone(entry.expiration, self._clock()) else entry

    async def _get_bulk(self, keys: _Keys, given: Mapping[str, Any], *, with_metadata: bool) -> JsDict:
        kind = given.get("type") or "text"
        names = _bulk_names(keys, kind, given)
        result = JsDict()
        total = 0
        for start in range(0, len(names), _CONNECTIONS):
            batch = names[start : start + _CONNECTIONS]
            for name, entry in zip(batch, await self._live_batch(batch), strict=True):
                total += len(entry.value) if entry else 0
                result[name] = _bulk_result(entry, kind, with_metadata)
            if total > _MAX_VALUE_BYTES:
                raise _failed("GET_BULK", 413, "Total size of request exceeds the limit of 25MB")
        return result

    async def _live_batch(self, names: _Keys) -> Sequence[KVEntry | None]:
        tasks = [asyncio.ensure_future(self._live(name)) for name in names]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()


def _failed(operation: str, status: int, text: str) -> KVError:
    return KVError("Error", f"KV {operation} failed: {status} {text}")


def _expiration(given: Mapping[str, Any], now: int) -> int | None:
    if "expirationTtl" in given:
        ttl: int = given["expirationTtl"]
        if ttl < _MIN_TTL_S:
            floor = f"Expiration TTL must be at least {_MIN_TTL_S}."
            remedy = floor if ttl > 0 else "Please specify integer greater than 0."
            raise _failed("PUT", 400, f"Invalid expiration_ttl of {ttl}. {remedy}")
        return now + ttl
    expiration: int | None = given.get("expiration")
    if expiration is not None and expiration < now + _MIN_TTL_S:
        remedy = f"Expiration times must be at least {_MIN_TTL_S} seconds in the future."
        if expiration <= now:
            remedy = "Please specify integer greater than the current number of seconds since the UNIX epoch."
        raise _failed("PUT", 400, f"Invalid expiration of {expiration}. {remedy}")
    return expiration


def _gone(expiration: int | None, now: float) -> bool:
    return expiration is not None and expiration <= now


def _options(method: str, options: object, named: dict[str, Any]) -> dict[str, Any]:
    """The options that ``method`` knows, converted as the binding converts them."""
    position, type_name, known = _OPTIONS[method]
    if options is not None and not isinstance(options, Mapping) and not named:
        refuse_unsendable(options)
        if type_name != "GetOptions":
            place = f"parameter {position} is not of type '{type_name}'"
            raise KVError("TypeError", f"Failed to execute '{method}' on 'KvNamespace': {place}.")
        return {"type": text_of(options)}
    given = named_options(f"KV {method}()", options, named, known)
    return {name: _converted(name, value) for name, value in given.items()}


def _converted(name: str, value: object) -> Any:
    if name in ("limit", "cacheTtl", "expiration", "expirationTtl"):
        return int32(value, KVError)
    return text_of(value) if name == "type" else value


def _optional_text(value: object) -> str:
    return "" if value is None else jsjson.to_utf8(text_of(value)).decode("utf-8", "replace")


def _check_length(operation: str, text: str) -> None:
    length = len(jsjson.to_utf8(text))
    if length > _MAX_KEY_BYTES:
        limit = f"exceeds key length limit of {_MAX_KEY_BYTES}."
        raise _failed(operation, 414, f"UTF-8 encoded length of {length} {limit}")


def _key_name(operation: str, key: object) -> str:
    name = text_of(key)
    if name in ("", ".", ".."):
        text = f'"{name}" is not allowed as a key name.' if name else "Key name cannot be empty."
        raise KVError("TypeError", text)
    _check_length(operation, name)
    try:
        return jsjson.to_utf8(name).decode()
    except UnicodeDecodeError:
        raise _failed(operation, 400, "Could not URL-decode key name") from None


def _bulk_names(keys: list[Any], kind: str, given: Mapping[str, Any]) -> list[str]:
    if kind not in ("text", "json"):
        raise _failed("GET_BULK", 400, f'"{kind}" is not a valid type. Use "json" or "text"')
    if len(keys) > _MAX_BULK_KEYS:
        raise _failed("GET_BULK", 400, f"You can request a maximum of {_MAX_BULK_KEYS} keys")
    if not keys:
        raise _failed("GET_BULK", 400, "You must request a minimum of 1 key")
    names = []
    for key in keys:
        name = jsjson.to_utf8(text_of(key)).decode("utf-8", "replace")
        if not name:
            raise _failed("GET_BULK", 400, "Key names must not be empty")
        if name in (".", ".."):
            raise _failed("GET_BULK", 400, f'Illegal key name "{name}". Please use a different name.')
        _check_length("GET_BULK", name)
        _check_cache_ttl("GET_BULK", given)
        names.append(name)
    return list(dict.fromkeys(names))


def _check_cache_ttl(operation: str, given: Mapping[str, Any]) -> None:
    ttl = given.get("cacheTtl", _MIN_CACHE_TTL_S)
    if ttl < _MIN_CACHE_TTL_S:
        floor = f"Cache TTL must be at least {_MIN_CACHE_TTL_S}."
        raise _failed(operation, 400, f"Invalid cache_ttl of {ttl}. {floor}")


def _shaped(value: bytes, kind: str) -> Any:
    if kind == "text":
        return value.decode("utf-8", "replace")
    if kind == "json":
        try:
            return jsjson.parse(value.decode("utf-8", "replace"), object_hook=JsDict)
        except ValueError as error:
            raise KVError("SyntaxError", str(error)) from None
    if kind == "arrayBuffer":
        return memoryview(value)
    if kind == "stream":
        from .streams import ReadableStream

        return ReadableStream.from_bytes(value)
    possible = 'Possible types are "text", "arrayBuffer", "json", and "stream".'
    raise KVError("TypeError", f"Unknown response type. {possible}")


def _bulk_result(entry: KVEntry | None, kind: str, with_metadata: bool) -> Any:
    if entry is None:
        return None
    try:
        value = _shaped(entry.value, kind)
    except KVError:
        text = "At least one of the requested keys corresponds to a non-json value"
        raise _failed("GET_BULK", 400, text) from None
    return JsDict(value=value, metadata=_metadata_value(entry.metadata)) if with_metadata else value


def _list_entry(row: KVKey) -> JsDict:
    entry = JsDict(name=row.name)
    if row.expiration is not None:
        entry["expiration"] = row.expiration
    if row.metadata is not None:
        entry["metadata"] = _metadata_value(row.metadata)
    return entry


def _metadata_text(value: object) -> str | None:
    return None if value is None else json_text(value, KVError)


def _metadata_value(text: str | None) -> Any:
    return None if text is None else jsjson.parse(text, object_hook=JsDict)


def _body(value: object) -> bytes | ReadableStream:
    from .streams import ReadableStream

    if isinstance(value, bytes | ReadableStream):
        return value
    text = jsjson.to_string(value)
    if text is not None:
        return jsjson.to_utf8(text)
    refuse_unsendable(value)
    try:
        return memoryview(value).tobytes()  # type: ignore[arg-type] # not a buffer is a TypeError
    except TypeError:
        accepted = "strings, ArrayBuffers, ArrayBufferViews, and ReadableStreams as values."
        raise KVError("TypeError", f"KV put() accepts only {accepted}") from None


async def _drained(stream: ReadableStream) -> bytes:
    if stream.locked or stream.disturbed:
        raise KVError("TypeError", "The ReadableStream has been locked to a reader.")
    return await stream.read_all()
