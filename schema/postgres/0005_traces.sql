-- What agents did: traces and their usage, and what is derived from them: drift, reviews, resolutions, metering.
--
-- Nothing here refers to checkpoints: retention deletes those by themselves.

CREATE TABLE traces (
    "timestamp" timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    trace_id text COLLATE "C" PRIMARY KEY,
    agent_id text NOT NULL REFERENCES agents (id),
    card_id text,
    gateway_log_id text NOT NULL UNIQUE,
    action jsonb NOT NULL,
    decision jsonb NOT NULL,
    escalation jsonb,
    context jsonb,
    verification jsonb,
    trace_json jsonb NOT NULL
);

CREATE INDEX traces_agent ON traces (agent_id, "timestamp", trace_id);

CREATE TABLE usage_events (
    "timestamp" timestamptz NOT NULL,
    tokens_in bigint CHECK (tokens_in >= 0),
    tokens_out bigint CHECK (tokens_out >= 0),
    duration_ms bigint CHECK (duration_ms >= 0),
    usage_id text PRIMARY KEY,
    agent_id text NOT NULL REFERENCES agents (id),
    session_id text,
    trace_id text NOT NULL,
    gateway_log_id text NOT NULL UNIQUE,
    provider text NOT NULL,
    model text
);

CREATE TABLE drift_alerts (
    detection_timestamp timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    resolved_at timestamptz,
    alert_id text COLLATE "C" PRIMARY KEY,
    agent_id text NOT NULL REFERENCES agents (id),
    -- One alert for each streak, however often it is seen.
    dedup_key text NOT NULL,
    card_id text,
    session_id text,
    alert_type text NOT NULL,
    severity text NOT NULL CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    description text NOT NULL,
    drift_data jsonb NOT NULL,
    trace_ids jsonb NOT NULL,
    checkpoint_ids jsonb NOT NULL,
    UNIQUE (agent_id, dedup_key)
);

CREATE INDEX drift_alerts_agent ON drift_alerts (agent_id, detection_timestamp, alert_id);

CREATE TABLE disagreement_reviews (
    created_at timestamptz NOT NULL,
    resolved_at timestamptz,
    reconciliation_duration_ms bigint CHECK (reconciliation_duration_ms >= 0),
    review_id text COLLATE "C" PRIMARY KEY,
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
    proposed_amendment jsonb,
    resolved_by text,
    UNIQUE (checkpoint_id, trace_id)
);

CREATE INDEX disagreement_reviews_agent ON disagreement_reviews (agent_id, created_at, review_id);

CREATE TABLE resolutions (
    resolved_at timestamptz NOT NULL,
    resolution_id text COLLATE "C" PRIMARY KEY,
    agent_id text NOT NULL REFERENCES agents (id),
    target_type text NOT NULL CHECK (target_type IN ('checkpoint', 'trace')),
    target_id text NOT NULL,
    resolution_type text NOT NULL CHECK (resolution_type IN ('acknowledged', 'allow_action', 'add_value')),
    resolved_by text NOT NULL,
    metadata jsonb,
    UNIQUE (agent_id, target_type, target_id)
);

CREATE INDEX resolutions_agent ON resolutions (agent_id, resolved_at, resolution_id);

CREATE TABLE metering_events (
    "timestamp" timestamptz NOT NULL,
    -- Whether a rollup has counted it: an event that comes late is counted by the next one, whatever its day.
    rolled_up boolean NOT NULL DEFAULT false,
    event_id text PRIMARY KEY,
    account_id text COLLATE "C",
    agent_id text NOT NULL REFERENCES agents (id),
    event_type text NOT NULL CHECK (event_type IN ('integrity_check', 'proof')),
    checkpoint_id text NOT NULL,
    source text NOT NULL,
    UNIQUE (event_type, checkpoint_id)
);

CREATE INDEX metering_events_new ON metering_events (event_id) WHERE NOT rolled_up;

CREATE TABLE usage_daily_rollup (
    account_id text COLLATE "C" NOT NULL,
    date date NOT NULL,
    check_count bigint NOT NULL,
    proof_count bigint NOT NULL,
    updated_at timestamptz NOT NULL,
    -- Set by the first rollup after the end of the day (UTC).
    closed_at timestamptz,
    PRIMARY KEY (account_id, date)
);

CREATE INDEX usage_daily_rollup_open ON usage_daily_rollup (account_id, date) WHERE closed_at IS NULL;

-- Counts verdicts without reading the rows.
CREATE INDEX integrity_checkpoints_verdict ON integrity_checkpoints (agent_id, verdict);

CREATE FUNCTION _trace_json(t traces) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT to_jsonb(t) || jsonb_build_object(
        'timestamp', smoltbot._iso(t."timestamp"), 'created_at', smoltbot._iso(t.created_at))
$$;

CREATE FUNCTION _record_usage(trace traces, usage jsonb) RETURNS void LANGUAGE sql AS $$
    INSERT INTO smoltbot.usage_events (usage_id, agent_id, session_id, trace_id, "timestamp", model, provider,
        tokens_in, tokens_out, duration_ms, gateway_log_id)
    SELECT usage_id, trace.agent_id, session_id, trace.trace_id, trace."timestamp", model, provider,
        tokens_in, tokens_out, duration_ms, trace.gateway_log_id
    FROM jsonb_to_record(usage) AS given (usage_id text, session_id text, model text, provider text,
        tokens_in bigint, tokens_out bigint, duration_ms bigint)
    ON CONFLICT DO NOTHING
$$;

-- Whether the checkpoint now belongs to the trace; one that belongs to another stays with it.
CREATE FUNCTION _link(trace traces, checkpoint text) RETURNS boolean LANGUAGE sql AS $$
    UPDATE smoltbot.integrity_checkpoints SET linked_trace_id = trace.trace_id
    WHERE checkpoint_id = checkpoint AND agent_id = trace.agent_id AND linked_trace_id IS NULL;
    SELECT EXISTS (SELECT FROM smoltbot.integrity_checkpoints
        WHERE checkpoint_id = checkpoint AND agent_id = trace.agent_id AND linked_trace_id = trace.trace_id)
$$;

CREATE FUNCTION record_trace(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    given traces := jsonb_populate_record(NULL::traces, args->'trace');
    stored traces;
    created boolean;
BEGIN
    PERFORM _require_agent(given.agent_id);
    given.created_at := _now(args);
    INSERT INTO traces SELECT given.* ON CONFLICT DO NOTHING;
    created := FOUND;
    -- One after the other: a condition with OR would read the whole table where bitmap scans are off, as in our pool.
    SELECT * INTO stored FROM traces WHERE gateway_log_id = given.gateway_log_id;
    IF NOT FOUND THEN
        SELECT * INTO stored FROM traces WHERE trace_id = given.trace_id;
    END IF;
    IF stored.agent_id <> given.agent_id THEN
        PERFORM _refuse('trace: another agent has this trace');
    END IF;
    IF jsonb_typeof(args->'usage') = 'object' THEN
        PERFORM _record_usage(stored, args->'usage');
    END IF;
    RETURN jsonb_build_object('status', CASE WHEN created THEN 'stored' ELSE 'known' END,
        'trace_id', stored.trace_id, 'linked', _link(stored, args->>'checkpoint_id'));
END
$$;

CREATE FUNCTION traces(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(_trace_json(found) ORDER BY (found)."timestamp" DESC, (found).trace_id DESC), '[]')
    FROM (SELECT found FROM traces AS found
        WHERE agent_id = $1->>'agent_id' AND ("timestamp", trace_id)
            < (coalesce(($1->'before'->>0)::timestamptz, 'infinity'), coalesce($1->'before'->>1, ''))
        ORDER BY "timestamp" DESC, trace_id DESC LIMIT ($1->>'limit')::integer) AS page
$$;

CREATE FUNCTION trace(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT _trace_json(found) FROM traces AS found WHERE trace_id = $1->>'trace_id'), 'null')
$$;

CREATE FUNCTION put_verification(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
BEGIN
    UPDATE traces SET verification = $1->'verification' WHERE trace_id = $1->>'trace_id';
    RETURN to_jsonb(FOUND);
END
$$;

CREATE FUNCTION _alert_json(alert drift_alerts) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT to_jsonb(alert) || jsonb_build_object(
        'detection_timestamp', smoltbot._iso(alert.detection_timestamp),
        'created_at', smoltbot._iso(alert.created_at), 'resolved_at', smoltbot._iso(alert.resolved_at))
$$;

CREATE FUNCTION record_drift(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    alert drift_alerts := jsonb_populate_record(NULL::drift_alerts, args->'alert');
    created boolean;
BEGIN
    PERFORM _require_agent(alert.agent_id);
    alert.created_at := _now(args);
    INSERT INTO drift_alerts SELECT alert.* ON CONFLICT DO NOTHING;
    created := FOUND;
    SELECT * INTO alert FROM drift_alerts WHERE agent_id = alert.agent_id AND dedup_key = alert.dedup_key;
    IF NOT FOUND THEN
        PERFORM _refuse('alert: another alert has this alert_id');
    END IF;
    IF created THEN
        PERFORM _emit(alert.agent_id, 'drift_alert', jsonb_build_object('alert',
            _alert_json(alert) - ARRAY['drift_data', 'dedup_key', 'created_at', 'resolved_at']), NULL, _now(args));
    END IF;
    RETURN jsonb_build_object(
        'status', CASE WHEN created THEN 'stored' ELSE 'known' END, 'alert', _alert_json(alert));
END
$$;

CREATE FUNCTION resolve_drift(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
BEGIN
    UPDATE drift_alerts SET resolved_at = coalesce(resolved_at, _now($1))
    WHERE agent_id = $1->>'agent_id' AND dedup_key = $1->>'dedup_key';
    RETURN to_jsonb(FOUND);
END
$$;

CREATE FUNCTION drift_alerts(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce(
        jsonb_agg(_alert_json(found) ORDER BY (found).detection_timestamp DESC, (found).alert_id DESC), '[]')
    FROM (SELECT found FROM drift_alerts AS found WHERE agent_id = $1->>'agent_id'
        ORDER BY detection_timestamp DESC, alert_id DESC LIMIT ($1->>'limit')::integer) AS newest
$$;

CREATE FUNCTION _review_json(review disagreement_reviews) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT to_jsonb(review) || jsonb_build_object(
        'created_at', smoltbot._iso(review.created_at), 'resolved_at', smoltbot._iso(review.resolved_at))
$$;

CREATE FUNCTION open_review(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    review disagreement_reviews;
    created boolean;
BEGIN
    PERFORM _require_agent(args->>'agent_id');
    INSERT INTO disagreement_reviews (
        review_id, agent_id, checkpoint_id, trace_id, aip_verdict, observer_outcome, created_at)
    VALUES (args->>'review_id', args->>'agent_id', args->>'checkpoint_id', args->>'trace_id', args->>'aip_verdict',
        args->>'observer_outcome', _now(args))
    ON CONFLICT DO NOTHING;
    created := FOUND;
    SELECT * INTO review FROM disagreement_reviews WHERE agent_id = args->>'agent_id'
        AND checkpoint_id = args->>'checkpoint_id' AND trace_id = args->>'trace_id';
    IF NOT FOUND THEN
        PERFORM _refuse('review_id: another review has this id, this checkpoint and trace, or both');
    END IF;
    RETURN jsonb_build_object(
        'status', CASE WHEN created THEN 'opened' ELSE 'known' END, 'review', _review_json(review));
END
$$;

-- The columns that settle_review gives; what it leaves out stays as it is.
CREATE FUNCTION _settlement(args jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_object_agg(name, value) FROM jsonb_each(jsonb_build_object(
        'status', args->'status', 'reconciliation_outcome', args->'outcome',
        'reconciliation_reasoning', args->'reasoning', 'reconciliation_model', args->'model',
        'reconciliation_duration_ms', args->'duration_ms', 'proposed_amendment', args->'proposed_amendment',
        'resolved_by', args->'resolved_by')) AS given (name, value)
    WHERE value <> 'null'
$$;

-- The card with one more bounded action; null where the card has it, forbids it, or has no place for it.
CREATE FUNCTION _amended(card jsonb, action text, moment timestamptz) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_set(card, '{autonomy_envelope,bounded_actions}', bounded || to_jsonb(action))
        || jsonb_build_object('issued_at', smoltbot._iso(moment))
    FROM (SELECT coalesce(nullif(card#>'{autonomy_envelope,bounded_actions}', 'null'), '[]') AS bounded,
        coalesce(nullif(card#>'{autonomy_envelope,forbidden_actions}', 'null'), '[]') AS forbidden) AS envelope
    WHERE jsonb_typeof(card->'autonomy_envelope') = 'object' AND jsonb_typeof(bounded) = 'array'
        AND jsonb_typeof(forbidden) = 'array' AND NOT bounded ? action AND NOT forbidden ? action
$$;

CREATE FUNCTION settle_review(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    moment timestamptz := _now(args);
    review disagreement_reviews;
    settled disagreement_reviews;
    active alignment_cards;
    card jsonb;
BEGIN
    IF (args->>'status' = 'applied') <> (args->>'apply_action' IS NOT NULL) THEN
        PERFORM _refuse('apply_action: goes with the status applied and with no other');
    END IF;
    SELECT * INTO review FROM disagreement_reviews WHERE review_id = args->>'review_id';
    IF NOT FOUND THEN
        RETURN jsonb_build_object('status', 'conflict', 'review', NULL);
    END IF;
    -- The agent before what is the agent's, as everywhere; whoever changes the review or the card waits here.
    PERFORM _lock_agent(review.agent_id);
    SELECT * INTO review FROM disagreement_reviews WHERE review_id = review.review_id;
    settled := jsonb_populate_record(review, _settlement(args));
    -- Taking a review up is for one only; any other outcome may be told twice.
    IF settled = review AND review.status <> 'analyzing' THEN
        RETURN jsonb_build_object('status', 'settled', 'review', _review_json(review));
    END IF;
    IF review.status <> args->>'expected' THEN
        RETURN jsonb_build_object('status', 'conflict', 'review', _review_json(review));
    END IF;
    IF args->>'apply_action' IS NOT NULL THEN
        active := _active_card(review.agent_id);
        card := _amended(active.card_json, args->>'apply_action', moment);
        IF card IS NULL THEN
            RETURN jsonb_build_object('status', 'unchanged_card', 'review', _review_json(review));
        END IF;
        PERFORM _add_card(review.agent_id, card, active.conscience_values, moment);
    END IF;
    UPDATE disagreement_reviews SET status = settled.status,
        reconciliation_outcome = settled.reconciliation_outcome,
        reconciliation_reasoning = settled.reconciliation_reasoning,
        reconciliation_model = settled.reconciliation_model,
        reconciliation_duration_ms = settled.reconciliation_duration_ms,
        proposed_amendment = settled.proposed_amendment, resolved_by = settled.resolved_by,
        resolved_at = CASE WHEN settled.status IN ('applied', 'dismissed') THEN moment END
    WHERE review_id = review.review_id RETURNING * INTO review;
    IF card IS NOT NULL THEN
        PERFORM _note_change(review.agent_id, 'card', moment);
    END IF;
    RETURN jsonb_build_object('status', 'settled', 'review', _review_json(review));
END
$$;

CREATE FUNCTION review(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT _review_json(found) FROM disagreement_reviews AS found
        WHERE review_id = $1->>'review_id'), 'null')
$$;

CREATE FUNCTION reviews(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(_review_json(found) ORDER BY (found).created_at DESC, (found).review_id DESC), '[]')
    FROM (SELECT found FROM disagreement_reviews AS found
        WHERE agent_id = $1->>'agent_id' AND status = coalesce($1->>'status', status)
        ORDER BY created_at DESC, review_id DESC LIMIT ($1->>'limit')::integer) AS newest
$$;

CREATE FUNCTION _resolution_json(resolution resolutions) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT to_jsonb(resolution) || jsonb_build_object('resolved_at', smoltbot._iso(resolution.resolved_at))
$$;

CREATE FUNCTION record_resolution(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    given resolutions := jsonb_populate_record(NULL::resolutions, $1);
    resolution resolutions;
    created boolean;
BEGIN
    PERFORM _require_agent(given.agent_id);
    given.resolved_at := _now($1);
    INSERT INTO resolutions SELECT given.* ON CONFLICT DO NOTHING;
    created := FOUND;
    SELECT * INTO resolution FROM resolutions
    WHERE agent_id = given.agent_id AND target_type = given.target_type AND target_id = given.target_id;
    IF NOT FOUND THEN
        PERFORM _refuse('resolution_id: another resolution has this id');
    END IF;
    RETURN jsonb_build_object(
        'status', CASE WHEN created THEN 'stored' ELSE 'known' END, 'resolution', _resolution_json(resolution));
END
$$;

CREATE FUNCTION resolutions(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce(
        jsonb_agg(_resolution_json(found) ORDER BY (found).resolved_at DESC, (found).resolution_id DESC), '[]')
    FROM (SELECT found FROM resolutions AS found WHERE agent_id = $1->>'agent_id'
        ORDER BY resolved_at DESC, resolution_id DESC LIMIT ($1->>'limit')::integer) AS newest
$$;

CREATE FUNCTION record_metering(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    recorded integer;
BEGIN
    PERFORM _require_agent(agent) FROM (SELECT DISTINCT event->>'agent_id' AS agent
        FROM jsonb_array_elements($1->'events') AS event) AS agents;
    -- In one order, so that two batches never wait for each other.
    INSERT INTO metering_events (event_id, account_id, agent_id, event_type, checkpoint_id, source, "timestamp")
    SELECT event_id, account_id, agent_id, event_type, checkpoint_id, source, "timestamp"
    FROM jsonb_to_recordset($1->'events') AS event (event_id text, account_id text, agent_id text,
        event_type text, checkpoint_id text, source text, "timestamp" timestamptz)
    ORDER BY event_type, checkpoint_id, event_id
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS recorded = ROW_COUNT;
    RETURN to_jsonb(recorded);
END
$$;

-- Adds each event once to its day, together with its mark; as many as a call has time for, the next one goes on.
CREATE FUNCTION _count_days(moment timestamptz) RETURNS SETOF usage_daily_rollup LANGUAGE sql AS $$
    WITH counted AS (
        UPDATE smoltbot.metering_events AS event SET rolled_up = true
        FROM (SELECT event_id FROM smoltbot.metering_events WHERE NOT rolled_up ORDER BY event_id LIMIT 10000) AS new
        WHERE event.event_id = new.event_id
        RETURNING account_id, ("timestamp" AT TIME ZONE 'UTC')::date AS date, event_type
    ), days AS (
        SELECT account_id, date, count(*) FILTER (WHERE event_type = 'integrity_check') AS checks,
            count(*) FILTER (WHERE event_type = 'proof') AS proofs
        FROM counted WHERE account_id IS NOT NULL GROUP BY account_id, date
        UNION ALL SELECT account_id, date, 0, 0 FROM smoltbot.usage_daily_rollup WHERE closed_at IS NULL
    )
    INSERT INTO smoltbot.usage_daily_rollup AS kept (
        account_id, date, check_count, proof_count, updated_at, closed_at)
    SELECT account_id, date, sum(checks), sum(proofs), moment,
        CASE WHEN moment >= (date + 1)::timestamp AT TIME ZONE 'UTC' THEN moment END
    FROM days GROUP BY account_id, date
    ON CONFLICT (account_id, date) DO UPDATE SET check_count = kept.check_count + excluded.check_count,
        proof_count = kept.proof_count + excluded.proof_count, updated_at = excluded.updated_at,
        closed_at = coalesce(kept.closed_at, excluded.closed_at)
    RETURNING kept.*
$$;

CREATE FUNCTION rollup_metering(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    days jsonb;
BEGIN
    -- One after the other: two that take the same events would wait for each other row by row.
    LOCK TABLE usage_daily_rollup IN SHARE ROW EXCLUSIVE MODE;
    SELECT coalesce(jsonb_agg(jsonb_build_object('account_id', account_id, 'date', date,
        'check_count', check_count, 'proof_count', proof_count) ORDER BY account_id, date), '[]')
    INTO days FROM _count_days(_now($1));
    RETURN days;
END
$$;

CREATE FUNCTION integrity_score(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT jsonb_build_object('agent_id', id, 'total_traces', total, 'verified_traces', verified,
            'violation_count', violating,
            'integrity_score', round(CASE WHEN total = 0 THEN 0 ELSE verified * 10000 / total END / 10000.0, 4))
        FROM agents CROSS JOIN LATERAL (
            SELECT count(*) AS total, count(*) FILTER (WHERE verification->'verified' = 'true') AS verified,
                count(*) FILTER (WHERE jsonb_typeof(verification->'violations') = 'array'
                    AND verification->'violations' <> '[]') AS violating
            FROM traces WHERE agent_id = agents.id AND verification IS NOT NULL) AS counted
        WHERE id = $1->>'agent_id'), 'null')
$$;

CREATE FUNCTION aip_score(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT jsonb_build_object('agent_id', id, 'total_checks', total, 'analyzed_checks', analyzed,
            'unanalyzed_checks', total - analyzed, 'clear_count', clear, 'review_count', review,
            'violation_count', violation,
            -- Rounded in whole numbers: the same digits on every database.
            'integrity_ratio', round(coalesce((2000 * clear + analyzed) / nullif(2 * analyzed, 0), 0) / 1000.0, 3),
            'coverage_ratio', round(coalesce((2000 * analyzed + total) / nullif(2 * total, 0), 0) / 1000.0, 3),
            'latest_verdict', (SELECT verdict FROM integrity_checkpoints WHERE agent_id = agents.id
                AND verdict IN ('clear', 'review_needed', 'boundary_violation')
                ORDER BY merkle_leaf_index DESC LIMIT 1))
        FROM agents CROSS JOIN LATERAL (
            SELECT count(*) AS total, count(*) FILTER (WHERE verdict = 'clear') AS clear,
                count(*) FILTER (WHERE verdict = 'review_needed') AS review,
                count(*) FILTER (WHERE verdict = 'boundary_violation') AS violation,
                count(*) FILTER (WHERE verdict IN ('clear', 'review_needed', 'boundary_violation')) AS analyzed
            FROM integrity_checkpoints WHERE agent_id = agents.id) AS counted
        WHERE id = $1->>'agent_id'), 'null')
$$;

CALL _share_functions();
