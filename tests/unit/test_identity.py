"""Identity: keys, digests, names and sessions, with the vectors of the specification."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoltbot_worker.admission.agents import Agent
from smoltbot_worker.admission.identity import bearer, digest_of, query_keys, session_hour, session_id, valid_name
from tests.gateway.memory_records import AGENT_DEFAULTS, NO_ORGANIZATION

KEY = b"sk-ant-example-000"
EIGHT = 1_778_400_000.0  # 2026-05-10T08:00:00Z


class TestDigests:
    @pytest.mark.parametrize(
        ("name", "agent_hash", "agent_id"),
        [(None, "9d08aa51eb89d283", "smolt-9d08aa51"), ("my-coder", "c04288b764340a36", "smolt-c04288b7")],
    )
    def test_vectors(self, name: str | None, agent_hash: str, agent_id: str) -> None:
        digest = digest_of(KEY, name)
        assert (len(digest), digest[:16]) == (64, agent_hash)
        agent = Agent.derived(digest, name)
        assert (agent.id, agent.hash, agent.name, agent.recorded) == (agent_id, agent_hash, name, False)
        assert agent.id_line == (b"x-smoltbot-agent", agent_id.encode())

    def test_keys_are_bytes(self) -> None:
        assert digest_of("k\u00e9".encode(), None) == sha256(b"k\xc3\xa9").hexdigest()
        assert digest_of(b"\xff\x00", "a") == sha256(b"\xff\x00|a").hexdigest()

    @given(st.binary(min_size=1), st.binary(min_size=1))
    def test_two_keys_are_two_agents(self, one: bytes, two: bytes) -> None:
        assert (digest_of(one, None) == digest_of(two, None)) == (one == two)


class TestBearer:
    @pytest.mark.parametrize(
        ("value", "token"),
        [
            (b"Bearer one", b"one"),
            (b"bearer one", b"one"),
            (b"BEARER \t one", b"one"),
            (b"Bearer one two", b"one two"),
            (b"Bearer \xff\xfe", b"\xff\xfe"),
            (b"Bearer", None),
            (b"Bearer ", None),
            (b"Bearerone", None),
            (b" Bearer one", None),
            (b"Basic one", None),
            (b"one", None),
            (b"", None),
            (None, None),
        ],
    )
    def test_tokens(self, value: bytes | None, token: bytes | None) -> None:
        assert bearer(value) == token


class TestQueryKey:
    @pytest.mark.parametrize(
        ("query", "key"),
        [
            ("key=one", b"one"),
            ("alt=sse&key=one", b"one"),
            ("key=one&alt=sse", b"one"),
            ("key=one&key=one", b"one"),
            ("key=&key=two", b"two"),
            ("key=a%2Fb%3D", b"a/b="),
            ("key=a+b", b"a b"),
            ("key=a=b", b"a=b"),
            ("key=%zz", b"%zz"),
            ("key=%C3%A9", b"\xc3\xa9"),
            ("key=\udcff", b"\xff"),
            ("", None),
            ("key", None),
            ("key=", None),
            ("monkey=one", None),
            ("KEY=one", None),
            ("a=key=one", None),
            ("keys=one", None),
        ],
    )
    def test_keys(self, query: str, key: bytes | None) -> None:
        assert query_keys(query) == ({key} if key else set())

    def test_two_keys_are_two(self) -> None:
        assert query_keys("key=one&alt=sse&key=two") == {b"one", b"two"}


class TestNames:
    @pytest.mark.parametrize("name", ["a", "Z", "0", "a.b", "a_b", "a-b", "A9._-", "x" * 64, "skx", "aeyJ", "key"])
    def test_valid(self, name: str) -> None:
        assert valid_name(name)

    @pytest.mark.parametrize(
        "name",
        [
            "", "-a", ".a", "_a", "x" * 65, "a b", "a/b", "a\n", "\na", "a\0", "a\u00e9", "\u0661", "a%20", "a|b",
            "sk-1", "AIza1", "mnm_1", "smk_1", "eyJ1",
        ],
    )  # fmt: skip
    def test_invalid(self, name: str) -> None:
        assert not valid_name(name)


class TestSessions:
    def test_vector(self) -> None:
        assert session_id("0badcafe12345678", session_hour(EIGHT)) == "0badcafe12345678-494000"

    @pytest.mark.parametrize(
        ("now", "hour"),
        [(EIGHT - 0.001, 493_999), (EIGHT, 494_000), (EIGHT + 3599.999, 494_000), (EIGHT + 3600, 494_001), (0.0, 0)],
    )
    def test_hours_are_those_of_utc(self, now: float, hour: int) -> None:
        assert session_hour(now) == hour

    def test_an_agent_keeps_its_line_for_an_hour(self) -> None:
        agent = Agent.derived(digest_of(KEY, None), None)
        line = agent.session_line(EIGHT)
        assert line == (b"x-smoltbot-session", b"9d08aa51eb89d283-494000")
        assert agent.session_line(EIGHT + 3599) is line
        assert agent.session_line(EIGHT + 3600)[1] == b"9d08aa51eb89d283-494001"
        assert agent.session_line(EIGHT) == line  # a clock that was set back


class TestRows:
    def test_settings_come_from_the_context(self) -> None:
        row = {"id": "smolt-1", "agent_hash": "1" * 16, "name": "n", "aip_enabled": False, "aap_enabled": 1}
        context = {
            "agent": {**AGENT_DEFAULTS, **row}, "card": None, "organization": NO_ORGANIZATION, "quota": {},
            "pending_nudges": 0, "seq": 7,
        }  # fmt: skip
        agent = Agent.from_context(context, 5.0)
        assert (agent.id, agent.hash, agent.name, agent.recorded) == ("smolt-1", "1" * 16, "n", True)
        assert (agent.aip_enabled, agent.aap_enabled) == (False, True)
        assert (agent.mode, agent.containment, agent.seq, agent.read_at) == ("observe", "active", 7, 5.0)
