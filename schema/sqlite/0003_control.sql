-- What an operator decides: settings, cards, containment, the organisation, accounts, gateway keys; the license's state.

CREATE TABLE agent_containment_log (
    -- The order of an agent's actions, also of those within one millisecond.
    place integer PRIMARY KEY AUTOINCREMENT NOT NULL,
    id text NOT NULL UNIQUE,
    agent_id text NOT NULL REFERENCES agents (id),
    action text NOT NULL CHECK (action IN ('auto_pause', 'pause', 'resume', 'kill', 'reactivate')),
    actor text NOT NULL,
    reason text,
    previous_status text NOT NULL CHECK (previous_status IN ('active', 'paused', 'killed')),
    new_status text NOT NULL CHECK (new_status IN ('active', 'paused', 'killed')),
    metadata text CHECK (metadata IS NULL OR json_valid(metadata) AND json_type(metadata) = 'object'),
    created_at text NOT NULL CHECK (created_at GLOB '????-??-??T??:??:??.???Z')
) STRICT;

CREATE INDEX agent_containment_log_agent ON agent_containment_log (agent_id, place);

CREATE TABLE gateway_keys (
    key_id text PRIMARY KEY NOT NULL,
    key_hash blob NOT NULL UNIQUE CHECK (length(key_hash) = 32),
    agent_id text NOT NULL REFERENCES agents (id),
    created_at text NOT NULL CHECK (created_at GLOB '????-??-??T??:??:??.???Z'),
    revoked_at text CHECK (revoked_at GLOB '????-??-??T??:??:??.???Z')
) STRICT;

CREATE INDEX gateway_keys_agent ON gateway_keys (agent_id);

-- A deployment has one organisation.
CREATE TABLE organizations (
    org_id text PRIMARY KEY NOT NULL DEFAULT 'org-local' CHECK (org_id = 'org-local'),
    card_template text
        CHECK (card_template IS NULL OR json_valid(card_template) AND json_type(card_template) = 'object'),
    card_template_enabled integer NOT NULL DEFAULT 0 CHECK (card_template_enabled IN (0, 1)),
    conscience_values text NOT NULL DEFAULT '[]'
        CHECK (json_valid(conscience_values) AND json_type(conscience_values) = 'array'),
    conscience_values_mode text NOT NULL DEFAULT 'augment' CHECK (conscience_values_mode IN ('augment', 'replace')),
    conscience_values_enabled integer NOT NULL DEFAULT 0 CHECK (conscience_values_enabled IN (0, 1)),
    updated_at text CHECK (updated_at GLOB '????-??-??T??:??:??.???Z')
) STRICT;
INSERT INTO organizations DEFAULT VALUES;

CREATE TABLE billing_accounts (
    account_id text PRIMARY KEY NOT NULL,
    plan_id text NOT NULL,
    billing_model text NOT NULL
        CHECK (billing_model IN ('none', 'metered', 'subscription', 'subscription_plus_metered')),
    subscription_status text NOT NULL
        CHECK (subscription_status IN ('trialing', 'active', 'past_due', 'canceled', 'none')),
    included_checks integer NOT NULL CHECK (included_checks >= 0),
    check_count_this_period integer NOT NULL CHECK (check_count_this_period >= 0),
    overage_threshold integer CHECK (overage_threshold >= 0),
    per_check_price real NOT NULL CHECK (per_check_price >= 0),
    per_proof_price real NOT NULL CHECK (per_proof_price >= 0),
    feature_flags text NOT NULL CHECK (json_valid(feature_flags) AND json_type(feature_flags) = 'object'),
    limits text NOT NULL CHECK (json_valid(limits) AND json_type(limits) = 'object'),
    current_period_end text CHECK (current_period_end GLOB '????-??-??T??:??:??.???Z'),
    past_due_since text CHECK (past_due_since GLOB '????-??-??T??:??:??.???Z'),
    is_suspended integer NOT NULL CHECK (is_suspended IN (0, 1)),
    updated_at text NOT NULL CHECK (updated_at GLOB '????-??-??T??:??:??.???Z')
) STRICT;

CREATE TABLE license_state (
    license_id text PRIMARY KEY NOT NULL,
    status text NOT NULL,
    last_valid_at text CHECK (last_valid_at GLOB '????-??-??T??:??:??.???Z'),
    last_checked_at text NOT NULL CHECK (last_checked_at GLOB '????-??-??T??:??:??.???Z'),
    last_error text
) STRICT;

CREATE INDEX agents_account ON agents (billing_account_id) WHERE billing_account_id IS NOT NULL;
