"""Arguments of the functions about what happened: the feed of changes and the webhook outbox."""

from __future__ import annotations

from smoltbot_worker.records.arguments import Functions

FUNCTIONS: Functions = {}
