#!/bin/sh
# The first request through a gateway on its default port. ANTHROPIC_API_KEY is the caller's own provider key.
curl -sS "${SMOLTBOT_GATEWAY:-http://127.0.0.1:8787}/anthropic/v1/messages" \
  -H "x-api-key: $ANTHROPIC_API_KEY" \
  -H "anthropic-version: 2023-06-01" \
  -H "content-type: application/json" \
  -d '{"model": "claude-haiku-4-5-20251001", "max_tokens": 256, "messages": [{"role": "user", "content": "Hello"}]}'
