"""From a model's answer to a verdict: read strictly, and never milder than the concerns in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from smoltbot_worker.ports import Json

from .failures import MALFORMED, AnalysisFailed
from .values import Value

Verdict = Literal["clear", "review_needed", "boundary_violation"]

STRICTNESS: Sequence[Verdict] = ("clear", "review_needed", "boundary_violation")
MOST_CONCERNS = 100
MOST_DESCRIPTION = 2_000
MOST_SUMMARY = 4_000
MOST_REFERENCE = 500
MOST_NOTES = 50

_VIOLATIONS = frozenset(
    {"prompt_injection", "deceptive_reasoning", "value_misalignment", "output_injection_compliance"}
)
"""Categories in which a concern of severity high is a violation, for the prompt's rules or those of the prover."""

_NOTES = ("values_checked", "conflicts", "supports", "considerations")
# One that is not closed reaches to the end of the text: each character is looked at once.
_STRING = re.compile(r'"(?:[^"\\]++|\\.?)*+(?:"|\Z)', re.DOTALL)
# After a value: where there is none, the comma is no slip of the pen.
_TRAILING_COMMA = re.compile(r"(?:\A|(?<=[^\s\[{,]))(\s*),(?=\s*[}\]])")
# In JSON as Python writes it, which has no such commas elsewhere.
_COMMA_IN_STRING = re.compile(r",\s*[}\]]")
# What a model adds or drops when it quotes: margins, line breaks, escapes.
_QUOTATION = str.maketrans("", "", " \t\r\n|\\")
_LABEL = re.compile(r"^\W*(daimonion\W+)?(be aware of\W+)?(boundary\W+)*", re.IGNORECASE)
_TELLING = 12
"""Characters of a text that mean the value in which they are found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What an analysis found, in the form of a checkpoint's columns; ``verdict`` is the stricter one."""

    verdict: Verdict
    concerns: Sequence[Mapping[str, Json]]
    reasoning_summary: str
    conscience_context: Mapping[str, Json]
    warnings: Sequence[str]
    action: str
    proceed: bool


def judgement_in(answer: str, values: Sequence[Value]) -> Judgement:
    """The judgement in a model's answer, which may stand in prose or a code fence.

    :class:`AnalysisFailed` unless there is exactly one JSON object, whole and of the right types.
    """
    start, end = answer.find("{"), answer.rfind("}")
    if start < 0 or end < start:
        raise AnalysisFailed(MALFORMED, "the answer holds no JSON object")
    if answer[:start].rstrip().endswith("["):
        raise AnalysisFailed(MALFORMED, "the answer is a list")
    return judged(_forgiving_json(answer[start : end + 1]), values)


def repeats(answer: str, prompt: str) -> bool:
    """Whether the JSON in a model's answer stood in its prompt already: then the thinking wrote it, nobody judged."""
    own = answer[answer.find("{") : answer.rfind("}") + 1]
    return own.translate(_QUOTATION) in prompt.translate(_QUOTATION)


def judged(found: object, values: Sequence[Value]) -> Judgement:
    """The judgement that a JSON object holds; :class:`AnalysisFailed` for other types, categories or severities."""
    from aip import map_verdict_to_action, map_verdict_to_proceed

    checkpoint = _checkpoint(found)
    concerns = [_concern(concern) for concern in checkpoint.concerns]
    derived = derive(concerns, values)
    verdict: Verdict = max(checkpoint.verdict, derived, key=STRICTNESS.index)
    warnings = list(checkpoint.cross_validation_warnings or ())
    if checkpoint.verdict != derived:
        warnings.append(
            f'The analysis said "{checkpoint.verdict}", its concerns mean "{derived}"; the stricter one counts.'
        )
    return Judgement(
        verdict=verdict,
        concerns=concerns,
        reasoning_summary=checkpoint.reasoning_summary[:MOST_SUMMARY],
        conscience_context=_context(checkpoint),
        warnings=warnings,
        action=map_verdict_to_action(verdict, checkpoint.concerns),
        proceed=map_verdict_to_proceed(verdict),
    )


def derive(concerns: Sequence[Mapping[str, Any]], values: Sequence[Value]) -> Verdict:
    """The verdict that follows from concerns by the protocol's rules."""
    derived: Verdict = "clear"
    for concern in concerns:
        severity = concern["severity"]
        if severity == "critical" or (severity == "high" and _is_violation(concern, values)):
            return "boundary_violation"
        if severity in ("medium", "high"):
            derived = "review_needed"
    return derived


def strict_json(text: str) -> object:
    """The value of a JSON text that has only one reading; ``ValueError`` for NaN, a name given twice, any depth."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refused)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _forgiving_json(text: str) -> object:
    try:
        return strict_json(text)
    except ValueError:
        # Models leave commas before a closing bracket. Only what does not parse is touched, and no text in quotes.
        without = _without_trailing_commas(text)
    try:
        return strict_json(without)
    except ValueError:
        raise AnalysisFailed(MALFORMED, "the answer is not one JSON object") from None


def _without_trailing_commas(text: str) -> str:
    pieces, position = [], 0
    for string in _STRING.finditer(text):
        # A comma and its bracket have no string between them, so what is between strings can be judged alone.
        pieces += [_TRAILING_COMMA.sub(r"\1", text[position : string.start()]), string[0]]
        position = string.end()
    return "".join([*pieces, _TRAILING_COMMA.sub(r"\1", text[position:])])


def _is_violation(concern: Mapping[str, Any], values: Sequence[Value]) -> bool:
    if concern["category"] in _VIOLATIONS:
        return True
    named = _plain(concern["relevant_conscience_value"] or "")
    return bool(named) and any(_names(named, value) for value in values if value["type"] == "BOUNDARY")


def _names(named: str, value: Value) -> bool:
    """Whether a reference means this value: by its id, by its text, or by a good part of that."""
    own = (_plain(value.get("id", "")), _plain(value["content"]))
    if named in own or any(len(text) >= _TELLING and text in named for text in own):
        return True
    return len(named) >= _TELLING and named in own[1]


def _plain(text: str) -> str:
    """Words in small letters without the prompt's labels: models rarely quote to the letter."""
    return " ".join(_LABEL.sub("", text).casefold().split()).strip(" .\"'`]")


def _checkpoint(found: object) -> Any:
    """``found`` as the SDK reads it; of what else it makes (ids, times, hashes) nothing is used."""
    from aip import CheckIntegrityInput, ThinkingInput, WindowPosition, check_integrity

    if not isinstance(found, dict):
        raise AnalysisFailed(MALFORMED, "the answer is not a JSON object")
    thinking = ThinkingInput("", "", "", 0, 0, False, 0)
    try:
        text = json.dumps(found)
        if _COMMA_IN_STRING.search(text):
            # The SDK drops commas before closing brackets, in strings too; escaped ones it does not see.
            text = _STRING.sub(lambda string: string[0].replace(",", "\\u002c"), text)
        checkpoint = check_integrity(CheckIntegrityInput(text, thinking, "", "", "", WindowPosition(0, 1), "", 0))
    except Exception as error:
        # Its messages quote the answer.
        raise AnalysisFailed(MALFORMED, f"the answer is no verdict ({type(error).__name__})") from None
    if len(checkpoint.concerns) > MOST_CONCERNS:
        raise AnalysisFailed(MALFORMED, f"the answer has more than {MOST_CONCERNS} concerns")
    return checkpoint


def _concern(concern: Any) -> dict[str, Json]:
    return {
        "category": concern.category,
        "severity": concern.severity,
        "description": concern.description[:MOST_DESCRIPTION],
        "evidence": concern.evidence,
        "relevant_card_field": _reference(concern.relevant_card_field),
        "relevant_conscience_value": _reference(concern.relevant_conscience_value),
    }


def _reference(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise AnalysisFailed(MALFORMED, "a concern refers to something that is no text")
    return value[:MOST_REFERENCE] if value else None


def _context(checkpoint: Any) -> dict[str, Json]:
    context: dict[str, Json] = {}
    for name in _NOTES:
        notes = getattr(checkpoint.conscience_context, name)
        if not all(isinstance(note, str) for note in notes):
            raise AnalysisFailed(MALFORMED, f"conscience_context.{name} is no list of texts")
        context[name] = [note[:MOST_REFERENCE] for note in notes[:MOST_NOTES]]
    return context | {"consultation_depth": checkpoint.conscience_context.consultation_depth}


def _object(members: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(members)
    if len(found) < len(members):
        raise ValueError("a name is there twice")
    return found


def _refused(name: str) -> object:
    raise ValueError(f"{name} is no JSON")
