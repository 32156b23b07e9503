-- Agents and their alignment cards; the role that may call the functions and nothing else.
--
-- The runner makes the schema smoltbot and sets the search path to it. Functions that begin with _ are for other
-- functions only.

CREATE TABLE agents (
    id text PRIMARY KEY CHECK (id ~ '^smolt-.'),
    agent_hash text NOT NULL UNIQUE CHECK (agent_hash ~ '^[0-9a-f]{16}$'),
    -- The whole digest of which agent_hash is the beginning: proof for who claims the agent.
    key_hash text CHECK (key_hash ~ '^[0-9a-f]{64}$'),
    name text,
    key_prefix text,
    created_at timestamptz NOT NULL,
    last_seen timestamptz,

    claimed_at timestamptz,
    claimed_by text,
    email text,
    user_id text,
    public boolean NOT NULL DEFAULT false,
    linked_agent_id text,
    billing_account_id text,

    aip_enforcement_mode text NOT NULL DEFAULT 'observe'
        CHECK (aip_enforcement_mode IN ('observe', 'nudge', 'enforce')),
    aap_enabled boolean NOT NULL DEFAULT true,
    aip_enabled boolean NOT NULL DEFAULT true,
    gate_streams text NOT NULL DEFAULT 'off' CHECK (gate_streams IN ('off', 'tools', 'all')),
    -- Null: the gateway's own setting, AIP_FAILURE_POLICY and THINKING_INJECTION, decides.
    failure_policy text CHECK (failure_policy IN ('fail_open', 'fail_closed')),
    thinking_injection text CHECK (thinking_injection IN ('off', 'auto')),
    proof_enabled boolean NOT NULL DEFAULT false,
    proof_rate integer NOT NULL DEFAULT 10 CHECK (proof_rate BETWEEN 0 AND 100),
    nudge_strategy text NOT NULL DEFAULT 'always'
        CHECK (nudge_strategy IN ('always', 'sampling', 'threshold', 'off')),
    nudge_rate integer CHECK (nudge_rate BETWEEN 0 AND 100),
    nudge_threshold integer CHECK (nudge_threshold >= 1),
    ddr_mode text NOT NULL DEFAULT 'flag' CHECK (ddr_mode IN ('off', 'flag', 'auto-suggest', 'auto-apply')),
    thinking_budget integer CHECK (thinking_budget > 0),
    org_card_exempt boolean NOT NULL DEFAULT false,
    org_card_exempt_reason text CHECK (length(org_card_exempt_reason) <= 500),

    auto_containment_threshold integer CHECK (auto_containment_threshold >= 2),
    containment_status text NOT NULL DEFAULT 'active'
        CHECK (containment_status IN ('active', 'paused', 'killed')),
    contained_at timestamptz,
    contained_by text,
    containment_reason text
);

-- A card keeps its id when it is changed; each change is a row of its own.
CREATE TABLE alignment_cards (
    id text NOT NULL,
    version integer NOT NULL DEFAULT 1 CHECK (version >= 1),
    agent_id text NOT NULL REFERENCES agents (id),
    card_json jsonb NOT NULL CHECK (jsonb_typeof(card_json) = 'object'),
    conscience_values jsonb,
    issued_at timestamptz,
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (id, version)
);

CREATE UNIQUE INDEX alignment_cards_one_active ON alignment_cards (agent_id) WHERE is_active;
CREATE INDEX alignment_cards_agent ON alignment_cards (agent_id, version);

-- Times leave the database in one spelling.
CREATE FUNCTION _iso(moment timestamptz) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

-- Every adapter says what time it is: rules about time are judged by its clock, as on SQLite.
CREATE FUNCTION _now(args jsonb) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT coalesce((args->>'now')::timestamptz, clock_timestamp())
$$;

-- SB001: an argument that the function refuses; the text is for the caller and holds no data.
CREATE FUNCTION _refuse(problem text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'SB001', MESSAGE = problem;
END
$$;

CREATE FUNCTION _agent_json(agent agents) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT to_jsonb(agent)
        - ARRAY['key_hash', 'key_prefix', 'claimed_by', 'email', 'user_id', 'org_card_exempt_reason', 'contained_by']
        || jsonb_build_object(
            'created_at', smoltbot._iso(agent.created_at), 'last_seen', smoltbot._iso(agent.last_seen),
            'claimed_at', smoltbot._iso(agent.claimed_at), 'contained_at', smoltbot._iso(agent.contained_at))
$$;

CREATE FUNCTION _ensure_card(agent_id text, template jsonb, moment timestamptz) RETURNS void LANGUAGE sql AS $$
    INSERT INTO smoltbot.alignment_cards (id, agent_id, card_json, issued_at, created_at, updated_at)
    SELECT card_id, $1, template || jsonb_build_object(
            -- The template serves many agents, so an id in it is never the id of this agent's card.
            'card_id', card_id, 'agent_id', $1, 'issued_at', issued_at),
        issued_at::timestamptz, moment, moment
    FROM (SELECT 'ac-' || substr($1, 7) AS card_id,
            coalesce(nullif(template->>'issued_at', ''), smoltbot._iso(moment)) AS issued_at) AS made
    WHERE NOT EXISTS (SELECT FROM smoltbot.alignment_cards AS other WHERE other.agent_id = $1)
$$;

CREATE FUNCTION get_or_create_agent(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    moment timestamptz := _now(args);
    agent agents;
    created boolean := false;
    digits integer;
BEGIN
    -- The second round is for an agent that another transaction made meanwhile; so are longer ids.
    FOREACH digits IN ARRAY ARRAY[8, 12, 16, 16] LOOP
        UPDATE agents SET last_seen = greatest(last_seen, (args->>'seen_at')::timestamptz),
            key_hash = coalesce(key_hash, args->>'key_hash'), name = coalesce(agents.name, args->>'name')
        WHERE agent_hash = args->>'agent_hash' RETURNING * INTO agent;
        EXIT WHEN FOUND;
        INSERT INTO agents (id, agent_hash, key_hash, name, created_at, last_seen)
        VALUES ('smolt-' || left(args->>'agent_hash', digits), args->>'agent_hash', args->>'key_hash',
            args->>'name', moment, (args->>'seen_at')::timestamptz)
        ON CONFLICT DO NOTHING RETURNING * INTO agent;
        created := FOUND;
        EXIT WHEN created;
    END LOOP;
    IF jsonb_typeof(args->'card') = 'object' THEN
        PERFORM _ensure_card(agent.id, args->'card', moment);
    END IF;
    RETURN jsonb_build_object('agent', _agent_json(agent), 'is_new', created);
END
$$;

CREATE FUNCTION touch_agents(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    moved integer;
BEGIN
    -- Locked in one order, so that two batches never wait for each other.
    PERFORM FROM agents WHERE id IN (SELECT pair->>0 FROM jsonb_array_elements(args->'seen') AS pair)
    ORDER BY id FOR NO KEY UPDATE;
    UPDATE agents SET last_seen = latest.at
    FROM (SELECT pair->>0 AS id, max((pair->>1)::timestamptz) AS at
        FROM jsonb_array_elements(args->'seen') AS pair GROUP BY 1) AS latest
    WHERE agents.id = latest.id AND (agents.last_seen IS NULL OR agents.last_seen < latest.at);
    GET DIAGNOSTICS moved = ROW_COUNT;
    RETURN to_jsonb(moved);
END
$$;

CREATE FUNCTION ping(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    last text;
BEGIN
    PERFORM FROM agents LIMIT 1;
    PERFORM FROM alignment_cards LIMIT 1;
    SELECT max(filename) INTO last FROM _schema_migrations;
    IF last IS NULL THEN
        RAISE undefined_table;
    END IF;
    IF current_setting('transaction_read_only')::boolean THEN
        RAISE read_only_sql_transaction;
    END IF;
    RETURN jsonb_build_object('ok', true, 'schema', last);
END
$$;

CREATE FUNCTION housekeeping(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _forget_events(_now($1));
    -- PostgreSQL looks after its log and its statistics by itself.
    RETURN jsonb_build_object('busy', false, 'wal_pages', 0, 'checkpointed_pages', 0);
END
$$;

DO $$
BEGIN
    CREATE ROLE smoltbot_gateway NOLOGIN;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
    -- A role that may not make roles: schema/README.md says what to do by hand.
    WHEN insufficient_privilege THEN NULL;
END
$$;

-- Whoever may call the functions: smoltbot_gateway, and the role behind Supabase's secret key. Every file ends with it.
CREATE PROCEDURE _share_functions() LANGUAGE plpgsql AS $$
DECLARE
    function record;
    grantee record;
BEGIN
    FOR function IN SELECT oid::regprocedure AS signature, proname FROM pg_proc
        WHERE pronamespace = 'smoltbot'::regnamespace AND prokind = 'f'
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', function.signature);
        FOR grantee IN SELECT rolname FROM pg_roles WHERE rolname IN ('smoltbot_gateway', 'service_role') LOOP
            EXECUTE format('GRANT USAGE ON SCHEMA smoltbot TO %I', grantee.rolname);
            IF NOT starts_with(function.proname, '_') THEN
                EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', function.signature, grantee.rolname);
            END IF;
        END LOOP;
    END LOOP;
END
$$;

REVOKE ALL ON PROCEDURE _share_functions() FROM PUBLIC;
CALL _share_functions();
