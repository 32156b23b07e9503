"""License tokens: what is believed, and every way of forging one that is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from smoltbot_host.license import LEEWAY_S, MOST_BYTES, load_reader
from smoltbot_worker.ports import LicenseClaims, LicenseInvalid
from worker_compat.errors import ConfigError
from worker_compat.testing import FakeClock

from .license_support import DAY, NOW, Issuer, b64, hs256

ISSUER, OTHER = Issuer(1), Issuer(2)
PARSE, SIGNATURE = "license_parse_error", "license_signature_invalid"
KEYS = f"k1={ISSUER.hex},k2={OTHER.hex}"


def read(token: str, key: str = ISSUER.hex) -> LicenseClaims:
    return load_reader(key, FakeClock(NOW)).read(token)


def code(token: str, key: str = ISSUER.hex) -> str:
    """Why a token is refused."""
    with pytest.raises(LicenseInvalid) as caught:
        read(token, key)
    assert str(caught.value) == caught.value.code
    return caught.value.code


class TestBelieved:
    def test_all_claims(self) -> None:
        flags = {"hybrid": True, "sso": False, "beta": "true"}
        more: dict[str, Any] = {
            "account_id": "acc-1",
            "plan_id": "plan-enterprise",
            "feature_flags": flags,
            "is_offline": True,
        }
        assert read(ISSUER.license(**more)) == LicenseClaims(
            "lic-1", NOW + 365 * DAY, True, True, "acc-1", "plan-enterprise", ("hybrid",)
        )

    def test_as_little_as_possible(self) -> None:
        assert read(ISSUER.license()) == LicenseClaims("lic-1", NOW + 365 * DAY, False, True)

    def test_an_expired_one_is_read(self) -> None:
        assert read(ISSUER.license(exp=5)).expires_at == 5

    @pytest.mark.parametrize("offline", [1, "true", "yes", [], {}, None, False])
    def test_offline_is_only_what_says_so(self, offline: Any) -> None:
        assert read(ISSUER.license(is_offline=offline)).is_offline is False

    def test_features_in_a_list(self) -> None:
        assert read(ISSUER.license(feature_flags=["a", 1, "b"])).features == ("a", "b")

    @pytest.mark.parametrize("odd", [3, None, [], {}])
    def test_what_decides_nothing_may_be_odd(self, odd: Any) -> None:
        claims = read(ISSUER.license(account_id=odd, plan_id=odd, feature_flags=3))
        assert (claims.account_id, claims.plan_id, claims.features) == (None, None, ())

    @pytest.mark.parametrize("names", [{}, {"aud": "smoltbot"}, {"aud": ["a", "b"]}, {"iss": "mnemom"}])
    def test_audience_and_issuer_may_be_any_names(self, names: dict[str, Any]) -> None:
        assert read(ISSUER.license(**names)).license_id == "lic-1"

    def test_a_start_in_the_past_or_within_the_leeway(self) -> None:
        assert read(ISSUER.license(nbf=NOW + LEEWAY_S)).license_id == "lic-1"


class TestForged:
    def test_by_another_key(self) -> None:
        assert code(OTHER.license()) == SIGNATURE

    def test_without_a_signature(self) -> None:
        for alg in ("none", "None", "NONE", ""):
            header, payload, _ = ISSUER.license(header={"alg": alg}, is_offline=True).split(".")
            assert code(f"{header}.{payload}.") == SIGNATURE
            assert code(f"{header}.{payload}.", "") == SIGNATURE

    def test_without_an_algorithm(self) -> None:
        assert code(ISSUER.signed({"typ": "JWT"}, {"license_id": "x", "exp": NOW + 1})) == SIGNATURE

    @pytest.mark.parametrize("secret", [ISSUER.public, ISSUER.hex.encode(), b""], ids=["bytes", "hex", "empty"])
    def test_with_the_public_key_as_a_secret(self, secret: bytes) -> None:
        assert code(hs256(secret, is_offline=True)) == SIGNATURE
        assert code(hs256(secret, header={"kid": "k1"}), KEYS) == SIGNATURE

    @pytest.mark.parametrize(
        "alg", ["HS512", "RS256", "PS256", "ES256", "ES512", "Ed448", "EdDSA ", "eddsa", 7, ["EdDSA"]]
    )
    @pytest.mark.parametrize("key", [ISSUER.hex, ""], ids=["pinned", "without a key"])
    def test_by_another_algorithm(self, alg: Any, key: str) -> None:
        assert code(ISSUER.license(header={"alg": alg}), key) in (SIGNATURE, PARSE)

    def test_with_any_byte_changed(self) -> None:
        token = ISSUER.license(is_offline=True)
        for place in range(0, len(token), 7):
            other = "A" if token[place] != "A" else "B"
            assert code(token[:place] + other + token[place + 1 :]) in (PARSE, SIGNATURE)

    def test_with_the_signature_of_another_license(self) -> None:
        good, wanted = ISSUER.license(), ISSUER.license(exp=NOW + 9999 * DAY)
        assert code(f"{wanted.rpartition('.')[0]}.{good.rpartition('.')[2]}") == SIGNATURE

    @pytest.mark.parametrize(
        "header",
        [
            {"jku": "https://evil.example/keys"},
            {"x5u": "https://evil.example/cert"},
            {"x5c": ["MIIB"]},
            {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": b64(OTHER.public)}},
            {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": b64(ISSUER.public)}},
        ],
        ids=lambda header: next(iter(header)),
    )
    def test_with_a_key_of_its_own(self, header: dict[str, Any]) -> None:
        # Even where the pinned key has signed it: no issuer of ours sends such a header.
        assert code(ISSUER.license(header=header)) == SIGNATURE
        assert code(OTHER.license(header=header)) == SIGNATURE
        assert code(hs256(b"s" * 32, header=header), "") == SIGNATURE

    @pytest.mark.parametrize(
        "header", [{"crit": ["exp"], "exp": 1}, {"crit": ["b64"], "b64": False}, {"crit": ["b64"]}]
    )
    def test_with_what_would_have_to_be_understood(self, header: dict[str, Any]) -> None:
        assert code(ISSUER.license(header=header)) in (PARSE, SIGNATURE)


class TestKeyIds:
    def test_the_key_that_it_names(self) -> None:
        assert read(ISSUER.license(header={"kid": "k1"}), KEYS).verified
        assert read(OTHER.license(header={"kid": "k2"}), KEYS).verified

    @pytest.mark.parametrize("kid", ["k2", "k3", "K1", "", "k1 ", "../k1"])
    def test_another_or_an_unknown_one(self, kid: str) -> None:
        assert code(ISSUER.license(header={"kid": kid}), KEYS) == SIGNATURE

    def test_none_where_keys_have_names(self) -> None:
        assert code(ISSUER.license(), KEYS) == SIGNATURE
        assert code(ISSUER.license(), f"k1={ISSUER.hex}") == SIGNATURE

    @pytest.mark.parametrize("kid", [1, None, ["k1"], {}])
    def test_that_are_no_text(self, kid: Any) -> None:
        assert code(ISSUER.license(header={"kid": kid}), KEYS) in (PARSE, SIGNATURE)

    def test_a_key_without_a_name_is_for_every_token(self) -> None:
        assert read(ISSUER.license(header={"kid": "whatever"})).verified
        assert code(OTHER.license(header={"kid": "whatever"})) == SIGNATURE


class TestMalformed:
    @pytest.mark.parametrize("token", ["", ".", "..", "...", "a", "a.b", "a.b.c", "ä.b.c", "\udcff", "eyJ.eyJ.x"])
    def test_no_token_at_all(self, token: str) -> None:
        assert code(token) == PARSE

    def test_cut_anywhere(self) -> None:
        token = ISSUER.license()
        for length in range(0, len(token), 5):
            assert code(token[:length]) in (PARSE, SIGNATURE)
        managed = hs256(b"s" * 32)
        for length in range(0, len(managed), 5):
            assert code(managed[:length], "") in (PARSE, SIGNATURE)

    def test_more_than_one_signature(self) -> None:
        assert code(f"{ISSUER.license()}.x") == PARSE

    def test_a_megabyte_is_not_looked_at(self) -> None:
        assert code(ISSUER.license(padding="x" * 1_000_000)) == PARSE
        assert code("x" * (MOST_BYTES + 1), "") == PARSE
        [longest] = [
            token
            for size in range(MOST_BYTES * 3 // 4 - 250, MOST_BYTES * 3 // 4)
            if len(token := ISSUER.license(padding="x" * size)) in (MOST_BYTES, MOST_BYTES - 1)
        ][:1]
        assert read(longest).verified

    @pytest.mark.parametrize(
        "payload", [b"", b"x", b"[]", b"7", b"null", b'"x"', b"\xff\xfe{}", b"[" * 9000, b"{" * 9000]
    )
    def test_a_payload_that_is_no_object(self, payload: bytes) -> None:
        assert code(ISSUER.signed({"alg": "EdDSA"}, payload)) == PARSE

    @pytest.mark.parametrize("header", [b"", b"x", b"[]", b"7", b"null", b"[" * 9000, b'{"a":' * 2000])
    def test_a_header_that_is_no_object(self, header: bytes) -> None:
        assert code(ISSUER.signed(header, {"license_id": "x", "exp": NOW + 1})) == PARSE

    @pytest.mark.parametrize("name", [None, "", 7, [], {"a": 1}, "a b", 'a"b', "ä", "x" * 201])
    def test_a_license_id_that_is_none(self, name: Any) -> None:
        assert code(ISSUER.license(license_id=name)) == PARSE

    @pytest.mark.parametrize("exp", [None, "1900000000", True, -1, [], {}, 1e300, NOW * 1000, 10**40])
    def test_an_expiry_that_is_no_time(self, exp: Any) -> None:
        assert code(ISSUER.license(exp=exp)) == PARSE

    @pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"1e999", b"9" * 5000])
    def test_an_expiry_that_is_no_number(self, text: bytes) -> None:
        assert code(ISSUER.signed({"alg": "EdDSA"}, b'{"license_id":"x","exp":' + text + b"}")) == PARSE

    @pytest.mark.parametrize("name", ["license_id", "exp"])
    def test_without_what_it_needs(self, name: str) -> None:
        assert code(ISSUER.license(without=name)) == PARSE

    @pytest.mark.parametrize("nbf", [NOW + LEEWAY_S + 1, NOW + DAY, "1", None, True, -1])
    def test_a_start_in_the_future_or_none(self, nbf: Any) -> None:
        assert code(ISSUER.license(nbf=nbf)) == PARSE

    @pytest.mark.parametrize(
        "claims", [{"aud": 7}, {"aud": None}, {"aud": ["a", 7]}, {"aud": {}}, {"iss": ["a"]}, {"iss": 7}]
    )
    def test_audience_or_issuer_of_the_wrong_type(self, claims: dict[str, Any]) -> None:
        assert code(ISSUER.license(**claims)) == PARSE


class TestWithoutAKey:
    def test_a_managed_license_is_read_and_not_verified(self) -> None:
        claims = read(hs256(b"known to its issuer alone".ljust(32), is_offline=True), "")
        assert claims == LicenseClaims("lic-1", NOW + 365 * DAY, True, False)

    def test_nothing_else_is(self) -> None:
        assert code(ISSUER.license(), "") == SIGNATURE

    def test_and_is_not_once_there_is_one(self) -> None:
        assert code(hs256(b"s" * 32), OTHER.hex) == SIGNATURE


def jwks(folder: Path, *keys: Any) -> str:
    file = folder / "keys.json"
    file.write_text(json.dumps({"keys": list(keys)}), "utf-8")
    return str(file)


def jwk(issuer: Issuer, **more: Any) -> dict[str, Any]:
    return {"kty": "OKP", "crv": "Ed25519", "x": b64(issuer.public), **more}


class TestSettings:
    def test_names_may_be_odd_and_spaced(self) -> None:
        key = f"2026-01/a={ISSUER.hex.upper()} , b={OTHER.hex}"
        assert read(ISSUER.license(header={"kid": "2026-01/a"}), key).verified
        assert read(ISSUER.license(), ISSUER.hex.upper()).verified

    def test_a_jwks_file(self, tmp_path: Path) -> None:
        rsa = {"kty": "RSA", "kid": "r", "n": "x", "e": "AQAB"}
        key = jwks(tmp_path, rsa, jwk(ISSUER, kid="a"), jwk(OTHER, kid="b", use="sig"), "nonsense")
        assert read(ISSUER.license(header={"kid": "a"}), key).verified
        assert code(ISSUER.license(header={"kid": "b"}), key) == SIGNATURE
        assert code(ISSUER.license(header={"kid": "r"}), key) == SIGNATURE
        assert code(ISSUER.license(), key) == SIGNATURE

    def test_a_jwks_file_with_one_key_without_a_name(self, tmp_path: Path) -> None:
        assert read(ISSUER.license(header={"kid": "any"}), jwks(tmp_path, jwk(ISSUER))).verified

    @pytest.mark.parametrize(
        "text",
        [
            "x", "0" * 63, "0" * 65, "g" * 64, "k1=", f"k1={'0' * 63}", f"={'0' * 64}", f"{'0' * 64},{'1' * 64}",
            f"k1={'0' * 64},{'1' * 64}", f"k1={'0' * 64},k1={'1' * 64}", f"k1={'0' * 64},", "/nowhere/keys.json", "/",
            "\0", "a" * 5000,
        ],
    )  # fmt: skip
    def test_no_key_is_said_at_the_start(self, text: str) -> None:
        with pytest.raises(ConfigError, match=r"^LICENSE_PUBLIC_KEY "):
            load_reader(text)

    @pytest.mark.parametrize(
        "content",
        ["", "x", "[]", "7", "{}", '{"keys":7}', '{"keys":[]}', '{"keys":[{"kty":"RSA"}]}', "[" * 9000],
    )
    def test_no_key_set_is_said_at_the_start(self, content: str, tmp_path: Path) -> None:
        file = tmp_path / "keys.json"
        file.write_text(content, "utf-8")
        with pytest.raises(ConfigError, match=r"^LICENSE_PUBLIC_KEY names a file"):
            load_reader(str(file))

    @pytest.mark.parametrize(
        "keys",
        [
            [jwk(ISSUER, kid="a"), jwk(OTHER, kid="a")],
            [jwk(ISSUER, kid="a"), jwk(OTHER)],
            [jwk(ISSUER, kid=7)],
            [jwk(ISSUER, x="AAAA")],
            [jwk(ISSUER, x=7)],
            [jwk(ISSUER, x="*" * 43)],
            [jwk(ISSUER, d="A" * 43)],
        ],
        ids=["twice", "unnamed beside others", "kid", "short", "no text", "no base64url", "private"],
    )
    def test_no_key_in_the_set_is_said_at_the_start(self, keys: list[Any], tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"^LICENSE_PUBLIC_KEY ") as caught:
            load_reader(jwks(tmp_path, *keys))
        assert "A" * 43 not in str(caught.value)
