"""Hybrid analysis: another service judges the thinking; nothing else of the exchange leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from smoltbot_worker.attestation.commitment import thinking_hash
from smoltbot_worker.ports import Json

from .analysis import Analyst
from .cards import Alignment
from .failures import MALFORMED, AnalysisFailed
from .prompt import task_of
from .reading import whole
from .verdict import Judgement, judged
from .window import Window

if TYPE_CHECKING:
    from smoltbot_worker.relay.message import ExchangeMessage

MOST_TASK = 200
"""Characters of the card's words on what the agent is for."""


def request_of(
    message: ExchangeMessage, thinking: str, model: str | None, alignment: Alignment, window: Window
) -> dict[str, Any]:
    """The body that asks for an analysis. Of the exchange it holds the thinking; the rest is the agent's card."""
    task = task_of(alignment.about)[:MOST_TASK]
    return {
        "thinking_block": whole(thinking),
        "thinking_metadata": {"provider": message.provider, "model": model},
        "agent_id": message.agent_id,
        "session_id": message.session_id,
        "card": alignment.card,
        "conscience_values": alignment.values,
        **({"task_context": task} if task else {}),
        "window_context": window.context,
        # The record is made and kept here.
        "store_checkpoint": False,
    }


async def delegate(analyst: Analyst, body: Mapping[str, Json], alignment: Alignment) -> tuple[Judgement, str | None]:
    """The judgement on ``body`` and the model that made it, read as strictly as that of a model of our own.

    Of the checkpoint that is answered nothing else counts. :class:`AnalysisFailed` when there is no judgement, or one
    on other thinking.
    """
    answer = await analyst.delegate(body)
    checkpoint = answer.get("checkpoint")
    if not isinstance(checkpoint, dict):
        raise AnalysisFailed(MALFORMED, "the answer holds no checkpoint")
    about = checkpoint.get("thinking_block_hash")
    if about is not None and about != thinking_hash(str(body["thinking_block"])):
        raise AnalysisFailed(MALFORMED, "the answer is about other thinking")
    metadata = checkpoint.get("analysis_metadata")
    model = metadata.get("analysis_model") if isinstance(metadata, dict) else None
    return judged(checkpoint, alignment.values), model[:200] if isinstance(model, str) else None
