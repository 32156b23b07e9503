-- What is deleted with time. The leaves of checkpoints stay (pruned_leaves), so that proofs and chains go on.

CREATE INDEX mutations_checkpoint ON mutations (checkpoint_id);

-- What the holder of the key says was deleted: the entries of a log before the place "pruned".
CREATE TABLE retention_statements (
    agent_id text PRIMARY KEY NOT NULL REFERENCES agents (id),
    pruned integer NOT NULL CHECK (pruned > 0),
    "timestamp" text NOT NULL CHECK ("timestamp" GLOB '????-??-??T??:??:??.???Z'),
    key_id text NOT NULL REFERENCES signing_keys (key_id),
    signature blob NOT NULL CHECK (length(signature) = 64)
) STRICT;
