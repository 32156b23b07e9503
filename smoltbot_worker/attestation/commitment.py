"""Canonical JSON and the hashes that commit to what an analysis saw.

Every hash is the SHA-256 of a text in UTF-8, as 64 lower-case hex digits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from smoltbot_worker.ports import Json
from worker_compat import jsjson

TEMPLATE_VERSION = "1.0.0"
"""The version of the conscience prompt's template."""

_MAX_SAFE = 2**53 - 1

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode


def sha256_hex(text: str) -> str:
    """SHA-256 of ``text`` in UTF-8. ``ValueError`` (UnicodeEncodeError) for a lone surrogate."""
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(value: object) -> str:
    """The one text of a JSON value: members sorted by UTF-16 code units, no spaces, non-ASCII as it is.

    It is what ``JSON.stringify`` prints of an object built in sorted order, so names that are array indices come
    first, ascending, and ``1.0`` is ``1``. ``ValueError`` for what two readers could read as different values: a lone
    surrogate, NaN and the infinities, an int beyond 2**53 - 1 that no double prints as. ``TypeError`` for what
    is no JSON.
    """
    try:
        if _is_plain(value):
            # Python's encoder is several times as fast, and writes the same text.
            text = _encode(value)
            if text.isascii() or max(text) < "\ud800":
                return text
        return jsjson.stringify(_ordered(value))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _is_plain(value: object) -> bool:
    """Whether Python and JavaScript write this alike: no float with an exponent or that is whole, no name that is a
    number, no subclass.
    """
    if isinstance(value, str):
        return type(value) is str
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int):
        return type(value) is int and -_MAX_SAFE <= value <= _MAX_SAFE
    if isinstance(value, float):
        return type(value) is float and 1e-4 <= abs(value) < 1e15 and not value.is_integer()
    if isinstance(value, dict):
        for name, item in value.items():
            if type(name) is not str or name[:1].isdigit() or not _is_plain(item):
                return False
        return True
    return isinstance(value, list | tuple) and all(map(_is_plain, value))


def thinking_hash(text: str) -> str:
    """The hash of a thinking text before truncation.

    A lone surrogate, which has no UTF-8, counts as U+FFFD: that is how JavaScript encodes it.
    """
    try:
        return sha256_hex(text)
    except UnicodeEncodeError:
        units = text.encode("utf-16-le", "surrogatepass")
        return sha256_hex(units.decode("utf-16-le", "replace"))


@dataclass(frozen=True, slots=True)
class Commitment:
    """What an analysis was given, as hashes; ``combined`` is the input commitment of the chain."""

    card_hash: str
    values_hash: str
    context_hash: str
    model_version: str | None
    template_version: str
    combined: str


def commit(
    card: Mapping[str, Json] | None,
    values: Sequence[Mapping[str, Json]],
    window: Sequence[Mapping[str, Json]],
    model: str | None,
    template_version: str = TEMPLATE_VERSION,
) -> Commitment:
    """Commit to the inputs of an analysis.

    ``card`` is the AIP card of the prompt and ``values`` the list of ``{type, content, id}`` in it. ``window`` holds
    ``{checkpoint_id, verdict, reasoning_summary}`` of the earlier checkpoints that the model saw, oldest first.
    ``model`` is the analysis model. What was not loaded is None (card, model) or empty.
    """
    return commit_texts(canonical(card), canonical(list(values)), window, model, template_version)


def commit_texts(
    card: str,
    values: str,
    window: Sequence[Mapping[str, Json]],
    model: str | None,
    template_version: str = TEMPLATE_VERSION,
) -> Commitment:
    """:func:`commit` to a card and values whose canonical texts are known: they rarely change."""
    texts = [card, values, *(canonical(part) for part in (list(window), model, template_version))]
    return Commitment(
        card_hash=sha256_hex(texts[0]),
        values_hash=sha256_hex(texts[1]),
        context_hash=sha256_hex(texts[2]),
        model_version=model,
        template_version=template_version,
        combined=sha256_hex("|".join(texts)),
    )


def _ordered(value: object) -> object:
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, dict):
        return {_whole(name): _ordered(value[name]) for name in _sorted_names(value)}
    if isinstance(value, list | tuple):
        return [_ordered(item) for item in value]
    if isinstance(value, int) and not -_MAX_SAFE <= value <= _MAX_SAFE and not _is_double(value):
        raise ValueError("an integer beyond 2**53 - 1 has no exact value in JavaScript")
    if isinstance(value, float) and value - value != 0:
        raise ValueError("NaN and the infinities are no JSON")
    return value


def _is_double(number: int) -> bool:
    """Whether a double prints as this number: PostgreSQL gives back 1e21 as an int."""
    try:
        return Decimal(repr(float(number))) == number
    except OverflowError:
        return False


def _sorted_names(value: dict[str, object]) -> list[str]:
    # Code units and code points sort differently only beyond ASCII.
    if "".join(value).isascii():
        return sorted(value)
    return sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))


def _whole(text: str) -> str:
    """``text`` with surrogates that meet made one character; ``ValueError`` for a lone one."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise ValueError("a lone surrogate has no UTF-8") from None
