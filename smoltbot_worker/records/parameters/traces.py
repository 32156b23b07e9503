"""Arguments of the functions about traces and what is derived from them."""

from __future__ import annotations

from smoltbot_worker.records.arguments import Functions

FUNCTIONS: Functions = {}
