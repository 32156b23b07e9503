-- What happened: the feed of changes by which caches are dropped, and the outbox of webhooks.
--
-- Nothing here refers to checkpoints or traces: those may be deleted while a delivery still waits.

-- A number is taken under the lock of this one row, so that nobody sees number n before n - 1 is committed.
CREATE TABLE change_counter (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    seq bigint NOT NULL CHECK (seq >= 0)
);
INSERT INTO change_counter (seq) VALUES (0);

-- agent_id null: the change is about every agent.
CREATE TABLE changes (
    seq bigint PRIMARY KEY,
    created_at timestamptz NOT NULL,
    agent_id text,
    kind text NOT NULL
        CHECK (kind IN ('settings', 'containment', 'card', 'keys', 'nudges', 'organization', 'account'))
);

CREATE INDEX changes_age ON changes (created_at);

CREATE TABLE aip_webhook_registrations (
    registration_id text PRIMARY KEY,
    agent_id text NOT NULL REFERENCES agents (id),
    callback_url text NOT NULL,
    sealed_secret text NOT NULL,
    events jsonb NOT NULL CHECK (jsonb_typeof(events) = 'array'),
    failure_count integer NOT NULL DEFAULT 0 CHECK (failure_count >= 0),
    disabled_at timestamptz,
    created_at timestamptz NOT NULL
);

CREATE INDEX aip_webhook_registrations_agent ON aip_webhook_registrations (agent_id);

CREATE TABLE aip_webhook_deliveries (
    -- The order in which a registration gets its deliveries.
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE,
    registration_id text NOT NULL REFERENCES aip_webhook_registrations (registration_id) ON DELETE CASCADE,
    delivery_key text NOT NULL,
    event_type text NOT NULL,
    checkpoint_id text,
    trace_id text,
    payload jsonb NOT NULL CHECK (jsonb_typeof(payload) = 'object'),
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivering', 'delivered', 'failed')),
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    last_error text,
    last_attempt_at timestamptz,
    next_retry_at timestamptz,
    claimed_by text,
    lease_until timestamptz,
    settled_at timestamptz,
    created_at timestamptz NOT NULL,
    CHECK ((status = 'delivering') = (lease_until IS NOT NULL)),
    CHECK ((status IN ('delivered', 'failed')) = (settled_at IS NOT NULL)),
    UNIQUE (registration_id, delivery_key)
);

CREATE INDEX aip_webhook_deliveries_registration ON aip_webhook_deliveries (registration_id, place);
CREATE INDEX aip_webhook_deliveries_open ON aip_webhook_deliveries (registration_id, place)
    WHERE settled_at IS NULL;
CREATE INDEX aip_webhook_deliveries_settled ON aip_webhook_deliveries (settled_at) WHERE settled_at IS NOT NULL;

-- Called last in a transaction: it locks the one counter until the commit.
CREATE FUNCTION _note_change(agent text, kind text, moment timestamptz) RETURNS void LANGUAGE sql AS $$
    WITH next AS (UPDATE smoltbot.change_counter SET seq = seq + 1 RETURNING seq)
    INSERT INTO smoltbot.changes (seq, created_at, agent_id, kind) SELECT seq, moment, agent, $2 FROM next
$$;

-- One change for each of the agents, however often it is named. The counter moves once: each version of its row that a
-- transaction makes slows the next one down.
CREATE FUNCTION _note_changes(agents text[], kind text, moment timestamptz) RETURNS void LANGUAGE sql AS $$
    WITH each AS (
        SELECT agent, row_number() OVER (ORDER BY agent) AS number FROM (SELECT DISTINCT unnest(agents)) AS named (agent)),
    next AS (
        UPDATE smoltbot.change_counter SET seq = seq + (SELECT count(*) FROM each)
        WHERE EXISTS (SELECT FROM each) RETURNING seq)
    INSERT INTO smoltbot.changes (seq, created_at, agent_id, kind)
    SELECT seq - (SELECT count(*) FROM each) + number, moment, agent, $2 FROM next CROSS JOIN each
$$;

CREATE FUNCTION _wants(wanted jsonb, event text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT wanted ?| ARRAY['*', event] OR starts_with(event, 'verdict.') AND wanted ?| ARRAY['verdict.*', 'verdict']
$$;

-- One delivery for each registration of the agent that wants the event; how many are new.
CREATE FUNCTION _queue(agent text, key text, event text, data jsonb, checkpoint text, trace text, moment timestamptz)
RETURNS integer LANGUAGE plpgsql SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    queued integer;
BEGIN
    INSERT INTO aip_webhook_deliveries (
        id, registration_id, delivery_key, event_type, checkpoint_id, trace_id, payload, created_at)
    SELECT 'del-' || replace(gen_random_uuid()::text, '-', ''), registration_id, key, event, checkpoint, trace,
        jsonb_build_object('event', event, 'timestamp', _iso(moment)) || data, moment
    FROM aip_webhook_registrations
    WHERE agent_id = agent AND disabled_at IS NULL AND _wants(events, event)
    -- One that is being deleted is waited for and then left out: it must not fail what the event is about.
    FOR KEY SHARE
    ON CONFLICT (registration_id, delivery_key) DO NOTHING;
    GET DIAGNOSTICS queued = ROW_COUNT;
    RETURN queued;
END
$$;

-- For an event that another function brings about: its transaction is what makes it happen once.
CREATE FUNCTION _emit(agent text, event text, data jsonb, checkpoint text, moment timestamptz) RETURNS void
LANGUAGE sql AS $$
    SELECT smoltbot._queue(agent, gen_random_uuid()::text, event, data, checkpoint, NULL, moment)
$$;

-- Events as a caller gives them, in their order; null for none.
CREATE FUNCTION _queue_events(agent text, given jsonb, moment timestamptz) RETURNS integer
LANGUAGE plpgsql SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    line jsonb;
    queued integer := 0;
BEGIN
    FOR line IN SELECT value FROM jsonb_array_elements(nullif(given, 'null')) WITH ORDINALITY AS list (value, place)
        ORDER BY place
    LOOP
        queued := queued + _queue(agent, coalesce(line->>'delivery_key', gen_random_uuid()::text), line->>'event',
            line->'data', line->>'checkpoint_id', line->>'trace_id', moment);
    END LOOP;
    RETURN queued;
END
$$;

CREATE FUNCTION _require_agent(agent text) RETURNS void LANGUAGE plpgsql
SET search_path = smoltbot, pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM agents WHERE id = agent) THEN
        PERFORM _refuse('agent_id: there is no such agent');
    END IF;
END
$$;

-- Numbers leave no gaps, so a number of rows that is not the distance means that some were deleted.
CREATE FUNCTION changes_since(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    WITH asked AS (SELECT seq AS latest, coalesce(($1->>'seq')::bigint, seq) AS since FROM change_counter),
    found AS (
        SELECT count(*) AS number, coalesce(jsonb_agg(jsonb_build_array(agent_id, kind) ORDER BY seq), '[]') AS list
        FROM (SELECT changes.* FROM changes, asked WHERE seq > since ORDER BY seq LIMIT 1001) AS newer),
    judged AS (SELECT latest, list, since > latest OR number > 1000 OR number <> latest - since AS reset
        FROM asked, found)
    SELECT jsonb_build_object('seq', latest, 'changes', CASE WHEN reset THEN '[]' ELSE list END, 'reset', reset)
    FROM judged
$$;

CREATE FUNCTION _registration_json(registration aip_webhook_registrations) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT to_jsonb(registration) - 'sealed_secret' || jsonb_build_object(
        'disabled_at', smoltbot._iso(registration.disabled_at), 'created_at', smoltbot._iso(registration.created_at))
$$;

CREATE FUNCTION register_webhook(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    found aip_webhook_registrations;
BEGIN
    PERFORM _require_agent(args->>'agent_id');
    INSERT INTO aip_webhook_registrations (registration_id, agent_id, callback_url, sealed_secret, events, created_at)
    VALUES (args->>'registration_id', args->>'agent_id', args->>'callback_url', args->>'sealed_secret',
        args->'events', _now(args)) ON CONFLICT DO NOTHING;
    SELECT * INTO found FROM aip_webhook_registrations WHERE registration_id = args->>'registration_id';
    IF (found.agent_id, found.callback_url, found.sealed_secret, found.events) IS DISTINCT FROM
        (args->>'agent_id', args->>'callback_url', args->>'sealed_secret', args->'events')
    THEN
        PERFORM _refuse('registration_id: another registration has it');
    END IF;
    RETURN _registration_json(found);
END
$$;

CREATE FUNCTION webhooks(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(_registration_json(found)
        ORDER BY found.created_at DESC, found.registration_id COLLATE "C" DESC), '[]')
    FROM aip_webhook_registrations AS found WHERE agent_id = $1->>'agent_id'
$$;

CREATE FUNCTION delete_webhook(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
BEGIN
    PERFORM _require_agent(args->>'agent_id');
    DELETE FROM aip_webhook_registrations
    WHERE registration_id = args->>'registration_id' AND agent_id = args->>'agent_id';
    RETURN to_jsonb(FOUND);
END
$$;

CREATE FUNCTION enqueue_webhooks(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
BEGIN
    PERFORM _require_agent(args->>'agent_id');
    RETURN to_jsonb(_queue_events(args->>'agent_id', args->'events', _now(args)));
END
$$;

CREATE FUNCTION claim_webhooks(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    moment timestamptz := _now(args);
    claimed jsonb;
BEGIN
    -- From one registration that waits to the next, along an index: neither all registrations nor all deliveries.
    WITH RECURSIVE waiting AS (
        SELECT min(registration_id) AS registration_id FROM aip_webhook_deliveries WHERE settled_at IS NULL
        UNION ALL
        SELECT (SELECT min(other.registration_id) FROM aip_webhook_deliveries AS other
            WHERE other.settled_at IS NULL AND other.registration_id > waiting.registration_id)
        FROM waiting WHERE registration_id IS NOT NULL),
    oldest AS (
        SELECT (SELECT min(place) FROM aip_webhook_deliveries AS delivery
            WHERE delivery.registration_id = waiting.registration_id AND delivery.settled_at IS NULL) AS place
        FROM waiting JOIN aip_webhook_registrations AS registration USING (registration_id)
        WHERE registration.disabled_at IS NULL ORDER BY place),
    due AS (
        SELECT delivery.place FROM oldest CROSS JOIN LATERAL (
            SELECT place FROM aip_webhook_deliveries
            WHERE place = oldest.place AND settled_at IS NULL
                AND coalesce(lease_until, next_retry_at, moment) <= moment
            FOR UPDATE SKIP LOCKED) AS delivery
        LIMIT (args->>'limit')::integer),
    taken AS (
        UPDATE aip_webhook_deliveries AS delivery SET status = 'delivering', attempts = attempts + 1,
            last_attempt_at = moment, next_retry_at = NULL, claimed_by = args->>'claimed_by',
            lease_until = moment + (args->>'lease_s')::integer * interval '1 second'
        FROM due WHERE delivery.place = due.place RETURNING delivery.*)
    SELECT coalesce(jsonb_agg(jsonb_build_object('delivery_id', taken.id, 'registration_id', registration_id,
        'agent_id', registration.agent_id, 'callback_url', registration.callback_url,
        'sealed_secret', registration.sealed_secret, 'payload', taken.payload, 'attempts', taken.attempts)
        ORDER BY taken.place), '[]')
    INTO claimed FROM taken JOIN aip_webhook_registrations AS registration USING (registration_id);
    RETURN claimed;
END
$$;

CREATE FUNCTION _settle(done jsonb, holder text, moment timestamptz) RETURNS boolean
LANGUAGE plpgsql SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    outcome text := done->>'outcome';
    registration text;
BEGIN
    UPDATE aip_webhook_deliveries SET status = CASE outcome WHEN 'retry' THEN 'pending' ELSE outcome END,
        last_error = done->>'error', lease_until = NULL, claimed_by = NULL,
        next_retry_at = CASE outcome WHEN 'retry' THEN (done->>'retry_at')::timestamptz END,
        settled_at = CASE WHEN outcome <> 'retry' THEN moment END
    WHERE id = done->>'delivery_id' AND status = 'delivering' AND claimed_by = holder
    RETURNING registration_id INTO registration;
    IF registration IS NULL THEN
        RETURN false;
    END IF;
    IF outcome = 'failed' THEN
        UPDATE aip_webhook_registrations SET failure_count = failure_count + 1,
            disabled_at = CASE WHEN failure_count + 1 >= 100 THEN coalesce(disabled_at, moment) ELSE disabled_at END
        WHERE registration_id = registration;
    ELSIF outcome = 'delivered' THEN
        UPDATE aip_webhook_registrations SET failure_count = 0
        WHERE registration_id = registration AND failure_count > 0;
    END IF;
    RETURN true;
END
$$;

CREATE FUNCTION settle_webhooks(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    moment timestamptz := _now(args);
    done jsonb;
    settled integer := 0;
BEGIN
    -- Before their deliveries and in one order, as whoever deletes a registration: nobody waits in a circle.
    PERFORM FROM aip_webhook_registrations WHERE registration_id IN (
        SELECT registration_id FROM aip_webhook_deliveries WHERE id IN (
            SELECT line->>'delivery_id' FROM jsonb_array_elements(args->'settled') AS line))
    ORDER BY registration_id FOR NO KEY UPDATE;
    FOR done IN SELECT value FROM jsonb_array_elements(args->'settled') WITH ORDINALITY AS list (value, place)
        ORDER BY place
    LOOP
        settled := settled + _settle(done, args->>'claimed_by', moment)::integer;
    END LOOP;
    RETURN to_jsonb(settled);
END
$$;

CREATE FUNCTION webhook_deliveries(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_object('delivery_id', id, 'registration_id', registration_id,
        'event', event_type, 'checkpoint_id', checkpoint_id, 'trace_id', trace_id, 'status', status,
        'attempts', attempts, 'last_error', last_error, 'last_attempt_at', _iso(last_attempt_at),
        'next_retry_at', _iso(next_retry_at), 'settled_at', _iso(settled_at), 'created_at', _iso(created_at))
        ORDER BY place DESC), '[]')
    FROM (SELECT delivery.* FROM aip_webhook_registrations AS registration
        CROSS JOIN LATERAL (SELECT * FROM aip_webhook_deliveries AS own
            WHERE own.registration_id = registration.registration_id
            ORDER BY own.registration_id DESC, own.place DESC LIMIT ($1->>'limit')::integer) AS delivery
        WHERE registration.agent_id = $1->>'agent_id'
            AND registration.registration_id = coalesce($1->>'registration_id', registration.registration_id)
        ORDER BY delivery.place DESC LIMIT ($1->>'limit')::integer) AS newest
$$;

-- The part of housekeeping that is about this file's tables; as much as a call has time for, the next one goes on.
-- What somebody else deletes just now is left to them: each waiting for the other would be a deadlock.
CREATE FUNCTION _forget_events(moment timestamptz) RETURNS void LANGUAGE sql AS $$
    WITH old AS MATERIALIZED (
        SELECT seq FROM smoltbot.changes WHERE created_at < moment - interval '1 hour'
        ORDER BY created_at LIMIT 10000 FOR UPDATE SKIP LOCKED)
    DELETE FROM smoltbot.changes USING old WHERE changes.seq = old.seq;
    WITH old AS MATERIALIZED (
        SELECT place FROM smoltbot.aip_webhook_deliveries WHERE settled_at < moment - interval '30 days'
        ORDER BY settled_at LIMIT 10000 FOR UPDATE SKIP LOCKED)
    DELETE FROM smoltbot.aip_webhook_deliveries AS delivery USING old WHERE delivery.place = old.place
$$;

CALL _share_functions();
