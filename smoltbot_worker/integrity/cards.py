"""What an agent is judged against: its card under the organisation's template, and its conscience values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from smoltbot_worker.attestation.commitment import canonical

from .reading import Fields, Unreadable
from .template import envelope_name, merged
from .values import Value, layered

if TYPE_CHECKING:
    from smoltbot_worker.admission.agent import Agent

MOST_TEXT = 262_144
"""Characters of a card's or the values' canonical text; beyond, no model would read it all."""


@dataclass(frozen=True)
class Alignment:
    """What an agent is judged against.

    ``card`` is the card in the form of AIP, exactly what the prompt shows and a checkpoint commits to; None when the
    agent has no card, or one that cannot be read: ``problem`` then names the field. ``about`` says in the card's words
    what the agent is for.
    """

    card_id: str | None = None
    card: Mapping[str, Any] | None = None
    values: Sequence[Value] = ()
    about: str = ""
    card_text: str = "null"
    values_text: str = "[]"
    problem: str | None = None

    @cached_property
    def aip_card(self) -> Any:
        """The card as the SDK takes it: an ``AlignmentCard``."""
        from aip import AlignmentCard, AlignmentCardValue, AutonomyEnvelope, EscalationTrigger

        assert self.card is not None
        envelope = self.card["autonomy_envelope"]
        return AlignmentCard(
            card_id=self.card["card_id"],
            values=[AlignmentCardValue(**value) for value in self.card["values"]],
            autonomy_envelope=AutonomyEnvelope(
                bounded_actions=envelope["bounded_actions"],
                forbidden_actions=envelope["forbidden_actions"],
                escalation_triggers=[EscalationTrigger(**trigger) for trigger in envelope["escalation_triggers"]],
            ),
            agent_description=self.card.get("agent_description"),
        )

    @cached_property
    def aip_values(self) -> list[Any]:
        """The values as the SDK takes them: ``ConscienceValue``."""
        from aip import ConscienceValue

        return [ConscienceValue(**value) for value in self.values]  # type: ignore[arg-type] # layered() checked types


UNKNOWN = Alignment()
"""Nothing was loaded."""


def alignment(agent: Agent) -> Alignment:
    """What ``agent`` is judged against; kept with the agent until its card or the organisation is another one.

    Never raises: what is stored may be of any shape.
    """
    if not isinstance(agent.alignment, Alignment):
        agent.alignment = _read(agent.card, agent.organization, agent.org_card_exempt)
    return agent.alignment


def _read(row: object, organization: Mapping[str, Any] | None, exempt: bool) -> Alignment:
    if row is None:
        return UNKNOWN
    card_id = row.get("card_id") if isinstance(row, Mapping) else None
    known_id = card_id if isinstance(card_id, str) else None
    try:
        stored, shared = Fields(row, "card"), Fields(organization, "organization")
        card = Fields(stored.data.get("card_json"), "card")
        # The exemption is from the template only: the organisation's values hold for everybody.
        if not exempt and shared.flag("card_template_enabled", False) and shared.has("card_template"):
            card = Fields(merged(card, shared.object("card_template")), "card")
        form, values = _aip_form(card, known_id), layered(organization, stored.data.get("conscience_values"))
        texts = _canonical("card", form), _canonical("conscience_values", values)
        return Alignment(known_id, form, values, _about(card), *texts)
    except Unreadable as error:
        return Alignment(known_id, problem=str(error))
    except RecursionError:
        return Alignment(known_id, problem="card: is nested too deeply")


def _aip_form(card: Fields, row_id: str | None) -> dict[str, Any]:
    envelope = card.object(envelope_name(card))
    if not card.has("values") and not envelope.data:
        raise Unreadable("card", "an alignment card, with values or an autonomy envelope")
    forbidden = envelope.texts("forbidden_actions")
    form: dict[str, Any] = {
        "card_id": card.text("card_id") or row_id or "unknown",
        "values": _values(card.object("values")),
        "autonomy_envelope": {
            "bounded_actions": [name for name in envelope.texts("bounded_actions") if name not in forbidden],
            "forbidden_actions": forbidden,
            "escalation_triggers": [_trigger(trigger) for trigger in envelope.objects("escalation_triggers")],
        },
    }
    description = card.object("extensions").object("mnemom").text("description")
    return form | ({"agent_description": description} if description else {})


def _values(values: Fields) -> list[dict[str, Any]]:
    definitions = values.object("definitions")
    found = []
    for place, name in enumerate(values.texts("declared"), 1):
        definition = definitions.object(name)
        description = definition.text("description")
        value: dict[str, Any] = {"name": name, "priority": definition.number("priority", place)}
        found.append(value | ({"description": description} if description else {}))
    return found


def _trigger(trigger: Fields) -> dict[str, str]:
    reason = trigger.text("reason")
    known = {"condition": trigger.required("condition"), "action": trigger.required("action")}
    return known | ({"reason": reason} if reason else {})


def _about(card: Fields) -> str:
    extension = card.object("extensions").object("mnemom")
    return extension.text("description") or extension.text("role") or ""


def _canonical(name: str, value: object) -> str:
    try:
        text = canonical(value)
    except ValueError:
        raise Unreadable(name, "made of values that have one canonical text") from None
    if len(text) > MOST_TEXT:
        raise Unreadable(name, f"at most {MOST_TEXT} characters long")
    return text
