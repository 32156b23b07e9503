-- Who is contained, found without looking at anybody else.

CREATE INDEX agents_contained ON agents (id) WHERE containment_status <> 'active';
