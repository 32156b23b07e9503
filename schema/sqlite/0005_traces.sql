-- What agents did: traces and their usage, and what is derived from them: drift, reviews, resolutions, metering.
--
-- Nothing here refers to checkpoints: retention deletes those by themselves.

CREATE TABLE traces (
    trace_id text PRIMARY KEY NOT NULL,
    "timestamp" text NOT NULL CHECK ("timestamp" GLOB '????-??-??T??:??:??.???Z'),
    created_at text NOT NULL CHECK (created_at GLOB '????-??-??T??:??:??.???Z'),
    agent_id text NOT NULL REFERENCES agents (id),
    card_id text,
    gateway_log_id text NOT NULL UNIQUE,
    action text NOT NULL CHECK (json_valid(action)),
    decision text NOT NULL CHECK (json_valid(decision)),
    escalation text CHECK (escalation IS NULL OR json_valid(escalation)),
    context text CHECK (context IS NULL OR json_valid(context)),
    verification text CHECK (verification IS NULL OR json_valid(verification)),
    trace_json text NOT NULL CHECK (json_valid(trace_json))
) STRICT;

CREATE INDEX traces_agent ON traces (agent_id, "timestamp", trace_id);

CREATE TABLE usage_events (
    usage_id text PRIMARY KEY NOT NULL,
    "timestamp" text NOT NULL CHECK ("timestamp" GLOB '????-??-??T??:??:??.???Z'),
    tokens_in integer CHECK (tokens_in >= 0),
    tokens_out integer CHECK (tokens_out >= 0),
    duration_ms integer CHECK (duration_ms >= 0),
    agent_id text NOT NULL REFERENCES agents (id),
    session_id text,
    trace_id text NOT NULL,
    gateway_log_id text NOT NULL UNIQUE,
    provider text NOT NULL,
    model text
) STRICT;

CREATE TABLE drift_alerts (
    alert_id text PRIMARY KEY NOT NULL,
    detection_timestamp text NOT NULL CHECK (detection_timestamp GLOB '????-??-??T??:??:??.???Z'),
    created_at text NOT NULL CHECK (created_at GLOB '????-??-??T??:??:??.???Z'),
    resolved_at text CHECK (resolved_at GLOB '????-??-??T??:??:??.???Z'),
    agent_id text NOT NULL REFERENCES agents (id),
    -- One alert for each streak, however often it is seen.
    dedup_key text NOT NULL,
    card_id text,
    session_id text,
    alert_type text NOT NULL,
    severity text NOT NULL CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    description text NOT NULL,
    drift_data text NOT NULL CHECK (json_valid(drift_data)),
    trace_ids text NOT NULL CHECK (json_valid(trace_ids)),
    checkpoint_ids text NOT NULL CHECK (json_valid(checkpoint_ids)),
    UNIQUE (agent_id, dedup_key)
) STRICT;

CREATE INDEX drift_alerts_agent ON drift_alerts (agent_id, detection_timestamp, alert_id);

CREATE TABLE disagreement_reviews (
    review_id text PRIMARY KEY NOT NULL,
    created_at text NOT NULL CHECK (created_at GLOB '????-??-??T??:??:??.???Z'),
    resolved_at text CHECK (resolved_at GLOB '????-??-??T??:??:??.???Z'),
    reconciliation_duration_ms integer CHECK (reconciliation_duration_ms >= 0),
    agent_id text NOT NULL REFERENCES agents (id),
    checkpoint_id text NOT NULL,
    trace_id text NOT NULL,
    aip_verdict text NOT NULL,
    observer_outcome text NOT NULL CHECK (observer_outcome IN ('clear', 'violation')),
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'analyzing', 'review', 'applied', 'dismissed')),
    reconciliation_outcome text CHECK (reconciliation_outcome IN ('card_gap', 'aip_miss', 'observer_noise')),
    reconciliation_reasoning text,
    reconciliation_model text,
    proposed_amendment text CHECK (proposed_amendment IS NULL OR json_valid(proposed_amendment)),
    resolved_by text,
    UNIQUE (checkpoint_id, trace_id)
) STRICT;

CREATE INDEX disagreement_reviews_agent ON disagreement_reviews (agent_id, created_at, review_id);

CREATE TABLE resolutions (
    resolution_id text PRIMARY KEY NOT NULL,
    resolved_at text NOT NULL CHECK (resolved_at GLOB '????-??-??T??:??:??.???Z'),
    agent_id text NOT NULL REFERENCES agents (id),
    target_type text NOT NULL CHECK (target_type IN ('checkpoint', 'trace')),
    target_id text NOT NULL,
    resolution_type text NOT NULL CHECK (resolution_type IN ('acknowledged', 'allow_action', 'add_value')),
    resolved_by text NOT NULL,
    metadata text CHECK (metadata IS NULL OR json_valid(metadata)),
    UNIQUE (agent_id, target_type, target_id)
) STRICT;

CREATE INDEX resolutions_agent ON resolutions (agent_id, resolved_at, resolution_id);

CREATE TABLE metering_events (
    event_id text PRIMARY KEY NOT NULL,
    "timestamp" text NOT NULL CHECK ("timestamp" GLOB '????-??-??T??:??:??.???Z'),
    -- Whether a rollup has counted it: an event that comes late is counted by the next one, whatever its day.
    rolled_up integer NOT NULL DEFAULT 0 CHECK (rolled_up IN (0, 1)),
    account_id text,
    agent_id text NOT NULL REFERENCES agents (id),
    event_type text NOT NULL CHECK (event_type IN ('integrity_check', 'proof')),
    checkpoint_id text NOT NULL,
    source text NOT NULL,
    UNIQUE (event_type, checkpoint_id)
) STRICT;

CREATE INDEX metering_events_new ON metering_events (event_id) WHERE rolled_up = 0;

CREATE TABLE usage_daily_rollup (
    account_id text NOT NULL,
    date text NOT NULL CHECK (date GLOB '????-??-??'),
    check_count integer NOT NULL,
    proof_count integer NOT NULL,
    updated_at text NOT NULL CHECK (updated_at GLOB '????-??-??T??:??:??.???Z'),
    -- Set by the first rollup after the end of the day (UTC).
    closed_at text CHECK (closed_at GLOB '????-??-??T??:??:??.???Z'),
    PRIMARY KEY (account_id, date)
) STRICT;

CREATE INDEX usage_daily_rollup_open ON usage_daily_rollup (account_id, date) WHERE closed_at IS NULL;

-- Counts verdicts without reading the rows.
CREATE INDEX integrity_checkpoints_verdict ON integrity_checkpoints (agent_id, verdict);
