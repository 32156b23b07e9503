-- The evidence: checkpoints with their attestation, the tree over them, its signed heads, and the public keys.
--
-- Hashes and signatures are kept as bytes and leave as hex and base64. The signed payload is not kept: it is made of
-- the row's own columns, so that what is shown is what was signed or does not verify.

CREATE TABLE signing_keys (
    key_id text PRIMARY KEY NOT NULL,
    public_key blob NOT NULL CHECK (length(public_key) = 32),
    is_active integer NOT NULL DEFAULT 1 CHECK (is_active IN (0, 1)),
    created_at text NOT NULL CHECK (created_at GLOB '????-??-??T??:??:??.???Z'),
    retired_at text CHECK (retired_at GLOB '????-??-??T??:??:??.???Z')
) STRICT;

CREATE TABLE agent_merkle_trees (
    agent_id text PRIMARY KEY NOT NULL REFERENCES agents (id),
    leaf_count integer NOT NULL DEFAULT 0 CHECK (leaf_count >= 0),
    merkle_root blob CHECK (length(merkle_root) = 32),
    -- By level: the last complete subtree of that level, or null.
    frontier text NOT NULL DEFAULT '[]' CHECK (json_valid(frontier)),
    last_updated text CHECK (last_updated GLOB '????-??-??T??:??:??.???Z')
) STRICT;

CREATE TABLE integrity_checkpoints (
    checkpoint_id text NOT NULL,
    request_id text NOT NULL,
    agent_id text NOT NULL REFERENCES agents (id),
    session_id text NOT NULL,
    card_id text,
    "timestamp" text NOT NULL CHECK ("timestamp" GLOB '????-??-??T??:??:??.???Z'),
    created_at text NOT NULL CHECK (created_at GLOB '????-??-??T??:??:??.???Z'),
    verdict text NOT NULL CHECK (verdict IN ('clear', 'review_needed', 'boundary_violation', 'error', 'skipped')),
    reason text,
    thinking_block_hash blob NOT NULL CHECK (length(thinking_block_hash) = 32),
    provider text NOT NULL,
    model text,
    concerns text NOT NULL CHECK (json_valid(concerns)),
    reasoning_summary text NOT NULL,
    conscience_context text CHECK (conscience_context IS NULL OR json_valid(conscience_context)),
    window_position text CHECK (window_position IS NULL OR json_valid(window_position)),
    analysis_metadata text CHECK (analysis_metadata IS NULL OR json_valid(analysis_metadata)),
    linked_trace_id text,
    source text NOT NULL CHECK (source IN ('gateway', 'hybrid_api')),
    synthetic integer NOT NULL CHECK (synthetic IN (0, 1)),
    synthetic_reason text,
    cross_validation_warnings text CHECK (cross_validation_warnings IS NULL OR json_valid(cross_validation_warnings)),

    input_commitment blob NOT NULL CHECK (length(input_commitment) = 32),
    card_hash blob NOT NULL CHECK (length(card_hash) = 32),
    values_hash blob NOT NULL CHECK (length(values_hash) = 32),
    context_hash blob NOT NULL CHECK (length(context_hash) = 32),
    model_version text,
    prompt_template_version text NOT NULL,
    chain_hash blob NOT NULL CHECK (length(chain_hash) = 32),
    prev_chain_hash blob CHECK (length(prev_chain_hash) = 32),
    chain_position integer NOT NULL CHECK (chain_position >= 0),
    merkle_leaf_index integer NOT NULL CHECK (merkle_leaf_index >= 0),
    merkle_leaf_hash blob NOT NULL CHECK (length(merkle_leaf_hash) = 32),
    certificate_id text NOT NULL,
    issuer_signature blob NOT NULL CHECK (length(issuer_signature) = 64),
    signing_key_id text NOT NULL REFERENCES signing_keys (key_id),
    claims_hash blob NOT NULL CHECK (length(claims_hash) = 32),
    claims_signature blob NOT NULL CHECK (length(claims_signature) = 64),

    CHECK ((prev_chain_hash IS NULL) = (chain_position = 0))
) STRICT;

-- In this order an agent's leaves lie beside each other, and time runs with them.
CREATE UNIQUE INDEX integrity_checkpoints_leaf ON integrity_checkpoints (agent_id, merkle_leaf_index);
CREATE UNIQUE INDEX integrity_checkpoints_id ON integrity_checkpoints (checkpoint_id);
CREATE UNIQUE INDEX integrity_checkpoints_request ON integrity_checkpoints (request_id);
CREATE UNIQUE INDEX integrity_checkpoints_certificate ON integrity_checkpoints (certificate_id);
-- The newest of a session is its head.
CREATE UNIQUE INDEX integrity_checkpoints_chain ON integrity_checkpoints (agent_id, session_id, chain_position);
CREATE INDEX integrity_checkpoints_violations ON integrity_checkpoints (agent_id, merkle_leaf_index)
    WHERE verdict = 'boundary_violation';
CREATE INDEX integrity_checkpoints_trace ON integrity_checkpoints (linked_trace_id) WHERE linked_trace_id IS NOT NULL;

-- What was changed in the exchange of a checkpoint, in the order in which it was signed.
CREATE TABLE mutations (
    request_id text NOT NULL,
    place integer NOT NULL,
    checkpoint_id text NOT NULL REFERENCES integrity_checkpoints (checkpoint_id),
    kind text NOT NULL CHECK (kind IN ('thinking', 'nudge', 'redaction', 'accept-encoding', 'refusal')),
    setting text,
    location text,
    before_sha256 blob CHECK (length(before_sha256) = 32),
    after_sha256 blob CHECK (length(after_sha256) = 32),
    PRIMARY KEY (request_id, place)
) STRICT, WITHOUT ROWID;

-- Complete subtrees of level 1 and above; the leaves are in the checkpoints.
CREATE TABLE merkle_nodes (
    agent_id text NOT NULL REFERENCES agents (id),
    level integer NOT NULL CHECK (level BETWEEN 1 AND 62),
    "index" integer NOT NULL CHECK ("index" >= 0),
    hash blob NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (agent_id, level, "index")
) STRICT, WITHOUT ROWID;

-- What stays of a checkpoint that retention deleted: its leaf for proofs, and its place in the chain of its session.
CREATE TABLE pruned_leaves (
    agent_id text NOT NULL REFERENCES agents (id),
    leaf_index integer NOT NULL CHECK (leaf_index >= 0),
    leaf_hash blob NOT NULL CHECK (length(leaf_hash) = 32),
    session_id text NOT NULL,
    chain_position integer NOT NULL CHECK (chain_position >= 0),
    chain_hash blob NOT NULL CHECK (length(chain_hash) = 32),
    PRIMARY KEY (agent_id, leaf_index)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX pruned_leaves_chain ON pruned_leaves (agent_id, session_id, chain_position);

CREATE TABLE signed_heads (
    agent_id text NOT NULL REFERENCES agents (id),
    size integer NOT NULL CHECK (size > 0),
    root blob NOT NULL CHECK (length(root) = 32),
    "timestamp" text NOT NULL CHECK ("timestamp" GLOB '????-??-??T??:??:??.???Z'),
    key_id text NOT NULL REFERENCES signing_keys (key_id),
    signature blob NOT NULL CHECK (length(signature) = 64),
    PRIMARY KEY (agent_id, size)
) STRICT, WITHOUT ROWID;

-- Notices for the next requests of an agent; they go with the checkpoint that they are about.
CREATE TABLE enforcement_nudges (
    id text PRIMARY KEY NOT NULL,
    agent_id text NOT NULL REFERENCES agents (id),
    checkpoint_id text NOT NULL UNIQUE REFERENCES integrity_checkpoints (checkpoint_id) ON DELETE CASCADE,
    session_id text NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivering', 'delivered', 'expired')),
    nudge_content text NOT NULL,
    concerns_summary text NOT NULL,
    created_at text NOT NULL CHECK (created_at GLOB '????-??-??T??:??:??.???Z'),
    delivered_at text CHECK (delivered_at GLOB '????-??-??T??:??:??.???Z'),
    delivery_session_id text,
    expired_at text CHECK (expired_at GLOB '????-??-??T??:??:??.???Z'),
    lease_until text CHECK (lease_until GLOB '????-??-??T??:??:??.???Z'),
    claimed_by_request text,
    CHECK ((status = 'delivering') = (lease_until IS NOT NULL))
) STRICT;

CREATE INDEX enforcement_nudges_agent ON enforcement_nudges (agent_id, status, created_at);
CREATE INDEX enforcement_nudges_newest ON enforcement_nudges (agent_id, created_at);
CREATE INDEX enforcement_nudges_open ON enforcement_nudges (created_at) WHERE status IN ('pending', 'delivering');
CREATE INDEX enforcement_nudges_held ON enforcement_nudges (claimed_by_request) WHERE status = 'delivering';
