"""The LicenseReader: a license is believed when a key of LICENSE_PUBLIC_KEY has signed it (EdDSA, with pyjwt)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from smoltbot_worker.ports import LicenseClaims, LicenseInvalid
from smoltbot_worker.records.arguments import identifier
from worker_compat.errors import ConfigError

MOST_BYTES = 16_384
"""A longer token is not looked at."""
LEEWAY_S = 60.0
"""How far ahead the issuer's clock may be."""

Keys = Mapping[str | None, Ed25519PublicKey]
"""Public keys by ``kid``; a key without one stands alone, for every token."""

_HEX_KEY = re.compile(r"[0-9a-fA-F]{64}")
_NAMED_KEY = re.compile(r"([^\s=,]+)=([0-9a-fA-F]{64})")
_LATEST = 253_402_300_799
"""The end of the year 9999: a later time is milliseconds, or nonsense."""
_FOREIGN = frozenset(("jku", "jwk", "x5u", "x5c", "crit"))
"""Header members that bring a key of their own, or that would have to be understood."""

_PARSE = "license_parse_error"
_SIGNATURE = "license_signature_invalid"


class JwtLicenseReader:
    """Reads license tokens with the keys that are pinned; without any, HS256 ones whose issuer must be asked."""

    def __init__(self, keys: Keys, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._clock = clock

    def read(self, token: str) -> LicenseClaims:
        """See :class:`smoltbot_worker.ports.LicenseReader`; the code is a parse error or an invalid signature."""
        # Importing it takes a tenth of a second, which only those who have a license spend.
        import jwt

        if len(token) > MOST_BYTES or not token.isascii():
            raise LicenseInvalid(_PARSE)
        jws = jwt.PyJWS()
        try:
            parts = jws.decode_complete(token, options={"verify_signature": False})
            header: dict[str, Any] = parts["header"]
            if self._keys:
                jws.decode_complete(token, self._key_for(header), algorithms=["EdDSA"])
            elif header.get("alg") != "HS256" or len(parts["signature"]) != 32 or _FOREIGN & header.keys():
                raise LicenseInvalid(_SIGNATURE)
        except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError):
            raise LicenseInvalid(_SIGNATURE) from None
        except (jwt.PyJWTError, RecursionError):
            raise LicenseInvalid(_PARSE) from None
        return self._claims(_document(parts["payload"]))

    def _key_for(self, header: Mapping[str, Any]) -> Ed25519PublicKey:
        """The key that must have signed; the header only names it, and brings none."""
        kid = header.get("kid")
        key = self._keys.get(None) or self._keys.get(kid)
        if key is None or _FOREIGN & header.keys():
            raise LicenseInvalid(_SIGNATURE)
        return key

    def _claims(self, claims: dict[str, Any]) -> LicenseClaims:
        license_id, expires_at = claims.get("license_id"), _time(claims.get("exp"))
        not_before = _time(claims.get("nbf", 0))
        if expires_at is None or not_before is None or not_before > self._clock() + LEEWAY_S:
            raise LicenseInvalid(_PARSE)
        if not _names(claims.get("aud", "")) or not isinstance(claims.get("iss", ""), str):
            raise LicenseInvalid(_PARSE)
        try:
            license_id = identifier(license_id)
        except ValueError:
            raise LicenseInvalid(_PARSE) from None
        return LicenseClaims(
            license_id=license_id,
            expires_at=expires_at,
            is_offline=claims.get("is_offline") is True,
            verified=bool(self._keys),
            account_id=_text(claims.get("account_id")),
            plan_id=_text(claims.get("plan_id")),
            features=_features(claims.get("feature_flags")),
        )


def load_reader(public_key: str, clock: Callable[[], float] = time.time) -> JwtLicenseReader:
    """The reader for the text of ``LICENSE_PUBLIC_KEY``; ``ConfigError`` says what is wrong with it."""
    return JwtLicenseReader(read_keys(public_key), clock)


def read_keys(text: str) -> Keys:
    """The keys of ``LICENSE_PUBLIC_KEY``: 64 hex digits, ``kid=hex`` with commas, or the path of a JWKS file."""
    if not text:
        return {}
    if _HEX_KEY.fullmatch(text):
        return {None: _public(bytes.fromhex(text))}
    named = [_NAMED_KEY.fullmatch(part.strip()) for part in text.split(",")]
    if all(named):
        return _by_kid([(match[1], bytes.fromhex(match[2])) for match in named if match])
    try:
        document = _document(Path(text).read_bytes())
    except (OSError, ValueError):
        _refuse("is neither 64 hex digits, nor `kid=hex` with commas, nor the path of a file that can be read")
    except LicenseInvalid:
        _refuse("names a file that is no JSON object: a JWKS file has a list `keys`")
    return _from_jwks(document)


def _from_jwks(document: dict[str, Any]) -> Keys:
    """The Ed25519 keys of a JSON Web Key Set (RFC 7517, RFC 8037); keys of other kinds are left out."""
    entries = document.get("keys")
    found: list[tuple[str | None, bytes]] = []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and (entry.get("kty"), entry.get("crv")) == ("OKP", "Ed25519"):
            kid = entry.get("kid")
            if "d" in entry:
                _refuse("names a file with a private key, which belongs to the issuer alone")
            if kid is not None and not isinstance(kid, str):
                _refuse("names a file with a `kid` that is no text")
            found.append((kid, _from_base64url(entry.get("x"))))
    if not found:
        _refuse("names a file without an Ed25519 key (`kty` OKP, `crv` Ed25519)")
    return _by_kid(found)


def _by_kid(found: list[tuple[str | None, bytes]]) -> Keys:
    keys = {kid: _public(key) for kid, key in found}
    if len(keys) < len(found):
        _refuse("has two keys of the same `kid`")
    if None in keys and len(keys) > 1:
        _refuse("has a key without `kid` beside others: each of several keys needs one")
    return keys


def _from_base64url(text: Any) -> bytes:
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9_-]{43}", text):
        _refuse("names a file with an `x` that is not 32 bytes in base64url")
    from jwt.utils import base64url_decode

    return base64url_decode(text)


def _public(key: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(key)


def _refuse(problem: str) -> NoReturn:
    raise ConfigError(f"LICENSE_PUBLIC_KEY {problem}")


def _document(data: bytes) -> dict[str, Any]:
    """A JSON object; ``LicenseInvalid`` for anything else."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise LicenseInvalid(_PARSE) from None
    if not isinstance(document, dict):
        raise LicenseInvalid(_PARSE)
    return document


def _time(value: Any) -> float | None:
    """A NumericDate (RFC 7519); None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST:
        return None
    return float(value)


def _names(value: Any) -> bool:
    """Whether this is text, or a list of texts, as an audience must be."""
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _features(value: Any) -> tuple[str, ...]:
    """The names of features: those that are true in an object, or those in a list."""
    if isinstance(value, dict):
        return tuple(name for name, on in value.items() if on is True)
    return tuple(name for name in value if isinstance(name, str)) if isinstance(value, list) else ()
