"""The conformance kit of record stores: what every database must answer, one case for each rule of a function.

Each case makes agents of its own, on the clock with which the store was opened.
"""

from __future__ import annotations

from .records_agents import AgentRules
from .records_area import AdvancingClock as AdvancingClock
from .records_cards import AccountRules, CardRules, ContextRules, OrganizationRules
from .records_control import ContainmentRules, GatewayKeyRules, SettingRules
from .records_events import EventRules
from .records_integrity import CheckRules, PageRules
from .records_keys import KeyRules
from .records_log import LogRules
from .records_metering import MeteringRules
from .records_nudges import NudgeRules, ViolationRules
from .records_reads import ReadRules
from .records_retention import RetentionRules
from .records_reviews import ResolutionRules, ReviewRules
from .records_traces import DriftRules, ScoreRules, TraceRules


class RecordStoreConformance(
    AccountRules,
    AgentRules,
    CardRules,
    CheckRules,
    ContainmentRules,
    ContextRules,
    DriftRules,
    EventRules,
    GatewayKeyRules,
    KeyRules,
    LogRules,
    MeteringRules,
    NudgeRules,
    OrganizationRules,
    PageRules,
    ReadRules,
    ResolutionRules,
    RetentionRules,
    ReviewRules,
    ScoreRules,
    SettingRules,
    TraceRules,
    ViolationRules,
):
    """Every rule of ``schema/README.md``, with the subjects ``store`` and ``clock``."""
