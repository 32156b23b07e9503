-- Agents and their alignment cards.
--
-- Times are text, ISO 8601 in UTC with milliseconds and Z, so that they compare as text. Booleans are 0 or 1.

CREATE TABLE agents (
    id text PRIMARY KEY NOT NULL CHECK (id GLOB 'smolt-?*'),
    agent_hash text NOT NULL UNIQUE CHECK (length(agent_hash) = 16 AND agent_hash NOT GLOB '*[^0-9a-f]*'),
    -- The whole digest of which agent_hash is the beginning: proof for who claims the agent.
    key_hash text CHECK (length(key_hash) = 64 AND key_hash NOT GLOB '*[^0-9a-f]*'),
    name text,
    key_prefix text,
    created_at text NOT NULL CHECK (created_at GLOB '????-??-??T??:??:??.???Z'),
    last_seen text CHECK (last_seen GLOB '????-??-??T??:??:??.???Z'),

    claimed_at text CHECK (claimed_at GLOB '????-??-??T??:??:??.???Z'),
    claimed_by text,
    email text,
    user_id text,
    public integer NOT NULL DEFAULT 0 CHECK (public IN (0, 1)),
    linked_agent_id text,
    billing_account_id text,

    aip_enforcement_mode text NOT NULL DEFAULT 'observe'
        CHECK (aip_enforcement_mode IN ('observe', 'nudge', 'enforce')),
    aap_enabled integer NOT NULL DEFAULT 1 CHECK (aap_enabled IN (0, 1)),
    aip_enabled integer NOT NULL DEFAULT 1 CHECK (aip_enabled IN (0, 1)),
    gate_streams text NOT NULL DEFAULT 'off' CHECK (gate_streams IN ('off', 'tools', 'all')),
    -- Null: the gateway's own setting, AIP_FAILURE_POLICY and THINKING_INJECTION, decides.
    failure_policy text CHECK (failure_policy IN ('fail_open', 'fail_closed')),
    thinking_injection text CHECK (thinking_injection IN ('off', 'auto')),
    proof_enabled integer NOT NULL DEFAULT 0 CHECK (proof_enabled IN (0, 1)),
    proof_rate integer NOT NULL DEFAULT 10 CHECK (proof_rate BETWEEN 0 AND 100),
    nudge_strategy text NOT NULL DEFAULT 'always'
        CHECK (nudge_strategy IN ('always', 'sampling', 'threshold', 'off')),
    nudge_rate integer CHECK (nudge_rate BETWEEN 0 AND 100),
    nudge_threshold integer CHECK (nudge_threshold >= 1),
    ddr_mode text NOT NULL DEFAULT 'flag' CHECK (ddr_mode IN ('off', 'flag', 'auto-suggest', 'auto-apply')),
    thinking_budget integer CHECK (thinking_budget > 0),
    org_card_exempt integer NOT NULL DEFAULT 0 CHECK (org_card_exempt IN (0, 1)),
    org_card_exempt_reason text CHECK (length(org_card_exempt_reason) <= 500),

    auto_containment_threshold integer CHECK (auto_containment_threshold >= 2),
    containment_status text NOT NULL DEFAULT 'active'
        CHECK (containment_status IN ('active', 'paused', 'killed')),
    contained_at text CHECK (contained_at GLOB '????-??-??T??:??:??.???Z'),
    contained_by text,
    containment_reason text
) STRICT;

-- A card keeps its id when it is changed; each change is a row of its own.
CREATE TABLE alignment_cards (
    id text NOT NULL,
    version integer NOT NULL DEFAULT 1 CHECK (version >= 1),
    agent_id text NOT NULL REFERENCES agents (id),
    card_json text NOT NULL CHECK (json_valid(card_json) AND json_type(card_json) = 'object'),
    conscience_values text CHECK (conscience_values IS NULL OR json_valid(conscience_values)),
    issued_at text CHECK (issued_at GLOB '????-??-??T??:??:??.???Z'),
    is_active integer NOT NULL DEFAULT 1 CHECK (is_active IN (0, 1)),
    created_at text NOT NULL CHECK (created_at GLOB '????-??-??T??:??:??.???Z'),
    updated_at text NOT NULL CHECK (updated_at GLOB '????-??-??T??:??:??.???Z'),
    PRIMARY KEY (id, version)
) STRICT;

CREATE UNIQUE INDEX alignment_cards_one_active ON alignment_cards (agent_id) WHERE is_active = 1;
CREATE INDEX alignment_cards_agent ON alignment_cards (agent_id, version);
