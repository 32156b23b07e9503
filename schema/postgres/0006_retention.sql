-- What is deleted with time. The leaves of checkpoints stay (pruned_leaves), so that proofs and chains go on.

CREATE INDEX mutations_checkpoint ON mutations (checkpoint_id);

-- What the holder of the key says was deleted: the entries of a log before the place "pruned".
CREATE TABLE retention_statements (
    pruned bigint NOT NULL CHECK (pruned > 0),
    "timestamp" timestamptz NOT NULL,
    agent_id text PRIMARY KEY REFERENCES agents (id),
    key_id text NOT NULL REFERENCES signing_keys (key_id),
    signature bytea NOT NULL CHECK (length(signature) = 64)
);

-- From where the last statement ends, the entries without a gap that are from before the time; never the newest entry
-- of the log. What is missing there without a statement ends the run, so that no later statement covers it.
CREATE FUNCTION prunable_checkpoints(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    WITH stated AS (SELECT coalesce(max(pruned), 0) AS pruned FROM retention_statements
        WHERE agent_id = $1->>'agent_id'),
    old AS (SELECT merkle_leaf_index - row_number() OVER (ORDER BY merkle_leaf_index) AS shift
        FROM integrity_checkpoints, stated
        WHERE agent_id = $1->>'agent_id' AND "timestamp" < ($1->>'before')::timestamptz
            AND merkle_leaf_index >= pruned AND merkle_leaf_index < least(pruned + ($1->>'limit')::integer,
                (SELECT leaf_count - 1 FROM agent_merkle_trees WHERE agent_id = $1->>'agent_id')))
    SELECT jsonb_build_object('pruned', pruned,
        'next', pruned + (SELECT count(*) FROM old WHERE shift = pruned - 1))
    FROM stated
$$;

CREATE FUNCTION prune_checkpoints(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    agent text := args->>'agent_id';
    stated retention_statements := jsonb_populate_record(NULL::retention_statements,
        ((args->'statement') - 'signature'::text) || jsonb_build_object('agent_id', agent));
    size bigint;
    gone integer;
BEGIN
    stated.signature := decode(args->'statement'->>'signature', 'base64');
    PERFORM _require_agent(agent);
    -- From here to the commit nobody extends the log.
    SELECT leaf_count INTO size FROM agent_merkle_trees WHERE agent_id = agent FOR NO KEY UPDATE;
    IF stated.pruned >= coalesce(size, 0) THEN
        PERFORM _refuse('statement: pruned must leave the newest entry of the log');
    END IF;
    IF NOT EXISTS (SELECT FROM signing_keys WHERE key_id = stated.key_id) THEN
        PERFORM _refuse('statement: there is no such key');
    END IF;
    DELETE FROM mutations WHERE checkpoint_id IN (SELECT checkpoint_id FROM integrity_checkpoints
        WHERE agent_id = agent AND merkle_leaf_index < stated.pruned);
    WITH deleted AS (
        DELETE FROM integrity_checkpoints WHERE agent_id = agent AND merkle_leaf_index < stated.pruned RETURNING *)
    INSERT INTO pruned_leaves (agent_id, leaf_index, leaf_hash, session_id, chain_position, chain_hash)
    SELECT agent_id, merkle_leaf_index, merkle_leaf_hash, session_id, chain_position, chain_hash FROM deleted;
    GET DIAGNOSTICS gone = ROW_COUNT;
    INSERT INTO retention_statements AS kept SELECT stated.*
    ON CONFLICT (agent_id) DO UPDATE SET pruned = excluded.pruned, "timestamp" = excluded."timestamp",
        key_id = excluded.key_id, signature = excluded.signature WHERE excluded.pruned > kept.pruned;
    RETURN jsonb_build_object('pruned', gone);
END
$$;

CREATE FUNCTION retention_statement(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT jsonb_build_object('agent_id', agent_id, 'pruned', pruned, 'timestamp', _iso("timestamp"),
        'key_id', key_id, 'signature', _base64(signature))
        FROM retention_statements WHERE agent_id = $1->>'agent_id'), 'null')
$$;

CREATE FUNCTION pruned_leaves(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(
        jsonb_build_object('leaf_index', leaf_index, 'leaf_hash', _hex(leaf_hash)) ORDER BY leaf_index), '[]')
    FROM (SELECT leaf_index, leaf_hash FROM pruned_leaves
        WHERE agent_id = $1->>'agent_id' AND leaf_index > coalesce(($1->>'after_index')::bigint, -1)
        ORDER BY leaf_index LIMIT ($1->>'limit')::integer) AS page
$$;

CREATE FUNCTION prune_traces(jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
DECLARE
    args ALIAS FOR $1;
    agent text := args->>'agent_id';
    before timestamptz := args->>'before';
    pruned integer;
BEGIN
    -- Two sweeps do not delete the same rows in different orders.
    PERFORM _lock_agent(agent);
    DELETE FROM traces WHERE trace_id IN (SELECT trace_id FROM traces
        WHERE agent_id = agent AND "timestamp" < before
        ORDER BY "timestamp", trace_id LIMIT (args->>'limit')::integer);
    GET DIAGNOSTICS pruned = ROW_COUNT;
    RETURN jsonb_build_object('pruned', pruned,
        'more', EXISTS (SELECT FROM traces WHERE agent_id = agent AND "timestamp" < before));
END
$$;

CALL _share_functions();
