"""Arguments of the functions about what is deleted with time."""

from __future__ import annotations

from smoltbot_worker.records.arguments import Functions

FUNCTIONS: Functions = {}
