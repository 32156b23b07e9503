"""Arguments of the functions about settings, cards, the organisation, containment and gateway keys."""

from __future__ import annotations

from smoltbot_worker.records.arguments import Functions

FUNCTIONS: Functions = {}
