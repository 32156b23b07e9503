"""The conformance kit of record stores: what every database must answer, one case for each rule of a function.

Each case makes agents of its own, on the clock with which the store was opened.
"""

from __future__ import annotations

from .records_agents import AgentRules
from .records_area import AdvancingClock as AdvancingClock
from .records_keys import KeyRules
from .records_log import LogRules
from .records_reads import ReadRules


class RecordStoreConformance(AgentRules, KeyRules, LogRules, ReadRules):
    """Every rule of ``schema/README.md``, with the subjects ``store`` and ``clock``."""
