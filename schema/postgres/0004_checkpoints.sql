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

-- What stays of a checkpoint that retention deleted: its leaf for proofs, and its place in the chain of its session.
CREATE TABLE pruned_leaves (
    leaf_index bigint NOT NULL CHECK (leaf_index >= 0),
    chain_position integer NOT NULL CHECK (chain_position >= 0),
    agent_id text NOT NULL REFERENCES agents (id),
    session_id text NOT NULL,
    leaf_hash bytea NOT NULL CHECK (length(leaf_hash) = 32),
    chain_hash bytea NOT NULL CHECK (length(chain_hash) = 32),
    PRIMARY KEY (agent_id, leaf_index)
);

CREATE UNIQUE INDEX pruned_leaves_chain ON pruned_leaves (agent_id, session_id, chain_position);

CREATE TABLE signed_heads (
    size bigint NOT NULL CHECK (size > 0),
    "timestamp" timestamptz NOT NULL,
    agent_id text NOT NULL REFERENCES agents (id),
    root bytea NOT NULL CHECK (length(root) = 32),
    key_id text NOT NULL REFERENCES signing_keys (key_id),
    signature bytea NOT NULL CHECK (length(signature) = 64),
    PRIMARY KEY (agent_id, size)
);

-- Notices for the next requests of an agent; they go with the checkpoint that they are about.
CREATE TABLE enforcement_nudges (
    id text PRIMARY KEY,
    agent_id text NOT NULL REFERENCES agents (id),
    checkpoint_id text NOT NULL UNIQUE REFERENCES integrity_checkpoints (checkpoint_id) ON DELETE CASCADE,
    session_id text NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivering', 'delivered', 'expired')),
    nudge_content text NOT NULL,
    concerns_summary text NOT NULL,
    created_at timestamptz NOT NULL,
    delivered_at timestamptz,
    delivery_session_id text,
    expired_at timestamptz,
    lease_until timestamptz,
    claimed_by_request text,
    CHECK ((status = 'delivering') = (lease_until IS NOT NULL))
);

CREATE INDEX enforcement_nudges_agent ON enforcement_nudges (agent_id, status, created_at);
CREATE INDEX enforcement_nudges_newest ON enforcement_nudges (agent_id, created_at);
CREATE INDEX enforcement_nudges_open ON enforcement_nudges (created_at) WHERE status IN ('pending', 'delivering');
CREATE INDEX enforcement_nudges_held ON enforcement_nudges (claimed_by_request) WHERE status = 'delivering';

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

-- The last entry of a session, pruned or not: what follows it never becomes a beginning.
CREATE FUNCTION _session_head(agent text, session text) RETURNS TABLE (chain_hash bytea, chain_position integer)
LANGUAGE sql STABLE AS $$
    (SELECT chain_hash, chain_position FROM smoltbot.integrity_checkpoints
        WHERE agent_id = agent AND session_id = session ORDER BY chain_position DESC LIMIT 1)
    UNION ALL
    (SELECT chain_hash, chain_position FROM smoltbot.pruned_leaves
        WHERE agent_id = agent AND session_id = session ORDER BY chain_position DESC LIMIT 1)
    ORDER BY chain_position DESC LIMIT 1
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
            CROSS JOIN LATERAL smoltbot._session_head(agent, session.id) AS newest
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

-- As of the row's place in its session: a batch gives the nudges that its rows would give one by one.
CREATE FUNCTION _is_nudge_due(agent agents, line jsonb) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT jsonb_typeof(line->'nudge') = 'object' AND agent.aip_enforcement_mode IN ('nudge', 'enforce')
        AND CASE agent.nudge_strategy
            WHEN 'always' THEN true
            WHEN 'sampling' THEN
                (line->'nudge'->>'draw')::integer < coalesce(agent.nudge_rate, agent.proof_rate, 100)
            WHEN 'threshold' THEN coalesce(agent.nudge_threshold, 3) <= (
                SELECT count(*) FROM smoltbot.integrity_checkpoints
                WHERE agent_id = agent.id AND session_id = line->>'session_id' AND verdict = 'boundary_violation'
                    AND chain_position <= (line->>'chain_position')::integer)
            ELSE false END
$$;

-- How many of the last "most" judged checkpoints up to a place are violations without another verdict after them.
CREATE FUNCTION _violations_in_a_row(agent text, upto bigint, most bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT count(*) FROM (
        SELECT merkle_leaf_index FROM smoltbot.integrity_checkpoints
        WHERE agent_id = agent AND verdict = 'boundary_violation' AND merkle_leaf_index <= upto
        ORDER BY merkle_leaf_index DESC LIMIT most) AS violation
    WHERE NOT EXISTS (
        SELECT FROM smoltbot.integrity_checkpoints AS other
        WHERE other.agent_id = agent AND other.verdict IN ('clear', 'review_needed')
            AND other.merkle_leaf_index > violation.merkle_leaf_index AND other.merkle_leaf_index <= upto)
$$;

-- Pauses an active agent that has as many violations in a row as its owner allows.
CREATE FUNCTION _contain(agent agents, line jsonb, moment timestamptz) RETURNS boolean
LANGUAGE plpgsql SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    most bigint := agent.auto_containment_threshold;
    number bigint;
    why text;
BEGIN
    IF most IS NULL OR agent.containment_status <> 'active' THEN
        RETURN false;
    END IF;
    number := _violations_in_a_row(agent.id, (line->>'merkle_leaf_index')::bigint, most + 5);
    IF number < most THEN
        RETURN false;
    END IF;
    why := format('Auto-contained: %s consecutive boundary violations', number);
    UPDATE agents SET containment_status = 'paused', contained_at = moment, contained_by = 'system',
        containment_reason = why WHERE id = agent.id;
    INSERT INTO agent_containment_log (
        id, agent_id, action, actor, reason, previous_status, new_status, metadata, created_at)
    VALUES ('ctl-' || replace(gen_random_uuid()::text, '-', ''), agent.id, 'auto_pause', 'system', why, 'active',
        'paused', jsonb_build_object('checkpoint_id', line->'checkpoint_id'), moment);
    PERFORM _emit(agent.id, 'agent.paused', jsonb_build_object('agent_id', agent.id, 'org_id', 'org-local',
        'action', 'auto_pause', 'actor', 'system', 'reason', why, 'previous_status', 'active',
        'new_status', 'paused'), line->>'checkpoint_id', moment);
    RETURN true;
END
$$;

-- What the violations of a batch bring about, judged under the lock of the agent after all rows are stored.
CREATE FUNCTION _answer_violations(agent_id text, given jsonb, moment timestamptz) RETURNS jsonb
LANGUAGE plpgsql SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    agent agents;
    line jsonb;
    made jsonb := '[]';
    contained boolean := false;
BEGIN
    IF NOT given @> '[{"verdict": "boundary_violation"}]' THEN
        RETURN '{"nudges": [], "contained": false}';
    END IF;
    SELECT * INTO agent FROM agents WHERE id = $1 FOR NO KEY UPDATE;
    FOR line IN SELECT value FROM jsonb_array_elements(given) WITH ORDINALITY AS batch (value, place)
        WHERE value->>'verdict' = 'boundary_violation' ORDER BY place
    LOOP
        IF _is_nudge_due(agent, line) THEN
            INSERT INTO enforcement_nudges (
                id, agent_id, checkpoint_id, session_id, nudge_content, concerns_summary, created_at)
            VALUES (line->'nudge'->>'nudge_id', agent.id, line->>'checkpoint_id', line->>'session_id',
                line->'nudge'->>'nudge_content', line->'nudge'->>'concerns_summary', moment);
            made := made || jsonb_build_array(line->'nudge'->'nudge_id');
        END IF;
        IF NOT contained THEN
            contained := _contain(agent, line, moment);
        END IF;
    END LOOP;
    IF made <> '[]' THEN
        PERFORM _note_change(agent.id, 'nudges', moment);
    END IF;
    IF contained THEN
        PERFORM _note_change(agent.id, 'containment', moment);
    END IF;
    RETURN jsonb_build_object('nudges', made, 'contained', contained);
END
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
    PERFORM _queue_events(agent, args->'events', moment);
    RETURN jsonb_build_object('status', 'appended', 'size', args->'head'->'size')
        || _answer_violations(agent, args->'rows', moment);
END
$$;

CREATE FUNCTION _held_nudges(agent text, request text) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_object('nudge_id', id, 'checkpoint_id', checkpoint_id,
        'nudge_content', nudge_content, 'concerns_summary', concerns_summary,
        'created_at', smoltbot._iso(created_at)) ORDER BY nudge.created_at, id COLLATE "C"), '[]')
    FROM smoltbot.enforcement_nudges AS nudge
    WHERE agent_id = agent AND claimed_by_request = request AND status = 'delivering'
$$;

CREATE FUNCTION claim_nudges(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    agent text := args->>'agent_id';
    request text := args->>'request_id';
    moment timestamptz := _now(args);
    claimed jsonb;
BEGIN
    PERFORM _require_agent(agent);
    -- A repeated call waits for the first and then sees what that holds.
    PERFORM pg_advisory_xact_lock(hashtextextended('claim_nudges ' || request, 0));
    claimed := _held_nudges(agent, request);
    IF claimed <> '[]' THEN
        RETURN claimed;
    END IF;
    -- Apart from the update: inside of it the choice could be made again for each row, and find more each time.
    WITH chosen AS MATERIALIZED (
        SELECT id FROM enforcement_nudges
        WHERE agent_id = agent AND created_at >= moment - interval '4 hours'
            AND (status = 'pending' OR status = 'delivering' AND lease_until <= moment)
        ORDER BY created_at, id COLLATE "C" LIMIT (args->>'limit')::integer FOR UPDATE SKIP LOCKED)
    UPDATE enforcement_nudges AS nudge SET status = 'delivering', claimed_by_request = request,
        lease_until = moment + interval '10 minutes'
    FROM chosen WHERE nudge.id = chosen.id;
    IF FOUND THEN
        PERFORM _note_change(agent, 'nudges', moment);
    END IF;
    RETURN _held_nudges(agent, request);
END
$$;

CREATE FUNCTION settle_nudges(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    moment timestamptz := _now(args);
    delivered boolean := args->>'outcome' = 'delivered';
    agents_of text[];
BEGIN
    WITH held AS (
        SELECT id FROM enforcement_nudges WHERE claimed_by_request = args->>'request_id' AND status = 'delivering'
        ORDER BY id FOR UPDATE),
    settled AS (
        UPDATE enforcement_nudges AS nudge SET status = args->>'outcome', lease_until = NULL,
            claimed_by_request = CASE WHEN delivered THEN claimed_by_request END,
            delivered_at = CASE WHEN delivered THEN moment END,
            delivery_session_id = CASE WHEN delivered THEN args->>'session_id' END
        FROM held WHERE nudge.id = held.id RETURNING nudge.agent_id)
    SELECT coalesce(array_agg(agent_id), '{}') INTO agents_of FROM settled;
    IF NOT delivered THEN
        PERFORM _note_changes(agents_of, 'nudges', moment);
    END IF;
    RETURN to_jsonb(cardinality(agents_of));
END
$$;

CREATE FUNCTION expire_nudges(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    moment timestamptz := _now($1);
    agents_of text[];
BEGIN
    WITH old AS (
        SELECT id FROM enforcement_nudges
        WHERE status IN ('pending', 'delivering') AND created_at < moment - interval '4 hours'
            AND coalesce(lease_until, moment) <= moment
        ORDER BY created_at LIMIT 10000 FOR UPDATE SKIP LOCKED),
    expired AS (
        UPDATE enforcement_nudges AS nudge SET status = 'expired', expired_at = moment, lease_until = NULL,
            claimed_by_request = NULL
        FROM old WHERE nudge.id = old.id RETURNING nudge.agent_id)
    SELECT coalesce(array_agg(agent_id), '{}') INTO agents_of FROM expired;
    PERFORM _note_changes(agents_of, 'nudges', moment);
    RETURN to_jsonb(cardinality(agents_of));
END
$$;

CREATE FUNCTION nudges(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(to_jsonb(nudge) - 'id' || jsonb_build_object('nudge_id', id,
        'created_at', _iso(created_at), 'delivered_at', _iso(delivered_at), 'expired_at', _iso(expired_at),
        'lease_until', _iso(lease_until)) ORDER BY nudge.created_at DESC, id COLLATE "C" DESC), '[]')
    FROM (SELECT * FROM enforcement_nudges WHERE agent_id = $1->>'agent_id'
        ORDER BY created_at DESC, id COLLATE "C" DESC LIMIT ($1->>'limit')::integer) AS nudge
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
        WHERE place.level = 0 AND leaf.agent_id = $1->>'agent_id' AND leaf.merkle_leaf_index = place.index
        UNION ALL
        SELECT pruned.leaf_hash FROM pruned_leaves AS pruned
        WHERE place.level = 0 AND pruned.agent_id = $1->>'agent_id' AND pruned.leaf_index = place.index) AS found
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

-- Whether the key is registered and active; one that is retired, or another under its id, is refused.
CREATE FUNCTION _is_known_key(args jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    key signing_keys;
BEGIN
    SELECT * INTO key FROM signing_keys WHERE key_id = args->>'key_id';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF key.public_key <> decode(args->>'public_key', 'hex') THEN
        PERFORM _refuse('public_key: another key is registered under this key_id');
    END IF;
    IF NOT key.is_active THEN
        PERFORM _refuse('key_id: this key was retired');
    END IF;
    RETURN true;
END
$$;

CREATE FUNCTION use_signing_key(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
BEGIN
    -- Of two processes that begin an empty registry, the second must see the first one's key.
    LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE;
    IF NOT _is_known_key(args) AND EXISTS (SELECT FROM signing_keys) THEN
        PERFORM _refuse(CASE WHEN EXISTS (SELECT FROM signing_keys WHERE is_active)
            THEN 'key_id: another key is active' ELSE 'key_id: every key was retired' END);
    END IF;
    RETURN put_signing_key(args);
END
$$;

CREATE FUNCTION rotate_signing_key(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
BEGIN
    LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE;
    IF NOT _is_known_key(args)
        AND EXISTS (SELECT FROM signing_keys WHERE public_key = decode(args->>'public_key', 'hex')) THEN
        PERFORM _refuse('public_key: this key is registered under another key_id');
    END IF;
    UPDATE signing_keys SET is_active = false, retired_at = _now(args) WHERE key_id <> args->>'key_id' AND is_active;
    RETURN put_signing_key(args);
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
