-- What an operator decides: settings, cards, containment, the organisation, accounts, gateway keys; the license's state.

CREATE TABLE agent_containment_log (
    -- The order of an agent's actions, also of those within one millisecond.
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE,
    agent_id text NOT NULL REFERENCES agents (id),
    action text NOT NULL CHECK (action IN ('auto_pause', 'pause', 'resume', 'kill', 'reactivate')),
    actor text NOT NULL,
    reason text,
    previous_status text NOT NULL CHECK (previous_status IN ('active', 'paused', 'killed')),
    new_status text NOT NULL CHECK (new_status IN ('active', 'paused', 'killed')),
    metadata jsonb CHECK (jsonb_typeof(metadata) = 'object'),
    created_at timestamptz NOT NULL
);

CREATE INDEX agent_containment_log_agent ON agent_containment_log (agent_id, place);

CREATE TABLE gateway_keys (
    key_id text PRIMARY KEY,
    key_hash bytea NOT NULL UNIQUE CHECK (length(key_hash) = 32),
    agent_id text NOT NULL REFERENCES agents (id),
    created_at timestamptz NOT NULL,
    revoked_at timestamptz
);

CREATE INDEX gateway_keys_agent ON gateway_keys (agent_id);

-- A deployment has one organisation.
CREATE TABLE organizations (
    org_id text PRIMARY KEY DEFAULT 'org-local' CHECK (org_id = 'org-local'),
    card_template jsonb CHECK (jsonb_typeof(card_template) = 'object'),
    card_template_enabled boolean NOT NULL DEFAULT false,
    conscience_values jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(conscience_values) = 'array'),
    conscience_values_mode text NOT NULL DEFAULT 'augment' CHECK (conscience_values_mode IN ('augment', 'replace')),
    conscience_values_enabled boolean NOT NULL DEFAULT false,
    updated_at timestamptz
);
INSERT INTO organizations DEFAULT VALUES;

CREATE TABLE billing_accounts (
    account_id text PRIMARY KEY,
    plan_id text NOT NULL,
    billing_model text NOT NULL
        CHECK (billing_model IN ('none', 'metered', 'subscription', 'subscription_plus_metered')),
    subscription_status text NOT NULL
        CHECK (subscription_status IN ('trialing', 'active', 'past_due', 'canceled', 'none')),
    included_checks bigint NOT NULL CHECK (included_checks >= 0),
    check_count_this_period bigint NOT NULL CHECK (check_count_this_period >= 0),
    overage_threshold bigint CHECK (overage_threshold >= 0),
    per_check_price double precision NOT NULL CHECK (per_check_price >= 0),
    per_proof_price double precision NOT NULL CHECK (per_proof_price >= 0),
    feature_flags jsonb NOT NULL CHECK (jsonb_typeof(feature_flags) = 'object'),
    limits jsonb NOT NULL CHECK (jsonb_typeof(limits) = 'object'),
    current_period_end timestamptz,
    past_due_since timestamptz,
    is_suspended boolean NOT NULL,
    updated_at timestamptz NOT NULL
);

CREATE TABLE license_state (
    license_id text PRIMARY KEY,
    status text NOT NULL,
    last_valid_at timestamptz,
    last_checked_at timestamptz NOT NULL,
    last_error text
);

-- As SQLite orders ids, whatever the collation of the database.
CREATE INDEX agents_by_id ON agents (id COLLATE "C");
CREATE INDEX agents_account ON agents (billing_account_id) WHERE billing_account_id IS NOT NULL;

-- Until the commit the agent's settings, containment and card are this transaction's own.
CREATE FUNCTION _lock_agent(agent text) RETURNS agents
LANGUAGE plpgsql SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    locked agents;
BEGIN
    SELECT * INTO locked FROM agents WHERE id = agent FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM _refuse('agent_id: there is no such agent');
    END IF;
    RETURN locked;
END
$$;

CREATE FUNCTION agent(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT _agent_json(known) FROM agents AS known WHERE id = $1->>'agent_id'), 'null')
$$;

CREATE FUNCTION agents(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(_agent_json(known) ORDER BY (known).id COLLATE "C"), '[]')
    FROM (SELECT known FROM agents AS known WHERE id COLLATE "C" > coalesce($1->>'after', '')
        ORDER BY id COLLATE "C" LIMIT ($1->>'limit')::integer) AS page
$$;

CREATE FUNCTION update_agent(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    agent agents := _lock_agent(args->>'agent_id');
BEGIN
    IF args->'settings' = '{}' THEN
        RETURN _agent_json(agent);
    END IF;
    -- Under a lock, so that a put_account at the same time either comes before this or notes a change of this agent.
    PERFORM FROM billing_accounts WHERE account_id = args->'settings'->>'billing_account_id' FOR SHARE;
    IF NOT FOUND AND args->'settings'->>'billing_account_id' IS NOT NULL THEN
        PERFORM _refuse('settings: billing_account_id: there is no such account');
    END IF;
    agent := jsonb_populate_record(agent, args->'settings');
    UPDATE agents SET aip_enforcement_mode = agent.aip_enforcement_mode, aap_enabled = agent.aap_enabled,
        aip_enabled = agent.aip_enabled, gate_streams = agent.gate_streams, failure_policy = agent.failure_policy,
        thinking_injection = agent.thinking_injection, proof_enabled = agent.proof_enabled,
        proof_rate = agent.proof_rate, nudge_strategy = agent.nudge_strategy, nudge_rate = agent.nudge_rate,
        nudge_threshold = agent.nudge_threshold, ddr_mode = agent.ddr_mode, public = agent.public,
        thinking_budget = agent.thinking_budget, org_card_exempt = agent.org_card_exempt,
        org_card_exempt_reason = agent.org_card_exempt_reason,
        auto_containment_threshold = agent.auto_containment_threshold, billing_account_id = agent.billing_account_id
    WHERE id = args->>'agent_id' RETURNING * INTO agent;
    PERFORM _note_change(agent.id, 'settings', _now(args));
    RETURN _agent_json(agent);
END
$$;

-- Null where the action is none for this status.
CREATE FUNCTION _next_status(status text, action text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN action = 'pause' AND status = 'active' THEN 'paused'
        WHEN action = 'resume' AND status = 'paused' THEN 'active'
        WHEN action = 'kill' AND status IN ('active', 'paused') THEN 'killed'
        WHEN action = 'reactivate' AND status = 'killed' THEN 'active'
    END
$$;

CREATE FUNCTION set_containment(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    moment timestamptz := _now(args);
    agent agents := _lock_agent(args->>'agent_id');
    previous text := agent.containment_status;
    next text := _next_status(previous, args->>'action');
    done agent_containment_log;
BEGIN
    SELECT * INTO done FROM agent_containment_log WHERE id = args->>'log_id';
    IF FOUND THEN
        IF (done.agent_id, done.action) IS DISTINCT FROM (agent.id, args->>'action') THEN
            PERFORM _refuse('log_id: another action has this id');
        END IF;
        RETURN jsonb_build_object('status', 'known', 'agent', _agent_json(agent));
    END IF;
    IF next IS NULL THEN
        RETURN jsonb_build_object('status', 'wrong_state', 'agent', _agent_json(agent));
    END IF;
    UPDATE agents SET containment_status = next,
        contained_at = CASE WHEN next <> 'active' THEN moment END,
        contained_by = CASE WHEN next <> 'active' THEN args->>'actor' END,
        containment_reason = CASE WHEN next <> 'active' THEN args->>'reason' END
    WHERE id = agent.id RETURNING * INTO agent;
    INSERT INTO agent_containment_log (
        id, agent_id, action, actor, reason, previous_status, new_status, created_at)
    VALUES (args->>'log_id', agent.id, args->>'action', args->>'actor', args->>'reason', previous, next, moment);
    PERFORM _emit(agent.id,
        CASE args->>'action' WHEN 'pause' THEN 'agent.paused' WHEN 'resume' THEN 'agent.resumed'
            WHEN 'kill' THEN 'agent.killed' ELSE 'agent.reactivated' END,
        jsonb_build_object('agent_id', agent.id, 'org_id', 'org-local', 'action', args->'action',
            'actor', args->'actor', 'reason', args->'reason', 'previous_status', previous, 'new_status', next),
        NULL, moment);
    PERFORM _note_change(agent.id, 'containment', moment);
    RETURN jsonb_build_object('status', 'changed', 'agent', _agent_json(agent));
END
$$;

CREATE FUNCTION containment(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT jsonb_build_object(
        'agent_id', id, 'status', containment_status, 'contained_at', _iso(contained_at),
        'contained_by', contained_by, 'containment_reason', containment_reason,
        'auto_containment_threshold', auto_containment_threshold,
        'log', (SELECT coalesce(jsonb_agg(to_jsonb(entry) - ARRAY['place', 'agent_id']
                || jsonb_build_object('created_at', _iso(entry.created_at)) ORDER BY entry.place DESC), '[]')
            FROM (SELECT * FROM agent_containment_log WHERE agent_id = agents.id
                ORDER BY place DESC LIMIT ($1->>'limit')::integer) AS entry))
    FROM agents WHERE id = $1->>'agent_id'), 'null')
$$;

CREATE FUNCTION _card_json(card alignment_cards) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('card_id', card.id, 'agent_id', card.agent_id, 'version', card.version,
        'is_active', card.is_active, 'card_json', card.card_json, 'conscience_values', card.conscience_values,
        'issued_at', smoltbot._iso(card.issued_at), 'created_at', smoltbot._iso(card.created_at))
$$;

CREATE FUNCTION _active_card(agent text) RETURNS alignment_cards LANGUAGE sql STABLE AS $$
    SELECT * FROM smoltbot.alignment_cards WHERE agent_id = agent AND is_active
$$;

-- A new version in place of the active one; the caller holds the agent's lock and notes the change.
CREATE FUNCTION _add_card(agent text, card jsonb, conscience jsonb, moment timestamptz) RETURNS jsonb
LANGUAGE plpgsql SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    made alignment_cards;
BEGIN
    UPDATE alignment_cards SET is_active = false, updated_at = moment WHERE agent_id = agent AND is_active;
    INSERT INTO alignment_cards (
        id, version, agent_id, card_json, conscience_values, issued_at, created_at, updated_at)
    SELECT 'ac-' || substr(agent, 7), coalesce(max(version), 0) + 1, agent, card, nullif(conscience, 'null'),
        (card->>'issued_at')::timestamptz, moment, moment
    FROM alignment_cards WHERE agent_id = agent RETURNING * INTO made;
    RETURN _card_json(made);
END
$$;

CREATE FUNCTION active_card(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT _card_json(card) FROM alignment_cards AS card
        WHERE agent_id = $1->>'agent_id' AND is_active), 'null')
$$;

CREATE FUNCTION card_history(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(_card_json(card) ORDER BY (card).version DESC), '[]')
    FROM (SELECT card FROM alignment_cards AS card WHERE agent_id = $1->>'agent_id'
        ORDER BY version DESC LIMIT ($1->>'limit')::integer) AS newest
$$;

CREATE FUNCTION put_card(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    moment timestamptz := _now(args);
    agent agents := _lock_agent(args->>'agent_id');
    active alignment_cards := _active_card(agent.id);
    given jsonb := args->'card' || jsonb_build_object('card_id', 'ac-' || substr(agent.id, 7), 'agent_id', agent.id);
    issued_at text := given->>'issued_at';
    stored jsonb;
BEGIN
    -- A card without a date is the same card a second time, although it would be issued later.
    IF given || jsonb_build_object('issued_at', coalesce(issued_at, active.card_json->>'issued_at'))
        = active.card_json
    THEN
        RETURN jsonb_build_object('status', 'unchanged', 'card', _card_json(active));
    END IF;
    IF (args->>'expected_version')::bigint <> coalesce(active.version, 0) THEN
        RETURN jsonb_build_object('status', 'conflict',
            'card', CASE WHEN active.id IS NOT NULL THEN _card_json(active) END);
    END IF;
    given := given || jsonb_build_object('issued_at', coalesce(issued_at, _iso(moment)));
    stored := _add_card(agent.id, given, active.conscience_values, moment);
    PERFORM _note_change(agent.id, 'card', moment);
    RETURN jsonb_build_object('status', 'stored', 'card', stored);
END
$$;

CREATE FUNCTION put_conscience_values(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    moment timestamptz := _now(args);
    agent agents := _lock_agent(args->>'agent_id');
    active alignment_cards := _active_card(agent.id);
    stored jsonb;
BEGIN
    IF active.id IS NULL THEN
        PERFORM _refuse('agent_id: this agent has no card');
    END IF;
    IF active.conscience_values IS NOT DISTINCT FROM nullif(args->'values', 'null') THEN
        RETURN _card_json(active);
    END IF;
    stored := _add_card(agent.id, active.card_json, args->'values', moment);
    PERFORM _note_change(agent.id, 'card', moment);
    RETURN stored;
END
$$;

CREATE FUNCTION _organization_json() RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT to_jsonb(org) || jsonb_build_object('updated_at', smoltbot._iso(org.updated_at))
    FROM smoltbot.organizations AS org
$$;

CREATE FUNCTION organization(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT _organization_json()
$$;

CREATE FUNCTION put_organization(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    org organizations;
BEGIN
    SELECT * INTO org FROM organizations FOR NO KEY UPDATE;
    IF args->'changes' <> '{}' THEN
        org := jsonb_populate_record(org, args->'changes');
        UPDATE organizations SET card_template = org.card_template,
            card_template_enabled = org.card_template_enabled, conscience_values = org.conscience_values,
            conscience_values_mode = org.conscience_values_mode,
            conscience_values_enabled = org.conscience_values_enabled, updated_at = _now(args);
        PERFORM _note_change(NULL, 'organization', _now(args));
    END IF;
    RETURN _organization_json();
END
$$;

CREATE FUNCTION _account_json(account billing_accounts) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT to_jsonb(account) || jsonb_build_object('current_period_end', smoltbot._iso(account.current_period_end),
        'past_due_since', smoltbot._iso(account.past_due_since), 'updated_at', smoltbot._iso(account.updated_at))
$$;

CREATE FUNCTION put_account(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    moment timestamptz := _now(args);
    account billing_accounts := jsonb_populate_record(NULL::billing_accounts, args);
BEGIN
    account.updated_at := moment;
    INSERT INTO billing_accounts SELECT account.*
    ON CONFLICT (account_id) DO UPDATE SET plan_id = excluded.plan_id, billing_model = excluded.billing_model,
        subscription_status = excluded.subscription_status, included_checks = excluded.included_checks,
        check_count_this_period = excluded.check_count_this_period, overage_threshold = excluded.overage_threshold,
        per_check_price = excluded.per_check_price, per_proof_price = excluded.per_proof_price,
        feature_flags = excluded.feature_flags, limits = excluded.limits,
        current_period_end = excluded.current_period_end, past_due_since = excluded.past_due_since,
        is_suspended = excluded.is_suspended, updated_at = excluded.updated_at;
    PERFORM _note_changes(
        ARRAY(SELECT id FROM agents WHERE billing_account_id = account.account_id), 'account', moment);
    RETURN _account_json(account);
END
$$;

-- What admission decides by; without an account the free tier's.
CREATE FUNCTION _quota_json(agent agents) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('plan_id', 'plan-free', 'billing_model', 'none', 'subscription_status', 'none',
            'included_checks', 0, 'check_count_this_period', 0, 'overage_threshold', NULL, 'per_check_price', 0,
            'per_proof_price', 0, 'feature_flags', '{}'::jsonb, 'limits', '{}'::jsonb, 'account_id', NULL,
            'current_period_end', NULL, 'past_due_since', NULL, 'is_suspended', false)
        || coalesce((SELECT smoltbot._account_json(account) - 'updated_at' FROM smoltbot.billing_accounts AS account
            WHERE account.account_id = agent.billing_account_id), '{}')
        || jsonb_build_object('containment_status', agent.containment_status,
            'agent_settings', jsonb_build_object('aap_enabled', agent.aap_enabled, 'aip_enabled', agent.aip_enabled,
                'proof_enabled', agent.proof_enabled, 'proof_rate', agent.proof_rate,
                'nudge_strategy', agent.nudge_strategy, 'nudge_rate', agent.nudge_rate,
                'nudge_threshold', agent.nudge_threshold, 'ddr_mode', agent.ddr_mode,
                'thinking_budget', agent.thinking_budget))
$$;

-- STABLE: every statement in it sees the snapshot of the call.
CREATE FUNCTION agent_context(jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    agent agents;
BEGIN
    SELECT * INTO agent FROM agents WHERE id = args->>'agent_id';
    IF NOT FOUND THEN
        RETURN 'null';
    END IF;
    RETURN jsonb_build_object('agent', _agent_json(agent),
        'card', (SELECT _card_json(card) FROM alignment_cards AS card WHERE agent_id = agent.id AND is_active),
        'organization', _organization_json(), 'quota', _quota_json(agent),
        'pending_nudges', (SELECT count(*) FROM enforcement_nudges WHERE agent_id = agent.id
            AND status IN ('pending', 'delivering') AND created_at >= _now(args) - interval '4 hours'),
        'seq', (SELECT seq FROM change_counter));
END
$$;

CREATE FUNCTION _gateway_key_json(key gateway_keys) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('key_id', key.key_id, 'agent_id', key.agent_id,
        'created_at', smoltbot._iso(key.created_at), 'revoked_at', smoltbot._iso(key.revoked_at))
$$;

CREATE FUNCTION put_gateway_key(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    hash bytea := decode(args->>'key_hash', 'hex');
    key gateway_keys;
BEGIN
    PERFORM FROM agents WHERE id = args->>'agent_id';
    IF NOT FOUND THEN
        PERFORM _refuse('agent_id: there is no such agent');
    END IF;
    INSERT INTO gateway_keys (key_id, key_hash, agent_id, created_at)
    VALUES (args->>'key_id', hash, args->>'agent_id', _now(args)) ON CONFLICT DO NOTHING RETURNING * INTO key;
    IF FOUND THEN
        PERFORM _note_change(key.agent_id, 'keys', _now(args));
        RETURN _gateway_key_json(key);
    END IF;
    SELECT * INTO key FROM gateway_keys WHERE key_id = args->>'key_id';
    IF NOT FOUND THEN
        PERFORM _refuse('key_hash: this key has another key_id');
    ELSIF (key.key_hash, key.agent_id) IS DISTINCT FROM (hash, args->>'agent_id') THEN
        PERFORM _refuse('key_id: another key has this id');
    END IF;
    RETURN _gateway_key_json(key);
END
$$;

CREATE FUNCTION revoke_gateway_key(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    key gateway_keys;
BEGIN
    UPDATE gateway_keys SET revoked_at = _now(args) WHERE key_id = args->>'key_id' AND revoked_at IS NULL
    RETURNING * INTO key;
    IF FOUND THEN
        PERFORM _note_change(key.agent_id, 'keys', _now(args));
    END IF;
    RETURN coalesce((SELECT _gateway_key_json(known) FROM gateway_keys AS known
        WHERE key_id = args->>'key_id'), 'null');
END
$$;

CREATE FUNCTION gateway_keys(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(_gateway_key_json(key) ORDER BY key.created_at DESC, key.key_id COLLATE "C" DESC), '[]')
    FROM gateway_keys AS key
$$;

CREATE FUNCTION resolve_gateway_key(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT _agent_json(agents) FROM gateway_keys AS key JOIN agents ON agents.id = key.agent_id
        WHERE key.key_hash = decode($1->>'key_hash', 'hex') AND key.revoked_at IS NULL), 'null')
$$;

CREATE FUNCTION _license_json(license license_state) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT to_jsonb(license) || jsonb_build_object('last_valid_at', smoltbot._iso(license.last_valid_at),
        'last_checked_at', smoltbot._iso(license.last_checked_at))
$$;

CREATE FUNCTION license_state(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT _license_json(license) FROM license_state AS license
        WHERE license_id = $1->>'license_id'), 'null')
$$;

CREATE FUNCTION put_license_state(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    license license_state;
BEGIN
    INSERT INTO license_state AS known (license_id, status, last_valid_at, last_checked_at, last_error)
    VALUES (args->>'license_id', args->>'status', (args->>'last_valid_at')::timestamptz,
        (args->>'last_checked_at')::timestamptz, args->>'last_error')
    ON CONFLICT (license_id) DO UPDATE SET status = excluded.status,
        last_valid_at = greatest(known.last_valid_at, excluded.last_valid_at),
        last_checked_at = excluded.last_checked_at, last_error = excluded.last_error
    RETURNING * INTO license;
    RETURN _license_json(license);
END
$$;

CALL _share_functions();
