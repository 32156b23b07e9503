-- What happened: the feed of changes by which caches are dropped, and the outbox of webhooks.
--
-- Nothing here refers to checkpoints or traces: those may be deleted while a delivery still waits.

CREATE TABLE change_counter (
    only_row integer PRIMARY KEY NOT NULL DEFAULT 1 CHECK (only_row = 1),
    seq integer NOT NULL CHECK (seq >= 0)
) STRICT;
INSERT INTO change_counter (seq) VALUES (0);

-- agent_id null: the change is about every agent.
CREATE TABLE changes (
    seq integer PRIMARY KEY NOT NULL,
    created_at text NOT NULL CHECK (created_at GLOB '????-??-??T??:??:??.???Z'),
    agent_id text,
    kind text NOT NULL
        CHECK (kind IN ('settings', 'containment', 'card', 'keys', 'nudges', 'organization', 'account'))
) STRICT;

CREATE INDEX changes_age ON changes (created_at);

CREATE TABLE aip_webhook_registrations (
    registration_id text PRIMARY KEY NOT NULL,
    agent_id text NOT NULL REFERENCES agents (id),
    callback_url text NOT NULL,
    sealed_secret text NOT NULL,
    events text NOT NULL CHECK (json_valid(events) AND json_type(events) = 'array'),
    failure_count integer NOT NULL DEFAULT 0 CHECK (failure_count >= 0),
    disabled_at text CHECK (disabled_at GLOB '????-??-??T??:??:??.???Z'),
    created_at text NOT NULL CHECK (created_at GLOB '????-??-??T??:??:??.???Z')
) STRICT;

CREATE INDEX aip_webhook_registrations_agent ON aip_webhook_registrations (agent_id);

CREATE TABLE aip_webhook_deliveries (
    -- The order in which a registration gets its deliveries.
    place integer PRIMARY KEY AUTOINCREMENT NOT NULL,
    id text NOT NULL UNIQUE,
    registration_id text NOT NULL REFERENCES aip_webhook_registrations (registration_id) ON DELETE CASCADE,
    delivery_key text NOT NULL,
    event_type text NOT NULL,
    checkpoint_id text,
    trace_id text,
    payload text NOT NULL CHECK (json_valid(payload) AND json_type(payload) = 'object'),
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivering', 'delivered', 'failed')),
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    last_error text,
    last_attempt_at text CHECK (last_attempt_at GLOB '????-??-??T??:??:??.???Z'),
    next_retry_at text CHECK (next_retry_at GLOB '????-??-??T??:??:??.???Z'),
    claimed_by text,
    lease_until text CHECK (lease_until GLOB '????-??-??T??:??:??.???Z'),
    settled_at text CHECK (settled_at GLOB '????-??-??T??:??:??.???Z'),
    created_at text NOT NULL CHECK (created_at GLOB '????-??-??T??:??:??.???Z'),
    CHECK ((status = 'delivering') = (lease_until IS NOT NULL)),
    CHECK ((status IN ('delivered', 'failed')) = (settled_at IS NOT NULL)),
    UNIQUE (registration_id, delivery_key)
) STRICT;

CREATE INDEX aip_webhook_deliveries_registration ON aip_webhook_deliveries (registration_id, place);
CREATE INDEX aip_webhook_deliveries_open ON aip_webhook_deliveries (registration_id, place)
    WHERE settled_at IS NULL;
CREATE INDEX aip_webhook_deliveries_settled ON aip_webhook_deliveries (settled_at) WHERE settled_at IS NOT NULL;
