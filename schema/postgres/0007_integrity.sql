-- What integrity checks read of a log: a session's judged entries without those between, and lists by verdict.

-- The entries of a session with one verdict, as one short key. Ids have no spaces.
CREATE FUNCTION _verdict_key(agent text, session text, verdict text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT hashtextextended(agent || ' ' || session || ' ' || verdict, 0)
$$;

-- Found by the key, they are found along this index and no other, whatever the statistics say of agents and sessions:
-- those may be old, or there may be none yet.
CREATE INDEX integrity_checkpoints_judged ON integrity_checkpoints (
    _verdict_key(agent_id, session_id, verdict), chain_position);

-- Counts verdicts as the index before it did, and has the rows of a verdict in the order of the log.
CREATE INDEX integrity_checkpoints_verdicts ON integrity_checkpoints (agent_id, verdict, merkle_leaf_index);
DROP INDEX integrity_checkpoints_verdict;

-- Of the entries of a session with one of these verdicts, between two places: the newest, the newest first.
CREATE FUNCTION _judged(agent text, session text, verdicts text[], after integer, before integer, most integer)
RETURNS SETOF integrity_checkpoints LANGUAGE sql STABLE AS $$
    SELECT entry.* FROM unnest(verdicts) AS wanted CROSS JOIN LATERAL (
        SELECT * FROM smoltbot.integrity_checkpoints
        WHERE smoltbot._verdict_key(agent_id, session_id, verdict) = smoltbot._verdict_key(agent, session, wanted)
            AND ARRAY[agent_id, session_id, verdict] = ARRAY[agent, session, wanted]
            AND chain_position > after AND chain_position < before
        ORDER BY chain_position DESC LIMIT most) AS entry
    ORDER BY entry.chain_position DESC LIMIT most
$$;

-- The first concern between two places of a session.
CREATE FUNCTION _first_concern(agent text, session text, after integer, before integer)
RETURNS SETOF text LANGUAGE sql STABLE AS $$
    SELECT entry.checkpoint_id FROM unnest(ARRAY['review_needed', 'boundary_violation']) AS wanted CROSS JOIN LATERAL (
        SELECT * FROM smoltbot.integrity_checkpoints
        WHERE smoltbot._verdict_key(agent_id, session_id, verdict) = smoltbot._verdict_key(agent, session, wanted)
            AND ARRAY[agent_id, session_id, verdict] = ARRAY[agent, session, wanted]
            AND chain_position > after AND chain_position < before
        ORDER BY chain_position LIMIT 1) AS entry
    ORDER BY entry.chain_position LIMIT 1
$$;

CREATE FUNCTION _check_json(c integrity_checkpoints) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('checkpoint_id', c.checkpoint_id, 'timestamp', smoltbot._iso(c."timestamp"),
        'verdict', c.verdict, 'concerns', c.concerns, 'reasoning_summary', c.reasoning_summary,
        'window_position', c.window_position, 'analysis_metadata', c.analysis_metadata, 'card_id', c.card_id,
        'provider', c.provider, 'model', c.model, 'thinking_block_hash', smoltbot._hex(c.thinking_block_hash))
$$;

-- The run of concerns between two places of a session; its length and categories are of its newest 100 entries.
CREATE FUNCTION _run(agent text, session text, after integer, before integer) RETURNS SETOF jsonb
LANGUAGE sql STABLE AS $$
    WITH run AS (SELECT concerns FROM smoltbot._judged(
        agent, session, ARRAY['review_needed', 'boundary_violation'], after, before, 100))
    SELECT jsonb_build_object('length', (SELECT count(*) FROM run),
        'first', (SELECT id FROM smoltbot._first_concern(agent, session, after, before) AS id),
        'categories', (SELECT coalesce(jsonb_object_agg(category, number), '{}') FROM (
            SELECT concern->>'category' AS category, count(*) AS number
            FROM run CROSS JOIN LATERAL jsonb_array_elements(
                CASE WHEN jsonb_typeof(concerns) = 'array' THEN concerns ELSE '[]' END) AS concern
            WHERE jsonb_typeof(concern->'category') = 'string' GROUP BY 1) AS counted))
$$;

-- Every statement in it sees the snapshot of the call. A run begins after the last clear entry, however long it is.
-- Here and below, as in our own pool, scans that would read all entries to sort them are off, for Supabase too.
CREATE FUNCTION _session_checks(args jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    agent text := args->>'agent_id';
    session text := args->>'session_id';
    most integer := args->>'limit';
    clear text[] := ARRAY['clear'];
    concerned text[] := ARRAY['review_needed', 'boundary_violation'];
    before integer := 2147483647;
    ending integrity_checkpoints;
    checks jsonb;
    newest integer;
    cleared integer;
    earlier integer;
    streak jsonb;
    ended text;
BEGIN
    IF args->>'upto' IS NOT NULL THEN
        SELECT * INTO ending FROM integrity_checkpoints WHERE checkpoint_id = args->>'upto';
        before := CASE WHEN ending.agent_id = agent AND ending.session_id = session
            THEN ending.chain_position + 1 ELSE 0 END;
    END IF;
    SELECT coalesce(jsonb_agg(_check_json(entry) ORDER BY entry.chain_position), '[]'), max(entry.chain_position)
    INTO checks, newest FROM _judged(agent, session, clear || concerned, -1, before, most) AS entry;
    SELECT coalesce(max(chain_position), -1) INTO cleared FROM _judged(agent, session, clear, -1, before, 1);
    SELECT run INTO streak FROM _run(agent, session, cleared, before) AS run;
    IF newest = cleared THEN
        SELECT coalesce(max(chain_position), -1) INTO earlier FROM _judged(agent, session, clear, -1, cleared, 1);
        IF (SELECT count(*) = 3 FROM _judged(agent, session, concerned, earlier, cleared, 3)) THEN
            SELECT id INTO ended FROM _first_concern(agent, session, earlier, cleared) AS id;
        END IF;
    END IF;
    RETURN jsonb_build_object('checks', checks, 'streak', streak, 'ended', ended);
END
$$;

CREATE FUNCTION session_checks(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT _session_checks($1)
$$;

-- The places in the log of a page of entries, the newest first.
CREATE FUNCTION _page(agent text, wanted text, session text, most integer, skipped bigint) RETURNS SETOF bigint
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    IF session IS NULL AND wanted IS NULL THEN
        RETURN QUERY SELECT merkle_leaf_index FROM smoltbot.integrity_checkpoints
            WHERE agent_id = agent ORDER BY merkle_leaf_index DESC LIMIT most OFFSET skipped;
    ELSIF session IS NULL THEN
        RETURN QUERY SELECT merkle_leaf_index FROM smoltbot.integrity_checkpoints
            WHERE agent_id = agent AND verdict = wanted ORDER BY merkle_leaf_index DESC LIMIT most OFFSET skipped;
    ELSIF wanted IS NULL THEN
        RETURN QUERY SELECT merkle_leaf_index FROM smoltbot.integrity_checkpoints
            WHERE agent_id = agent AND session_id = session ORDER BY chain_position DESC LIMIT most OFFSET skipped;
    ELSE
        RETURN QUERY SELECT merkle_leaf_index FROM smoltbot.integrity_checkpoints
            WHERE smoltbot._verdict_key(agent_id, session_id, verdict) = smoltbot._verdict_key(agent, session, wanted)
                AND ARRAY[agent_id, session_id, verdict] = ARRAY[agent, session, wanted]
            ORDER BY chain_position DESC LIMIT most OFFSET skipped;
    END IF;
END
$$;

-- How many entries all pages have. Without a filter the log itself says it.
CREATE FUNCTION _total(agent text, wanted text, session text) RETURNS bigint
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    IF session IS NULL AND wanted IS NULL THEN
        RETURN coalesce((SELECT leaf_count FROM smoltbot.agent_merkle_trees WHERE agent_id = agent), 0)
            - coalesce((SELECT pruned FROM smoltbot.retention_statements WHERE agent_id = agent), 0);
    ELSIF session IS NULL THEN
        RETURN (SELECT count(*) FROM smoltbot.integrity_checkpoints WHERE agent_id = agent AND verdict = wanted);
    ELSIF wanted IS NULL THEN
        RETURN (SELECT count(*) FROM smoltbot.integrity_checkpoints WHERE agent_id = agent AND session_id = session);
    ELSE
        RETURN (SELECT count(*) FROM smoltbot.integrity_checkpoints
            WHERE smoltbot._verdict_key(agent_id, session_id, verdict) = smoltbot._verdict_key(agent, session, wanted)
                AND ARRAY[agent_id, session_id, verdict] = ARRAY[agent, session, wanted]);
    END IF;
END
$$;

CREATE FUNCTION list_checkpoints(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object(
        'checkpoints', (SELECT coalesce(jsonb_agg(_checkpoint_json(found) ORDER BY found.merkle_leaf_index DESC), '[]')
            FROM _page($1->>'agent_id', $1->>'verdict', $1->>'session_id', ($1->>'limit')::integer,
                ($1->>'offset')::bigint) AS leaf
            CROSS JOIN LATERAL (SELECT * FROM integrity_checkpoints
                WHERE agent_id = $1->>'agent_id' AND merkle_leaf_index = leaf LIMIT 1) AS found),
        'total', _total($1->>'agent_id', $1->>'verdict', $1->>'session_id'))
$$;

CREATE FUNCTION webhook_registration(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT _registration_json(found) FROM aip_webhook_registrations AS found
        WHERE registration_id = $1->>'registration_id'), 'null')
$$;

CALL _share_functions();
