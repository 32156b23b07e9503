"""Arguments of the functions about nudges."""

from __future__ import annotations

from smoltbot_worker.records.arguments import Functions

FUNCTIONS: Functions = {}
