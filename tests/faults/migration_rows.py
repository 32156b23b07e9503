"""A row for every table of each version, as SQL for both databases: what an upgrade must keep."""

from __future__ import annotations

_MOMENT = "'2026-05-10T08:00:00.000Z'"
_SPELLING = {
    "sqlite": {"h32": f"x'{'ab' * 32}'", "h64": f"x'{'cd' * 64}'", "no": "0"},
    "postgres": {"h32": f"'\\x{'ab' * 32}'", "h64": f"'\\x{'cd' * 64}'", "no": "false"},
}

_BY_FILE = {
    "0001_agents_and_cards.sql": (
        "INSERT INTO agents (id, agent_hash, key_hash, name, created_at, email, nudge_rate, containment_status)"
        " VALUES ('smolt-01234567', '0123456789abcdef', NULL, 'Grüße', {moment}, 'a@b', 7, 'paused')",
        "INSERT INTO alignment_cards (id, version, agent_id, card_json, is_active, created_at, updated_at)"
        " VALUES ('ac-01234567', 3, 'smolt-01234567', '{{\"old\": [1, null]}}', {no}, {moment}, {moment})",
    ),
    "0002_changes_and_webhooks.sql": (
        "INSERT INTO changes (seq, created_at, agent_id, kind) VALUES (1, {moment}, 'smolt-01234567', 'card')",
        "UPDATE change_counter SET seq = 1",
        "INSERT INTO aip_webhook_registrations"
        " (registration_id, agent_id, callback_url, sealed_secret, events, failure_count, created_at)"
        " VALUES ('reg-1', 'smolt-01234567', 'https://example.com/hook', 'sealed', '[\"*\"]', 99, {moment})",
        "INSERT INTO aip_webhook_deliveries (id, registration_id, delivery_key, event_type, payload, created_at)"
        " VALUES ('del-1', 'reg-1', 'once', 'verdict.clear', '{{\"event\": \"verdict.clear\"}}', {moment})",
    ),
    "0003_control.sql": (
        "INSERT INTO agent_containment_log (id, agent_id, action, actor, previous_status, new_status, created_at)"
        " VALUES ('ctl-1', 'smolt-01234567', 'pause', 'admin', 'active', 'paused', {moment})",
        "INSERT INTO gateway_keys (key_id, key_hash, agent_id, created_at)"
        " VALUES ('gk-1', {h32}, 'smolt-01234567', {moment})",
        'UPDATE organizations SET conscience_values = \'[{{"name": "candour"}}]\', updated_at = {moment}',
        "INSERT INTO billing_accounts (account_id, plan_id, billing_model, subscription_status, included_checks,"
        " check_count_this_period, per_check_price, per_proof_price, feature_flags, limits, is_suspended, updated_at)"
        " VALUES ('acc-1', 'pro', 'metered', 'active', 10, 3, 0.01, 0.5, '{{}}', '{{}}', {no}, {moment})",
        "INSERT INTO license_state (license_id, status, last_checked_at) VALUES ('lic-1', 'valid', {moment})",
    ),
    "0004_checkpoints.sql": (
        "INSERT INTO signing_keys (key_id, public_key, created_at) VALUES ('key-1', {h32}, {moment})",
        "INSERT INTO agent_merkle_trees (agent_id, leaf_count, merkle_root, frontier)"
        " VALUES ('smolt-01234567', 1, {h32}, '[\"ab\"]')",
        'INSERT INTO integrity_checkpoints (checkpoint_id, request_id, agent_id, session_id, "timestamp", created_at,'
        " verdict, thinking_block_hash, provider, concerns, reasoning_summary, source, synthetic, input_commitment,"
        " card_hash, values_hash, context_hash, prompt_template_version, chain_hash, chain_position, merkle_leaf_index,"
        " merkle_leaf_hash, certificate_id, issuer_signature, signing_key_id, claims_hash, claims_signature)"
        " VALUES ('ic-1', 'req-1', 'smolt-01234567', 'session-1', {moment}, {moment}, 'clear', {h32}, 'anthropic',"
        " '[]', 'reads a file', 'gateway', {no}, {h32}, {h32}, {h32}, {h32}, '1.0.0', {h32}, 0, 0, {h32}, 'cert-1',"
        " {h64}, 'key-1', {h32}, {h64})",
        "INSERT INTO mutations (request_id, place, checkpoint_id, kind) VALUES ('req-1', 0, 'ic-1', 'nudge')",
        "INSERT INTO merkle_nodes (agent_id, level, \"index\", hash) VALUES ('smolt-01234567', 1, 0, {h32})",
        "INSERT INTO pruned_leaves (agent_id, leaf_index, leaf_hash, session_id, chain_position, chain_hash)"
        " VALUES ('smolt-01234567', 7, {h32}, 'session-0', 0, {h32})",
        "INSERT INTO enforcement_nudges"
        " (id, agent_id, checkpoint_id, session_id, nudge_content, concerns_summary, created_at)"
        " VALUES ('nudge-1', 'smolt-01234567', 'ic-1', 'session-1', 'Stop.', 'none', {moment})",
        'INSERT INTO signed_heads (agent_id, size, root, "timestamp", key_id, signature)'
        " VALUES ('smolt-01234567', 1, {h32}, {moment}, 'key-1', {h64})",
    ),
    "0005_traces.sql": (
        'INSERT INTO traces (trace_id, "timestamp", created_at, agent_id, gateway_log_id, action, decision,'
        " trace_json) VALUES ('tr-1', {moment}, {moment}, 'smolt-01234567', 'log-1', '{{}}', '{{}}', '{{\"a\": 1}}')",
        'INSERT INTO usage_events (usage_id, "timestamp", tokens_in, agent_id, trace_id, gateway_log_id, provider)'
        " VALUES ('ue-1', {moment}, 12, 'smolt-01234567', 'tr-1', 'log-1', 'anthropic')",
        "INSERT INTO drift_alerts (alert_id, detection_timestamp, created_at, agent_id, dedup_key, alert_type,"
        " severity, description, drift_data, trace_ids, checkpoint_ids)"
        " VALUES ('drift-1', {moment}, {moment}, 'smolt-01234567', 'd', 'autonomy', 'low', 'drifts', '{{}}', '[]',"
        " '[]')",
        "INSERT INTO disagreement_reviews (review_id, created_at, agent_id, checkpoint_id, trace_id, aip_verdict,"
        " observer_outcome)"
        " VALUES ('rev-1', {moment}, 'smolt-01234567', 'ic-1', 'tr-1', 'boundary_violation', 'clear')",
        "INSERT INTO resolutions (resolution_id, resolved_at, agent_id, target_type, target_id, resolution_type,"
        " resolved_by)"
        " VALUES ('res-1', {moment}, 'smolt-01234567', 'trace', 'tr-1', 'acknowledged', 'admin')",
        'INSERT INTO metering_events (event_id, "timestamp", agent_id, event_type, checkpoint_id, source)'
        " VALUES ('me-1', {moment}, 'smolt-01234567', 'integrity_check', 'ic-1', 'gateway')",
        "INSERT INTO usage_daily_rollup (account_id, date, check_count, proof_count, updated_at)"
        " VALUES ('acc-1', '2026-05-09', 1, 0, {moment})",
    ),
    "0006_retention.sql": (
        'INSERT INTO retention_statements (agent_id, pruned, "timestamp", key_id, signature)'
        " VALUES ('smolt-01234567', 1, {moment}, 'key-1', {h64})",
    ),
    "0007_integrity.sql": (),
    "0008_contained.sql": (),
}

ROWS = {
    kind: {
        name: [statement.format(moment=_MOMENT, **spelling) for statement in statements]
        for name, statements in _BY_FILE.items()
    }
    for kind, spelling in _SPELLING.items()
}
"""By kind of database and name of the file that makes the tables: statements that fill them."""
