-- The tables of key-value stores and queues of worker_compat. May be run again, and by several at once.
-- A role that uses them needs SELECT, INSERT, UPDATE and DELETE on each.

-- Two that create the same table at once would both fail.
SELECT pg_advisory_xact_lock(7738148021342601);

CREATE TABLE IF NOT EXISTS worker_compat_version (version integer NOT NULL);

CREATE TABLE IF NOT EXISTS worker_compat_kv (
    namespace text COLLATE "C" NOT NULL,
    name bytea NOT NULL,
    expiration bigint,
    metadata bytea,
    value bytea NOT NULL,
    PRIMARY KEY (namespace, name)
);

CREATE INDEX IF NOT EXISTS worker_compat_kv_expiration ON worker_compat_kv (namespace, expiration)
WHERE expiration IS NOT NULL;

-- Every message is a row that changes twice and goes: vacuum by the number of dead rows, not by their share.
CREATE TABLE IF NOT EXISTS worker_compat_queue (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue text COLLATE "C" NOT NULL,
    due double precision NOT NULL,
    pushed double precision NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    holder text,
    body bytea NOT NULL
) WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0,
    toast.autovacuum_vacuum_threshold = 5000,
    toast.autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX IF NOT EXISTS worker_compat_queue_due ON worker_compat_queue (queue, due, id);

INSERT INTO worker_compat_version SELECT 1 WHERE NOT EXISTS (SELECT FROM worker_compat_version);
