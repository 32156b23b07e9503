-- Who is contained, found without looking at anybody else.

CREATE INDEX agents_contained ON agents (id COLLATE "C") WHERE containment_status <> 'active';

CREATE FUNCTION contained_agents(jsonb) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = smoltbot, pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_array(id, agent_hash, containment_status) ORDER BY id COLLATE "C"), '[]')
    FROM (SELECT id, agent_hash, containment_status FROM agents
        WHERE containment_status <> 'active' AND id COLLATE "C" > coalesce($1->>'after', '')
        ORDER BY id COLLATE "C" LIMIT ($1->>'limit')::integer) AS page
$$;

CALL _share_functions();
