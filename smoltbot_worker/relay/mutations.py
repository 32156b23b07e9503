"""What is changed of a request on its way, only where a setting asks for it, and the ledger entry of each change."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection

from smoltbot_worker.admission.agents import Agent
from smoltbot_worker.control import nudges
from smoltbot_worker.env import Env
from worker_compat.errors import FetchError
from worker_compat.streams import ByteSource, BytesSource, ReadableStream

from .exchange import Exchange
from .headers import Lines
from .splice import Spliced, insert_notice

log = logging.getLogger("smoltbot")

_MODE = "aip_enforcement_mode"


def narrow_encodings(lines: Lines, exchange: Exchange, decoders: Collection[str]) -> Lines:
    """The request's lines, asking only for encodings that the check can undo: an answer nobody can read dodges it.

    A client that names no encoding accepts any by RFC 9110, but providers then send none; its lines stay as they are.
    """
    given = [value for name, value in lines if name.lower() == b"accept-encoding"]
    if not given:
        return lines
    wanted = b",".join(given)
    kept = b", ".join(part.strip() for part in wanted.split(b",") if _readable(part, decoders)) or b"identity"
    if kept.replace(b" ", b"") == wanted.replace(b" ", b""):
        return lines
    exchange.mutations.append(
        {
            "kind": "accept-encoding",
            "setting": _MODE,
            "location": "accept-encoding",
            "before_sha256": hashlib.sha256(wanted).hexdigest(),
            "after_sha256": hashlib.sha256(kept).hexdigest(),
        }
    )
    narrowed: Lines = []
    for name, value in lines:
        if name.lower() != b"accept-encoding":
            narrowed.append((name, value))
        elif kept:
            narrowed.append((name, kept))
            kept = b""
    return narrowed


async def deliver_nudges(
    body: ReadableStream, lines: Lines, env: Env, agent: Agent, exchange: Exchange
) -> tuple[ReadableStream, Lines]:
    """The request with the agent's waiting nudges in it, or as it came where they cannot be put in safely.

    A nudge that is in is claimed by this request; whoever sends it on settles it. Raises what breaks the body.
    """
    source = body.detach()
    data = await _all_of(source)
    length = source.length
    probe = insert_notice(exchange.provider.name, exchange.path, data, "?")
    if isinstance(probe, str):
        log.info("nudges of %s wait: %s (%s)", agent.id, probe, exchange.request_id)
        return _stream(data, length), lines
    claimed = await nudges.claim(agent, env, exchange.request_id)
    if not claimed:
        return _stream(data, length), lines
    exchange.nudges = len(claimed)
    spliced = insert_notice(exchange.provider.name, exchange.path, data, nudges.notice(claimed))
    assert isinstance(spliced, Spliced)
    exchange.mutations.append(
        {
            "kind": "nudge",
            "setting": _MODE,
            "location": spliced.location,
            "before_sha256": spliced.before_sha256,
            "after_sha256": spliced.after_sha256,
        }
    )
    if length is None:
        return _stream(spliced.body, None), lines
    size = b"%d" % len(spliced.body)
    resized = [(name, size if name.lower() == b"content-length" else value) for name, value in lines]
    return _stream(spliced.body, len(spliced.body)), resized


def _readable(part: bytes, decoders: Collection[str]) -> bool:
    coding = part.partition(b";")[0].strip().lower().decode("latin-1")
    return coding == "identity" or coding in decoders


def _stream(data: bytes, length: int | None) -> ReadableStream:
    source = BytesSource(data)
    source.length = length  # a chunked request stays chunked
    return ReadableStream(source)


async def _all_of(source: ByteSource) -> bytes:
    whole = source.take()
    if whole is not None:
        return whole
    chunks = []
    try:
        while chunk := await source.pull():
            chunks.append(chunk)
    except FetchError as error:
        source.close(error)
        raise
    return b"".join(chunks)
