"""An answer that nobody could judge: AIP_FAILURE_POLICY, and the agent's own, decide whether it passes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.gateway_process import free_port
from tests.integrity.support import SHAPES, Got, Judged, Shape
from tests.provider.process import ProviderProcess

MODES = ("observe", "nudge", "enforce")
POLICIES = ("fail_open", "fail_closed")
THINKING = "I plan to answer."
ANTHROPIC = SHAPES[0]
UNAVAILABLE = {"error": "Integrity analysis unavailable", "type": "integrity_unavailable"}
OWN = {"x-smoltbot-agent", "x-smoltbot-session", "x-smoltbot-request-id", "x-aip-verdict", "x-aip-reason"}

Setups = dict[tuple[str, str], Judged]
"""By what is the matter with the analysis, and the gateway's policy."""


@pytest.fixture(scope="module")
def setups(analysing_provider: ProviderProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setups]:
    """Gateways whose model is dead: nobody listens where it should be; and gateways that have none."""
    dead = {"ANALYSIS_BASE_URL": f"http://127.0.0.1:{free_port()}"}
    none = {"ANTHROPIC_API_KEY": "", "ANALYSIS_BASE_URL": ""}
    made = {
        (name, policy): Judged(
            tmp_path_factory.mktemp(f"{name}-{policy}"), analysing_provider, AIP_FAILURE_POLICY=policy, **analysis
        )
        for name, analysis in (("dead", dead), ("none", none))
        for policy in POLICIES
    }
    with ThreadPoolExecutor(len(made)) as pool:
        list(pool.map(lambda setup: setup.gateway.start(), made.values()))
    yield made
    assert [setup.gateway.stop() for setup in made.values()] == [0] * len(made)


def passing(judged: Judged, shape: Shape, policy: str, mode: str, streaming: bool = False) -> Got | None:
    """The provider's own answer where it passes; None where the policy keeps it back."""
    if (policy, mode, streaming) == ("fail_closed", "enforce", False):
        return None
    return judged.straight(shape, streaming=streaming, thinking=THINKING)


def check(judged: Judged, agent_id: str, got: Got, verdict: str, reason: str, expected: Got | None) -> None:
    """What the client got, None for a refusal, and the one checkpoint that says why."""
    (row,) = judged.checkpoints(agent_id)
    assert (row["verdict"], row["reason"]) == (verdict, reason)
    assert row["request_id"] == got.headers["x-smoltbot-request-id"]
    assert row["certificate_id"]
    assert row["chain_hash"]
    if got.aip("verdict") != "pending":
        assert (got.aip("verdict"), got.aip("reason")) == (verdict, reason)
        assert got.aip("checkpoint-id") == row["checkpoint_id"]
        assert (got.aip("action"), got.aip("proceed")) == (None, None)
    if expected is None:
        assert (got.status, got.json()) == (503, UNAVAILABLE)
        assert got.headers["content-type"] == "application/json"
        assert got.headers.keys() >= OWN
    else:
        assert (got.status, got.body) == (200, expected.body)


CELLS = list(itertools.product(POLICIES, MODES, (False, True)))


@pytest.mark.parametrize(("policy", "mode", "streaming"), CELLS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_dead_model(setups: Setups, shape: Shape, policy: str, mode: str, streaming: bool) -> None:
    judged = setups["dead", policy]
    name, agent_id = judged.new_agent(shape, mode)
    got = judged.ask(shape, streaming=streaming, agent=name, thinking=THINKING)
    check(judged, agent_id, got, "error", "analysis-unavailable", passing(judged, shape, policy, mode, streaming))


@pytest.mark.parametrize(("policy", "mode", "streaming"), CELLS)
def test_no_model(setups: Setups, policy: str, mode: str, streaming: bool) -> None:
    """Nobody is there to judge: under ``fail_closed`` that lets nothing pass either."""
    judged = setups["none", policy]
    name, agent_id = judged.new_agent(ANTHROPIC, mode)
    got = judged.ask(ANTHROPIC, streaming=streaming, agent=name, thinking=THINKING)
    check(
        judged, agent_id, got, "skipped", "no-analysis-configured", passing(judged, ANTHROPIC, policy, mode, streaming)
    )


@pytest.mark.parametrize(("own", "policy", "mode"), list(itertools.product(POLICIES, POLICIES, MODES)))
@pytest.mark.parametrize("analysis", ["dead", "none"])
def test_the_agents_own_policy_wins(setups: Setups, analysis: str, own: str, policy: str, mode: str) -> None:
    judged = setups[analysis, policy]
    name, agent_id = judged.new_agent(ANTHROPIC, mode, failure_policy=own)
    got = judged.ask(ANTHROPIC, agent=name, thinking=THINKING)
    verdict = ("error", "analysis-unavailable") if analysis == "dead" else ("skipped", "no-analysis-configured")
    check(judged, agent_id, got, *verdict, passing(judged, ANTHROPIC, own, mode))
    # Taken back, the gateway's counts again.
    judged.operate("PUT", f"/agents/{agent_id}/settings", {"failure_policy": None})
    again = judged.ask(ANTHROPIC, agent=name, thinking=THINKING)
    assert again.status == (503 if passing(judged, ANTHROPIC, policy, mode) is None else 200)


@pytest.mark.parametrize("analysis", ["dead", "none"])
def test_there_is_nothing_to_check(setups: Setups, analysis: str) -> None:
    """An answer without thinking, and what is no 2xx answer to a generation request, pass under ``fail_closed``."""
    judged = setups[analysis, "fail_closed"]
    name, agent_id = judged.new_agent(ANTHROPIC, "enforce")
    assert judged.ask(ANTHROPIC, agent=name).status == 200
    (row,) = judged.checkpoints(agent_id)
    assert (row["verdict"], row["reason"]) == ("skipped", "no-thinking")
    refused = judged.ask(ANTHROPIC, agent=name, status=429)
    assert (refused.status, refused.aip("verdict"), refused.aip("reason")) == (429, "skipped", "upstream-status")
    assert len(judged.checkpoints(agent_id)) == 1


def test_a_model_that_comes_back(setups: Setups, analysing_provider: ProviderProcess) -> None:
    """Under ``fail_closed`` answers pass again as soon as they are judged, and only those that are fine."""
    judged = setups["dead", "fail_closed"]
    name, agent_id = judged.new_agent(ANTHROPIC, "enforce")
    assert judged.ask(ANTHROPIC, agent=name, thinking=THINKING).status == 503
    assert judged.gateway.stop() == 0
    judged.gateway.start({"ANALYSIS_BASE_URL": analysing_provider.analyser_url})
    assert judged.ask(ANTHROPIC, agent=name, thinking=THINKING).status == 200
    assert judged.ask(ANTHROPIC, agent=name, thinking="JUDGE:boundary_violation").status == 403
    rows = judged.checkpoints(agent_id, 3)
    assert [row["verdict"] for row in rows] == ["error", "clear", "boundary_violation"]
