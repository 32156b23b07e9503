-- The evidence: checkpoints with their attestation, the tree over them, its signed heads, and the public keys.
--
-- Hashes and signatures are kept as bytes and leave as hex and base64. The signed payload is not kept: it is made of
-- the row's own columns, so that what is shown is what was signed or does not verify.

CREATE TABLE signing_keys (
    key_id text PRIMARY KEY,
    public_key bytea NOT NULL CHECK (length(public_key) = 32),
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL,
    retired_at timestamptz
);

CREATE TABLE agent_merkle_trees (
    agent_id text PRIMARY KEY REFERENCES agents (id),
    leaf_count bigint NOT NULL DEFAULT 0 CHECK (leaf_count >= 0),
    merkle_root bytea CHECK (length(merkle_root) = 32),
    -- By level: the last complete subtree of that level, or null.
    frontier jsonb NOT NULL DEFAULT '[]',
    last_updated timestamptz
);

CREATE TABLE integrity_checkpoints (
    merkle_leaf_index bigint NOT NULL CHECK (merkle_leaf_index >= 0),
    "timestamp" timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    chain_position integer NOT NULL CHECK (chain_position >= 0),
    synthetic boolean NOT NULL,
    checkpoint_id text NOT NULL,
    request_id text NOT NULL,
    agent_id text NOT NULL REFERENCES agents (id),
    session_id text NOT NULL,
    card_id text,
    verdict text NOT NULL CHECK (verdict IN ('clear', 'review_needed', 'boundary_violation', 'error', 'skipped')),
    reason text,
    thinking_block_hash bytea NOT NULL CHECK (length(thinking_block_hash) = 32),
    provider text NOT NULL,
    model text,
    concerns jsonb NOT NULL,
    reasoning_summary text NOT NULL,
    conscience_context jsonb,
    window_position jsonb,
    analysis_metadata jsonb,
    linked_trace_id text,
    source text NOT NULL CHECK (source IN ('gateway', 'hybrid_api')),
    synthetic_reason text,
    cross_validation_warnings jsonb,

    input_commitment bytea NOT NULL CHECK (length(input_commitment) = 32),
    card_hash bytea NOT NULL CHECK (length(card_hash) = 32),
    values_hash bytea NOT NULL CHECK (length(values_hash) = 32),
    context_hash bytea NOT NULL CHECK (length(context_hash) = 32),
    model_version text,
    prompt_template_version text NOT NULL,
    chain_hash bytea NOT NULL CHECK (length(chain_hash) = 32),
    prev_chain_hash bytea CHECK (length(prev_chain_hash) = 32),
    merkle_leaf_hash bytea NOT NULL CHECK (length(merkle_leaf_hash) = 32),
    certificate_id text NOT NULL,
    issuer_signature bytea NOT NULL CHECK (length(issuer_signature) = 64),
    signing_key_id text NOT NULL REFERENCES signing_keys (key_id),
    claims_hash bytea NOT NULL CHECK (length(claims_hash) = 32),
    claims_signature bytea NOT NULL CHECK (length(claims_signature) = 64),

    CHECK ((prev_chain_hash IS NULL) = (chain_position = 0)),
    -- In this order an agent's leaves lie beside each other, and time runs with them.
    PRIMARY KEY (agent_id, merkle_leaf_index)
);

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
    before_sha256 bytea CHECK (length(before_sha256) = 32),
    after_sha256 bytea CHECK (length(after_sha256) = 32),
    PRIMARY KEY (request_id, place)
);

-- Complete subtrees of level 1 and above; the leaves are in the checkpoints.
CREATE TABLE merkle_nodes (
    index bigint NOT NULL CHECK (index >= 0),
    level smallint NOT NULL CHECK (level BETWEEN 1 AND 62),
    agent_id text NOT NULL REFERENCES agents (id),
    hash bytea NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (agent_id, level, index)
);

CREATE TABLE signed_heads (
    size bigint NOT NULL CHECK (size > 0),
    "timestamp" timestamptz NOT NULL,
    agent_id text NOT NULL REFERENCES agents (id),
    root bytea NOT NULL CHECK (length(root) = 32),
    key_id text NOT NULL REFERENCES signing_keys (key_id),
    signature bytea NOT NULL CHECK (length(signature) = 64),
    PRIMARY KEY (agent_id, size)
);

CREATE FUNCTION _hex(bytes bytea) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT encode(bytes, 'hex')
$$;

-- encode() breaks base64 into lines after 76 characters.
CREATE FUNCTION _base64(bytes bytea) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT replace(encode(bytes, 'base64'), E'\n', '')
$$;

CREATE FUNCTION _payload(c integrity_checkpoints) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT format(
        '{"agent_id":"%s","chain_hash":"%s","checkpoint_id":"%s","input_commitment":"%s","thinking_block_hash":"%s",'
        '"timestamp":"%s","verdict":"%s"}',
        c.agent_id, smoltbot._hex(c.chain_hash), c.checkpoint_id, smoltbot._hex(c.input_commitment),
        smoltbot._hex(c.thinking_block_hash), smoltbot._iso(c."timestamp"), c.verdict)
$$;

CREATE FUNCTION _mutations(request text) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_object('kind', kind, 'setting', setting, 'location', location,
        'before_sha256', smoltbot._hex(before_sha256), 'after_sha256', smoltbot._hex(after_sha256)) ORDER BY place), '[]')
    FROM smoltbot.mutations WHERE request_id = request
$$;

CREATE FUNCTION _checkpoint_json(c integrity_checkpoints) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT to_jsonb(c) || jsonb_build_object(
        'timestamp', smoltbot._iso(c."timestamp"), 'created_at', smoltbot._iso(c.created_at),
        'thinking_block_hash', smoltbot._hex(c.thinking_block_hash),
        'input_commitment', smoltbot._hex(c.input_commitment), 'card_hash', smoltbot._hex(c.card_hash),
        'values_hash', smoltbot._hex(c.values_hash), 'context_hash', smoltbot._hex(c.context_hash),
        'chain_hash', smoltbot._hex(c.chain_hash), 'prev_chain_hash', smoltbot._hex(c.prev_chain_hash),
        'merkle_leaf_hash', smoltbot._hex(c.merkle_leaf_hash), 'signed_payload', smoltbot._payload(c),
        'issuer_signature', smoltbot._base64(c.issuer_signature), 'claims_hash', smoltbot._hex(c.claims_hash),
        'claims_signature', smoltbot._base64(c.claims_signature), 'mutations', smoltbot._mutations(c.request_id))
$$;

CREATE FUNCTION _log_head(agent text, sessions jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'size', coalesce(max(tree.leaf_count), 0),
        'frontier', coalesce((array_agg(tree.frontier))[1], '[]'),
        'root', coalesce((array_agg(smoltbot._hex(tree.merkle_root)))[1], ''),
        'heads', coalesce((
            SELECT jsonb_object_agg(session.id, jsonb_build_object(
                'chain_hash', smoltbot._hex(newest.chain_hash), 'position', newest.chain_position))
            FROM jsonb_array_elements_text(sessions) AS session (id)
            CROSS JOIN LATERAL (SELECT chain_hash, chain_position FROM smoltbot.integrity_checkpoints
                WHERE agent_id = agent AND session_id = session.id ORDER BY chain_position DESC LIMIT 1) AS newest
        ), '{}'))
    FROM smoltbot.agent_merkle_trees AS tree WHERE tree.agent_id = agent
$$;

CREATE FUNCTION log_head(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT _log_head($1->>'agent_id', $1->'sessions')
$$;

CREATE FUNCTION _stored(given jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT coalesce(jsonb_agg(line->>'request_id' ORDER BY place), '[]')
    FROM jsonb_array_elements(given) WITH ORDINALITY AS batch (line, place)
    WHERE EXISTS (SELECT FROM smoltbot.integrity_checkpoints WHERE request_id = line->>'request_id')
        OR EXISTS (SELECT FROM smoltbot.integrity_checkpoints WHERE checkpoint_id = line->>'checkpoint_id')
$$;

CREATE FUNCTION _insert_checkpoints(agent text, given jsonb, moment timestamptz) RETURNS void LANGUAGE sql AS $$
    INSERT INTO smoltbot.integrity_checkpoints (
        agent_id, created_at, checkpoint_id, request_id, card_id, session_id, "timestamp", thinking_block_hash,
        provider, model, verdict, reason, concerns, reasoning_summary, conscience_context, window_position,
        analysis_metadata, source, synthetic, synthetic_reason, cross_validation_warnings, input_commitment,
        card_hash, values_hash, context_hash, model_version, prompt_template_version, chain_hash, prev_chain_hash,
        chain_position, merkle_leaf_index, merkle_leaf_hash, certificate_id, issuer_signature, signing_key_id,
        claims_hash, claims_signature)
    SELECT agent, moment, checkpoint_id, request_id, card_id, session_id, "timestamp",
        decode(thinking_block_hash, 'hex'), provider, model, verdict, reason, concerns, reasoning_summary,
        conscience_context, window_position, analysis_metadata, source, synthetic, synthetic_reason,
        cross_validation_warnings, decode(input_commitment, 'hex'), decode(card_hash, 'hex'),
        decode(values_hash, 'hex'), decode(context_hash, 'hex'), model_version, prompt_template_version,
        decode(chain_hash, 'hex'), decode(prev_chain_hash, 'hex'), chain_position, merkle_leaf_index,
        decode(merkle_leaf_hash, 'hex'), certificate_id, decode(issuer_signature, 'base64'), signing_key_id,
        decode(claims_hash, 'hex'), decode(claims_signature, 'base64')
    FROM jsonb_to_recordset(given) AS line (
        checkpoint_id text, request_id text, card_id text, session_id text, "timestamp" timestamptz,
        thinking_block_hash text, provider text, model text, verdict text, reason text, concerns jsonb,
        reasoning_summary text, conscience_context jsonb, window_position jsonb, analysis_metadata jsonb,
        source text, synthetic boolean, synthetic_reason text, cross_validation_warnings jsonb,
        input_commitment text, card_hash text, values_hash text, context_hash text, model_version text,
        prompt_template_version text, chain_hash text, prev_chain_hash text, chain_position integer,
        merkle_leaf_index bigint, merkle_leaf_hash text, certificate_id text, issuer_signature text,
        signing_key_id text, claims_hash text, claims_signature text);
    INSERT INTO smoltbot.mutations (
        request_id, place, checkpoint_id, kind, setting, location, before_sha256, after_sha256)
    SELECT line->>'request_id', place, line->>'checkpoint_id', change->>'kind', change->>'setting',
        change->>'location', decode(change->>'before_sha256', 'hex'), decode(change->>'after_sha256', 'hex')
    FROM jsonb_array_elements(given) AS line
    CROSS JOIN LATERAL jsonb_array_elements(nullif(line->'mutations', 'null')) WITH ORDINALITY AS made (change, place)
$$;

CREATE FUNCTION _extend_tree(agent text, args jsonb, moment timestamptz) RETURNS void LANGUAGE sql AS $$
    INSERT INTO smoltbot.merkle_nodes (agent_id, level, index, hash)
    SELECT agent, (node->>0)::smallint, (node->>1)::bigint, decode(node->>2, 'hex')
    FROM jsonb_array_elements(args->'nodes') AS node;
    UPDATE smoltbot.agent_merkle_trees SET leaf_count = (args->'head'->>'size')::bigint,
        merkle_root = decode(args->>'root', 'hex'), frontier = args->'frontier', last_updated = moment
    WHERE agent_id = agent;
    INSERT INTO smoltbot.signed_heads (agent_id, size, root, "timestamp", key_id, signature)
    SELECT agent, size, decode(root, 'hex'), "timestamp", key_id, decode(signature, 'base64')
    FROM jsonb_to_record(args->'head')
        AS head (size bigint, root text, "timestamp" timestamptz, key_id text, signature text)
$$;

-- Whether the log is where the caller believes it to be.
CREATE FUNCTION _is_expected(args jsonb, head jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT head->'size' = args->'expected_size' AND NOT EXISTS (
        SELECT FROM jsonb_each_text(args->'expected_heads') AS expected
        WHERE head->'heads'->expected.key->>'chain_hash' IS DISTINCT FROM expected.value)
$$;

-- Whether a session goes on at another position than the one after its head.
CREATE FUNCTION _leaves_gap(args jsonb, head jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT EXISTS (
        SELECT FROM jsonb_to_recordset(args->'rows') AS line (session_id text, chain_position bigint)
        GROUP BY session_id
        HAVING min(chain_position) <> coalesce((head->'heads'->session_id->>'position')::bigint, -1) + 1
            OR max(chain_position) <> min(chain_position) + count(*) - 1)
$$;

CREATE FUNCTION append_checkpoints(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    agent text := args->>'agent_id';
    moment timestamptz := _now(args);
    head jsonb;
    stored jsonb;
BEGIN
    INSERT INTO agent_merkle_trees (agent_id) VALUES (agent) ON CONFLICT DO NOTHING;
    -- From here to the commit the agent's log is this transaction's own.
    PERFORM FROM agent_merkle_trees WHERE agent_id = agent FOR NO KEY UPDATE;
    head := _log_head(agent, (SELECT coalesce(jsonb_agg(key), '[]') FROM jsonb_object_keys(args->'expected_heads') AS key));
    stored := _stored(args->'rows');
    IF stored <> '[]' THEN
        RETURN jsonb_build_object('status', 'duplicate', 'stored', stored) || head;
    END IF;
    IF NOT _is_expected(args, head) THEN
        RETURN jsonb_build_object('status', 'conflict') || head;
    END IF;
    IF _leaves_gap(args, head) THEN
        PERFORM _refuse('rows: chain_position must count on from the head of the session');
    END IF;
    PERFORM _insert_checkpoints(agent, args->'rows', moment);
    PERFORM _extend_tree(agent, args, moment);
    RETURN jsonb_build_object('status', 'appended', 'size', args->'head'->'size');
END
$$;

CREATE FUNCTION checkpoints(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(_checkpoint_json(found) ORDER BY (found).merkle_leaf_index), '[]')
    FROM (SELECT found FROM integrity_checkpoints AS found
        WHERE agent_id = $1->>'agent_id' AND merkle_leaf_index > coalesce(($1->>'after_index')::bigint, -1)
        ORDER BY merkle_leaf_index LIMIT ($1->>'limit')::integer) AS page
$$;

CREATE FUNCTION checkpoint(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT _checkpoint_json(found) FROM integrity_checkpoints AS found
        WHERE checkpoint_id = $1->>'checkpoint_id'), 'null')
$$;

CREATE FUNCTION merkle_nodes(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_array(place.level, place.index, _hex(found.hash)) ORDER BY place.number), '[]')
    FROM (SELECT (pair->>0)::integer AS level, (pair->>1)::bigint AS index, number
        FROM jsonb_array_elements($1->'wanted') WITH ORDINALITY AS given (pair, number)) AS place
    CROSS JOIN LATERAL (
        SELECT node.hash FROM merkle_nodes AS node
        WHERE node.agent_id = $1->>'agent_id' AND node.level = place.level AND node.index = place.index
        UNION ALL
        SELECT leaf.merkle_leaf_hash FROM integrity_checkpoints AS leaf
        WHERE place.level = 0 AND leaf.agent_id = $1->>'agent_id' AND leaf.merkle_leaf_index = place.index) AS found
$$;

CREATE FUNCTION signed_heads(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_object('agent_id', agent_id, 'size', size, 'root', _hex(root),
        'timestamp', _iso("timestamp"), 'key_id', key_id, 'signature', _base64(signature)) ORDER BY size DESC), '[]')
    FROM (SELECT * FROM signed_heads WHERE agent_id = $1->>'agent_id'
        ORDER BY size DESC LIMIT ($1->>'limit')::integer) AS newest
$$;

CREATE FUNCTION _key_json(key signing_keys) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('key_id', key.key_id, 'public_key', smoltbot._hex(key.public_key),
        'algorithm', 'Ed25519', 'is_active', key.is_active, 'created_at', smoltbot._iso(key.created_at),
        'retired_at', smoltbot._iso(key.retired_at))
$$;

CREATE FUNCTION signing_keys(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(_key_json(key) ORDER BY key.created_at, key.key_id COLLATE "C"), '[]')
    FROM signing_keys AS key
$$;

CREATE FUNCTION put_signing_key(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    key signing_keys;
BEGIN
    INSERT INTO signing_keys (key_id, public_key, created_at)
    VALUES (args->>'key_id', decode(args->>'public_key', 'hex'), _now(args)) ON CONFLICT DO NOTHING;
    SELECT * INTO key FROM signing_keys WHERE key_id = args->>'key_id';
    IF key.public_key <> decode(args->>'public_key', 'hex') THEN
        PERFORM _refuse('public_key: another key is registered under this key_id');
    END IF;
    RETURN _key_json(key);
END
$$;

CREATE FUNCTION retire_signing_key(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    key signing_keys;
BEGIN
    UPDATE signing_keys SET is_active = false, retired_at = coalesce(retired_at, _now(args))
    WHERE key_id = args->>'key_id' RETURNING * INTO key;
    IF NOT FOUND THEN
        PERFORM _refuse('key_id: there is no such key');
    END IF;
    RETURN _key_json(key);
END
$$;

CALL _share_functions();
