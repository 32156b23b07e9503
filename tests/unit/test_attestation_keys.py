"""Public keys that prove nothing: points of small order, for which one signature fits many texts."""

from __future__ import annotations

from base64 import b64encode

import pytest

from smoltbot_worker.attestation.checks import Examination, Keyring
from tests.unit.attestation_support import CRYPTO

FIELD = 2**255 - 19
CURVE = -121665 * pow(121666, -1, FIELD) % FIELD
NEUTRAL = (1).to_bytes(32, "little")
FITS_ALL = b64encode(NEUTRAL + bytes(32)).decode()
"""A signature that needs no key: under the neutral point it is that of every text."""


def doubled(y: int) -> int:
    """The y of twice the point with this y (RFC 8032, 5.1.4, with x**2 from the curve's equation)."""
    square = (y * y - 1) * pow(CURVE * y * y + 1, -1, FIELD) % FIELD
    return (y * y + square) * pow(2 - y * y + square, -1, FIELD) % FIELD


def of_small_order() -> list[int]:
    """Every y below 2**255 that stands for a point whose order divides 8."""
    eighth = 55188659117513257062467267217118295137698188065244968500265048394206261417927
    ys = [1, FIELD - 1, 0, eighth, FIELD - eighth]
    assert all(doubled(doubled(doubled(y))) == 1 for y in ys)
    return [*ys, FIELD, FIELD + 1]


async def said_of(key: bytes, signature: str) -> list[str]:
    exam = Examination(Keyring(only=key.hex()), CRYPTO)
    await exam.signature("entry", "signature", "key-001", "any text", signature)
    return [str(defect) for defect in exam.defects]


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("y", of_small_order(), ids=lambda y: hex(y)[:8] + hex(y)[-4:])
async def test_a_key_of_small_order_proves_nothing(y: int, sign: int) -> None:
    (said,) = await said_of((y | sign << 255).to_bytes(32, "little"), FITS_ALL)
    assert said.startswith("entry: key: the key 'key-001' is none that proves anything")


async def test_the_library_alone_takes_such_a_key() -> None:
    assert await CRYPTO.verify(NEUTRAL, b"any text", NEUTRAL + bytes(32))


async def test_an_honest_key_passes() -> None:
    signature = b64encode(await CRYPTO.sign(b"any text")).decode()
    assert await said_of(bytes.fromhex(CRYPTO.public_key), signature) == []
